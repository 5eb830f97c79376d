"""
Tests for what L{benchmarks.report} makes of figures.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from benchmarks import questions, report


def rounds(key: str, *values: float) -> list[dict[str, float]]:
    """
    What was measured, round by round.
    """
    return [{key: value} for value in values]


class GoalTests(SynchronousTestCase):
    """
    Tests for L{report.Goal} and the goals of each question.
    """

    def rows(self, name: str, figures: Any) -> dict[str, tuple[str, ...]]:
        """
        The rows of a question, by what is compared.
        """
        return {goal.what: goal.row[1:] for goal in report.GOALS[name](figures)}

    def test_reached(self) -> None:
        """
        It is the median that counts, and the range is told.
        """
        goal = report.Goal("this", [0.5, 1.0, 0.96], "at least 0.95", 0.95)
        self.assertEqual(
            goal.row, ("this", "0.96 (0.50 to 1.00)", "at least 0.95", "yes")
        )

    def test_missed(self) -> None:
        """
        Too little or too much is said to be so.
        """
        for values in ([0.97], [1.03]):
            goal = report.Goal("this", values, "0.98 to 1.02", 0.98, 1.02)
            self.assertEqual(goal.row[1:], (f"{values[0]:.2f}", "0.98 to 1.02", "no"))

    def test_rate(self) -> None:
        """
        Connections are compared round by round: with a direct server, with the best of
        the proxies, and each way of sharing with its like.
        """
        found = {
            "direct": [{"rate": 10.0, "front": 0.0}] * 2,
            "listen x1": [{"rate": 9.0, "front": 3.0}, {"rate": 11.0, "front": 5.0}],
            "nginx": [{"rate": 5.0}] * 2,
            "HAProxy": [{"rate": 4.0}] * 2,
            "C of 2002": [{"rate": 9.0, "front": 2.0}] * 2,
        }
        for count in (2, 4):
            for kind in ("share", "inherited"):
                found[f"{kind} x{count}"] = [{"rate": 8.0}] * 2
        rows = self.rows("rate", {"64": found})
        each = "connections per second, 64 at a time"
        self.assertEqual(
            rows[f"listen x1 to direct, {each}"],
            ("1.00 (0.90 to 1.10)", "at least 0.95", "yes"),
        )
        self.assertEqual(rows[f"listen x1 to nginx, {each}"][2], "yes")
        self.assertEqual(rows[f"share x4 to inherited x4, {each}"][2], "yes")
        self.assertEqual(
            rows["listen x1 to C of 2002, processor time in front, 64 at a time"],
            ("2.00 (1.50 to 2.50)", "at most 1.3", "no"),
        )

    def test_even(self) -> None:
        """
        Evenness is the most to the fewest; a tail as long as another is not below it.
        """
        figures = {
            "found": {
                "listen x4": rounds("p99", 10.0),
                "inherited x4": rounds("p99", 20.0),
                "reuseport x4": rounds("p99", 10.0),
            },
            "served": {"listen x4": [100, 104, 101, 102]},
        }
        rows = self.rows("kept", figures)
        even = "listen x4, most to fewest connections of a worker, keep-alive"
        self.assertEqual(rows[even], ("1.04", "at most 1.05", "yes"))
        tail = "listen x4 to {} x4, 99th percentile, keep-alive"
        self.assertEqual(rows[tail.format("inherited")][2], "yes")
        self.assertEqual(rows[tail.format("reuseport")][2], "no")

    def test_size(self) -> None:
        """
        The listener's use with the most connections alive is compared with its use
        without any.
        """
        figures = {
            "listen x2": [
                {"alive": 0, "descriptors": 15, "resident": 1000},
                {"alive": 1000, "descriptors": 15, "resident": 1100},
            ]
        }
        rows = self.rows("size", figures)
        what = "listener, {0} with 1,000 alive to {0} with none"
        self.assertEqual(rows[what.format("descriptors")][2], "yes")
        self.assertEqual(rows[what.format("resident")][::2], ("1.10", "no"))

    def test_summary(self) -> None:
        """
        The summary covers all answered questions of a folder, with the figures of the
        last run.
        """
        folder = Path(self.mktemp())
        folder.mkdir()
        found = {
            "1 up": {"direct": rounds("rate", 2.0), "listen x1": rounds("rate", 2.0)}
        }
        (folder / "throughput.json").write_text(json.dumps({"figures": found}))
        report.summarize(folder)
        text = (folder / "goals.md").read_text()
        self.assertIn("| listen x1 to direct, bytes per second, 1 up | 1.00 |", text)

    def test_questions(self) -> None:
        """
        Each question has a page.
        """
        self.assertEqual(set(report.PAGES), set(questions.ALL))
