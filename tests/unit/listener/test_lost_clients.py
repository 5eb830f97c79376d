"""
Tests for L{portlisten._listener.lost_clients}.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from portlisten._listener.lost_clients import KEPT, LostClients
from portlisten._policy.counters import ENDS
from portlisten._policy.entries import End, Entry, Worker
from portlisten._policy.tallies import Tally
from tests.support.dispatchers import RecordingChannel


class Client:
    """
    A connection, as far as the log needs it.
    """

    peer = "192.0.2.7:5"


class LostClientsTests(SynchronousTestCase):
    """
    Tests for L{LostClients}.
    """

    def report(self, counter: str, worker: bool = True) -> Any:
        """
        Log an end.

        @return: the event.
        """
        entry = Entry(3, 0, "http", Client(), True, 0.0, Tally())
        if worker:
            channel = RecordingChannel("worker 4")
            entry.worker = Worker(channel, 1, 1, frozenset(), 1000)
        lost = LostClients(Clock())
        lost.ports = {0: "http=tcp:80"}
        ends = [End(counter, entry)]
        with capturedLogs() as logged:
            lost.report(ends)
        self.assertEqual(ends, [])
        [event] = logged
        return event

    def test_worker(self) -> None:
        """
        If a worker had the client, the event names the worker.
        """
        event = self.report("lostInService")
        self.assertEqual(
            formatEvent(event),
            "the connection of 192.0.2.7:5 is closed: the worker that served it died",
        )
        found = {key: event[key] for key in ("event", "peer", "port", "connection")}
        self.assertEqual(
            found,
            {
                "event": "client-lost",
                "peer": "192.0.2.7:5",
                "port": "http=tcp:80",
                "connection": 3,
            },
        )
        self.assertEqual((event["worker"], event["uid"]), ("worker 4", 1000))

    def test_noWorker(self) -> None:
        """
        If the client waited, no worker is to blame, even if one had it before.
        """
        event = self.report("timedOut")
        self.assertNotIn("worker", event)
        self.assertEqual(event["cause"], "timedOut")
        self.assertEqual(event["log_level"].name, "warn")

    def test_others(self) -> None:
        """
        A client that left, and one that a revoked worker keeps, are not lost.
        """
        gone = self.report("goneBeforeAdoption", worker=False)
        self.assertEqual(
            (gone["event"], gone["log_level"].name), ("client-gone", "info")
        )
        kept = self.report("leftWithWorker")
        self.assertEqual((kept["event"], kept["reason"]), ("client-kept", KEPT))

    def test_all(self) -> None:
        """
        Each end by which a client can be lost has a reason.
        """
        for counter in set(ENDS) - {"finished", "given", "handedOver"}:
            self.assertTrue(self.report(counter)["reason"], counter)
