"""
Tests for L{portlisten._reactor.log_limit}.
"""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.logger import Logger, capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from portlisten._reactor import log_limit
from portlisten._reactor.log_limit import (
    INTERVAL_SECONDS,
    MAXIMUM_LINES,
    LogLimit,
    logLimit,
)
from tests.support.channels import texts

LINE = "{who} knocks"


class LogLimitTests(SynchronousTestCase):
    """
    Tests for L{LogLimit}.
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
        self.limit = LogLimit(self.clock)

    def knock(self, count: int, format: str = LINE) -> None:
        """
        Log so many lines of a kind.
        """
        for number in range(count):
            self.limit(self.log.warn, format, who=number)

    @property
    def lines(self) -> list[str]:
        """
        The lines that were logged.
        """
        return texts(self.logged, "warn")

    def test_first(self) -> None:
        """
        The first lines of a kind are logged as they are, and no timer is needed.
        """
        self.knock(MAXIMUM_LINES)
        self.assertEqual(
            self.lines, [f"{number} knocks" for number in range(MAXIMUM_LINES)]
        )
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_leftOut(self) -> None:
        """
        The lines after those are left out, and their count is logged once when the
        interval ends, at the level of the lines.
        """
        self.knock(MAXIMUM_LINES)
        self.clock.advance(INTERVAL_SECONDS / 2)
        self.knock(12)
        self.clock.advance(INTERVAL_SECONDS / 2 - 0.1)
        self.assertEqual(len(self.lines), MAXIMUM_LINES)
        self.clock.advance(0.1)
        self.assertEqual(
            self.lines[MAXIMUM_LINES:],
            ["12 more lines like this one were left out in 10 s: {who} knocks"],
        )
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_nextInterval(self) -> None:
        """
        After the interval, lines are logged as they are again.
        """
        self.knock(MAXIMUM_LINES + 1)
        self.clock.advance(INTERVAL_SECONDS)
        before = len(self.lines)
        self.knock(MAXIMUM_LINES + 1)
        self.assertEqual(len(self.lines), before + MAXIMUM_LINES)
        self.clock.advance(INTERVAL_SECONDS)
        self.assertIn("1 more lines", self.lines[-1])

    def test_slowLines(self) -> None:
        """
        Lines that come slowly are all logged.
        """
        for _ in range(3):
            self.knock(MAXIMUM_LINES)
            self.clock.advance(INTERVAL_SECONDS)
        self.assertEqual(len(self.lines), 3 * MAXIMUM_LINES)

    def test_apart(self) -> None:
        """
        Lines of another kind have a count of their own.
        """
        self.knock(MAXIMUM_LINES + 1)
        self.knock(1, "{who} rings")
        self.assertEqual(self.lines[-1], "0 rings")
        self.knock(MAXIMUM_LINES + 1, "{who} rings")
        self.clock.advance(INTERVAL_SECONDS)
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
        self.knock(MAXIMUM_LINES + 3)
        self.knock(MAXIMUM_LINES + 4, "{who} rings")
        self.knock(1, "{who} leaves")
        self.limit.flush()
        self.assertEqual(
            [line.partition(" ")[0] for line in self.lines[-2:]], ["3", "4"]
        )
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.limit.flush()
        self.assertEqual(len(self.lines), 2 * MAXIMUM_LINES + 3)

    def test_never(self) -> None:
        """
        Some events are never left out.  The line for those that were names the event.
        """
        self.patch(log_limit, "neverLimited", frozenset(["client-lost"]))
        lines: list[tuple[str, object]] = []

        def log(format: str, **fields: object) -> None:
            lines.append((format, fields["event"]))
            if fields["event"] == "lines-left-out":
                lines.append(("of", fields["of"]))

        for _ in range(2 * log_limit.MAXIMUM_LINES):
            self.limit(log, "lost", event="client-lost")
            self.limit(log, "gone", event="client-gone")
        self.limit.flush()
        self.assertEqual(lines.count(("lost", "client-lost")), 40)
        self.assertEqual(lines.count(("gone", "client-gone")), 20)
        self.assertEqual(lines[-1], ("of", "client-gone"))

    def test_shared(self) -> None:
        """
        All who share a clock share their counts, and nobody else does.
        """
        self.assertIs(logLimit(self.clock), logLimit(self.clock))
        self.assertIsNot(logLimit(self.clock), logLimit(Clock()))
