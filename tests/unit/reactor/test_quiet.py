"""
Tests for L{portlisten._reactor.quiet}.
"""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.logger import Logger, capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from portlisten._reactor.quiet import INTERVAL, MOST, Quiet, quiet
from tests.support.channels import texts

LINE = "{who} knocks"


class QuietTests(SynchronousTestCase):
    """
    Tests for L{Quiet}.
    """

    log = Logger()

    def setUp(self) -> None:
        """
        Capture what is logged.
        """
        logs = capturedLogs()
        self.logged = logs.__enter__()
        self.addCleanup(logs.__exit__, None, None, None)
        self.clock = Clock()
        self.quiet = Quiet(self.clock)

    def knock(self, count: int, format: str = LINE) -> None:
        """
        Log so many lines of a kind.
        """
        for number in range(count):
            self.quiet(self.log.warn, format, who=number)

    @property
    def lines(self) -> list[str]:
        """
        What was logged.
        """
        return texts(self.logged, "warn")

    def test_first(self) -> None:
        """
        The first lines of a kind are logged as they are, and no timer is needed.
        """
        self.knock(MOST)
        self.assertEqual(self.lines, [f"{number} knocks" for number in range(MOST)])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_leftOut(self) -> None:
        """
        The lines after those are left out, and their count is logged once when the
        interval ends, at the level of the lines.
        """
        self.knock(MOST)
        self.clock.advance(INTERVAL / 2)
        self.knock(12)
        self.clock.advance(INTERVAL / 2 - 0.1)
        self.assertEqual(len(self.lines), MOST)
        self.clock.advance(0.1)
        self.assertEqual(
            self.lines[MOST:],
            ["12 more lines like this one were left out in 10 s: {who} knocks"],
        )
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_nextInterval(self) -> None:
        """
        After the interval, lines are logged as they are again.
        """
        self.knock(MOST + 1)
        self.clock.advance(INTERVAL)
        before = len(self.lines)
        self.knock(MOST + 1)
        self.assertEqual(len(self.lines), before + MOST)
        self.clock.advance(INTERVAL)
        self.assertIn("1 more lines", self.lines[-1])

    def test_slowLines(self) -> None:
        """
        Lines that come slowly are all logged.
        """
        for _ in range(3):
            self.knock(MOST)
            self.clock.advance(INTERVAL)
        self.assertEqual(len(self.lines), 3 * MOST)

    def test_apart(self) -> None:
        """
        Lines of another kind have a count of their own.
        """
        self.knock(MOST + 1)
        self.knock(1, "{who} rings")
        self.assertEqual(self.lines[-1], "0 rings")
        self.knock(MOST + 1, "{who} rings")
        self.clock.advance(INTERVAL)
        self.assertEqual(
            sorted(self.lines[-2:]),
            [
                "1 more lines like this one were left out in 10 s: {who} knocks",
                "2 more lines like this one were left out in 10 s: {who} rings",
            ],
        )

    def test_flush(self) -> None:
        """
        At the end of the process all counts are logged at once, and no timer is
        left.
        """
        self.knock(MOST + 3)
        self.knock(MOST + 4, "{who} rings")
        self.knock(1, "{who} leaves")
        self.quiet.flush()
        self.assertEqual(
            [line.partition(" ")[0] for line in self.lines[-2:]], ["3", "4"]
        )
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.quiet.flush()
        self.assertEqual(len(self.lines), 2 * MOST + 3)

    def test_shared(self) -> None:
        """
        All who share a clock share their counts, and nobody else does.
        """
        self.assertIs(quiet(self.clock), quiet(self.clock))
        self.assertIsNot(quiet(self.clock), quiet(Clock()))
