"""
Tests for L{portlisten._monitor.server}, with real sockets.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Sequence
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import ClientFactory, Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase

from portlisten import _kernel
from portlisten._control.convert import ControlError
from portlisten._control.messages import Status, encodeAnswer, encodeRequest
from portlisten._monitor import server
from portlisten._monitor.server import Server, receiveStart
from portlisten._monitor.start import MAXIMUM_SOCKETS, MonitorStart, encodeStart
from portlisten._reactor.monotonic import monotonicReactor
from tests.support.channels import PATIENCE, eventually, inReactor
from tests.support.descriptors import watchDescriptors
from tests.support.statuses import ALONE

ASK = encodeRequest(Status())

NOBODY = b"nobody serves http and https and dns\n"


def listening() -> socket.socket:
    """
    Make a listening socket of this machine.
    """
    return socket.create_server(("127.0.0.1", 0))


class ReceiveTests(SynchronousTestCase):
    """
    Tests for L{receiveStart}.
    """

    def setUp(self) -> None:
        """
        Make a link.
        """
        watchDescriptors(self)
        self.parent, self.link = socket.socketpair()
        self.addCleanup(self.parent.close)
        self.addCleanup(self.link.close)
        self.patch(server, "START_SECONDS", 0.05)

    def send(self, data: bytes, sockets: Sequence[socket.socket] = ()) -> None:
        """
        Send bytes, and close the sockets here.
        """
        _kernel.send(self.parent, data, [each.fileno() for each in sockets])
        for each in sockets:
            each.close()

    def test_good(self) -> None:
        """
        The sockets come with the message, in their order, and do not block.
        """
        path = os.path.join(os.path.dirname(self.mktemp()), "monitor")
        local = socket.socket(socket.AF_UNIX)
        local.bind(path)
        local.listen()
        port = listening()
        addresses = [port.getsockname(), path]
        self.send(encodeStart(MonitorStart("", 2)), [port, local])
        message, sockets = receiveStart(self.link)
        for each in sockets:
            self.addCleanup(each.close)
        self.assertEqual(message, MonitorStart("", 2))
        self.assertEqual([each.getsockname() for each in sockets], addresses)
        self.assertEqual([each.getblocking() for each in sockets], [False, False])
        self.assertEqual(
            [os.get_inheritable(each.fileno()) for each in sockets], [False, False]
        )

    def test_pieces(self) -> None:
        """
        The message may come in pieces.
        """
        self.patch(server, "START_SECONDS", PATIENCE)
        line = encodeStart(MonitorStart("", 1))

        def send() -> None:
            self.send(line[:5])
            self.send(line[5:-1], [listening()])
            self.send(line[-1:])

        thread = threading.Thread(target=send)
        thread.start()
        _, sockets = receiveStart(self.link)
        thread.join()
        self.assertEqual(len(sockets), 1)
        sockets[0].close()

    def refused(self, reason: str) -> None:
        """
        Check that there is no start, and nothing stays open.
        """
        error = self.assertRaises(ControlError, receiveStart, self.link)
        self.assertIn(reason, str(error))

    def test_count(self) -> None:
        """
        As many sockets must come as the message says.
        """
        line = encodeStart(MonitorStart("", 2))
        self.send(line)
        self.refused("0 descriptors came with the start message, which names 2")
        self.send(line, [listening() for _ in range(3)])
        self.refused("3 descriptors came with the start message, which names 2")
        self.send(line, [listening() for _ in range(MAXIMUM_SOCKETS + 1)])
        self.refused("too long")

    def test_kinds(self) -> None:
        """
        Each must be a listening socket, wherever it is among the others.
        """
        for wrong in (
            socket.socket,
            lambda: socket.socket(type=socket.SOCK_DGRAM),
            lambda: socket.socket(socket.AF_UNIX),
        ):
            for place in range(3):
                sockets = [listening(), listening()]
                sockets.insert(place, wrong())
                self.send(encodeStart(MonitorStart("", 3)), sockets)
                self.refused("a socket does not fit: it is ")
        reader, writer = os.pipe()
        with listening() as good:
            line = encodeStart(MonitorStart("", 2))
            _kernel.send(self.parent, line, [good.fileno(), reader])
        os.close(reader)
        os.close(writer)
        self.refused("a descriptor leads to no socket")

    def test_message(self) -> None:
        """
        A message that is wrong, late, or too long, is an error; so is none.
        """
        self.send(b"nonsense\n", [listening()])
        self.refused("start message")
        self.send(b"{", [listening()])
        self.refused("no start message within 0.05 s")
        self.patch(server, "MAXIMUM_START_BYTES", 100)
        self.send(b"x" * 101, [listening()])
        self.refused("too long")
        self.send(b"{", [listening()])
        self.parent.close()
        self.refused("the link was closed before the start")


class Asking(Protocol):
    """
    Asks, and gathers the answer.
    """

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._received = b""
        self.answer: Deferred[bytes] = Deferred()

    def connectionMade(self) -> None:
        """
        Ask.
        """
        assert self.transport is not None
        self.transport.write(self._request)

    def dataReceived(self, data: bytes) -> None:
        """
        Gather.
        """
        self._received += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """
        It is complete.
        """
        self.answer.callback(self._received)


class ServerTests(TestCase):
    """
    Tests for L{Server}, in the real reactor.
    """

    async def setUp(self) -> None:
        """
        Make a server, whose parent is the test.
        """
        await inReactor(self)
        self.reactor: Any = monotonicReactor(reactor)
        self.parent, self.link = socket.socketpair()
        self.parent.setblocking(False)
        self.ended: list[bool] = []
        self.failures: list[str] = []

    def make(self, *sockets: socket.socket) -> Server:
        """
        Make the server.
        """
        for each in sockets:
            each.setblocking(False)
        made = Server(self.reactor, self.link, sockets, lambda: self.ended.append(True))
        self.addCleanup(self.end, made)
        return made

    async def end(self, made: Server) -> None:
        """
        End the server, and then the parent.
        """
        made.stop()
        self.parent.close()
        await eventually(lambda: self.ended)
        self.assertEqual(self.ended, [True])
        await eventually(lambda: not made.site.connections)
        await deferLater(reactor, 0)

    def heard(self) -> bytes:
        """
        Read what the server asks.
        """
        try:
            return self.parent.recv(65536)
        except BlockingIOError:
            return b""

    async def ask(self, port: int | str) -> bytes:
        """
        Ask for the health, at a port or a path.
        """
        asking = Asking(b"GET /healthz HTTP/1.0\r\n\r\n")
        factory = ClientFactory.forProtocol(lambda: asking)
        factory.noisy = False
        if isinstance(port, int):
            self.reactor.connectTCP("127.0.0.1", port, factory)
        else:
            self.reactor.connectUNIX(port, factory)
        return await asking.answer

    async def answerOnce(self) -> None:
        """
        Answer a request, as the parent.
        """
        heard = b""

        def asked() -> bool:
            nonlocal heard
            heard += self.heard()
            return len(heard) >= len(ASK)

        await eventually(asked)
        self.assertEqual(heard, ASK)
        self.parent.send(encodeAnswer(ALONE))

    async def test_sockets(self) -> None:
        """
        It accepts on all its sockets, and asks its parent.
        """
        path = os.path.join(os.path.dirname(self.mktemp()), "monitor")
        local = socket.socket(socket.AF_UNIX)
        local.bind(path)
        local.listen()
        port = listening()
        number = port.getsockname()[1]
        made = self.make(port, local)
        self.assertEqual(self.heard(), b"")
        made.start()
        await self.answerOnce()
        for place in (number, path):
            answers = [Deferred.fromCoroutine(self.ask(place)) for _ in range(3)]
            results: list[bytes] = []
            for each in answers:
                each.addCallback(results.append)

            def done(results: list[bytes] = results) -> bool:
                if self.heard():
                    self.parent.send(encodeAnswer(ALONE))
                return len(results) == 3

            await eventually(done)
            for result in results:
                self.assertTrue(result.startswith(b"HTTP/1.0 503 "), result)
                self.assertTrue(result.endswith(b"\r\n\r\n" + NOBODY), result)

    async def test_gone(self) -> None:
        """
        A client that cannot be adopted is closed, and the next one is served.
        """
        port = listening()
        number = port.getsockname()[1]
        made = self.make(port)
        adopt = self.reactor.adoptStreamConnection
        failed: list[int] = []

        def failing(*arguments: Any) -> Any:
            if failed:
                return adopt(*arguments)
            failed.append(arguments[0])
            raise OSError(107, "Transport endpoint is not connected")

        self.patch(made, "_reactor", Failing(self.reactor, failing))
        made.start()
        await self.answerOnce()
        self.assertEqual(await self.ask(number), b"")
        self.assertEqual(len(failed), 1)
        self.assertIn(b" 503 ", await self.ask(number))

    async def test_listens(self) -> None:
        """
        It listens itself, if it is to, and asks when it does.
        """
        made = self.make()
        made.listen("tcp:0:interface=127.0.0.1", self.failures.append)
        await self.answerOnce()
        self.assertEqual(self.failures, [])
        for each in self.reactor.getReaders():
            if getattr(each, "factory", None) is made.site:
                await each.stopListening()

    async def test_cannotListen(self) -> None:
        """
        If it cannot listen, it says why, and asks nothing.
        """
        made = self.make()
        with listening() as taken:
            number = taken.getsockname()[1]
            for description, reason in (
                (f"tcp:{number}:interface=127.0.0.1", "Address already in use"),
                ("nonsense:1", "nonsense"),
                ("ssl:1:privateKey=/nowhere/key", "/nowhere/key"),
            ):
                made.listen(description, self.failures.append)
                await eventually(lambda: self.failures)
                line = self.failures.pop()
                self.assertIn(f"{description!r} cannot be listened on: ", line)
                self.assertIn(reason, line)
                self.assertNotIn("\n", line)
        self.assertEqual(self.heard(), b"")


class Failing:
    """
    A reactor whose adoption a test writes.
    """

    def __init__(self, real: Any, adopt: Any) -> None:
        self._real = real
        self.adoptStreamConnection = adopt

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)
