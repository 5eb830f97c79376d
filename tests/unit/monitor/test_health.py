"""
Tests for L{portlisten._monitor.health}.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from portlisten._control.messages import StatusAnswer
from portlisten._control.status import PortStatus, ProcessState
from portlisten._monitor.health import health
from tests.support.statuses import ALONE, LISTENER, SUPERVISOR, process

HTTP = PortStatus("http", "tcp:80", False, 2, 0)
HTTP6 = PortStatus("http", "tcp6:80", False, 2, 0)
DNS = PortStatus("dns", "udp:53", True, 1, 0)
PLAIN = PortStatus("", "tcp:8080", False, 1, 0)


def answer(*ports: PortStatus, **others: Any) -> StatusAnswer:
    """
    Make the status of a listener that runs alone.
    """
    return StatusAnswer(replace(LISTENER, ports=ports, **others))


class HealthTests(SynchronousTestCase):
    """
    Tests for L{health}.
    """

    def test_serving(self) -> None:
        """
        The code is 200 if somebody serves each port that is asked for.
        """
        status = answer(HTTP, HTTP6, DNS, PLAIN)
        self.assertEqual(health(status, None), (200, "serving http, dns, tcp:8080"))
        self.assertEqual(health(status, "http"), (200, "serving http"))
        self.assertEqual(health(status, ""), (200, "serving tcp:8080"))

    def test_unserved(self) -> None:
        """
        The code is 503 if nobody takes connections of one port of the name.  Other
        names do not matter, unless all are asked for.
        """
        for wrong in (
            replace(DNS, workers=0),
            replace(DNS, unserved=True, waiting=3),
            replace(HTTP6, name="dns", workers=0),
        ):
            status = answer(HTTP, wrong, DNS)
            self.assertEqual(health(status, "http")[0], 200)
            for name in ("dns", None):
                self.assertEqual(health(status, name), (503, "nobody serves dns"))
        status = answer(replace(HTTP, workers=0), replace(PLAIN, workers=0))
        self.assertEqual(health(status, None), (503, "nobody serves http and tcp:8080"))

    def test_unknown(self) -> None:
        """
        The code is 404 if no port has the name, also while the listener is paused.
        """
        status = answer(HTTP, PLAIN, paused=True)
        self.assertEqual(
            health(status, "htp\n"),
            (404, "no port is named htp?; the ports are http, tcp:8080"),
        )
        self.assertEqual(
            health(answer(HTTP), ""),
            (404, "no port is without a name; the ports are http"),
        )
        self.assertLess(len(health(status, "x" * 9999)[1]), 200)

    def test_states(self) -> None:
        """
        The code is 503 while the listener is paused, stops, or does not answer.
        """
        for status, reason in (
            (answer(HTTP, paused=True), "paused by an operator"),
            (answer(HTTP, stopping=True, paused=True), "the listener stops"),
            (StatusAnswer(None, SUPERVISOR), "the listener does not answer"),
            (None, "the listener does not answer"),
        ):
            for name in (None, "http"):
                self.assertEqual(health(status, name), (503, reason))

    def test_supervisor(self) -> None:
        """
        A supervisor that stops its listener knows before the listener.
        """
        listener = answer(HTTP).listener
        for state, code in (
            (ProcessState.READY, 200),
            (ProcessState.STOPPING, 503),
            (ProcessState.GIVEN_UP, 503),
        ):
            supervisor = replace(
                SUPERVISOR, listener=process("listener", 1, state=state)
            )
            self.assertEqual(health(StatusAnswer(listener, supervisor), None)[0], code)

    def test_line(self) -> None:
        """
        The reason is always one line.
        """
        for name in (None, "", "http", "no\nsuch"):
            self.assertNotIn("\n", health(ALONE, name)[1])
