"""
Tests for L{portlisten._supervisor.view}.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from portlisten._control.messages import Answer, Request, StatusAnswer
from portlisten._supervisor.view import BUSY_SECONDS, IDLE_SECONDS, View


class ViewTests(SynchronousTestCase):
    """
    When the listener is asked.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.asked: list[float] = []
        self.changes = 0
        self.busy = False
        self.view = View(self.clock, self.changed, lambda: self.busy)

    def changed(self) -> None:
        """
        Count the changes.
        """
        self.changes += 1

    def ask(self, request: Request) -> Deferred[Answer]:
        """
        Answer at once.
        """
        self.asked.append(self.clock.seconds())
        return succeed(StatusAnswer(None))

    def test_pauses(self) -> None:
        """
        The listener is asked soon when it is ready, and then often if something waits
        for it, and else rarely.
        """
        self.view.begin(self.ask)
        self.assertEqual(self.asked, [])
        self.clock.advance(BUSY_SECONDS)
        self.assertEqual(len(self.asked), 1)
        self.clock.pump([BUSY_SECONDS] * 10)
        self.assertEqual(len(self.asked), 1)
        self.busy = True
        self.clock.advance(IDLE_SECONDS)
        self.clock.pump([BUSY_SECONDS] * 10)
        self.assertEqual(len(self.asked), 12)

    def test_hurry(self) -> None:
        """
        A request that comes soon ends the long pause, and never makes a short one
        longer.
        """
        self.view.begin(self.ask)
        self.clock.advance(BUSY_SECONDS)
        for _ in range(6):
            self.view.hurry()
            self.clock.advance(BUSY_SECONDS / 4)
        self.assertEqual(len(self.asked), 2)

    def test_end(self) -> None:
        """
        The end of the listener is a change, once, and nobody is asked any more.
        """
        self.view.end()
        self.assertEqual(self.changes, 0)
        self.view.begin(self.ask)
        self.clock.advance(BUSY_SECONDS)
        self.assertEqual(self.changes, 1)
        self.view.end()
        self.view.end()
        self.assertEqual(self.changes, 2)
        self.view.hurry()
        self.clock.advance(2 * IDLE_SECONDS)
        self.assertEqual(len(self.asked), 1)
