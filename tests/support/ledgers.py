"""
Helpers for tests of the ledger.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, astuple
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from portlisten._policy.decisions import (
    CloseCopy,
    Decision,
    GiveUp,
    HandOff,
    Reason,
    Watch,
)
from portlisten._policy.ledger import Ledger

PORT = 3
QUEUE = 10
BUDGET = 100
PATIENCE = 60.0
HOLD = 1.0
TIMEOUT = 5.0
PAUSE = 0.1
NAMES = ("web", "mail")

UNCLAIMED = "an offer unclaimed for 5 s"


def offers(channel: str, **connections: int) -> list[Decision]:
    """
    Expect that connections are offered to a worker, under these ids.
    """
    return [
        HandOff(channel, id, connection, PORT) for connection, id in connections.items()
    ]


def watches(connections: str) -> list[Decision]:
    """
    Expect that these connections are watched.
    """
    return [Watch(connection) for connection in connections]


def letsGo(connections: str) -> list[Decision]:
    """
    Expect that these copies are closed.
    """
    return [CloseCopy(connection) for connection in connections]


def givesUp(connections: Iterable[str], reason: Reason) -> list[Decision]:
    """
    Expect that these connections are closed.
    """
    return [GiveUp(connection, reason) for connection in connections]


class LedgerTestCase(SynchronousTestCase):
    """
    A test with a ledger.  Connections are letters, and channels are words.

    @ivar now: the time.
    """

    def setUp(self) -> None:
        """
        Make the ledger.
        """
        self.now = 1000.0
        self.ledger = self.open()

    def open(self, **options: Any) -> Ledger:
        """
        Make a ledger that differs from the usual one in these options.
        """
        usual: dict[str, Any] = {
            "queue": QUEUE,
            "budget": BUDGET,
            "patience": PATIENCE,
            "hold": HOLD,
            "claimTimeout": TIMEOUT,
            "pause": PAUSE,
        }
        return Ledger(**{**usual, **options})

    def accept(
        self,
        connections: str,
        canCheck: bool = True,
        name: str = "",
        silent: str | None = None,
    ) -> list[Decision]:
        """
        Let connections come in.  Those that are silent are watched.
        """
        decisions = self.ledger.addConnections(
            PORT, connections, self.now, canCheck, name, silent
        )
        self.ledger.watched(silent or "")
        return decisions

    def join(
        self,
        channel: str,
        window: int = 8,
        *names: str,
        limit: int | None = None,
        first: float | None = None,
        gives: bool = False,
    ) -> list[Decision]:
        """
        Let a worker join that wants these names; without names, all.
        """
        wanted = names or ("", *NAMES)
        return self.ledger.addWorker(
            channel, window, self.now, wanted, limit=limit, first=first, gives=gives
        )

    def speak(self, connections: str) -> list[Decision]:
        """
        Let something come from clients.
        """
        return self.ledger.spoke(connections, self.now)

    def claim(self, channel: str, *ids: int) -> list[Decision]:
        """
        Let a worker claim offers.
        """
        return self.ledger.claim(channel, ids, self.now)

    def refuse(self, channel: str, *ids: int) -> list[Decision]:
        """
        Let a worker refuse offers.
        """
        return self.ledger.refuse(channel, ids, self.now)

    def close(self, channel: str, *ids: int) -> list[Decision]:
        """
        Let a worker report that connections have ended.
        """
        return self.ledger.close(channel, ids, self.now)

    def die(self, channel: str, touched: str = "") -> list[Decision]:
        """
        Let a worker die that had touched some of its copies.
        """
        return self.ledger.workerDied(channel, touched, self.now)

    def part(self, channel: str) -> list[Decision]:
        """
        Let a worker leave.
        """
        return self.ledger.workerLeft(channel, self.now)

    def tick(self, seconds: float = 0) -> list[Decision]:
        """
        Let time pass.
        """
        self.now += seconds
        return self.ledger.passTime(self.now)

    def assertCounted(self, **expected: int) -> None:
        """
        Check all counters.  Counters that are not given are zero.
        """
        counters = self.ledger.counters
        known = sum(astuple(self.ledger.whereabouts()))
        self.assertEqual(counters.accepted, known + counters.ended)
        counted = asdict(counters)
        self.assertEqual({n: c for n, c in counted.items() if c}, expected)
