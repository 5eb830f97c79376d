"""
Tests for L{portlisten._listener.stream}: the service in the real reactor, with workers
made by hand.
"""

from __future__ import annotations

import errno
import io
import os
import resource
import signal
import socket
import sys
import threading
from typing import Any

from twisted.internet import reactor

from portlisten import _kernel
from portlisten._kernel import Credentials
from portlisten._listener import own_sockets, successor
from portlisten._listener import service as listenerService
from portlisten._listener.departed_workers import DepartedWorkers
from portlisten._process import exits, signals
from portlisten._wire.frames import (
    Bye,
    Claim,
    Closed,
    Drain,
    Drained,
    ListenerHello,
    Offer,
    Revoked,
    WorkerHello,
)
from portlisten.errors import StartFailure
from tests.support.addresses import internet
from tests.support.channels import PATIENCE, Peer, aMoment, eventually, texts
from tests.support.listeners import ListenerTestCase

#: The uid of somebody else.
STRANGER = 54321


class NameTests(ListenerTestCase):
    """
    Ports with names.
    """

    async def joinFor(self, *names: str) -> Peer:
        """
        Connect a worker, and make it join for these names.
        """
        worker, _ = await self.greeted()
        worker.say(WorkerHello(16, names))
        line = f"with a window of 16, for {', '.join(names)}"
        await eventually(
            lambda: any(each.endswith(line) for each in texts(self.logged, "info"))
        )
        return worker

    def startBoth(self, *arguments: str) -> None:
        """
        Start a listener with a port for the web and one for mail.
        """
        self.start(
            *("--listen", "mail=tcp:0:interface=127.0.0.1", *arguments),
            port="web=tcp:0:interface=127.0.0.1",
        )

    async def test_told(self) -> None:
        """
        The workers and the log get the names.
        """
        self.startBoth("--listen", "tcp:0:interface=127.0.0.1")
        _, hello = await self.greeted()
        self.assertEqual([port.name for port in hello.ports], ["web", "mail", ""])
        number = internet(hello.ports[0].address).port
        self.assertTrue(
            any(
                line.startswith(f"listening on web=tcp:127.0.0.1:{number}, mail=tcp:")
                for line in texts(self.logged, "info")
            )
        )

    async def test_wanted(self) -> None:
        """
        Each worker gets the connections that it asks for.  If no worker wants a name,
        its clients do not keep others waiting.
        """
        self.startBoth()
        web = await self.joinFor("web")
        [hello] = web.heard(ListenerHello)
        self.client(hello, 1)
        self.client(hello, 0)
        await eventually(lambda: web.heard(Offer))
        self.assertEqual([offer.port for offer in web.heard(Offer)], [0])
        mail = await self.joinFor("mail")
        await eventually(lambda: mail.heard(Offer))
        self.assertEqual([offer.port for offer in mail.heard(Offer)], [1])

    async def test_fullQueue(self) -> None:
        """
        If a queue is full, the next clients of its name stay in the backlog, without
        any work meanwhile.  They are accepted when a worker comes.
        """
        self.startBoth("--queue", "1")
        web = await self.joinFor("web")
        [hello] = web.heard(ListenerHello)
        for _ in range(3):
            self.client(hello, 1)
        _, acceptor = self.service._acceptors[1]
        await eventually(lambda: not acceptor._reading)
        reads: list[int] = []
        self.patch(acceptor, "doRead", lambda: reads.append(1))
        self.client(hello, 0)
        await eventually(lambda: web.heard(Offer))
        await aMoment()
        self.assertEqual((reads, acceptor._reading), ([], False))
        del acceptor.doRead
        mail = await self.joinFor("mail")
        await eventually(lambda: len(mail.heard(Offer)) == 3)

    async def test_unknown(self) -> None:
        """
        If a worker asks for a name that does not exist, it is told so.
        """
        self.startBoth()
        worker, _ = await self.greeted()
        worker.say(WorkerHello(16, ("ftp",)))
        await eventually(lambda: worker.heard(Bye))
        self.assertEqual(
            worker.heard(Bye), [Bye("no port is called 'ftp' here, only web, mail")]
        )


class SucceedTests(ListenerTestCase):
    """
    How a listener takes the place of another.
    """

    def predecessor(self, ended: bool) -> None:
        """
        Pretend that a listener at the path stops.

        @param ended: whether it ends before this one is told to stop.
        """
        self.asked: list[str] = []

        def waitForEnd(path: str, interrupted: Any) -> bool:
            self.asked.append(path)
            self.assertIs(interrupted, signals.stopRequested)
            return ended

        self.patch(successor, "isStopping", lambda path: path == self.path)
        self.patch(successor, "waitForEnd", waitForEnd)

    async def test_waits(self) -> None:
        """
        If a listener at the path stops, it waits for the end of that one, says so, and
        starts.
        """
        self.predecessor(ended=True)
        self.start()
        self.assertEqual(self.asked, [self.path])
        self.assertIn(
            f"waiting for the listener at {self.path} to stop",
            texts(self.logged, "info"),
        )
        await self.greeted()

    async def test_nobody(self) -> None:
        """
        If none does, it starts at once.
        """
        self.predecessor(ended=True)
        self.patch(successor, "isStopping", lambda path: False)
        self.start()
        self.assertEqual(self.asked, [])

    async def test_told(self) -> None:
        """
        If the process is told to stop meanwhile, it ends with one line, and that is no
        failure.
        """
        self.predecessor(ended=False)
        output = io.StringIO()
        self.patch(sys, "__stderr__", output)
        service = self.make()
        exit = self.assertRaises(StartFailure, service.privilegedStartService)
        self.assertEqual(exit.code, 0)
        self.assertEqual(
            output.getvalue(),
            f"portlisten: told to stop while it waited for {self.path}\n",
        )

    async def test_portInUse(self) -> None:
        """
        What workers shared with the one before may be in use for a moment more.
        """
        port = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(port.close)
        number = port.getsockname()[1]
        self.patch(own_sockets, "HANDOVER_SECONDS", PATIENCE)
        self.predecessor(ended=True)
        timer = threading.Timer(0.2, port.close)
        timer.start()
        self.addCleanup(timer.join)
        self.start(port=f"tcp:{number}:interface=127.0.0.1")
        _, hello = await self.greeted()
        self.assertEqual(internet(hello.ports[0].address).port, number)

    async def test_portInUseTooLong(self) -> None:
        """
        If it is in use for longer, the start fails.
        """
        self.patch(own_sockets, "HANDOVER_SECONDS", 0.1)
        self.predecessor(ended=True)
        self.patch(sys, "__stderr__", io.StringIO())
        with socket.create_server(("127.0.0.1", 0)) as port:
            number = port.getsockname()[1]
            service = self.make(port=f"tcp:{number}:interface=127.0.0.1")
            exit = self.assertRaises(StartFailure, service.privilegedStartService)
        self.assertEqual(exit.code, 1)


class ServiceTests(ListenerTestCase):
    """
    What the listener does.
    """

    async def test_handOff(self) -> None:
        """
        A client's connection reaches a worker, with its port.
        """
        self.start("--listen", "tcp:0:interface=127.0.0.1")
        worker, hello = await self.join()
        client = self.client(hello, port=1)
        await eventually(lambda: worker.heard(Offer))
        [offer] = worker.heard(Offer)
        self.assertEqual(offer.port, 1)
        worker.say(Claim((offer.id,)))
        with socket.socket(fileno=worker.descriptors.pop()) as served:
            self.assertEqual(served.getpeername(), client.getsockname())
            served.sendall(b"hello")
        worker.say(Closed((offer.id,)))
        self.assertEqual(client.recv(10), b"hello")
        await eventually(lambda: self.ended(client))

    def ended(self, client: socket.socket) -> bool:
        """
        Say whether the client's connection is at its end.
        """
        client.setblocking(False)
        try:
            return client.recv(1) == b""
        except BlockingIOError:
            return False

    async def test_hello(self) -> None:
        """
        Workers get the window, and each port with its address.  If one number stands
        for two ports, they get both.
        """
        self.start("--window", "3", "--listen", "tcp:0:interface=127.0.0.1", port="0")
        _, hello = await self.greeted()
        self.assertEqual(hello.window, 3)
        self.assertEqual(hello.claimTimeout, 5000)
        self.assertTrue(hello.honoursLimit)
        self.assertTrue(hello.honoursFirst)
        self.assertEqual(
            [port.number for port in hello.ports], list(range(len(hello.ports)))
        )
        self.assertFalse(internet(hello.ports[0].address).isIPv6)
        self.assertEqual(internet(hello.ports[0].address).host, "0.0.0.0")
        self.assertEqual(internet(hello.ports[-1].address).host, "127.0.0.1")

    async def test_window(self) -> None:
        """
        The window is what a worker is sent before it claims, and the queue what
        is accepted beyond that.
        """
        self.start("--window", "1", "--queue", "1")
        worker, hello = await self.join()
        for _ in range(4):
            self.client(hello)
        await eventually(lambda: worker.heard(Offer))
        await aMoment()
        os.kill(os.getpid(), signal.SIGUSR1)
        await eventually(lambda: "accepted" in texts(self.logged, "info")[-1])
        self.assertIn(
            "1 workers, 1 connections waiting, 1 offered, 2 held; since the start:"
            " accepted 2,",
            texts(self.logged, "info")[-1],
        )
        for id in (1, 2, 3, 4):
            await eventually(lambda last=id: len(worker.heard(Offer)) == last)
            worker.say(Claim((id,)))

    async def test_labels(self) -> None:
        """
        Workers are numbered in the order in which they come.
        """
        self.start()
        await self.join()
        await self.join()
        joined = [line for line in texts(self.logged, "info") if "joined" in line]
        self.assertTrue(joined[0].startswith("worker 1 (pid "))
        self.assertTrue(joined[1].startswith("worker 2 (pid "))

    async def test_drain(self) -> None:
        """
        A worker that drains is answered.
        """
        self.start()
        worker, _ = await self.join()
        worker.say(Drain())
        await eventually(lambda: worker.heard(Drained))

    async def test_claimTimeout(self) -> None:
        """
        A worker that claims nothing for as long as it may is revoked.
        """
        self.start("--claim-timeout", "0.05")
        worker, hello = await self.join()
        self.client(hello)
        await eventually(lambda: worker.heard(Revoked))
        self.assertEqual(worker.heard(Bye), [Bye("an offer unclaimed for 0.05 s")])

    async def spread(self, balance: str) -> tuple[int, int]:
        """
        Let four clients come, the last two after a second worker has joined.

        @return: how many of them each worker got.
        """
        self.start("--balance", balance)
        workers = [(await self.join())[0]]
        for number in range(4):
            if number == 2:
                workers.append((await self.join())[0])
            self.client(workers[0].heard(ListenerHello)[0])
            await eventually(
                lambda number=number: (
                    sum(len(each.heard(Offer)) for each in workers) == number + 1
                )
            )
        await self.service.stopService()
        return len(workers[0].heard(Offer)), len(workers[1].heard(Offer))

    async def test_least(self) -> None:
        """
        The worker with the least connections is the next.
        """
        self.assertEqual(await self.spread("least"), (2, 2))

    async def test_roundRobin(self) -> None:
        """
        Each has its turn where that is asked for.
        """
        self.assertEqual(await self.spread("round-robin"), (3, 1))

    async def test_throttle(self) -> None:
        """
        Workers that die again and again with nothing done are made to wait,
        unless that is turned off.
        """
        for longest, waits in [("0.05", True), ("0", False)]:
            self.logged.clear()
            self.start("--throttle", longest)
            for _ in range(30):
                worker, _ = await self.join()
                worker.close()
                await eventually(lambda: "died" in texts(self.logged, "warn")[-1])
            self.assertEqual(
                any("must wait" in line for line in texts(self.logged, "warn")),
                waits,
            )
            await self.service.stopService()

    async def test_patience(self) -> None:
        """
        If no worker takes a client's connection, it is closed when its patience runs
        out.
        """
        self.start("--patience", "0.05")
        _, hello = await self.greeted()
        client = self.client(hello)
        await eventually(lambda: self.ended(client))
        self.assertEqual(texts(self.logged, "critical"), [])

    async def test_exit(self) -> None:
        """
        With C{--on-timeout=exit}, the process ends with it, and fails.
        """
        calls: list[tuple[Any, int]] = []
        self.patch(exits, "exitWith", lambda *arguments: calls.append(arguments))
        self.start("--patience", "0.05", "--on-timeout", "exit")
        _, hello = await self.greeted()
        self.client(hello)
        await eventually(lambda: calls)
        self.assertEqual(calls, [(reactor, 1)])
        self.assertEqual(
            texts(self.logged, "critical"),
            ["exiting, as --on-timeout=exit asks for"],
        )


class AccessTests(ListenerTestCase):
    """
    Who may be a worker, and how many.
    """

    def comeAs(self, uid: int) -> None:
        """
        Have workers be of some user.
        """
        self.patch(_kernel, "credentials", lambda sock: Credentials(77, uid, uid))

    async def test_stranger(self) -> None:
        """
        If users are listed, other users are turned away.  The reason is sent and
        logged.
        """
        self.start("--allow-user", str(os.getuid()))
        self.comeAs(STRANGER)
        worker = self.connect()
        await eventually(worker.hasEnded)
        reason = (
            f"uid {STRANGER} may not be a worker here: the listener's --allow-user"
            " and --allow-group say who may"
        )
        self.assertEqual(worker.frames, [Bye(reason)])
        self.assertIn(
            f"process 77 is turned away: {reason}", texts(self.logged, "warn")
        )

    async def test_strangerGone(self) -> None:
        """
        If the process has left already, no reason is sent.
        """
        self.start("--allow-user", str(os.getuid()))
        self.comeAs(STRANGER)
        self.connect().close()
        await eventually(
            lambda: any("turned away" in line for line in texts(self.logged, "warn"))
        )
        self.comeAs(os.getuid())
        await self.greeted()

    async def test_listed(self) -> None:
        """
        Who is listed is let in.
        """
        self.start("--allow-group", str(os.getgid()))
        self.comeAs(os.getgid())
        await self.join()

    async def test_noList(self) -> None:
        """
        Without a list, every process that can connect is let in.
        """
        self.start()
        self.comeAs(STRANGER)
        await self.join()

    async def test_outOfDescriptors(self) -> None:
        """
        If no descriptors are free for a worker, it is turned away, and later workers
        are let in.
        """

        def fail(sock: socket.socket) -> None:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        self.start()
        original = socket.socket.dup
        self.patch(socket.socket, "dup", fail)
        worker = self.connect()
        await eventually(worker.hasEnded)
        self.assertEqual(
            texts(self.logged, "error"),
            ["worker 1 is turned away, and may try again: Too many open files"],
        )
        self.patch(socket.socket, "dup", original)
        await self.greeted()

    async def test_unknown(self) -> None:
        """
        If the kernel gives no credentials of a process, it is turned away, and later
        processes are let in.
        """

        def fail(sock: socket.socket) -> None:
            raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))

        self.start()
        original = _kernel.credentials
        self.patch(_kernel, "credentials", fail)
        worker = self.connect()
        await eventually(worker.hasEnded)
        self.assertEqual(
            texts(self.logged, "error"),
            ["a worker is turned away, and may try again: No buffer space available"],
        )
        self.patch(_kernel, "credentials", original)
        await self.greeted()

    async def test_failedAdmission(self) -> None:
        """
        A process that could not be let in leaves its place to the next.
        """
        self.patch(listenerService, "descriptorBudget", lambda: (100, 1))
        await self.test_outOfDescriptors()

    async def test_tooMany(self) -> None:
        """
        If all places are taken, the next worker is told so, which is logged.  When a
        worker leaves, its place is free again.
        """
        self.patch(listenerService, "descriptorBudget", lambda: (100, 1))
        self.start()
        first, _ = await self.greeted()
        second = self.connect()
        await eventually(second.hasEnded)
        reason = (
            "the listener is full: 1 of 1 places for workers are taken, 1 of them by"
            f" uid {os.getuid()}; a higher 'ulimit -n' of the listener gives it more"
        )
        self.assertEqual(second.frames, [Bye(reason)])
        self.assertIn(
            f"process {os.getpid()} is turned away: {reason}",
            texts(self.logged, "warn"),
        )
        first.close()
        await aMoment()
        await self.greeted()

    async def test_places(self) -> None:
        """
        No user gets all places: another user finds a free one.
        """
        self.patch(listenerService, "descriptorBudget", lambda: (100, 4))
        self.start()
        self.comeAs(STRANGER)
        for _ in range(3):
            await self.greeted()
        fourth = self.connect()
        await eventually(fourth.hasEnded)
        self.assertIn(f"3 of them by uid {STRANGER}", fourth.frames[0].reason)
        self.comeAs(STRANGER + 1)
        await self.greeted()

    async def test_inFlight(self) -> None:
        """
        A user whose processes leave too many descriptors unread is turned away, and
        others are not.
        """
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        count = limit // 8
        self.patch(
            DepartedWorkers, "unreadBy", lambda _, user: count * (user == STRANGER)
        )
        self.start()
        self.comeAs(STRANGER)
        await self.greeted()
        count += 1
        worker = self.connect()
        await eventually(worker.hasEnded)
        self.assertEqual(
            worker.frames,
            [
                Bye(
                    f"{count} descriptors are on their way to processes of uid"
                    f" {STRANGER} that do not read them: end those"
                )
            ],
        )
        self.comeAs(STRANGER + 1)
        await self.greeted()
