"""
Tests for the alerts and the dashboard in C{contrib}.  C{python -m tests.monitoring} has
Prometheus' own opinion of them.
"""

from __future__ import annotations

import re

from twisted.trial.unittest import SynchronousTestCase

from tests.support.dashboards import (
    CONTRIB,
    PROMETHEUS,
    dashboard,
    expressions,
    mentioned,
    series,
)

RULES = (PROMETHEUS / "portlisten.rules.yml").read_text("utf-8")


class AlertTests(SynchronousTestCase):
    """
    Tests for the alerts.
    """

    def test_metrics(self) -> None:
        """
        The alerts and their tests know no metric that does not exist.
        """
        self.assertEqual(mentioned(RULES) - series(), set())
        tests = (PROMETHEUS / "portlisten.test.yml").read_text("utf-8")
        self.assertEqual(mentioned(tests) - series(), set())

    def test_complete(self) -> None:
        """
        Each alert waits a while, says how bad it is, and what to do.
        """
        first, *alerts = re.split(r"^ +- alert: ", RULES, flags=re.MULTILINE)
        self.assertIn("groups:", first)
        self.assertGreater(len(alerts), 10)
        for each in alerts:
            for key in ("for: ", "severity: ", "summary: ", "description: "):
                self.assertEqual(each.count(f" {key}"), 1, (each, key))
            self.assertRegex(each, "severity: (critical|warning)\n")

    def test_documented(self) -> None:
        """
        The document lists all alerts, as bad as they are, and their tests try each.
        """
        found = re.findall(r"alert: (\w+).*?severity: (\w+)", RULES, re.DOTALL)
        text = (CONTRIB.parent / "docs" / "metrics.md").read_text("utf-8")
        listed = re.findall(
            r"^\| `(Portlisten\w+)` \|.*\| (\w+) \|$", text, re.MULTILINE
        )
        self.assertEqual(listed, found)
        tests = (PROMETHEUS / "portlisten.test.yml").read_text("utf-8")
        fired = set(re.findall(r'alertname="(\w+)"', tests))
        self.assertEqual(fired, {name for name, _ in found})


class DashboardTests(SynchronousTestCase):
    """
    Tests for the dashboard.
    """

    def test_metrics(self) -> None:
        """
        The dashboard knows no metric that does not exist, and leaves none of the
        connections out that matter.
        """
        shown = mentioned("\n".join(expressions()))
        self.assertEqual(shown - series(), set())
        # These only matter for the sum.
        rare = (
            *("departed", "unusable", "given", "left_with_worker"),
            *("handed_over", "stopped"),
        )
        rest = {
            each for each in series() - shown if not any(word in each for word in rare)
        }
        self.assertEqual(
            rest,
            {
                "portlisten_connections_in_flight",
                "portlisten_connections_in_service",
                "portlisten_connections_offered_total",
                "portlisten_port_workers",
                "portlisten_stopping",
            },
        )

    def test_variables(self) -> None:
        """
        All panels ask the data source that is chosen, for the chosen machines.
        """
        board = dashboard()
        names = [each["name"] for each in board["templating"]["list"]]
        self.assertEqual(names, ["datasource", "job", "instance"])
        for panel in board["panels"]:
            for target in panel.get("targets", ()):
                self.assertEqual(target["datasource"]["uid"], "${datasource}")
                selected = re.findall(r"portlisten_\w+(\{[^}]*\})?", target["expr"])
                self.assertEqual(set(selected), {'{job=~"$job",instance=~"$instance"}'})
        self.assertFalse([each for each in expressions() if "$" in each])

    def test_places(self) -> None:
        """
        Each panel has a number and a place of its own, and says what it shows.
        """
        panels = dashboard()["panels"]
        self.assertEqual(len({each["id"] for each in panels}), len(panels))
        taken: set[tuple[int, int]] = set()
        for panel in panels:
            place = panel["gridPos"]
            cells = {
                (x, y)
                for x in range(place["x"], place["x"] + place["w"])
                for y in range(place["y"], place["y"] + place["h"])
            }
            self.assertFalse(taken & cells, panel["title"])
            self.assertLessEqual(place["x"] + place["w"], 24)
            taken |= cells
            self.assertTrue(panel["type"] == "row" or panel["description"])
