"""
Tests for L{portlisten._reactor.deadline}.
"""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from portlisten._reactor.deadline import LATE_SECONDS, Deadline, RunningTime
from tests.support.clocks import TurningClock


class DeadlineTests(SynchronousTestCase):
    """
    Tests for L{Deadline}.
    """

    def setUp(self) -> None:
        """
        Make one of a second.
        """
        self.clock = TurningClock()
        self.calls: list[tuple[object, ...]] = []
        self.deadline = Deadline(
            self.clock, 1.0, lambda *args: self.calls.append(args), "one", 2
        )

    def test_oneTurn(self) -> None:
        """
        When the time is over, I/O has one turn before it calls back.
        """
        self.clock.advance(1.0)
        self.assertEqual(self.calls, [])
        self.assertTrue(self.deadline.active())
        self.clock.advance(0)
        self.assertEqual(self.calls, [("one", 2)])
        self.assertFalse(self.deadline.active())
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_notEarly(self) -> None:
        """
        It does not call back before that.
        """
        self.clock.pump([0.99, 0, 0])
        self.assertEqual(self.calls, [])
        self.assertTrue(self.deadline.active())

    def test_cancelEarly(self) -> None:
        """
        It can be cancelled before its time is over, and again.
        """
        self.deadline.cancel()
        self.deadline.cancel()
        self.assertFalse(self.deadline.active())
        self.clock.pump([1.0, 0])
        self.assertEqual(self.calls, [])

    def test_cancelBetween(self) -> None:
        """
        It can be cancelled in the turn that I/O has.
        """
        self.clock.advance(1.0)
        self.deadline.cancel()
        self.assertFalse(self.deadline.active())
        self.clock.advance(0)
        self.assertEqual(self.calls, [])

    def test_cancelAfterwards(self) -> None:
        """
        It can be cancelled after it has called back, to no effect.
        """
        self.clock.pump([1.0, 0])
        self.deadline.cancel()
        self.assertEqual(len(self.calls), 1)

    def test_somewhatLate(self) -> None:
        """
        A process that is busy may be a little late.
        """
        self.clock.pump([1.0 + LATE_SECONDS, 0])
        self.assertEqual(len(self.calls), 1)

    def test_muchTooLate(self) -> None:
        """
        If it is much too late, the process stood still, and the whole time begins
        anew.
        """
        self.clock.pump([1.5 + LATE_SECONDS, 0, 0.75, 0])
        self.assertEqual(self.calls, [])
        self.assertTrue(self.deadline.active())
        self.clock.pump([0.25, 0])
        self.assertEqual(len(self.calls), 1)

    def test_cancelAnew(self) -> None:
        """
        It can be cancelled once it has begun anew.
        """
        self.clock.advance(1000)
        self.deadline.cancel()
        self.clock.pump([1.0, 0])
        self.assertEqual(self.calls, [])
        self.assertEqual(self.clock.getDelayedCalls(), [])


class RunningTimeTests(SynchronousTestCase):
    """
    Tests for L{RunningTime}.
    """

    def setUp(self) -> None:
        """
        Look at a clock that stands.
        """
        self.clock = Clock()
        self.clock.rightNow = 1000.0
        self.now = RunningTime(self.clock.seconds, 0.2)
        self.began = self.now()

    def after(self, seconds: float) -> float:
        """
        How much time has passed since the beginning, as seen some time later.
        """
        self.clock.advance(seconds)
        return round(self.now() - self.began, 6)

    def test_runs(self) -> None:
        """
        While the process runs, time passes as it does.
        """
        self.assertEqual(self.after(0.1), 0.1)
        self.assertEqual(self.after(0.2), 0.3)
        self.assertEqual(self.after(0), 0.3)

    def test_stoodStill(self) -> None:
        """
        If the clock was not read for a long time, only the most counts.
        """
        self.assertEqual(self.after(3600), 0.2)
        self.assertEqual(self.after(0.1), 0.3)
        self.assertEqual(self.after(3600), 0.5)

    def test_begins(self) -> None:
        """
        It begins with the clock's time.
        """
        self.assertEqual(self.began, 1000.0)
