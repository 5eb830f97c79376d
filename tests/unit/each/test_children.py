"""
Tests for L{portlisten._each.children}, with programs that are made up, and with real
ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import socket
from collections.abc import Callable, Coroutine, Sequence
from typing import Any
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from portlisten._anyloop.clock import Clock
from portlisten._anyloop.interfaces import Reports
from portlisten._each import children as _children
from portlisten._each.children import Children, identify
from portlisten._each.environment import Internet, Unix
from portlisten._each.starting import CannotStart, NotAnnounced, Program
from portlisten._policy.networks import Network, networkOf
from portlisten._ports import proxies
from tests.support.asyncio_loops import aMoment, eventually
from tests.support.channels import PATIENCE, tcpPair
from tests.support.descriptors import watchDescriptors


class FakeProgram:
    """
    A program whose processes are numbers, which begin with 1000000.

    @ivar error: why it cannot be started.
    @ivar started: the variables and the announcement of each start and try.
    """

    path = "/program"

    def __init__(self) -> None:
        self.error: CannotStart | None = None
        self.started: list[tuple[Any, Any]] = []

    def start(self, connection: int, variables: Any, announcement: Any) -> int:
        """
        See L{Program.start}.
        """
        os.fstat(connection)
        self.started.append((variables, announcement))
        if self.error is not None:
            raise self.error
        return 999_999 + len(self.started)


class ChildrenTestCase(SynchronousTestCase):
    """
    A test in a loop of its own.

    @cvar proxies: the networks of proxies whose headers are believed.
    @ivar changes: how often the number of connections may have changed.
    @ivar events: the connections that have ended.
    """

    proxies: Sequence[Network] = ()

    def setUp(self) -> None:
        watchDescriptors(self)
        self.patch(_children, "RETRY_SECONDS", 0.05)
        self.program = FakeProgram()
        self.changes = 0
        self.events: list[str] = []

    def complete(
        self, test: Callable[[Children], Coroutine[Any, Any, None]], limit: int = 3
    ) -> None:
        """
        Run a test.
        """

        async def run() -> None:
            children = self.make(limit)
            try:
                await test(children)
            finally:
                children.abandon()

        asyncio.run(run())

    def make(self, limit: int, program: Any = None) -> Children:
        """
        Make the children.
        """

        def changed() -> None:
            self.changes += 1

        loop = asyncio.get_running_loop()
        program = program or self.program
        return Children(Clock(loop), program, limit, changed, self.proxies)

    def adopt(self, children: Children, name: str, given: Any = None) -> socket.socket:
        """
        Have a connection adopted.

        @return: the client's end.
        """
        client, server = tcpPair()
        self.addCleanup(client.close)
        children.adopt(
            server.detach(),
            None,
            Reports(
                lambda: self.events.append(f"{name} closed"),
                lambda: self.events.append(f"{name} gone"),
                given or (lambda: (7, name.encode())),
            ),
        )
        return client

    def end(self, children: Children, *statuses: tuple[int, int]) -> None:
        """
        Have processes end.
        """
        ended = [*statuses, (0, 0)]
        with mock.patch.object(os, "waitpid", side_effect=ended):
            children.reap()


class ProxiedTests(ChildrenTestCase):
    """
    Connections that a proxy begins with a header.
    """

    proxies = (networkOf("127.0.0.1"),)
    line = b"PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\n"

    def test_client(self) -> None:
        """
        The variables tell of the client.  The header is read only when its program
        begins, and nothing else is read.
        """
        self.program.error = CannotStart(OSError(errno.ENOMEM, "not now"))

        async def test(children: Children) -> None:
            client, server = tcpPair()
            watching = server.dup()
            self.addCleanup(client.close)
            self.addCleanup(watching.close)
            children.adopt(server.detach())
            await aMoment()
            self.assertEqual(self.program.started, [])
            client.sendall(self.line[:9])
            await aMoment()
            self.assertEqual(watching.recv(99, socket.MSG_PEEK), self.line[:9])
            client.sendall(self.line[9:] + b"hello")
            await eventually(lambda: self.program.started)
            self.program.error = None
            await eventually(lambda: children.running)
            for variables, _ in self.program.started:
                self.assertEqual(variables["TCPREMOTEIP"], "192.0.2.1")
                self.assertEqual(variables["REMOTE_PORT"], "56324")
            self.assertEqual(watching.recv(99), b"hello")

        self.complete(test)

    def test_otherFamily(self) -> None:
        """
        The client may come by another family than the proxy.
        """

        async def test(children: Children) -> None:
            client = self.adopt(children, "a")
            client.sendall(b"PROXY TCP6 2001:db8::1 2001:db8::2 5 6\r\n")
            await eventually(lambda: self.program.started)
            [(variables, _)] = self.program.started
            self.assertEqual(variables["PROTO"], "TCP6")
            self.assertEqual(variables["TCP6REMOTEIP"], "2001:db8::1")

        self.complete(test)

    def test_missing(self) -> None:
        """
        Without a header, no program is started.
        """
        self.patch(proxies, "TIMEOUT_SECONDS", 0.05)

        async def test(children: Children) -> None:
            clients = [self.adopt(children, name) for name in ("a", "b")]
            clients[0].sendall(b"SSH-2.0-client\r\n")
            await eventually(lambda: len(self.events) == 2)
            self.assertEqual(self.events, ["a closed", "b closed"])
            self.assertEqual(children.connections, set())
            for client in clients:
                client.settimeout(PATIENCE)
                with contextlib.suppress(ConnectionResetError):
                    self.assertEqual(client.recv(9), b"")

        self.complete(test)
        self.assertEqual(self.program.started, [])

    def test_abandoned(self) -> None:
        """
        A connection whose header has not come is left to the listener.
        """

        async def test(children: Children) -> None:
            self.adopt(children, "a")
            await aMoment()
            self.assertEqual(len(children.connections), 1)

        self.complete(test)
        self.assertEqual(self.events, [])


class ChildrenTests(ChildrenTestCase):
    """
    Tests for L{Children}.
    """

    def test_course(self) -> None:
        """
        A connection is announced, gets a process, and ends with it.  The client sees
        the end at once, since nothing of the connection stays open.
        """

        async def test(children: Children) -> None:
            client = self.adopt(children, "a")
            await eventually(lambda: children.running)
            self.assertEqual(client.recv(10), b"")
            [(variables, announcement)] = self.program.started
            self.assertEqual(announcement, (7, b"a"))
            self.assertEqual(variables["TCPREMOTEPORT"], str(client.getsockname()[1]))
            self.assertEqual((self.events, len(children.connections)), ([], 1))
            before = self.changes
            self.end(children, (1_000_000, 0))
            self.assertEqual((self.events, children.connections), (["a closed"], set()))
            self.assertEqual(self.changes, before + 1)

        self.complete(test)

    def test_limit(self) -> None:
        """
        There are no more processes than the limit allows, in whatever order they end.
        """

        async def test(children: Children) -> None:
            for name in "abcde":
                self.adopt(children, name)
            await eventually(lambda: len(children.running) == 3)
            await aMoment()
            self.assertEqual(len(self.program.started), 3)
            self.assertEqual(len(children.connections), 5)
            self.end(children, (1_000_001, 0))
            await eventually(lambda: len(self.program.started) == 4)
            await aMoment()
            self.assertEqual(set(children.running), {1_000_000, 1_000_002, 1_000_003})
            self.end(children, (1_000_000, 0), (1_000_003, 9), (5, 0))
            await eventually(lambda: len(self.program.started) == 5)
            self.assertEqual(self.events, ["b closed", "a closed", "d closed"])

        self.complete(test)

    def test_retry(self) -> None:
        """
        If the program cannot be started, one connection is tried again, and the others
        wait.  The log says so once.
        """

        async def test(children: Children) -> None:
            self.program.error = CannotStart(OSError(errno.EAGAIN, "no processes"))
            with self.assertLogs("portlisten", "WARNING") as logged:
                clients = [self.adopt(children, name) for name in "abc"]
                await eventually(lambda: len(self.program.started) == 3)
            self.assertEqual(
                [record.getMessage() for record in logged.records],
                [
                    "/program cannot be started, and is tried again every 0.05 s, while"
                    " 3 connections wait: no processes"
                ],
            )
            self.assertEqual({each for _, each in self.program.started}, {(7, b"a")})
            self.program.error = None
            await eventually(lambda: len(children.running) == 3)
            announced = [each for _, each in self.program.started]
            self.assertEqual(announced[-3:], [(7, b"a"), (7, b"b"), (7, b"c")])
            self.assertEqual(len(clients), 3)

        self.complete(test)

    def test_announcedOnce(self) -> None:
        """
        If a connection was announced and the program then not executed, it is not
        announced again.
        """

        async def test(children: Children) -> None:
            self.program.error = CannotStart(OSError(errno.ENOEXEC, "noise"), True)
            with self.assertLogs("portlisten"):
                self.adopt(children, "a")
                await eventually(lambda: len(self.program.started) == 1)
            self.program.error = None
            await eventually(lambda: children.running)
            announced = [each for _, each in self.program.started]
            self.assertEqual(announced, [(7, b"a"), None])

        self.complete(test)

    def test_channelBusy(self) -> None:
        """
        While something else is being written to the channel, nothing is started.
        """

        async def test(children: Children) -> None:
            busy = [BlockingIOError(), BlockingIOError(), (7, b"now")]
            given = mock.Mock(side_effect=busy)
            self.adopt(children, "a", given)
            await eventually(lambda: children.running)
            self.assertEqual([each for _, each in self.program.started], [(7, b"now")])

        self.complete(test)

    def test_notAnnounced(self) -> None:
        """
        If nothing can be said to the listener any more, the program is started when
        nothing need be said.
        """

        async def test(children: Children) -> None:
            given = mock.Mock(side_effect=[(7, b"late"), BlockingIOError(), None])
            starts = mock.Mock(side_effect=[NotAnnounced(), 1_000_000])
            with mock.patch.object(self.program, "start", starts):
                self.adopt(children, "a", given)
                await eventually(lambda: children.running)
            said = [call.args[2] for call in starts.mock_calls]
            self.assertEqual(said, [(7, b"late"), None])

        self.complete(test)

    def test_clientGone(self) -> None:
        """
        If the client has left, no process is started.
        """

        async def test(children: Children) -> None:
            client, server = tcpPair()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            client.close()
            gone: list[str] = []
            children.adopt(
                server.detach(),
                None,
                Reports(lambda: gone.append("closed"), lambda: gone.append("gone")),
            )
            self.assertEqual((gone, children.connections), (["gone"], set()))
            await aMoment()
            self.assertEqual(self.program.started, [])

        self.complete(test)

    def test_startNoMore(self) -> None:
        """
        After a while nothing is started any more, and what waits is closed untouched.
        """

        async def test(children: Children) -> None:
            client = self.adopt(children, "a")
            children.startNoMore()
            self.adopt(children, "b")
            await aMoment()
            self.assertEqual(self.program.started, [])
            self.assertEqual(len(children.connections), 2)
            children.abandon()
            self.assertEqual(client.recv(10), b"")
            self.assertEqual((children.connections, self.events), (set(), []))

        self.complete(test)


class RealTests(ChildrenTestCase):
    """
    Tests with real processes.
    """

    def run(self, result: Any) -> Any:
        self.previous = signal.getsignal(signal.SIGCHLD)
        return super().run(result)

    def processes(self, text: str, act: Callable[[Children], Any]) -> list[str]:
        """
        Start a process, do something with it, and wait for its end.

        @return: what the log says.
        """

        async def test() -> None:
            program = Program("/bin/sh", ("sh", "-c", text), dict(os.environ))
            children = self.make(3, program)
            loop = asyncio.get_running_loop()
            loop.add_signal_handler(signal.SIGCHLD, children.reap)
            client = self.adopt(children, "a", lambda: None)
            client.settimeout(PATIENCE)
            self.assertEqual(await asyncio.to_thread(client.recv, 3), b"up\n")
            act(children)
            await eventually(lambda: not children.connections)
            self.assertEqual(self.events, ["a closed"])
            self.assertRaises(ChildProcessError, os.waitpid, -1, os.WNOHANG)

        with self.assertLogs("portlisten", "DEBUG") as logged:
            asyncio.run(test())
        return [f"{each.levelname} {each.getMessage()}" for each in logged.records]

    def test_ends(self) -> None:
        """
        The log says how a process has ended, by how much that matters.
        """
        for how, said in (
            ("exit 0", r"DEBUG .* ended with code 0 after \d+\.\d s"),
            ("exit 4", r"INFO .* ended with code 4 after \d+\.\d s"),
            ("kill -9 $$", r"WARNING .* was killed by SIGKILL after \d+\.\d s"),
        ):
            self.events.clear()
            lines = self.processes(f"echo up; {how}", lambda children: None)
            self.assertRegex(lines[0], r"^DEBUG connection of 127\S+ is process \d+$")
            self.assertRegex(lines[1], said)

    def test_end(self) -> None:
        """
        A signal reaches all of the group, and is no surprise.
        """
        lines = self.processes(
            "sleep 50 & echo up; wait", lambda children: children.end(signal.SIGTERM)
        )
        self.assertRegex(lines[1], "INFO .* was killed by SIGTERM")


class IdentifyTests(SynchronousTestCase):
    """
    Tests for L{identify}.
    """

    def test_tcp(self) -> None:
        """
        The ends of a TCP connection have addresses.
        """
        client, server = tcpPair()
        self.addCleanup(client.close)
        self.addCleanup(server.close)
        self.assertEqual(
            identify(server.fileno()),
            Internet(*server.getsockname(), *client.getsockname()),
        )

    def test_unix(self) -> None:
        """
        The client of a Unix socket is a process.
        """
        one, two = socket.socketpair()
        self.addCleanup(one.close)
        self.addCleanup(two.close)
        found = identify(two.fileno())
        self.assertEqual(found, Unix("", "", os.getpid(), os.getuid(), os.getgid()))
