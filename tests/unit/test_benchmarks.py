"""
Tests for what L{benchmarks.report} makes of figures, for L{benchmarks.goals} and
L{benchmarks.contestants}.
"""

from __future__ import annotations

import json
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from benchmarks import charts, compare, goals, questions, report
from benchmarks.__main__ import machine
from benchmarks.contestants import Contestant, present
from benchmarks.running import Running
from portlisten import _compiled


def rounds(key: str, *values: float) -> list[dict[str, float]]:
    """
    What was measured, round by round.
    """
    return [{key: value} for value in values]


class GoalTests(SynchronousTestCase):
    """
    Tests for L{goals.Goal} and the goals of each question.
    """

    def rows(self, name: str, figures: Any) -> dict[str, tuple[str, ...]]:
        """
        The rows of a question, by what is compared.
        """
        return {goal.what: goal.row[1:] for goal in goals.GOALS[name](figures)}

    def test_reached(self) -> None:
        """
        It is the median that counts, and the range is told.
        """
        goal = goals.Goal("this", [0.5, 1.0, 0.96], "at least 0.95", 0.95)
        self.assertEqual(
            goal.row, ("this", "0.96 (0.50 to 1.00)", "at least 0.95", "yes")
        )

    def test_missed(self) -> None:
        """
        Too little or too much is said to be so.
        """
        for values in ([0.97], [1.03]):
            goal = goals.Goal("this", values, "0.98 to 1.02", 0.98, 1.02)
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
                "share x4": rounds("p99", 10.0),
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

    def test_hop(self) -> None:
        """
        The hand-off is compared with a direct server, and with Node's cluster: each to
        a direct server of its own kind.
        """

        def found(**rates: float) -> list[dict[str, float]]:
            return [{"front": 10.0, "back": 30.0, **rates}]

        ours = {f"listen x{count}": found(rate=60.0) for count in (1, 2, 4)}
        direct = {"direct": found(rate=100.0), "inherited x2": found(rate=50.0)}
        nodes = {f"Node round robin x{n}": found(rate=30.0) for n in (1, 2, 4)}
        node = {"64": {**nodes, "Node direct": found(rate=40.0)}}
        minimal = {each: {**direct, **ours} for each in ("1", "64")}
        rows = self.rows("hop", {"minimal": minimal, "Node": node})
        rate = "listen x1 to direct, connections per second, minimal, {} at a time"
        self.assertEqual(rows[rate.format(64)], ("0.60", "at least 0.7", "no"))
        self.assertEqual(rows[rate.format(1)], ("0.60", "at least 0.58", "yes"))
        each = "listen x4 to Node round robin x4, each to its own direct server"
        self.assertEqual(rows[f"{each}, 64 at a time"], ("0.80", "above 1", "no"))
        self.assertEqual(len(self.rows("hop", {"minimal": minimal})), 4)
        self.assertEqual(self.rows("hop", {"Node": node}), {})

    def test_stay(self) -> None:
        """
        Workers whose connections stay have as many: from the beginning, and after one
        was replaced.
        """
        rounds = [{"first": [101, 100, 100, 99], "later": [125, 125, 125, 25]}]
        rows = self.rows("stay", {"listen x4": rounds, "share x4": rounds})
        what = "share x4, most to fewest connections of a worker that stay, "
        self.assertEqual(rows[f"{what}when they have arrived"][2], "yes")
        self.assertEqual(
            rows[f"{what}after one was replaced"], ("5.00", "at most 1.1", "no")
        )

    def test_share(self) -> None:
        """
        Sharing is compared with as many processes on an inherited socket.
        """
        found = {
            f"{kind} x{count}": [{"rate": rate, "p99": 3.0}]
            for kind, rate in (("inherited", 10.0), ("share", 11.0))
            for count in (2, 4)
        }
        found |= {"direct": rounds("rate", 10.0), "share x1": rounds("rate", 9.0)}
        rows = self.rows("share", {"8": found})
        how = "connections per second, minimal, 8 at a time"
        self.assertEqual(
            rows[f"share x4 to inherited x4, {how}"], ("1.10", "at least 1", "yes")
        )
        self.assertEqual(rows[f"share x1 to direct, {how}"][2], "no")

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


class PresentTests(SynchronousTestCase):
    """
    Tests for L{contestants.present}.
    """

    def test_missing(self) -> None:
        """
        Contestants whose program is missing are left out, in one line for each program.
        """

        def start(running: Running) -> None:
            """
            Never called.
            """

        there = Contestant("there", start)
        program = ("portlisten-no-such-program", "nothing")
        some = [Contestant(f"some x{count}", start, program) for count in (1, 2)]
        other = Contestant("other", start, module="portlisten_no_such_module")
        errors = StringIO()
        with redirect_stderr(errors):
            self.assertEqual(present([*some, there, other]), [there])
        self.assertEqual(
            errors.getvalue().splitlines(),
            [
                "left out: some x1, some x2: apt install nothing",
                "left out: other: pip install portlisten_no_such_module",
            ],
        )


class PageTests(SynchronousTestCase):
    """
    Tests for the pages and charts of L{report}.
    """

    def test_hop(self) -> None:
        """
        The hand-off has a table for each part, and one picture for all.
        """
        each = {"rate": 50.0, "front": 20.0, "back": 40.0, "clients": 30.0}
        direct = {**each, "rate": 100.0, "front": 0.0}
        figures = {
            "minimal": {"64": {"direct": [direct], "listen x1": [each]}},
            "C": {"64": {"C direct": [direct], "C listen x1": [each]}},
        }
        page = report.hop(figures)
        self.assertIn(
            "| listen x1 | 50.0 | 0.50 | 20.0 | 40.0 | 30.0 | 1.50 |", page.text
        )
        picture = page.charts["hop.svg"]
        self.assertIn(">C listen x1<", picture)
        self.assertIn(">listens itself<", picture)
        self.assertNotIn(">direct<", picture)

    def test_stay(self) -> None:
        """
        The table has the ratios of all rounds, and the workers of the round in the
        middle.
        """
        firsts = [[4, 4, 4, 4], [10, 4, 1, 1], [6, 4, 3, 3]]
        figures = {
            "share x4": [{"first": each, "later": [9, 7, 0, 0]} for each in firsts]
        }
        page = report.stay(figures)
        self.assertIn(
            "| share x4 | 2.00 (1.00 to 10.00) | 6, 4, 3, 3 |"
            " 9.00 (9.00 to 9.00) | 9, 7, 0, 0 |",
            page.text,
        )
        self.assertEqual(page.charts["stay.svg"].count(">share x4<"), 1)

    def test_share(self) -> None:
        """
        Each contestant is compared with a direct server, and with as many processes on
        an inherited socket.
        """
        each = {"rate": 50.0, "p99": 2000, "back": 40.0, "clients": 30.0}
        figures = {
            "8": {
                "direct": [{**each, "rate": 40.0}],
                "inherited x2": [{**each, "p99": 1000}],
                "share x2": [each],
            }
        }
        self.assertIn(
            "| share x2 | 50.0 | 1.25 | 1.00 | 2.00 | 2.00 | 40.0 | 30.0 |",
            report.share(figures).text,
        )

    def test_clients(self) -> None:
        """
        The page says how many processors there are, and what the clients took of them.
        """
        folder = Path(self.mktemp())
        each = {"rate": 50.0, "front": 0.0, "back": 40.0, "clients": 30.0}
        found = [{**each, "taken": share} for share in (0.2, 0.3, 0.25)]
        figures = {"minimal": {"64": {"direct": found}}}
        report.write(folder, "hop", figures, {"processors": 2, "model": "some"})
        text = (folder / "hop.md").read_text()
        self.assertIn(
            "The machine has 2 processors, for the clients as well. The clients took"
            " 25 % of all processor time (20 to 30 %).",
            text,
        )
        self.assertIn("Measured on: processors 2, model some.", text)

    def test_unknown(self) -> None:
        """
        Figures that do not say it leave it out.
        """
        self.assertEqual(report.clients({"1 up": {}}, {"processors": 2}), "")

    def test_compiled(self) -> None:
        """
        The page says which parts of portlisten were compiled, and a comparison says if
        others are now.
        """
        here = machine()
        self.assertEqual(here["portlisten"], f"({_compiled.describe()})")
        other = {**here, "portlisten": "(others)"}
        (change,) = compare.changes(other, here)
        self.assertIn("was (others)", change)
        folder = Path(self.mktemp())
        report.write(folder, "hop", {"minimal": {}}, here)
        self.assertIn(
            f"portlisten {here['portlisten']}", (folder / "hop.md").read_text("utf-8")
        )

    def test_pictures(self) -> None:
        """
        Pictures are readable on light and dark pages, and their texts are escaped.
        """
        drawn = charts.bars("a < b", "/s", [charts.Bar("listen x1", 2.0, 1.0, 3.0)])
        self.assertIn("a &lt; b", drawn)
        self.assertIn("prefers-color-scheme: dark", drawn)
        self.assertIn('class="ours"', drawn)
