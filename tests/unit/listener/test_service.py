"""
Tests for L{portlisten._listener.service}, in the real reactor.
"""

from __future__ import annotations

import atexit
import errno
import io
import os
import resource
import socket
import stat
import sys
from typing import Any

from twisted.internet import endpoints
from twisted.python.systemd import ListenFDs
from twisted.trial.unittest import SynchronousTestCase

from portlisten import _kernel
from portlisten._commands.listener import makeService
from portlisten._listener import dispatcher
from portlisten._listener import service as listenerService
from portlisten._model import Kind
from portlisten._policy.source_limits import Limits, Rate
from portlisten._process import exits
from portlisten._wire import codec
from portlisten._wire.frames import (
    Bye,
    Claim,
    Listener,
    ListenerHello,
    Offer,
    WorkerHello,
)
from portlisten.errors import StartFailure
from tests.support.addresses import internet
from tests.support.channels import PATIENCE, aMoment, eventually, texts
from tests.support.descriptors import descriptors
from tests.support.listeners import UDP, ListenerTestCase, parse

LOCAL = "tcp:0:interface=127.0.0.1"


class LimitsTests(SynchronousTestCase):
    """
    What the process allows.
    """

    def limit(self, soft: int, hard: int) -> list[tuple[int, int]]:
        """
        Pretend limits of open descriptors.

        @return: what they are set to later.
        """
        changes: list[tuple[int, int]] = []
        self.patch(resource, "getrlimit", lambda which: (soft, hard))
        self.patch(resource, "setrlimit", lambda which, limits: changes.append(limits))
        return changes

    def test_raised(self) -> None:
        """
        The limit is raised as far as it goes.
        """
        changes = self.limit(1024, 4096)
        listenerService.descriptorBudget()
        self.assertEqual(changes, [(4096, 4096)])

    def test_notRaised(self) -> None:
        """
        If the soft limit equals the hard limit, it stays.
        """
        changes = self.limit(4096, 4096)
        listenerService.descriptorBudget()
        self.assertEqual(changes, [])

    def test_budget(self) -> None:
        """
        All that is free is divided among connections and channels, which take
        two each, and a few are left.
        """
        for hard in (200, 1024, 100_000):
            self.limit(hard, hard)
            connections, channels = listenerService.descriptorBudget()
            used = len(os.listdir("/proc/self/fd"))
            self.assertEqual(
                connections
                + 2 * channels
                + used
                + listenerService.RESERVED_DESCRIPTORS,
                hard,
            )
            self.assertLessEqual(channels, listenerService.MAXIMUM_CHANNELS)
            self.assertGreater(connections, channels)
        self.assertEqual(channels, listenerService.MAXIMUM_CHANNELS)

    def test_withoutProc(self) -> None:
        """
        Without /proc, the number of open descriptors is known well enough.
        """
        self.limit(100_000, 100_000)
        expected, channels = listenerService.descriptorBudget()

        def fail(path: str) -> None:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)

        self.patch(os, "listdir", fail)
        connections, again = listenerService.descriptorBudget()
        self.assertEqual(again, channels)
        self.assertLess(
            abs(connections - expected), listenerService.RESERVED_DESCRIPTORS
        )

    def test_noBudget(self) -> None:
        """
        At least one connection and one channel are always possible.
        """
        self.limit(3, 3)
        self.assertEqual(listenerService.descriptorBudget(), (1, 1))


class StartTests(ListenerTestCase):
    """
    How the listener starts.
    """

    def failure(self, *arguments: str, port: str = "tcp:0:interface=127.0.0.1") -> str:
        """
        Say why it cannot start, and see that nothing is left of the try.
        """
        before = descriptors()
        output = io.StringIO()
        self.patch(sys, "__stderr__", output)
        service = self.make(*arguments, port=port)
        exit = self.assertRaises(StartFailure, service.privilegedStartService)
        self.assertEqual(output.getvalue(), f"portlisten: {exit}\n")
        self.assertEqual(exit.code, 1)
        self.assertEqual(descriptors(), before)
        return str(exit)

    async def test_bindsWithPrivilege(self) -> None:
        """
        Ports and path are bound in the privileged part, and nothing is accepted
        before the other.
        """
        service = self.make("--mode", "0600")
        service.privilegedStartService()
        status = os.stat(self.path)
        self.assertTrue(stat.S_ISSOCK(status.st_mode))
        self.assertEqual(stat.S_IMODE(status.st_mode), 0o600)
        worker = self.connect()
        await aMoment()
        self.assertEqual(worker.read(), [])
        service.startService()
        await eventually(lambda: worker.heard(ListenerHello))

    async def test_withoutPrivilegedPart(self) -> None:
        """
        If the privileged part was not called, the other part binds.
        """
        service = self.make()
        service.startService()
        self.assertTrue(service.running)
        await self.greeted()

    async def test_group(self) -> None:
        """
        The path belongs to the group asked for.
        """
        self.start("--group", str(os.getgid()))
        self.assertEqual(os.stat(self.path).st_gid, os.getgid())

    async def test_logged(self) -> None:
        """
        It logs where it listens, as whom, and where workers connect to.
        """
        self.start("--mode", "0600")
        _, hello = await self.greeted()
        number = internet(hello.ports[0].address).port
        self.assertIn(
            f"listening on tcp:127.0.0.1:{number}, as uid"
            f" {os.geteuid()}; workers connect to {self.path} (mode 0600)",
            texts(self.logged, "info"),
        )

    async def test_root(self) -> None:
        """
        It warns of running as root.
        """
        warned: list[str] = []
        self.patch(exits, "warnOfRoot", warned.append)
        self.start()
        self.assertEqual(warned, ["portlisten"])

    async def test_oldKernel(self) -> None:
        """
        It logs if the kernel cannot refuse descriptors that workers send, and
        only then.
        """
        for can in (True, False):
            self.patch(_kernel, "refuseDescriptors", lambda sock, can=can: can)
            self.logged.clear()
            self.start()
            lines = [
                line
                for line in texts(self.logged, "info")
                if line.startswith("this kernel cannot refuse descriptors")
            ]
            self.assertEqual(len(lines), 0 if can else 1)
            await self.service.stopService()

    async def test_portTaken(self) -> None:
        """
        A port that is taken keeps it from starting, and then nothing is left of
        what had been bound.
        """
        with socket.create_server(("127.0.0.1", 0)) as other:
            number = other.getsockname()[1]
            reason = self.failure("--listen", f"tcp:{number}:interface=127.0.0.1")
        self.assertIn(f"cannot listen on tcp:{number}:interface=127.0.0.1", reason)
        self.assertIn("Address already in use", reason)

    async def test_pathTaken(self) -> None:
        """
        A path where a listener lives keeps it from starting, and is left alone.
        """
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(self.path)
            other.listen()
            self.assertIn("a listener lives at", self.failure())
            await self.service.stopService()
            self.assertTrue(os.path.exists(self.path))
        os.unlink(self.path)

    async def test_swapped(self) -> None:
        """
        If PORT and PATH are in the wrong order, the message says so.
        """
        exit = self.assertRaises(SystemExit, parse, "./socket", "80")
        self.assertIn("PORT comes first, as in '80 ./socket'", str(exit.code))

    async def test_onePath(self) -> None:
        """
        A port and the channels need two paths, however they are written.
        """
        again = os.path.join(".", self.path)
        for arguments, port in (
            ([], f"unix:{again}"),
            (["--share", f"name=unix:{again}:lockfile=0"], "tcp:0"),
            (["--wire=datagram"], f"unix:{self.path}"),
            ([f"--metrics=unix:{again}"], "tcp:0"),
        ):
            exit = self.assertRaises(SystemExit, self.make, *arguments, port=port)
            self.assertIn(f"{self.path} is both a port and PATH", str(exit.code))
            self.assertEqual(len(str(exit.code).splitlines()), 1)

    async def test_inheritedPath(self) -> None:
        """
        That holds for what systemd passes, too.
        """
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(self.path)
            other.listen()
            passed = ListenFDs([os.dup(other.fileno())], ["web"])
            self.patch(endpoints._SystemdParser, "_sddaemon", passed)
            self.patch(sys, "__stderr__", io.StringIO())
            service = self.make(port="systemd:domain=UNIX:name=web")
            exit = self.assertRaises(StartFailure, service.privilegedStartService)
        self.assertIn(f"{self.path} is both a port and PATH", str(exit))
        os.unlink(self.path)

    async def test_failsToStart(self) -> None:
        """
        If the start fails after privileges were dropped, the process fails with one
        line, and nothing is left.
        """
        before = descriptors()
        output = io.StringIO()
        self.patch(sys, "__stderr__", output)
        for error in (OSError(errno.EMFILE, "Too many open files"), KeyError("x")):

            def fail(error: Exception = error) -> Any:
                raise error

            self.patch(listenerService, "descriptorBudget", fail)
            service = self.make()
            service.privilegedStartService()
            kind = StartFailure if isinstance(error, OSError) else KeyError
            self.assertRaises(kind, service.startService)
            self.assertFalse(service.running)
            self.assertFalse(os.path.exists(self.path))
            self.assertEqual(descriptors(), before)
        self.assertEqual(
            output.getvalue(),
            "portlisten: cannot start: [Errno 24] Too many open files\n",
        )

    async def test_neverStarted(self) -> None:
        """
        If it is never started, since privileges could not be dropped, nothing is left
        when the process ends.
        """
        registered: list[Any] = []
        self.patch(atexit, "register", registered.append)
        self.patch(atexit, "unregister", registered.remove)
        service = self.make()
        service.privilegedStartService()
        self.assertTrue(os.path.exists(self.path))
        (atEnd,) = registered
        self.patch(atexit, "unregister", lambda _: None)
        atEnd()
        self.assertFalse(os.path.exists(self.path))

    async def test_tooManyPorts(self) -> None:
        """
        More ports than fit into HELLO keep it from starting.
        """
        self.patch(codec, "MAXIMUM_PAYLOAD", 30)
        reason = self.failure("--listen", "tcp:0:interface=127.0.0.1")
        self.assertIn("2 ports are more than a listener can tell", reason)


class PortLimitsTests(ListenerTestCase):
    """
    The limits of ports.
    """

    async def test_given(self) -> None:
        """
        The wire gets the limits of each port that has any, by its number.
        """
        for wire in ("stream", "datagram"):
            self.start(
                f"--wire={wire}",
                f"--listen=b={LOCAL}:rate=5/s",
                port=f"a={LOCAL}",
            )
            self.assertEqual(
                self.service._wire._limiter.tables[0].limits,
                Limits(rate=Rate(5.0, 5), fair=False),
            )
            await self.service.stopService()


class ShareTests(ListenerTestCase):
    """
    Ports whose sockets workers get.
    """

    LOCAL = "tcp:0:interface=127.0.0.1"

    async def test_shared(self) -> None:
        """
        A worker gets the socket of a port that is shared and the connections of
        another; on the shared one the listener accepts nothing.
        """
        self.start("--share", f"shared={self.LOCAL}", port=f"web={self.LOCAL}")
        worker, hello = await self.greeted()
        self.assertEqual(
            [(port.name, port.kind) for port in hello.ports],
            [("web", Kind.CONNECTIONS), ("shared", Kind.LISTENER)],
        )
        worker.say(WorkerHello(16, (), frozenset([Kind.CONNECTIONS, Kind.LISTENER])))
        await eventually(lambda: worker.heard(Listener))
        self.client(hello, 0)
        client = self.client(hello, 1)
        await eventually(lambda: worker.heard(Offer))
        await aMoment()
        self.assertEqual(len(worker.heard(Offer)), 1)
        ours, _ = worker.descriptors
        number = internet(hello.ports[1].address).port
        with socket.socket(fileno=os.dup(ours)) as sock:
            self.assertEqual(sock.getsockname()[1], number)
            accepted, address = sock.accept()
            accepted.close()
            self.assertEqual(address, client.getsockname())
        self.assertTrue(
            any(
                f"shared=tcp:127.0.0.1:{number} (shared)" in line
                for line in texts(self.logged, "info")
            )
        )

    async def test_onlyShared(self) -> None:
        """
        A listener may have only shared ports.  The first worker gets the connections
        that waited before.
        """
        options = parse("--share", self.LOCAL, "--share", f"u={UDP}", self.path)
        self.service = makeService(options)
        self.service.privilegedStartService()
        self.service.startService()
        _, hello = await self.greeted()
        client = self.client(hello, 0)
        worker, _ = await self.greeted()
        takes = frozenset([Kind.LISTENER, Kind.DATAGRAMS])
        worker.say(WorkerHello(1, (), takes))
        await eventually(lambda: len(worker.heard(Listener)) == 2)
        with socket.socket(fileno=os.dup(worker.descriptors[0])) as sock:
            accepted, address = sock.accept()
            accepted.close()
            self.assertEqual(address, client.getsockname())

    async def test_older(self) -> None:
        """
        If a worker cannot take a socket, it is told why it gets nothing, and the
        listener goes on.
        """
        self.start("--share", f"shared={self.LOCAL}", port=f"web={self.LOCAL}")
        for names in ((), ("shared",)):
            worker, hello = await self.greeted()
            worker.say(WorkerHello(16, names))
            await eventually(lambda w=worker: w.heard(Bye))
            (bye,) = worker.heard(Bye)
            self.assertIn("is shared", bye.reason)
            self.assertIn("too old", bye.reason)
        worker, hello = await self.greeted()
        worker.say(WorkerHello(16, ("web",)))
        self.client(hello, 0)
        await eventually(lambda: worker.heard(Offer))

    async def test_refused(self) -> None:
        """
        What makes no sense ends the process with one line.
        """
        for arguments, reason in [
            (("--share", "web=81", "web=80"), "'web' is both shared and listened on"),
            (("--share", "nonsense", "80"), "'nonsense' is no port"),
            (("--share", "udp:x", "80"), "'udp:x' is no port"),
            (("--share", "81:reuseport=0", "80"), "from 1 to 64"),
            (("udp:53",), "use --share"),
            (("80:reuseport=2",), "reuseport is for --share"),
        ]:
            exit = self.assertRaises(
                SystemExit, lambda a: makeService(parse(*a, self.path)), arguments
            )
            self.assertTrue(str(exit.code).startswith("portlisten: "))
            self.assertIn(reason, str(exit.code))
            self.assertEqual(len(str(exit.code).splitlines()), 1)

    async def test_sameName(self) -> None:
        """
        Several ports may have a name if all are shared; and none may have no name,
        shared or not.
        """
        shared = ("--share", f"a={self.LOCAL}", "--share", f"a={UDP}")
        self.start(*shared, "--share", self.LOCAL, port=self.LOCAL)
        _, hello = await self.greeted()
        self.assertEqual([port.name for port in hello.ports], ["", "a", "a", ""])


class StopTests(ListenerTestCase):
    """
    How the listener stops.
    """

    async def test_neverStarted(self) -> None:
        """
        To stop the service before its start releases the bound sockets.
        """
        service = self.make()
        service.privilegedStartService()
        self.assertTrue(os.path.exists(self.path))
        await service.stopService()
        self.assertFalse(os.path.exists(self.path))

    async def test_refusesClients(self) -> None:
        """
        Once it has stopped, clients and workers are refused.
        """
        self.start()
        _, hello = await self.greeted()
        await self.service.stopService()
        self.assertRaises(ConnectionRefusedError, self.client, hello)
        self.assertRaises(FileNotFoundError, self.connect)
        self.assertFalse(self.service.running)

    async def test_unixPort(self) -> None:
        """
        Nothing is left of a port that is a Unix socket.
        """
        self.start(port="unix:port")
        self.assertTrue(os.path.exists("port"))
        await self.service.stopService()
        self.assertFalse(os.path.exists("port"))

    async def test_farewell(self) -> None:
        """
        Workers get BYE, even if they have not joined.
        """
        self.start()
        await self.greeted()
        await self.join()
        await self.service.stopService()
        for worker in self.workers:
            self.assertEqual(worker.heard(Bye), [Bye("the listener stops")])
            self.assertTrue(worker.hasEnded())

    async def test_backlogIsHandedOff(self) -> None:
        """
        A client that was in the backlog when it stops is handed off.
        """
        self.start("--grace", "30")
        worker, hello = await self.join()
        client = self.client(hello)
        stopped = self.service.stopService()
        await eventually(lambda: worker.heard(Offer))
        worker.say(Claim((worker.heard(Offer)[0].id,)))
        await stopped
        os.write(worker.descriptors[0], b"served")
        self.assertEqual(client.recv(10), b"served")

    async def test_again(self) -> None:
        """
        It can be started again.
        """
        self.start()
        await self.service.stopService()
        self.service.startService()
        worker, hello = await self.join()
        self.client(hello)
        await eventually(lambda: worker.heard(Offer))

    async def test_stopping(self) -> None:
        """
        While it hands off the rest, workers are still let in, and HELLO says that it
        is stopping.
        """
        self.start("--grace", "30")
        first, hello = await self.greeted()
        self.assertFalse(hello.stopping)
        client = self.client(hello)
        await aMoment()
        stopped = self.service.stopService()
        self.assertFalse(stopped.called)
        await aMoment()
        worker, hello = await self.join()
        self.assertTrue(hello.stopping)
        await eventually(lambda: worker.heard(Offer))
        worker.say(Claim((worker.heard(Offer)[0].id,)))
        await eventually(lambda: worker.heard(Bye))
        for each in (first, worker):
            each.socket.close()
        await stopped
        os.write(worker.descriptors[0], b"served")
        self.assertEqual(client.recv(10), b"served")

    async def test_pathOfAHastySuccessor(self) -> None:
        """
        The name stays for as long as something is to be handed off, so that workers
        may come.  Then it is removed, and not looked at again, even if a successor
        gets the same inode.
        """
        self.patch(dispatcher, "FAREWELL_SECONDS", PATIENCE)
        self.start("--grace", "30")
        worker, hello = await self.join()
        self.client(hello)
        await eventually(lambda: worker.heard(Offer))
        os.link(self.path, "same inode")
        stopped = self.service.stopService()
        _, hello = await self.greeted()
        self.assertTrue(hello.stopping)
        worker.say(Claim((worker.heard(Offer)[0].id,)))
        await eventually(lambda: worker.heard(Bye))
        self.assertTrue(os.path.exists(self.path))
        worker.close()
        await eventually(lambda: not os.path.exists(self.path))
        os.rename("same inode", self.path)
        await stopped
        self.assertTrue(os.path.exists(self.path))
        os.unlink(self.path)

    async def test_pathOfASuccessor(self) -> None:
        """
        The path of a listener that took its place is left alone.
        """
        self.start()
        os.unlink(self.path)
        with socket.socket(socket.AF_UNIX) as successor:
            successor.bind(self.path)
            await self.service.stopService()
            self.assertTrue(os.path.exists(self.path))
        os.unlink(self.path)
