"""
Tests for L{portlisten._supervisor.listener_link}, with a listener made by hand.
"""

from __future__ import annotations

import os
import socket
from typing import Any

from twisted.trial.unittest import TestCase

from portlisten import _kernel
from portlisten._config.settings import ListenerSettings
from portlisten._control.convert import ControlError
from portlisten._control.messages import (
    Drain,
    Stop,
    StopAnswer,
    Workers,
    WorkersAnswer,
    encodeAnswer,
    encodeError,
    encodeRequest,
)
from portlisten._control.start import encodeLoaded, encodeReady, parseStart
from portlisten._ports.binding import bind
from portlisten._ports.parsing import parse
from portlisten._supervisor import listener_link
from portlisten._supervisor.listener_link import ListenerLink
from tests.support.channels import aMoment, eventually, inReactor
from tests.support.workers import ClockedReactor

SETTINGS = ListenerSettings(path="/run/s", share=("a",), allowUsers=(1, 2))
READY = encodeReady(7)
NONE = encodeAnswer(WorkersAnswer())


class LinkTestCase(TestCase):
    """
    A link in the real reactor, whose time is a clock's, and a listener made by hand.
    """

    async def setUp(self) -> None:
        await inReactor(self)
        self.reactor = ClockedReactor()
        self.clock = self.reactor.clock
        self.broken: list[str] = []
        ours, self.listener = socket.socketpair()
        self.listener.setblocking(False)
        self.link = ListenerLink(self.reactor, ours, self.broken.append)
        self.started: list[Any] = []
        self.link.ready.addBoth(self.started.append)
        self.addCleanup(self.end)

    async def end(self) -> None:
        """
        Close the link, and check that it leaves nothing.
        """
        self.link.close()
        self.link.close()
        self.clock.advance(0)
        await aMoment()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.listener.close()

    def sendStart(self) -> None:
        """
        Send a start message with one port.
        """
        ports = bind(parse("http=tcp:0:interface=127.0.0.1:max-per-source=7", 5))
        with socket.socket(socket.AF_UNIX) as channel:
            self.link.sendStart(SETTINGS, ports, channel)
        for port in ports:
            port.close()

    def hear(self) -> tuple[bytes, list[int]]:
        """
        Read what the link has sent.
        """
        received, descriptors = b"", []
        try:
            data = b"-"
            while data:
                data, came = _kernel.receive(self.listener)
                received += data
                descriptors += came
        except BlockingIOError:
            pass
        for each in descriptors:
            os.close(each)
        return received, descriptors

    async def begin(self) -> None:
        """
        Let the listener be ready.
        """
        self.sendStart()
        self.hear()
        self.listener.send(READY)
        await eventually(lambda: self.started)
        self.assertEqual(self.started, [7])

    async def breaks(self, reason: str) -> None:
        """
        Expect that the link breaks, for a reason, and closes.
        """
        await eventually(lambda: self.broken)
        (said,) = self.broken
        self.assertEqual(said, f"the link to the listener broke: {reason}")
        self.clock.advance(0)
        await aMoment()
        self.hear()
        self.assertEqual(self.listener.recv(1), b"")


class StartTests(LinkTestCase):
    """
    The start message.
    """

    async def test_start(self) -> None:
        """
        It has the settings and the ports, and the sockets come with it.
        """
        self.sendStart()
        line, descriptors = self.hear()
        message = parseStart(line)
        self.assertEqual(message.settings, SETTINGS)
        (port,) = message.ports
        self.assertEqual(
            (port.name, port.kind, port.sockets), ("http", "CONNECTIONS", 1)
        )
        self.assertEqual(port.limits, "max-per-source=7")
        self.assertTrue(port.address.startswith("tcp:127.0.0.1:"))
        self.assertEqual((message.channel, len(descriptors)), (1, 2))
        self.assertEqual(self.started, [])

    async def test_slow(self) -> None:
        """
        A listener that does not read keeps nobody waiting.
        """
        self.sendStart()
        self.clock.advance(listener_link.READY_SECONDS)
        await aMoment()
        self.clock.advance(0)
        await self.breaks("it does not get ready within 60 s")
        (failure,) = self.started
        failure.trap(ControlError)

    async def test_tooEarly(self) -> None:
        """
        The listener may not speak before it is spoken to.
        """
        self.listener.send(READY)
        await self.breaks("it spoke without being asked")

    async def test_badReady(self) -> None:
        """
        The listener must say that it is ready.
        """
        for number, line in enumerate(
            [
                b"\n",
                b"[]\n",
                NONE,
                READY.replace(b"true", b"false"),
                READY.replace(b"7", b"true"),
                READY.replace(b": 1", b": 2", 1),
            ]
        ):
            if number:
                await self.end()
                await self.setUp()
            self.sendStart()
            self.hear()
            self.listener.send(line)
            await eventually(lambda: self.broken)
            (failure,) = self.started
            failure.trap(ControlError)

    async def test_ended(self) -> None:
        """
        The listener may end instead.  After that, nothing more is sent.
        """
        self.listener.shutdown(socket.SHUT_WR)
        await self.breaks("it closed the link")
        self.sendStart()
        self.failureResultOf(self.link.ask(Workers()), ControlError)


class AskTests(LinkTestCase):
    """
    Requests and answers.
    """

    async def test_answer(self) -> None:
        """
        Requests go one at a time, in order, when the listener is ready.
        """
        early = self.link.ask(Workers())
        await self.begin()
        await eventually(lambda: self.hear()[0] == encodeRequest(Workers()))
        drain, stop = self.link.ask(Drain(("a",))), self.link.ask(Stop())
        await aMoment()
        self.assertEqual(self.hear()[0], b"")
        self.listener.send(NONE[:5])
        await aMoment()
        self.assertNoResult(early)
        self.listener.send(NONE[5:])
        await eventually(lambda: early.called)
        self.assertEqual(self.successResultOf(early), WorkersAnswer())
        self.assertEqual(self.hear()[0], encodeRequest(Drain(("a",))))
        self.assertNoResult(drain)
        self.listener.send(NONE)
        await eventually(lambda: drain.called)
        self.assertEqual(self.hear()[0], encodeRequest(Stop()))
        self.listener.send(encodeAnswer(StopAnswer(9)))
        await eventually(lambda: stop.called)
        self.assertEqual(self.successResultOf(stop), StopAnswer(9))
        self.assertEqual(self.broken, [])

    async def test_refused(self) -> None:
        """
        The listener may refuse a request, and the link goes on.
        """
        await self.begin()
        refused, next = self.link.ask(Workers()), self.link.ask(Workers())
        self.listener.send(encodeError("no\x1b[1m"))
        await eventually(lambda: refused.called)
        error = self.failureResultOf(refused, ControlError)
        self.assertEqual(str(error.value), "no?[1m")
        self.listener.send(NONE)
        await eventually(lambda: next.called)
        self.assertEqual(self.successResultOf(next), WorkersAnswer())
        self.assertEqual(self.broken, [])

    async def test_hangs(self) -> None:
        """
        A listener that does not answer in time is given up.
        """
        await self.begin()
        first, second = self.link.ask(Workers()), self.link.ask(Workers())
        self.clock.advance(listener_link.ANSWER_SECONDS)
        self.clock.advance(0)
        await self.breaks("it does not answer within 10 s")
        for each in (first, second):
            self.failureResultOf(each, ControlError)

    async def test_silence(self) -> None:
        """
        A link that nobody uses stays.
        """
        await self.begin()
        self.clock.advance(3600)
        await aMoment()
        self.assertEqual(self.broken, [])

    async def test_cancelled(self) -> None:
        """
        Those who asked may lose interest.
        """
        await self.begin()
        asked = self.link.ask(Workers())
        asked.addErrback(lambda failure: None)
        asked.cancel()
        self.listener.send(NONE)
        other = self.link.ask(Workers())
        await aMoment()
        self.listener.send(NONE)
        await eventually(lambda: other.called)
        self.successResultOf(other)
        again = self.link.ask(Workers())
        again.addErrback(lambda failure: None)
        again.cancel()
        self.listener.shutdown(socket.SHUT_WR)
        await self.breaks("it closed the link")

    async def test_cancelledEarly(self) -> None:
        """
        A request that is cancelled before it is sent is never sent.
        """
        await self.begin()
        first = self.link.ask(Workers())
        second, third = self.link.ask(Drain(("a",))), self.link.ask(Workers())
        second.addErrback(lambda failure: None)
        second.cancel()
        self.hear()
        self.listener.send(NONE)
        await eventually(lambda: first.called)
        self.assertEqual(self.hear()[0], encodeRequest(Workers()))
        self.listener.send(NONE)
        await eventually(lambda: third.called)
        self.successResultOf(third)
        self.assertEqual(self.hear()[0], b"")

    async def test_many(self) -> None:
        """
        If too many requests wait, further ones are refused, and the link goes on.
        """
        await self.begin()
        asked = [
            self.link.ask(Workers()) for _ in range(listener_link.MAXIMUM_REQUESTS)
        ]
        self.failureResultOf(self.link.ask(Workers()), ControlError)
        for each in asked:
            self.listener.send(NONE)
            await eventually(lambda each=each: each.called)
            self.successResultOf(each)
        self.assertEqual(self.broken, [])

    async def test_closed(self) -> None:
        """
        When the supervisor closes the link, all requests fail, and it is not broken.
        """
        await self.begin()
        asked = self.link.ask(Workers())
        self.link.close()
        self.failureResultOf(asked, ControlError)
        self.assertEqual(self.broken, [])


class HostileTests(LinkTestCase):
    """
    A listener that does what it should not.
    """

    async def test_unasked(self) -> None:
        """
        It must not speak without being asked, not even with a part of a line.
        """
        for number, data in enumerate([NONE, b"x", b"\n"]):
            if number:
                await self.end()
                await self.setUp()
            await self.begin()
            self.listener.send(data)
            await self.breaks("it spoke without being asked")

    async def test_twice(self) -> None:
        """
        It must not answer twice.
        """
        await self.begin()
        asked = self.link.ask(Workers())
        self.listener.send(NONE * 2)
        await self.breaks("it spoke without being asked")
        self.successResultOf(asked)

    async def test_garbage(self) -> None:
        """
        An answer must be one.
        """
        for number, (line, reason) in enumerate(
            [
                (b"hello\n", "the answer is no JSON"),
                (b"[" * 100000 + b"\n", "the answer is no JSON"),
                (b"\xff\n", "it sent characters that are not ASCII"),
                (
                    b'{"version": 1, "error": "\xc3\xa9"}\n',
                    "it sent characters that are not ASCII",
                ),
                (b"{}\n", "the answer has the version null, and only 1 is known"),
                (encodeAnswer(StopAnswer(1)), "the answer has no list of workers"),
            ]
        ):
            if number:
                await self.end()
                await self.setUp()
            await self.begin()
            asked = self.link.ask(Workers())
            self.listener.send(line)
            await self.breaks(reason)
            self.failureResultOf(asked, ControlError)

    async def test_long(self) -> None:
        """
        A line has a limit, whether it ends or not.
        """
        self.patch(listener_link, "MAXIMUM_LINE_BYTES", 1000)
        for number, data in enumerate([b"x" * 1001, b"x" * 1001 + b"\n"]):
            if number:
                await self.end()
                await self.setUp()
            await self.begin()
            asked = self.link.ask(Workers())
            self.listener.send(data)
            await self.breaks("it sent a line of more than 1000 bytes")
            self.failureResultOf(asked, ControlError)

    async def test_longEnough(self) -> None:
        """
        A line may be as long as the limit.
        """
        await self.begin()
        self.patch(listener_link, "MAXIMUM_LINE_BYTES", len(NONE) - 1)
        asked = self.link.ask(Workers())
        for byte in NONE:
            self.listener.send(bytes([byte]))
            await aMoment()
        self.successResultOf(asked)

    async def test_descriptor(self) -> None:
        """
        It cannot send a descriptor.
        """
        await self.begin()
        asked = self.link.ask(Workers())
        with socket.socket() as other:
            self.assertRaises(
                OSError, _kernel.send, self.listener, NONE, [other.fileno()]
            )
        self.listener.send(NONE)
        await eventually(lambda: asked.called)
        self.successResultOf(asked)

    async def test_descriptorOldKernel(self) -> None:
        """
        If the kernel cannot refuse it, it ends the link, and is closed elsewhere.
        """
        self.patch(_kernel, "refuseDescriptors", lambda sock: False)
        elsewhere: list[Any] = []
        fails = [True]

        def closeElsewhere(sock: socket.socket) -> None:
            if fails:
                fails.pop()
                raise OSError
            elsewhere.append(sock)
            sock.close()

        self.patch(_kernel, "closeElsewhere", closeElsewhere)
        await self.end()
        await self.setUp()
        await self.begin()
        asked = self.link.ask(Workers())
        with socket.socket() as other:
            _kernel.send(self.listener, NONE, [other.fileno()])
        await eventually(lambda: self.broken)
        self.assertIn("it sent a descriptor", self.broken[0])
        self.failureResultOf(asked, ControlError)
        self.clock.advance(0)
        await aMoment()
        self.assertEqual(elsewhere, [])
        self.clock.advance(listener_link.CLOSE_RETRY_SECONDS)
        self.assertEqual(len(elsewhere), 1)

    async def test_loaded(self) -> None:
        """
        A process may say once that it has loaded, before it gets the start message; it
        may say nothing else then.
        """
        loaded = self.link.loaded
        self.listener.send(encodeLoaded())
        await eventually(lambda: loaded.called)
        self.assertEqual(self.broken, [])
        self.listener.send(encodeLoaded())
        await self.breaks("it spoke without being asked")

    async def test_readyTooEarly(self) -> None:
        """
        It cannot be ready before the start message.
        """
        self.listener.send(READY)
        await self.breaks("it spoke without being asked")
        self.assertNoResult(self.link.loaded)

    async def test_bug(self) -> None:
        """
        A bug of ours breaks the link alone.
        """

        def parseAnswer(line: bytes, kind: Any) -> Any:
            raise ZeroDivisionError

        self.patch(listener_link, "parseAnswer", parseAnswer)
        await self.begin()
        asked = self.link.ask(Workers())
        self.listener.send(NONE)
        await self.breaks("an internal error")
        self.failureResultOf(asked, ControlError)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
