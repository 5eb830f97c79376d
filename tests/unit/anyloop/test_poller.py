"""
Tests for L{portlisten._anyloop.poller} and L{portlisten._anyloop.clock}.
"""

from __future__ import annotations

import socket

from portlisten._anyloop.clock import Clock, Soon
from portlisten._anyloop.poller import READ, WRITE, Poller
from tests.support.asyncio_loops import LoopTestCase, aMoment, eventually, onUvloopToo


@onUvloopToo
class PollerTests(LoopTestCase):
    """
    Tests for L{Poller}.
    """

    def setUp(self) -> None:
        super().setUp()
        self.one, self.other = socket.socketpair()
        self.one.setblocking(False)
        self.poller = Poller(self.loop)
        for each in (self.poller, self.one, self.other):
            self.addCleanup(each.close)
        self.events: list[int] = []

    def watch(self, events: int) -> None:
        self.poller.watch(self.one.fileno(), events, self.events.append)

    def test_read(self) -> None:
        """
        It calls back while there is something to read.
        """

        async def test() -> None:
            self.watch(READ)
            await aMoment()
            self.assertEqual(self.events, [])
            self.other.send(b"x")
            await eventually(lambda: len(self.events) > 1)
            self.assertEqual(set(self.events), {READ})
            self.poller.forget(self.one.fileno())
            self.events.clear()
            await aMoment()
            self.assertEqual(self.events, [])

        self.complete(test())

    def test_change(self) -> None:
        """
        What is watched can change.
        """

        async def test() -> None:
            self.watch(READ)
            self.watch(READ | WRITE)
            await eventually(lambda: WRITE in self.events)
            self.watch(0)
            self.events.clear()
            await aMoment()
            self.assertEqual(self.events, [])

        self.complete(test())

    def test_error(self) -> None:
        """
        It calls back again and again if the other end closed with bytes unread.
        """

        async def test() -> None:
            self.watch(READ)
            self.one.send(b"x")
            self.other.close()
            await eventually(lambda: len(self.events) > 2)
            self.poller.forget(self.one.fileno())

        self.complete(test())

    def test_close(self) -> None:
        """
        It may be closed several times, within a call, and after the loop.
        """

        async def test() -> None:
            self.poller.watch(
                self.one.fileno(), WRITE, lambda events: self.poller.close()
            )
            await aMoment()

        self.complete(test())
        poller = Poller(self.loop)
        self.loop.close()
        poller.close()
        poller.close()


@onUvloopToo
class ClockTests(LoopTestCase):
    """
    Tests for L{Clock} and L{Soon}.
    """

    def test_inputFirst(self) -> None:
        """
        A call without a delay is made after input was handled.
        """

        async def test() -> None:
            events: list[str] = []
            one, other = socket.socketpair()
            self.loop.add_reader(one.fileno(), lambda: events.append("input"))
            clock = Clock(self.loop)

            def due() -> None:
                other.send(b"x")
                clock.callLater(0, events.append, "call")

            clock.callLater(0.002, due)
            await eventually(lambda: "call" in events)
            self.assertEqual(events[0], "input")
            self.loop.remove_reader(one.fileno())
            one.close()
            other.close()

        self.complete(test())

    def test_cancel(self) -> None:
        """
        A call that is cancelled is not made.
        """

        async def test() -> None:
            events: list[str] = []
            clock = Clock(self.loop)
            call = clock.callLater(0, events.append, "call")
            self.assertTrue(call.active())
            call.cancel()
            self.assertFalse(call.active())
            soon = Soon(clock, lambda: events.append("soon"))
            soon.request()
            soon.cancel()
            await aMoment()
            self.assertEqual(events, [])
            soon.request()
            soon.request()
            await aMoment()
            self.assertEqual(events, ["soon"])
            self.assertFalse(soon.requested)

        self.complete(test())
