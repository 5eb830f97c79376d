"""
Tests for L{portlisten._control.server}, with real sockets.
"""

from __future__ import annotations

import array
import json
import os
import socket
from collections.abc import Callable
from functools import partial
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase, TestCase

from portlisten import _kernel
from portlisten._control import server
from portlisten._control.connection import SILENCE_SECONDS
from portlisten._control.connection import Client as ServerClient
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
    ControlServer,
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
        self.answer: Any = ANSWER
        self.server = ControlServer(
            self.reactor,
            bindControl(channel, self.path),
            {Workers: self.handle},
            {os.getuid()},
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
        await self.aMoment()
        self.assertFalse(os.path.exists(self.path))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    async def until(self, condition: Callable[[], bool]) -> None:
        """
        Wait for a condition, and let calls that are due happen meanwhile.
        """

        def holds() -> bool:
            self.clock.advance(0)
            return condition()

        await eventually(holds)

    async def aMoment(self) -> None:
        """
        Let all happen that is about to happen.
        """
        for _ in range(4):
            self.clock.advance(0)
            await aMoment()

    def handle(self, request: Any, client: _kernel.Credentials) -> Any:
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
        await self.until(client.hasEnded)
        self.assertEqual(len(client.received.splitlines()), 1)
        (error,) = client.errors
        return error

    async def works(self) -> None:
        """
        Check that the next client gets an answer.
        """
        client = self.connect()
        client.socket.send(ASK)
        await self.until(lambda: client.answers(1))
        self.assertEqual(client.received, encodeAnswer(ANSWER))
        client.socket.close()
        await self.aMoment()

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
        await self.aMoment()
        client.socket.send(ASK[9:] + ASK + ASK[:1])
        await self.until(lambda: client.answers(2))
        client.socket.send(ASK[1:])
        await self.until(lambda: client.answers(3))
        self.assertEqual(client.received, encodeAnswer(ANSWER) * 3)

    async def test_refused(self) -> None:
        """
        What is no request is refused, and the connection is closed.  Others go on.
        """
        self.assertEqual(await self.refused(b"hello\n"), "the request is no JSON")
        self.assertIn("unknown command", await self.refused(b'{"version": 1}\n'))
        error = await self.refused(encodeRequest(Drain(("a",))))
        self.assertIn("drain means nothing to this listener: only a superv", error)
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
        await self.until(lambda: client.answers(1))
        self.assertEqual(client.received, encodeAnswer(ANSWER))

    async def test_silence(self) -> None:
        """
        A client that says nothing is told so, and cut off; one that sends a piece now
        and then is no better.
        """
        silent, slow = self.connect(), self.connect()
        await self.until(lambda: len(self.server._clients) == 2)
        self.clock.advance(SILENCE_SECONDS - 0.1)
        slow.socket.send(ASK[:3])
        await self.aMoment()
        self.assertFalse(silent.hasEnded())
        self.clock.advance(0.1)
        self.clock.advance(0)
        await self.until(silent.hasEnded)
        await self.until(slow.hasEnded)
        self.assertEqual(silent.errors, ["no request within 5 s"])
        self.assertEqual(slow.errors, ["no request within 5 s"])

    async def test_asks(self) -> None:
        """
        A client that asks again and again may stay.
        """
        client = self.connect()
        for count in range(1, 5):
            client.socket.send(ASK)
            await self.until(partial(client.answers, count))
            self.clock.advance(SILENCE_SECONDS - 0.1)
        self.assertFalse(client.hasEnded())

    def connected(self, count: int) -> bool:
        """
        Say whether so many clients are connected.
        """
        return len(self.server._clients) == count

    async def fill(self, data: bytes = b"") -> list[Client]:
        """
        Connect as many clients as possible, one after the other, that send something.
        """
        clients = []
        for count in range(1, MAXIMUM_CLIENTS + 1):
            clients.append(self.connect())
            clients[-1].socket.send(data)
            await self.until(partial(self.connected, count))
        await self.aMoment()
        return clients

    async def test_tooMany(self) -> None:
        """
        If all places are taken, the client that was idle for the longest is ended, with
        a reason, and the new one is served.  Half of a request is no request.
        """
        clients = await self.fill(ASK[:9])
        clients[0].socket.send(ASK[9:])
        await self.until(lambda: clients[0].answers(1))
        for ended in (1, 2):
            await self.works()
            self.assertTrue(clients[ended].hasEnded())
            (error,) = clients[ended].errors
            self.assertEqual(error, "8 clients are connected: wait")
            clients.append(self.connect())
            await self.aMoment()
        self.assertFalse(clients[0].hasEnded())
        clients[4].socket.send(ASK[9:])
        await self.until(lambda: clients[4].answers(1))

    async def test_storm(self) -> None:
        """
        Clients that connect and say nothing keep no place from a client that asks, and
        never are more clients connected than may be.
        """
        for _ in range(20):
            crowd = [self.connect() for _ in range(20)]
            await self.works()
            self.assertLessEqual(len(self.server._clients), MAXIMUM_CLIENTS)
            for each in crowd:
                each.socket.close()
        await self.until(lambda: not self.server._clients)

    async def test_unreadMakeWay(self) -> None:
        """
        Clients that do not read their answers keep no place.
        """
        self.answer = WorkersAnswer(ANSWER.workers * 500)
        clients = await self.fill(ASK * 50)
        self.assertEqual([each.idle for each in self.server._clients], [False] * 8)
        self.answer = ANSWER
        await self.works()
        self.assertEqual(sum(each.hasEnded() for each in clients), 1)

    async def test_endless(self) -> None:
        """
        A client that asks without a pause keeps nobody from an answer.
        """
        clients = await self.fill(ASK * 1000)
        self.requests.clear()
        await self.works()
        self.assertLess(len(self.requests), 2000)
        self.assertGreater(sum(each.answers(1) for each in clients), 6)

    async def test_oneATurn(self) -> None:
        """
        Many requests at once do not take all of one turn.
        """
        client = self.connect()
        client.socket.send(ASK * 100)
        await eventually(lambda: bool(self.requests))
        self.assertEqual(len(self.requests), 1)
        await self.until(lambda: client.answers(100))

    # Answers that come later

    async def test_later(self) -> None:
        """
        An answer may come later.  Until then, the client may be silent, its next
        request waits, and others are served.
        """
        first: Deferred[Any] = Deferred()
        self.answer = first
        client = self.connect()
        client.socket.send(ASK * 2)
        await self.until(lambda: len(self.requests) == 1)
        second: Deferred[Any] = Deferred()
        self.answer = second
        self.clock.advance(SILENCE_SECONDS * 3)
        await self.aMoment()
        self.assertEqual((client.read(), len(self.requests)), (b"", 1))
        self.assertFalse(client.hasEnded())
        first.callback(WorkersAnswer())
        await self.until(lambda: len(self.requests) == 2)
        self.assertEqual(client.read(), encodeAnswer(WorkersAnswer()))
        second.callback(ANSWER)
        await self.until(lambda: client.answers(2))
        expected = encodeAnswer(WorkersAnswer()) + encodeAnswer(ANSWER)
        self.assertEqual(client.read(), expected)
        self.answer = ANSWER
        await self.works()
        # From then on, silence counts again.
        self.clock.advance(SILENCE_SECONDS)
        await self.until(client.hasEnded)

    async def test_laterRefused(self) -> None:
        """
        A request may be refused later, and a bug may show later.
        """
        for error, expected in (
            (ControlError("not now"), "not now"),
            (ZeroDivisionError(), "an internal error: the log has it"),
        ):
            self.answer = Deferred()
            client = self.connect()
            client.socket.send(ASK)
            await self.until(lambda: len(self.requests) > 0)
            self.requests.clear()
            self.answer.errback(error)
            await self.until(client.hasEnded)
            self.assertEqual(client.errors, [expected])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    async def test_laterOnlyReads(self) -> None:
        """
        A client may end its writing side after its request, and gets the answer.
        """
        self.answer = Deferred()
        client = self.connect()
        client.socket.send(ASK)
        client.socket.shutdown(socket.SHUT_WR)
        await self.until(lambda: len(self.requests) == 1)
        await self.aMoment()
        self.answer.callback(ANSWER)
        await self.until(client.hasEnded)
        self.assertEqual(client.received, encodeAnswer(ANSWER))

    async def test_laterLeaves(self) -> None:
        """
        A client may leave meanwhile, and the server may be closed meanwhile: the answer
        is dropped.
        """
        leaves, stays = self.connect(), self.connect()
        answers: list[Deferred[Any]] = []
        for client in (leaves, stays):
            self.answer = Deferred()
            answers.append(self.answer)
            client.socket.send(ASK)
            await self.until(lambda: len(self.requests) == len(answers))
        leaves.socket.close()
        await self.aMoment()
        answers[0].callback(ANSWER)
        await self.until(lambda: len(self.server._clients) == 1)
        self.server.close()
        answers[1].errback(ControlError("late"))
        await self.until(stays.hasEnded)
        self.assertEqual(stays.received, b"")
        self.assertEqual(texts(self.logged, "critical"), [])

    async def test_laterKeepsPlace(self) -> None:
        """
        A client that waits for its answer keeps its place, unless it has left.
        """
        waiting: list[Deferred[Any]] = []

        def wait(*_: object) -> Deferred[Any]:
            waiting.append(Deferred())
            return waiting[-1]

        self.server._handlers = {Workers: wait}
        clients = await self.fill(ASK)
        self.assertEqual(len(waiting), MAXIMUM_CLIENTS)
        error = "8 clients are connected: wait"
        self.assertEqual(await self.refused(b""), error)
        clients[3].socket.close()
        await self.aMoment()
        self.server._handlers = {Workers: self.handle}
        await self.works()
        del clients[3]
        for deferred in waiting:
            deferred.callback(ANSWER)
        for each in clients:
            await self.until(partial(each.answers, 1))

    async def test_commands(self) -> None:
        """
        Those that may command the process get the place of another user's client, even
        if that waits for its answer.
        """
        waiting: list[Deferred[Any]] = []

        def wait(*_: object) -> Deferred[Any]:
            waiting.append(Deferred())
            return waiting[-1]

        self.server._handlers = {Workers: wait}
        clients = await self.fill(ASK)
        self.server._handlers = {Workers: self.handle}
        may = [True, *[False] * MAXIMUM_CLIENTS]
        self.patch(server, "_commands", lambda uid: may.pop(0))
        await self.works()
        self.assertEqual(may, [])
        for deferred in waiting:
            deferred.callback(ANSWER)
        await self.until(clients[0].hasEnded)
        for each in clients[1:]:
            await self.until(partial(each.answers, 1))

    # Users

    async def test_users(self) -> None:
        """
        A user that may not ask is turned away, whatever the path's mode, with the rule.
        """
        self.server._users = frozenset([0, 998])
        credentials = _kernel.Credentials(7, 1000, 1000)
        self.patch(_kernel, "credentials", lambda sock: credentials)
        error = await self.refused(b"")
        self.assertEqual(error, "uid 1000 may not ask: only root and uid 998 may")
        self.assertEqual(self.requests, [])
        self.assertIn(
            "process 7 of uid 1000 may not use the control socket",
            texts(self.logged, "warn"),
        )
        for uid in (0, 998):
            credentials = _kernel.Credentials(7, uid, 1000)
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
        await self.until(lambda: bool(self.requests))
        await self.aMoment()
        count = len(self.requests)
        self.assertLess(count, 50)
        await self.aMoment()
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
        await self.until(lambda: not self.server._clients)

    async def test_late(self) -> None:
        """
        A client that reads late gets all answers.
        """
        self.answer = WorkersAnswer(ANSWER.workers * 500)
        client = self.connect()
        client.socket.send(ASK * 20)
        await self.aMoment()
        self.assertLess(len(self.requests), 20)
        await self.until(lambda: client.answers(20))
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
            await self.until(client.hasEnded)
        await self.works()

    async def test_leaves(self) -> None:
        """
        A client may leave at any time.
        """
        for data in (b"", ASK[:5], ASK, ASK * 1000):
            client = self.connect()
            client.socket.send(data)
            client.socket.close()
        await self.aMoment()
        await self.until(lambda: not self.server._clients)
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
        await self.until(client.hasEnded)
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
    @given(CHUNKS, st.sampled_from([0, 10**9]), st.booleans())
    def test_input(self, chunks: list[bytes | None], takes: int, later: bool) -> None:
        """
        Each line gets one answer, in order, up to the first that is refused; nothing is
        answered after that, and nothing is kept without limit.  L{None} among the
        pieces lets the client read, and lets answers come that come later.
        """
        clock = RunningClock()
        asked: list[Deferred[Any]] = []

        def handle(request: Workers, client: _kernel.Credentials) -> Any:
            assert not asked, "a request is taken before the last one is answered"
            if not later:
                return ANSWER
            asked.append(Deferred())
            return asked[-1]

        def proceed() -> None:
            while asked:
                asked.pop().callback(ANSWER)
                clock.advance(0)
            transport.flush()
            clock.advance(0)

        channel = self.mktemp()
        server = ControlServer(
            clock, bindControl("x", os.path.relpath(channel)), {Workers: handle}, {2}
        )
        client = ServerClient(clock, _kernel.Credentials(1, 2, 3), server.answer)
        transport = MemoryTransport(takes)
        client.makeConnection(cast(Any, transport))
        for chunk in chunks:
            if transport.closing or transport.aborted:
                break
            if chunk is None:
                proceed()
            elif transport.reading:
                client.dataReceived(chunk)
            self.assertLess(len(client._received), MAXIMUM_REQUEST_BYTES + 70001)
            clock.advance(0)
        while transport.waiting or asked or clock.getDelayedCalls()[1:]:
            proceed()
        lines = transport.written.splitlines(keepends=True)
        for line in lines[:-1]:
            self.assertEqual(line, encodeAnswer(ANSWER))
        if lines and "error" in json.loads(lines[-1]):
            self.assertTrue(transport.closing)
        server.close()
        client.connectionLost()
        self.assertEqual(clock.getDelayedCalls(), [])
