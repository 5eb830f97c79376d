"""
Tests for L{portlisten._control.server}, with real sockets.
"""

from __future__ import annotations

import array
import json
import os
import socket
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase, TestCase

from portlisten import _kernel
from portlisten._control.convert import ControlError
from portlisten._control.messages import (
    MAXIMUM_REQUEST_BYTES,
    Drain,
    Workers,
    WorkersAnswer,
    encodeAnswer,
    encodeRequest,
)
from portlisten._control.place import bindControl
from portlisten._control.server import (
    MAXIMUM_CLIENTS,
    SILENCE_SECONDS,
    ControlServer,
    _Client,
)
from portlisten._control.status import State, WorkerState
from tests.support.channels import aMoment, eventually, inReactor, texts
from tests.support.clocks import RunningClock
from tests.support.descriptors import watchDescriptors
from tests.support.settings import SETTINGS
from tests.support.workers import ClockedReactor

ANSWER = WorkersAnswer((WorkerState("worker 1", "a", 1, 2, 3, 4, State.SERVING),))
ASK = encodeRequest(Workers())


class Client:
    """
    A client of the control socket, which does not block.
    """

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.socket.setblocking(False)
        self.received = b""
        self.ended = False

    def read(self) -> bytes:
        """
        Read what has come.
        """
        try:
            while data := self.socket.recv(65536):
                self.received += data
            self.ended = True
        except BlockingIOError:
            pass
        except ConnectionResetError:
            self.ended = True
        return self.received

    def answers(self, count: int) -> bool:
        """
        Say whether so many answers have come.
        """
        return self.read().count(b"\n") >= count

    def hasEnded(self) -> bool:
        """
        Read on, and say whether the server has closed.
        """
        self.read()
        return self.ended

    @property
    def errors(self) -> list[str]:
        """
        Return the errors among the answers.
        """
        messages = map(json.loads, self.received.splitlines())
        return [each["error"] for each in messages if "error" in each]


class ServerTests(TestCase):
    """
    A server in the real reactor, whose time is a clock's.
    """

    async def setUp(self) -> None:
        await inReactor(self)
        logs = capturedLogs()
        self.logged = cast(list[dict[str, Any]], logs.__enter__())
        self.addCleanup(logs.__exit__, None, None, None)
        channel = os.path.join(os.path.dirname(self.mktemp()), "path")
        self.path = f"{channel}.ctl"
        self.reactor = ClockedReactor()
        self.clock = self.reactor.clock
        self.requests: list[Any] = []
        self.answer = ANSWER
        self.server = ControlServer(
            self.reactor, bindControl(channel, self.path), {Workers: self.handle}
        )
        self.server.start()
        self.addCleanup(self.end)

    async def end(self) -> None:
        """
        Close the server, and check that it leaves nothing.
        """
        self.server.close()
        self.server.close()
        self.clock.advance(0)
        await aMoment()
        self.assertFalse(os.path.exists(self.path))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def handle(self, request: Any, client: _kernel.Credentials) -> WorkersAnswer:
        self.requests.append((request, client.pid))
        return self.answer

    def connect(self) -> Client:
        """
        Connect a client.
        """
        client = Client(self.path)
        self.addCleanup(client.socket.close)
        return client

    async def refused(self, data: bytes) -> str:
        """
        Send something that is refused, as far as the kernel takes it, and return the
        error.
        """
        client = self.connect()
        client.socket.send(data)
        await eventually(client.hasEnded)
        self.assertEqual(len(client.received.splitlines()), 1)
        (error,) = client.errors
        return error

    async def works(self) -> None:
        """
        Check that the next client gets an answer.
        """
        client = self.connect()
        client.socket.send(ASK)
        await eventually(lambda: client.answers(1))
        self.assertEqual(client.received, encodeAnswer(ANSWER))
        client.socket.close()
        await aMoment()

    async def test_answer(self) -> None:
        """
        A request is answered, and the handler gets to know the client.
        """
        await self.works()
        self.assertEqual(self.requests, [(Workers(), os.getpid())])

    async def test_requests(self) -> None:
        """
        Several requests are answered on one connection, in pieces or together.
        """
        client = self.connect()
        client.socket.send(ASK[:9])
        await aMoment()
        client.socket.send(ASK[9:] + ASK + ASK[:1])
        await eventually(lambda: client.answers(2))
        client.socket.send(ASK[1:])
        await eventually(lambda: client.answers(3))
        self.assertEqual(client.received, encodeAnswer(ANSWER) * 3)

    async def test_refused(self) -> None:
        """
        What is no request is refused, and the connection is closed.  Others go on.
        """
        self.assertEqual(await self.refused(b"hello\n"), "the request is no JSON")
        self.assertIn("unknown command", await self.refused(b'{"version": 1}\n'))
        error = await self.refused(encodeRequest(Drain(("a",))))
        self.assertEqual(error, "drain means nothing to this listener")
        await self.works()

    async def test_afterRefusal(self) -> None:
        """
        What comes after a request that was refused is not carried out.
        """
        await self.refused(b"hello\n" + ASK)
        self.assertEqual(self.requests, [])

    async def test_handlerRefuses(self) -> None:
        """
        The function that answers may refuse a request.
        """

        def refuse(*_: object) -> WorkersAnswer:
            raise ControlError("not now")

        self.server._handlers = {Workers: refuse}
        self.assertEqual(await self.refused(ASK), "not now")

    async def test_bug(self) -> None:
        """
        A bug in such a function spoils its request, and nothing else.
        """

        def fail(*_: object) -> WorkersAnswer:
            raise ZeroDivisionError

        self.server._handlers = {Workers: fail}
        self.assertIn("an internal error", await self.refused(ASK))
        self.server._handlers = {Workers: self.handle}
        await self.works()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    async def test_tooLong(self) -> None:
        """
        A line that is too long is refused before it ends, and when it ends.
        """
        expected = f"a request has {MAXIMUM_REQUEST_BYTES} bytes at the most"
        self.assertEqual(await self.refused(b" " * 1_000_000), expected)
        self.assertEqual(await self.refused(b" " * 65536 + ASK), expected)
        await self.works()

    async def test_longest(self) -> None:
        """
        The longest line is read.
        """
        client = self.connect()
        client.socket.setblocking(True)
        client.socket.sendall(b" " * (MAXIMUM_REQUEST_BYTES - len(ASK)) + ASK)
        client.socket.setblocking(False)
        await eventually(lambda: client.answers(1))
        self.assertEqual(client.received, encodeAnswer(ANSWER))

    async def test_silence(self) -> None:
        """
        A client that says nothing is told so, and cut off; one that sends a piece now
        and then is no better.
        """
        silent, slow = self.connect(), self.connect()
        await eventually(lambda: len(self.server._clients) == 2)
        self.clock.advance(SILENCE_SECONDS - 0.1)
        slow.socket.send(ASK[:3])
        await aMoment()
        self.assertFalse(silent.hasEnded())
        self.clock.advance(0.1)
        self.clock.advance(0)
        await eventually(silent.hasEnded)
        await eventually(slow.hasEnded)
        self.assertEqual(silent.errors, ["no request within 5 s"])
        self.assertEqual(slow.errors, ["no request within 5 s"])

    async def test_asks(self) -> None:
        """
        A client that asks again and again may stay.
        """
        client = self.connect()
        for count in range(1, 5):
            client.socket.send(ASK)
            await eventually(lambda count=count: client.answers(count))
            self.clock.advance(SILENCE_SECONDS - 0.1)
        self.assertFalse(client.hasEnded())

    async def test_tooMany(self) -> None:
        """
        A client too many is told so; when another leaves, the next is served.
        """
        clients = [self.connect() for _ in range(MAXIMUM_CLIENTS)]
        await eventually(lambda: len(self.server._clients) == MAXIMUM_CLIENTS)
        self.assertEqual(await self.refused(b""), "8 clients are connected: wait")
        clients[0].socket.close()
        await eventually(lambda: len(self.server._clients) < MAXIMUM_CLIENTS)
        await self.works()

    async def test_unread(self) -> None:
        """
        A client that asks without reading is answered as far as the kernel takes it,
        and is cut off after a while.  The server keeps at most one answer for it.
        """
        self.answer = WorkersAnswer(ANSWER.workers * 500)
        client = self.connect()
        for _ in range(20):
            client.socket.send(ASK * 50)
        await eventually(lambda: bool(self.requests))
        await aMoment()
        count = len(self.requests)
        self.assertLess(count, 50)
        await aMoment()
        self.assertEqual(len(self.requests), count)
        (served,) = self.server._clients
        transport = cast(Any, served.transport)
        kept = len(transport.dataBuffer) + transport._tempDataLen
        self.assertLessEqual(kept, len(encodeAnswer(self.answer)))
        self.answer = ANSWER
        await self.works()
        self.clock.advance(SILENCE_SECONDS)
        self.clock.advance(0)
        self.clock.advance(0)
        await eventually(lambda: not self.server._clients)

    async def test_late(self) -> None:
        """
        A client that reads late gets all answers.
        """
        self.answer = WorkersAnswer(ANSWER.workers * 500)
        client = self.connect()
        client.socket.send(ASK * 20)
        await aMoment()
        self.assertLess(len(self.requests), 20)
        await eventually(lambda: client.answers(20))
        self.assertEqual(client.received, encodeAnswer(self.answer) * 20)

    async def test_descriptor(self) -> None:
        """
        A client that sends a descriptor is cut off, and others go on.
        """
        client = self.connect()
        rights = array.array("i", [client.socket.fileno()])
        try:
            client.socket.sendmsg(
                [ASK], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)]
            )
        except PermissionError:
            pass  # the kernel refuses it
        else:
            await eventually(client.hasEnded)
        await self.works()

    async def test_leaves(self) -> None:
        """
        A client may leave at any time.
        """
        for data in (b"", ASK[:5], ASK, ASK * 1000):
            client = self.connect()
            client.socket.send(data)
            client.socket.close()
        await aMoment()
        await eventually(lambda: not self.server._clients)
        await self.works()
        self.assertEqual(texts(self.logged, "critical"), [])

    async def test_credentials(self) -> None:
        """
        A client whose process the kernel does not tell is turned away.
        """

        def fail(sock: object) -> None:
            raise OSError(1, "Operation not permitted")

        self.patch(_kernel, "credentials", fail)
        client = self.connect()
        await eventually(client.hasEnded)
        self.assertIn(
            "a client of the control socket is turned away: Operation not permitted",
            texts(self.logged, "warn"),
        )


class MemoryTransport:
    """
    A transport that takes some bytes at once, and others later.
    """

    def __init__(self, takes: int) -> None:
        self.takes = takes
        self.waiting = b""
        self.written = b""
        self.reading = True
        self.closing = self.aborted = False
        self.producer: Any = None

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        assert not streaming
        self.producer = producer
        producer.resumeProducing()

    def unregisterProducer(self) -> None:
        self.producer = None

    def writeNow(self, data: bytes) -> None:
        assert not self.closing
        assert not self.waiting, "an answer is written before the last one is taken"
        self.waiting += data
        if self.takes >= len(data):
            self.flush()

    def flush(self) -> None:
        self.written += self.waiting
        self.waiting = b""
        if self.producer is not None:
            self.producer.resumeProducing()

    def pauseProducing(self) -> None:
        self.reading = False

    def resumeProducing(self) -> None:
        self.reading = True

    def loseConnection(self) -> None:
        self.closing = True

    def abortConnection(self) -> None:
        self.aborted = True


CHUNKS = st.lists(
    st.one_of(
        st.binary(max_size=40),
        st.sampled_from([ASK, ASK[:7], ASK[7:], b"\n", b" " * 70000, ASK * 20]),
        st.none(),
    ),
    max_size=20,
)


class FuzzTests(SynchronousTestCase):
    """
    Any input, in any pieces.
    """

    def setUp(self) -> None:
        watchDescriptors(self)

    @SETTINGS
    @given(CHUNKS, st.sampled_from([0, 10**9]))
    def test_input(self, chunks: list[bytes | None], takes: int) -> None:
        """
        Each line gets one answer, in order, up to the first that is refused; nothing is
        answered after that, and nothing is kept without limit.  L{None} among the
        pieces lets the client read.
        """
        clock = RunningClock()
        channel = self.mktemp()
        server = ControlServer(
            clock, bindControl("x", os.path.relpath(channel)), {Workers: answer}
        )
        client = _Client(clock, server, _kernel.Credentials(1, 2, 3))
        transport = MemoryTransport(takes)
        client.makeConnection(cast(Any, transport))
        for chunk in chunks:
            if transport.closing or transport.aborted:
                break
            if chunk is None:
                transport.flush()
            elif transport.reading:
                client.dataReceived(chunk)
            self.assertLess(len(client._received), MAXIMUM_REQUEST_BYTES + 70001)
        while transport.waiting:
            transport.flush()
        lines = transport.written.splitlines(keepends=True)
        for line in lines[:-1]:
            self.assertEqual(line, encodeAnswer(ANSWER))
        if lines and "error" in json.loads(lines[-1]):
            self.assertTrue(transport.closing)
        server.close()
        client.connectionLost()
        self.assertEqual(clock.getDelayedCalls(), [])


def answer(request: Workers, client: _kernel.Credentials) -> WorkersAnswer:
    """
    Answer a request.
    """
    return ANSWER
