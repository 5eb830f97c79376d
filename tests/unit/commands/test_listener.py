"""
Tests for L{portlisten._commands.listener}: the options, and the service in the real
reactor, with workers made by hand.
"""

from __future__ import annotations

import atexit
import builtins
import errno
import grp
import io
import os
import pwd
import resource
import signal
import socket
import stat
import sys
import threading
from typing import Any
from weakref import WeakKeyDictionary

from twisted.application.service import IService
from twisted.internet import endpoints, reactor
from twisted.internet.task import deferLater
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import capturedLogs
from twisted.python.systemd import ListenFDs
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface.verify import verifyObject

from portlisten import _kernel
from portlisten._commands import listener
from portlisten._commands.listener import Options, makeService
from portlisten._kernel.sockets import Credentials
from portlisten._listener import service as listenerService
from portlisten._listener import stream as _stream
from portlisten._listener import successor
from portlisten._listener.access import Access
from portlisten._listener.departed_workers import DepartedWorkers
from portlisten._listener.service import ListenerService
from portlisten._model import Kind
from portlisten._process import exits, signals
from portlisten._reactor import quiet as _quiet
from portlisten._wire import frames as _frames
from portlisten._wire.frames import (
    Bye,
    Claim,
    Closed,
    Drain,
    Drained,
    Listener,
    ListenerHello,
    Offer,
    Revoked,
    WorkerHello,
)
from portlisten.errors import StartFailure
from tests.support import assertOneLine, descriptors
from tests.support.channels import Peer, aMoment, eventually, inReactor, texts

#: The uid of somebody else.
STRANGER = 54321


def parse(*arguments: str) -> Options:
    """
    Understand a command line.
    """
    options = Options()
    options.parseOptions(list(arguments))
    return options


UDP = "udp:0:interface=127.0.0.1"


def keepSignalHandlers(test: TestCase) -> None:
    """
    Have a test leave the handlers of signals as they are.
    """
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP):
        test.addCleanup(signal.signal, number, signal.getsignal(number))


class OptionsTests(SynchronousTestCase):
    """
    The command line of C{twistd portlisten}.
    """

    def refusal(self, *arguments: str) -> str:
        """
        Say why a command line is refused, which has to be one line.
        """
        exit = self.assertRaises(SystemExit, parse, *arguments)
        message = str(exit.code)
        assertOneLine(self, "portlisten", message)
        return message

    def test_defaults(self) -> None:
        """
        PORT and PATH are enough.
        """
        self.assertEqual(
            dict(parse("80", "path")),
            {
                "listen": ["80"],
                "share": [],
                "path": "path",
                "wire": "stream",
                "mode": 0o660,
                "group": None,
                "backlog": None,
                "queue": 1024,
                "patience": 60.0,
                "on-timeout": "close",
                "balance": "least",
                "claim-timeout": 5.0,
                "throttle": 10.0,
                "window": 32,
                "retry": 0.1,
                "grace": 10.0,
                "allow-user": [],
                "allow-group": [],
            },
        )

    def test_given(self) -> None:
        """
        Each option can be given.
        """
        group = grp.getgrgid(os.getgid()).gr_name
        user = pwd.getpwuid(os.getuid()).pw_name
        given = parse(
            *("--mode", "0600", "--group", group, "--backlog", "7", "--queue", "0"),
            *("--patience", "2.5", "--on-timeout", "exit", "--balance", "round-robin"),
            *("--claim-timeout", "0.5", "--throttle", "0", "--window", "128"),
            *("--retry", "0.2", "--grace", "0", "--allow-user", user),
            *("--allow-group", group, "--listen", "81", "--listen", "82"),
            *("--share", "83", "--share", "udp:53", "80", "path"),
        )
        self.assertEqual(
            dict(given),
            {
                "listen": ["80", "81", "82"],
                "share": ["83", "udp:53"],
                "path": "path",
                "wire": "stream",
                "mode": 0o600,
                "group": os.getgid(),
                "backlog": 7,
                "queue": 0,
                "patience": 2.5,
                "on-timeout": "exit",
                "balance": "round-robin",
                "claim-timeout": 0.5,
                "throttle": 0.0,
                "window": 128,
                "retry": 0.2,
                "grace": 0.0,
                "allow-user": [os.getuid()],
                "allow-group": [os.getgid()],
            },
        )

    def test_independent(self) -> None:
        """
        What one command line lists, another does not.
        """
        parse("--listen", "81", "80", "path")
        self.assertEqual(parse("80", "path")["listen"], ["80"])

    def test_argumentCount(self) -> None:
        """
        There are two arguments, no more and no fewer.
        """
        for arguments in [(), ("80",), ("80", "path", "more")]:
            self.assertIn(
                f"expected PORT and PATH, got {len(arguments)} arguments",
                self.refusal(*arguments),
            )

    def test_portByOption(self) -> None:
        """
        PORT may be left out where an option gives one, and PATH may not.
        """
        options = parse("--listen", "http=80", "--listen", "https=443", "path")
        self.assertEqual(options["listen"], ["http=80", "https=443"])
        self.assertEqual(options["path"], "path")
        for arguments in [(), ("80", "path", "more")]:
            self.assertIn(
                f"expected [PORT] and PATH, got {len(arguments)} arguments",
                self.refusal("--listen", "81", *arguments),
            )

    def test_unknownOption(self) -> None:
        """
        An option that does not exist is refused.
        """
        self.assertIn("option --nonsense not", self.refusal("--nonsense", "80", "path"))

    def test_mode(self) -> None:
        """
        A mode is an octal number of nine bits.
        """
        for text in ["rw-rw----", "0888", "01777", "-1", ""]:
            self.assertIn(
                f"--mode: {text!r} is not an octal mode such as 0660",
                self.refusal("--mode", text, "80", "path"),
            )

    def test_numbers(self) -> None:
        """
        A number has to be one, and within its limits.
        """
        for option, texts_, kind in [
            ("backlog", ["0", "x", "1.5", "2147483648"], "a whole number from 1 to"),
            ("queue", ["-1", "x", "0.5"], "a whole number of at least 0"),
            ("patience", ["0", "x", "nan", "inf"], "a number of at least 0.001"),
            ("claim-timeout", ["0", "x", "nan"], "a number of at least 0.001"),
            ("throttle", ["-0.1", "x", "inf"], "a number of at least 0"),
            ("window", ["0", "129", "x"], "a whole number from 1 to 128"),
            ("retry", ["0", "x"], "a number of at least 0.001"),
            ("grace", ["-1", "x", "inf"], "a number of at least 0"),
        ]:
            for text in texts_:
                self.assertIn(
                    f"--{option}: {text!r} is not {kind}",
                    self.refusal(f"--{option}={text}", "80", "path"),
                )

    def test_choices(self) -> None:
        """
        One of a few words has to be one of them.
        """
        for option in ["on-timeout", "balance"]:
            self.assertIn(
                f"--{option}: 'explode' is none of ",
                self.refusal(f"--{option}=explode", "80", "path"),
            )

    def test_nobody(self) -> None:
        """
        Users and groups have to exist.
        """
        for option in ["group", "allow-group"]:
            self.assertIn(
                f"--{option}: there is no group 'no such'",
                self.refusal(f"--{option}=no such", "80", "path"),
            )
        self.assertIn(
            "--allow-user: there is no user 'no such'",
            self.refusal("--allow-user=no such", "80", "path"),
        )

    def test_help(self) -> None:
        """
        The help explains the arguments, names each option with its default, and
        gives examples.
        """
        text = " ".join(str(Options()).split())
        for line in [
            "[options] [PORT] PATH",
            "PORT is a number (every interface, IPv4 and IPv6)",
            "It may be left out where --listen or --share gives one.",
            "http=80 https=tcp:443:interface=192.0.2.1",
            "Listen on this [NAME=]PORT as well",
            "twistd -n portlisten 10000 ./socket",
            "[default: 0660]",
            "[default: what the host",
            "[default: 1024]",
            "[default: 60.0]",
            "[default: close]",
            "[default: least]",
            "[default: 32]",
        ]:
            self.assertIn(line, text)
        options = parse("80", "path")
        for name in set(options) - {"path"}:
            self.assertIn(f"--{name}=", text)

    def test_helpSpaces(self) -> None:
        """
        One space stands between the words that say what an option does.
        """
        options = str(Options()).partition("Options:\n")[2].partition("\n\n")[0]
        told = [line[24:].rstrip() for line in options.splitlines()]
        self.assertIn("Display this help and exit.", told)
        self.assertNotIn("  ", " ".join(told))

    def test_helpIsPrinted(self) -> None:
        """
        C{--help} prints it, and is a success.
        """
        output = io.StringIO()
        self.patch(sys, "stdout", output)
        exit = self.assertRaises(SystemExit, parse, "--help")
        self.assertEqual(exit.code, 0)
        self.assertEqual(output.getvalue().strip(), str(Options()).strip())

    def test_access(self) -> None:
        """
        Without a list there is none; with one, root and the listener itself are
        on it.
        """
        self.assertEqual(parse("80", "path").access(), Access([], []))
        root = grp.getgrgid(0).gr_name
        self.assertEqual(
            parse("--allow-group", root, "80", "path").access(),
            Access([0, os.geteuid()], [0]),
        )
        self.assertEqual(
            parse("--allow-user", "root", "80", "path").access(),
            Access([0, os.geteuid(), 0], []),
        )


class LimitsTests(SynchronousTestCase):
    """
    What the host and the process allow.
    """

    def test_somaxconn(self) -> None:
        """
        The longest backlog is the host's.
        """
        with open("/proc/sys/net/core/somaxconn") as file:
            self.assertEqual(listener.somaxconn(), int(file.read()))

    def test_somaxconnUnknown(self) -> None:
        """
        Where the host does not say, it is a usual one.
        """

        def fail(name: str) -> None:
            raise FileNotFoundError

        self.patch(builtins, "open", fail)
        self.assertEqual(listener.somaxconn(), 4096)

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
        One that is as high as it goes is left alone.
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
                connections + 2 * channels + used + listenerService.RESERVE, hard
            )
            self.assertLessEqual(channels, listenerService.MAXIMUM_CHANNELS)
            self.assertGreater(connections, channels)
        self.assertEqual(channels, listenerService.MAXIMUM_CHANNELS)

    def test_withoutProc(self) -> None:
        """
        Without /proc, what is open is known well enough.
        """
        self.limit(100_000, 100_000)
        expected, channels = listenerService.descriptorBudget()

        def fail(path: str) -> None:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)

        self.patch(os, "listdir", fail)
        connections, again = listenerService.descriptorBudget()
        self.assertEqual(again, channels)
        self.assertLess(abs(connections - expected), listenerService.RESERVE)

    def test_noBudget(self) -> None:
        """
        There is always room for one.
        """
        self.limit(3, 3)
        self.assertEqual(listenerService.descriptorBudget(), (1, 1))


class ListenerTestCase(TestCase):
    """
    A L{ListenerService} on a port that the kernel chooses.
    """

    async def setUp(self) -> None:
        await inReactor(self)
        keepSignalHandlers(self)
        # The reactor, and with it the count, is that of all tests.
        self.patch(_quiet, "MOST", 1000)
        logs = capturedLogs()
        self.logged = logs.__enter__()
        self.addCleanup(logs.__exit__, None, None, None)
        self.path = os.path.join(os.path.dirname(self.mktemp()), "path")
        self.workers: list[Peer] = []
        self.service: Any = None
        self.expectManyLines()
        self.addCleanup(self.end)

    def expectManyLines(self) -> None:
        """
        Have no log line left out because of what other tests logged.
        """
        self.patch(_quiet, "_all", WeakKeyDictionary())
        self.patch(_quiet, "MOST", 1000)

    async def end(self) -> None:
        """
        End the workers, and see that the service leaves nothing.
        """
        for worker in self.workers:
            worker.close()
        if self.service is not None:
            await self.service.stopService()
        await deferLater(reactor, 0)
        self.assertFalse(os.path.exists(self.path))

    def make(self, *arguments: str, port: str = "tcp:0:interface=127.0.0.1") -> Any:
        """
        Make the service.
        """
        options = parse("--grace", "0.2", *arguments, port, self.path)
        self.service = makeService(options)
        return self.service

    def start(self, *arguments: str, port: str = "tcp:0:interface=127.0.0.1") -> None:
        """
        Start it as C{twistd} does.
        """
        service = self.make(*arguments, port=port)
        service.privilegedStartService()
        service.startService()

    def connect(self) -> Peer:
        """
        Connect a worker.
        """
        sock = socket.socket(socket.AF_UNIX)
        self.addCleanup(sock.close)
        sock.connect(self.path)
        self.workers.append(Peer(sock, _frames.FROM_LISTENER))
        return self.workers[-1]

    async def greeted(self) -> tuple[Peer, ListenerHello]:
        """
        Connect a worker, and wait for the listener's HELLO.
        """
        worker = self.connect()
        await eventually(lambda: worker.heard(ListenerHello))
        return worker, worker.heard(ListenerHello)[0]

    async def join(self, window: int = 16) -> tuple[Peer, ListenerHello]:
        """
        Connect a worker, and have it join.
        """
        worker, hello = await self.greeted()
        joined = sum("joined" in line for line in texts(self.logged, "info"))
        worker.say(WorkerHello(window))
        await eventually(
            lambda: (
                sum("joined" in line for line in texts(self.logged, "info")) > joined
            )
        )
        return worker, hello

    def client(self, hello: ListenerHello, port: int = 0) -> socket.socket:
        """
        Connect a client to one of the ports.
        """
        address = hello.ports[port].address
        client = socket.create_connection((address.host, address.port), timeout=5)
        self.addCleanup(client.close)
        return client


class MakeServiceTests(ListenerTestCase):
    """
    From options to a service.
    """

    async def test_service(self) -> None:
        """
        It is a service, and nothing is bound yet.
        """
        service = self.make()
        verifyObject(IService, service)
        self.assertIsInstance(service, ListenerService)
        self.assertFalse(os.path.exists(self.path))

    async def test_reactor(self) -> None:
        """
        The reactor may be another one.
        """
        clock = MemoryReactorClock()
        makeService(parse("80", self.path), reactor=clock)
        self.assertEqual(len(clock.getDelayedCalls()), 1)

    async def test_badPort(self) -> None:
        """
        A port that cannot be understood ends the process with one line.
        """
        for port, reason in [
            ("65536", "'65536' is no port"),
            ("http", "'http' is no port"),
            ("nonsense:80", "'nonsense:80' is no endpoint description"),
            ("a b=80", "'a b' is no name for a port"),
        ]:
            exit = self.assertRaises(SystemExit, self.make, port=port)
            self.assertIn(f"portlisten: {reason}", str(exit.code))
            self.assertEqual(len(str(exit.code).splitlines()), 1)

    async def test_backlog(self) -> None:
        """
        The backlog is the one asked for, or the longest that there is.
        """
        backlogs: list[int] = []
        self.patch(
            listener._ports,
            "parse",
            lambda description, backlog: backlogs.append(backlog),
        )
        self.make("--backlog", "7")
        self.make()
        self.assertEqual(backlogs, [7, listener.somaxconn()])

    async def test_term(self) -> None:
        """
        SIGTERM is to end the process in order.
        """
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        self.make()
        await deferLater(reactor, 0)
        self.assertTrue(callable(signal.getsignal(signal.SIGTERM)))


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
        It binds in the other part where nobody called the privileged one.
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
        self.assertIn(
            f"listening on tcp:127.0.0.1:{hello.ports[0].address.port}, as uid"
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
            del self.logged[:]
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
        PORT and PATH in the wrong order are told to be.
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
        If it fails after privileges were dropped, this is told in one line, and
        nothing is left.
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
        self.patch(_frames, "MAXIMUM_PAYLOAD", 30)
        reason = self.failure("--listen", "tcp:0:interface=127.0.0.1")
        self.assertIn("2 ports are more than a listener can tell", reason)


class NameTests(ListenerTestCase):
    """
    Ports with names.
    """

    async def joinFor(self, *names: str) -> Peer:
        """
        Connect a worker, and have it join for these names.
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
        Workers are told the names, and so is the log.
        """
        self.startBoth("--listen", "tcp:0:interface=127.0.0.1")
        _, hello = await self.greeted()
        self.assertEqual([port.name for port in hello.ports], ["web", "mail", ""])
        number = hello.ports[0].address.port
        self.assertTrue(
            any(
                line.startswith(f"listening on web=tcp:127.0.0.1:{number}, mail=tcp:")
                for line in texts(self.logged, "info")
            )
        )

    async def test_wanted(self) -> None:
        """
        Each worker gets what it asks for, and clients of one whose worker is not
        there do not keep others waiting.
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
        A queue that is full leaves the next clients of its name in the backlog,
        where nothing has to be done about them, and takes them when there is a
        worker.
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
        A worker that asks for what there is not is told so.
        """
        self.startBoth()
        worker, _ = await self.greeted()
        worker.say(WorkerHello(16, ("ftp",)))
        await eventually(lambda: worker.heard(Bye))
        self.assertEqual(
            worker.heard(Bye), [Bye("no port is called 'ftp' here, only web, mail")]
        )


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
        with socket.socket(fileno=os.dup(ours)) as sock:
            self.assertEqual(sock.getsockname()[1], hello.ports[1].address.port)
            accepted, address = sock.accept()
            accepted.close()
            self.assertEqual(address, client.getsockname())
        self.assertTrue(
            any(
                f"shared=tcp:127.0.0.1:{hello.ports[1].address.port} (shared)" in line
                for line in texts(self.logged, "info")
            )
        )

    async def test_onlyShared(self) -> None:
        """
        There need be no other ports; what waits while there is no worker, the first
        one finds.
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
        A worker that cannot take a socket is told why it gets nothing, and the
        listener stays.
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
        To stop it before it was started releases what was bound.
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
        Workers are told, whether they had joined or not.
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
        self.start()
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
        self.start("--grace", "5")
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
        self.start("--grace", "5")
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


class SucceedTests(ListenerTestCase):
    """
    How a listener takes the place of another.
    """

    def predecessor(self, ended: bool) -> None:
        """
        Pretend that there is one which stops.

        @param ended: whether it ends before this one is told to stop.
        """
        self.asked: list[str] = []

        def waitForEnd(path: str, interrupted: Any) -> bool:
            self.asked.append(path)
            self.assertIs(interrupted, signals.toldToStop)
            return ended

        self.patch(successor, "stops", lambda path: path == self.path)
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
        self.patch(successor, "stops", lambda path: False)
        self.start()
        self.assertEqual(self.asked, [])

    async def test_told(self) -> None:
        """
        If it is told to stop meanwhile, it ends in one line, and that is no failure.
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
        self.predecessor(ended=True)
        timer = threading.Timer(0.2, port.close)
        timer.start()
        self.addCleanup(timer.join)
        self.start(port=f"tcp:{number}:interface=127.0.0.1")
        _, hello = await self.greeted()
        self.assertEqual(hello.ports[0].address.port, number)

    async def test_portInUseTooLong(self) -> None:
        """
        If it is in use for longer, the start fails.
        """
        self.patch(_stream, "HANDOVER", 0.1)
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
        Workers are told the window, and each port with its address, both of
        them where a number stands for two.
        """
        self.start("--window", "3", "--listen", "tcp:0:interface=127.0.0.1", port="0")
        _, hello = await self.greeted()
        self.assertEqual(hello.window, 3)
        self.assertEqual(
            [port.number for port in hello.ports], list(range(len(hello.ports)))
        )
        self.assertFalse(hello.ports[0].address.isIPv6)
        self.assertEqual(hello.ports[0].address.host, "0.0.0.0")
        self.assertEqual(hello.ports[-1].address.host, "127.0.0.1")

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
        Have four clients come, the last two of them when there is a second
        worker.

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
            del self.logged[:]
            self.start("--throttle", longest)
            for _ in range(30):
                worker, _ = await self.join()
                worker.close()
                await eventually(lambda: "died" in texts(self.logged, "warn")[-1])
            self.assertEqual(
                any("has to wait" in line for line in texts(self.logged, "warn")),
                waits,
            )
            await self.service.stopService()

    async def test_patience(self) -> None:
        """
        A client that nobody serves is closed when its patience runs out.
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
        Where users are listed, nobody else is let in: he is told why, and it is
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
        One who has gone is not told.
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
        Without a list, everybody is who can connect.
        """
        self.start()
        self.comeAs(STRANGER)
        await self.join()

    async def test_outOfDescriptors(self) -> None:
        """
        A worker for whom there are no descriptors is turned away, and others
        are let in afterwards.
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
        One of whom the kernel does not say who it is is turned away, and others are
        let in afterwards.
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
        One that could not be let in leaves its place to the next.
        """
        self.patch(listenerService, "descriptorBudget", lambda: (100, 1))
        await self.test_outOfDescriptors()

    async def test_tooMany(self) -> None:
        """
        When there are as many as there may be, another is told so, and so is the log.
        Once one leaves, there is a place again.
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
        One user does not get all the places: another one finds one free.
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
