"""
Tests for L{portlisten._reactor.pause}.
"""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from portlisten._reactor.pause import Pause


class PauseTests(SynchronousTestCase):
    """
    Tests for L{Pause}.
    """

    def setUp(self) -> None:
        """
        Make one that has not begun.
        """
        self.clock = Clock()
        self.calls = 0
        self.pause = Pause(self.clock, self.count)

    def count(self) -> None:
        """
        Count a call, in which the pause is not active any more.
        """
        self.assertFalse(self.pause.active)
        self.calls += 1

    def test_over(self) -> None:
        """
        It calls back once when its time is over.
        """
        self.assertFalse(self.pause.active)
        self.pause.begin(1.0)
        self.clock.advance(0.9)
        self.assertTrue(self.pause.active)
        self.assertEqual(self.calls, 0)
        self.clock.pump([0.1, 10])
        self.assertFalse(self.pause.active)
        self.assertEqual(self.calls, 1)

    def test_anew(self) -> None:
        """
        If it begins while it is active, only the new time counts.
        """
        self.pause.begin(1.0)
        self.clock.advance(0.5)
        self.pause.begin(1.0)
        self.clock.advance(0.9)
        self.assertEqual(self.calls, 0)
        self.clock.advance(0.1)
        self.assertEqual(self.calls, 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_again(self) -> None:
        """
        It can begin again when it is over, even in the call.
        """
        pause: Pause
        times: list[float] = []

        def again() -> None:
            times.append(self.clock.seconds())
            if len(times) < 3:
                pause.begin(1.0)

        pause = Pause(self.clock, again)
        pause.begin(1.0)
        self.clock.pump([1.0] * 5)
        self.assertEqual(times, [1.0, 2.0, 3.0])

    def test_cancel(self) -> None:
        """
        It can be cancelled before it began, while it is active, twice, and after it
        is over.
        """
        self.pause.cancel()
        self.pause.begin(1.0)
        self.pause.cancel()
        self.pause.cancel()
        self.assertFalse(self.pause.active)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.pause.begin(1.0)
        self.clock.advance(1.0)
        self.pause.cancel()
        self.assertEqual(self.calls, 1)
