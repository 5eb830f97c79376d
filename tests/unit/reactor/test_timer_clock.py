"""
Tests for L{portlisten._reactor.timer_clock}: with real timers and a reactor that does
as it is told, and in processes of their own with real reactors.
"""

from __future__ import annotations

import errno
import os
import select
import time
from typing import Any

from twisted.internet.interfaces import IReactorTime, IReadDescriptor
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from portlisten._reactor.timer_clock import RETRY_SECONDS, TimerClock
from tests.support.descriptors import watchDescriptors
from tests.support.reactors import BareReactor, run


class TimerClockTests(SynchronousTestCase):
    """
    Tests for L{TimerClock}: on a real timer, by a reactor that waits for that alone.
    """

    def setUp(self) -> None:
        """
        Make the clock.  The wall clock is patched away.
        """
        watchDescriptors(self)

        def fail() -> float:
            raise AssertionError("the wall clock was asked")

        self.reactor = BareReactor()
        self.reactor.seconds = fail
        self.patch(time, "time", fail)
        self.clock = TimerClock(self.reactor)
        self.addCleanup(os.close, self.clock.fileno())
        self.made: list[object] = []

    def turn(self, patience: float = 30.0) -> bool:
        """
        Let the reactor go round once.

        @return: whether the timer was readable.
        """
        if self.clock not in self.reactor.readers:
            return False
        readable, _, _ = select.select([self.clock.fileno()], [], [], patience)
        if readable:
            self.clock.doRead()
        return bool(readable)

    def callLater(self, delay: float, what: object) -> Any:
        """
        Schedule a call that is noted.
        """
        return self.clock.callLater(delay, self.made.append, what)

    def test_interfaces(self) -> None:
        """
        It tells the time, and reads.
        """
        verifyObject(IReactorTime, self.clock)
        verifyObject(IReadDescriptor, self.clock)
        self.assertEqual(self.clock.logPrefix(), "portlisten")

    def test_seconds(self) -> None:
        """
        Its time is that of C{CLOCK_MONOTONIC}.
        """
        before = time.monotonic()
        self.assertTrue(before <= self.clock.seconds() <= time.monotonic())

    def test_idle(self) -> None:
        """
        The reactor does not hear of it while nothing is pending.
        """
        self.assertEqual(self.reactor.readers, [])
        call = self.callLater(100, "never")
        other = self.callLater(0.001, "now")
        self.assertEqual(self.reactor.readers, [self.clock])
        self.turn()
        self.assertFalse(other.active())
        self.assertEqual(self.reactor.readers, [self.clock])
        call.cancel()
        self.assertEqual(self.reactor.readers, [])

    def test_idleAfterwards(self) -> None:
        """
        Once the last call was made, the reactor hears of it no more.
        """
        self.callLater(0.001, "now")
        self.turn()
        self.assertEqual(self.made, ["now"])
        self.assertEqual(self.reactor.readers, [])

    def test_notTooEarly(self) -> None:
        """
        A call waits for its time, and no longer.
        """
        began = time.monotonic()
        self.callLater(0.3, "now")
        self.assertTrue(self.turn())
        self.assertEqual(self.made, ["now"])
        self.assertGreaterEqual(time.monotonic() - began, 0.3)

    def test_order(self) -> None:
        """
        Calls are made in the order of their times, whatever the order in which they
        were asked for.
        """
        calls = {delay: self.callLater(delay, delay) for delay in (0.3, 0.1, 0.2)}
        expected = sorted(calls, key=lambda each: calls[each].getTime())
        while self.turn():
            pass
        self.assertEqual(self.made, expected)

    def test_together(self) -> None:
        """
        All that are due are made in one turn.
        """
        for number in range(3):
            self.callLater(number / 1000, number)
        time.sleep(0.01)
        self.turn()
        self.assertEqual(self.made, [0, 1, 2])

    def test_arguments(self) -> None:
        """
        A call gets its arguments.
        """
        self.clock.callLater(
            0, lambda *args, **kw: self.made.append((args, kw)), 1, two=2
        )
        self.turn()
        self.assertEqual(self.made, [((1,), {"two": 2})])

    def test_cancel(self) -> None:
        """
        A call that was cancelled is not made, and others are.
        """
        self.callLater(0.001, "first").cancel()
        self.callLater(0.05, "second")
        self.turn()
        self.assertEqual(self.made, ["second"])

    def test_cancelFirst(self) -> None:
        """
        When the first call is cancelled, the timer goes by the next.
        """
        first = self.callLater(0.001, "first")
        self.callLater(100, "second")
        first.cancel()
        self.assertFalse(self.turn(0.05))
        self.clock.getDelayedCalls()[0].cancel()

    def test_cancelledByAnother(self) -> None:
        """
        A due call can be cancelled by a call that is made before it.
        """
        self.clock.callLater(0, lambda: second.cancel())  # noqa: PLW0108
        second = self.callLater(0.001, "second")
        time.sleep(0.01)
        self.turn()
        self.assertEqual(self.made, [])
        self.assertEqual(self.reactor.readers, [])

    def test_reset(self) -> None:
        """
        A call can be put off, and brought forward.
        """
        later = self.callLater(0.001, "put off")
        later.reset(100)
        sooner = self.callLater(100, "brought forward")
        sooner.reset(0.001)
        while not self.made:
            self.turn()
        self.assertEqual(self.made, ["brought forward"])
        later.reset(0.05)
        while self.turn():
            pass
        self.assertEqual(self.made, ["brought forward", "put off"])

    def test_delay(self) -> None:
        """
        A call can be delayed further, any number of times.
        """
        began = time.monotonic()
        call = self.callLater(0.001, "late")
        for _ in range(3):
            call.delay(0.1)
        while self.turn():
            pass
        self.assertEqual(self.made, ["late"])
        self.assertGreaterEqual(time.monotonic() - began, 0.3)

    def test_delayedByAnother(self) -> None:
        """
        A due call can be postponed by a call that is made before it.
        """
        self.clock.callLater(0, lambda: second.reset(0.3))
        second = self.callLater(0.001, "second")
        time.sleep(0.01)
        self.turn()
        self.assertEqual(self.made, [])
        while self.turn():
            pass
        self.assertEqual(self.made, ["second"])

    def test_raises(self) -> None:
        """
        A call that raises is logged, and does not keep others from being made.
        """
        self.clock.callLater(0, lambda: 1 / 0)
        self.callLater(0, "after")
        self.turn()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(self.made, ["after"])

    def test_nextTurn(self) -> None:
        """
        A call with no delay that a call asks for waits for the next turn.
        """
        self.clock.callLater(0, self.callLater, 0, "next")
        self.turn()
        self.assertEqual(self.made, [])
        self.turn()
        self.assertEqual(self.made, ["next"])

    def test_pending(self) -> None:
        """
        The calls that are pending are told.
        """
        calls = [self.callLater(delay, delay) for delay in (100, 200, 0)]
        self.turn()
        self.assertEqual(set(self.clock.getDelayedCalls()), set(calls[:2]))
        for call in calls[:2]:
            call.cancel()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_many(self) -> None:
        """
        It copes with many calls, half of which are cancelled.
        """
        calls = [
            self.callLater(number * 7 % 100 / 1000, number) for number in range(1000)
        ]
        for call in calls[::2]:
            call.cancel()
        expected = sorted(range(1, 1000, 2), key=lambda each: calls[each].getTime())
        while self.turn():
            pass
        self.assertEqual(self.made, expected)

    def test_reactorStops(self) -> None:
        """
        When the reactor has done with all descriptors, the next call registers
        again.
        """
        call = self.callLater(100, "never")
        self.reactor.readers.clear()
        self.clock.connectionLost(Failure(ZeroDivisionError()))
        other = self.callLater(100, "never")
        self.assertEqual(self.reactor.readers, [self.clock])
        call.cancel()
        other.cancel()

    def test_noRegistration(self) -> None:
        """
        If the reactor cannot register the timer, that is tried again, by its own
        time for once.
        """
        self.reactor.seconds = lambda: 0.0
        self.reactor.errors = [errno.ENOMEM]
        self.callLater(0, "at last")
        self.assertEqual(self.reactor.readers, [])
        again: Any
        (again,) = self.reactor.getDelayedCalls()
        self.assertEqual(again.getTime(), RETRY_SECONDS)
        again.func()
        self.turn()
        self.assertEqual(self.made, ["at last"])


PROGRAM = """
import time
from twisted.internet import {reactor}
{reactor}.install()
from twisted.internet import reactor
from portlisten._reactor.monotonic import monotonicReactor
from portlisten._reactor.timer_clock import TimerClock

began = time.monotonic()
# The wall clock is an hour slow from here on, and the reactor knows nothing else.
wall = time.time
reactor.seconds = lambda: wall() - 3600
our = monotonicReactor(reactor)
assert isinstance(our.callLater.__self__, TimerClock)
made = []
never = our.callLater(1000, made.append, "never")

def last():
    # On a busy machine, all calls may be due in one turn.
    if len(our.getDelayedCalls()) > 1:
        our.callLater(0.01, last)
        return
    never.cancel()
    assert not our.getDelayedCalls()
    print(*sorted(made), 0.1 <= time.monotonic() - began < 30)
    reactor.callFromThread(reactor.stop)

def first():
    made.append("first")
    our.callLater(0, made.append, "second")

our.callLater(0.1, last)
our.callLater(0.01, first)
our.callLater(0.05, made.append, "third")
reactor.run()
"""


class ReactorsTests(SynchronousTestCase):
    """
    L{TimerClock} in Twisted's reactors.
    """

    def runs(self, reactor: str) -> None:
        """
        Run a program with a reactor.
        """
        output = run(PROGRAM.format(reactor=reactor))
        self.assertEqual(output, "first second third True\n")

    def test_epoll(self) -> None:
        """
        It works in the one that is usual on Linux.
        """
        self.runs("epollreactor")

    def test_poll(self) -> None:
        """
        It works in that of poll(2).
        """
        self.runs("pollreactor")

    def test_select(self) -> None:
        """
        It works in that of select(2).
        """
        self.runs("selectreactor")

    def test_asyncio(self) -> None:
        """
        It works in that of asyncio.
        """
        self.runs("asyncioreactor")
