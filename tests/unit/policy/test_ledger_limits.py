"""
Tests for L{portlisten._policy.ledger}: connections of ports that have limits.
"""

from __future__ import annotations

from typing import Any

from portlisten._policy.decisions import Decision, Reason
from portlisten._policy.ledger import Ledger
from portlisten._policy.source_limits import Limits, Rate, SourceLimits
from tests.support.ledgers import (
    PATIENCE,
    PORT,
    QUEUE,
    LedgerTestCase,
    givesUp,
    offers,
)


class LimitedTests(LedgerTestCase):
    """
    Tests for a port with limits.  The first letter of a connection is its source.
    """

    limits = Limits(maxPerSource=2)

    def open(self, **options: Any) -> Ledger:
        """
        Make a ledger with a table.
        """
        self.table = SourceLimits(self.limits)
        return super().open(tables=[self.table], fair=[""], **options)

    def come(self, *connections: str) -> list[Decision]:
        """
        Let connections come in, or park them.
        """
        found = [self.table.arrive(each[0], self.now) for each in connections]
        return self.ledger.addConnections(
            PORT,
            connections,
            self.now,
            name="",
            sources=[source for source, _ in found],
            parked={
                each
                for each, (_, reason) in zip(connections, found, strict=True)
                if reason
            },
        )

    def tick(self, seconds: float = 0) -> list[Decision]:
        """
        Let time pass.
        """
        self.table.now = self.now + seconds
        return super().tick(seconds)

    def alive(self, source: str = "a") -> int:
        """
        How many connections of a source count.
        """
        return self.table.find(source, self.now).alive

    def test_served(self) -> None:
        """
        A connection counts until its worker reports its end.
        """
        self.join("x")
        self.assertEqual(self.come("a1"), offers("x", a1=1))
        self.ledger.claim("x", [1], self.now)
        self.assertEqual(self.alive(), 1)
        self.ledger.close("x", [1], self.now)
        self.assertEqual((self.alive(), self.table.alive), (0, 0))

    def test_parked(self) -> None:
        """
        Beyond the limit, a connection waits although the worker has room.  It is
        offered when another one ends.
        """
        self.join("x", window=10)
        self.assertEqual(
            self.come("a1", "a2", "a3", "b1"), offers("x", a1=1, a2=2, b1=3)
        )
        self.assertEqual((self.ledger.waiting, self.alive()), (1, 2))
        self.ledger.claim("x", [1, 2, 3], self.now)
        self.assertEqual(self.ledger.close("x", [3], self.now)[1:], [])
        decisions = self.ledger.close("x", [1], self.now)
        self.assertEqual(decisions[1:], offers("x", a3=4))
        self.assertEqual((self.ledger.waiting, self.alive()), (0, 2))

    def test_parkedPatience(self) -> None:
        """
        It waits as long as its patience.
        """
        self.join("x", window=10)
        self.come("a1", "a2", "a3")
        self.ledger.claim("x", [1, 2], self.now)
        self.tick(2.0)
        decisions = self.tick(PATIENCE)
        self.assertEqual(decisions, givesUp(["a3"], Reason.TIMED_OUT))
        self.assertEqual((self.table.parked, self.alive()), (0, 2))
        self.ledger.close("x", [1, 2], self.now)
        self.assertEqual(self.alive(), 0)

    def test_parkedGone(self) -> None:
        """
        If its client leaves, it is given up.
        """
        self.join("x", window=10)
        self.come("a1", "a2", "a3")
        self.assertEqual(self.ledger.waitingConnections(), ["a3"])
        self.assertEqual(self.ledger.clientsLeft(["a3"]), givesUp(["a3"], Reason.GONE))
        self.assertEqual((self.table.parked, self.ledger.waiting), (0, 0))

    def test_releaseAll(self) -> None:
        """
        A listener that ends offers what it kept out.
        """
        self.join("x", window=10)
        self.come("a1", "a2", "a3")
        self.assertEqual(self.ledger.releaseAll(self.now), offers("x", a3=3))
        self.assertEqual(self.alive(), 3)

    def test_stop(self) -> None:
        """
        At the end, nothing is parked, and nothing counts that waited.
        """
        self.come("a1", "a2", "a3")
        self.assertEqual(
            self.ledger.stop(), givesUp(["a1", "a2", "a3"], Reason.STOPPED)
        )
        self.assertEqual((self.table.parked, self.table.alive), (0, 0))

    def test_died(self) -> None:
        """
        What a dead worker served does not count any more.  What it had not touched
        counts on.
        """
        self.join("x")
        self.come("a1", "a2")
        self.ledger.claim("x", [1, 2], self.now)
        self.ledger.closeTouched(["a1"])
        self.ledger.workerDied("x", [], self.now)
        self.assertEqual((self.alive(), self.ledger.waiting), (1, 1))

    def test_left(self) -> None:
        """
        Nobody reports what a worker keeps that has left: it counts, and is listed.
        """
        self.join("x")
        self.come("a1", "a2")
        self.ledger.claim("x", [1, 2], self.now)
        self.ledger.closeTouched(["a1"])
        self.ledger.workerLeft("x", self.now)
        self.assertEqual([each.connection for each in self.ledger.left], ["a1"])
        self.ledger.closeTouched(["a2"])
        self.assertEqual([each.connection for each in self.ledger.left], ["a1", "a2"])
        self.assertEqual(self.alive(), 2)

    def test_handedOver(self) -> None:
        """
        What the next listener has claimed counts there.
        """
        self.come("a1")
        self.ledger.addWorker("next", 5, self.now, [""], takesOver=True)
        self.ledger.claim("next", [1], self.now)
        self.assertEqual(self.alive(), 0)

    def test_queueFull(self) -> None:
        """
        One source takes at most half of the places, and others find some.
        """
        self.limits = Limits()
        self.ledger = self.open()
        many = [f"a{n}" for n in range(QUEUE)]
        decisions = self.come(*many)
        self.assertEqual(decisions, givesUp(many[QUEUE // 2 :], Reason.QUEUE_FULL))
        self.assertEqual(self.table.refusals, {"queue-full": QUEUE - QUEUE // 2})
        self.assertEqual(self.come("b1", "c1"), [])
        self.assertEqual(self.alive(), QUEUE // 2)
        self.assertCounted(accepted=QUEUE // 2 + 2)

    def test_queueFullParked(self) -> None:
        """
        What a limit keeps out takes no more than the places, so the worker's window is
        for those whom no limit keeps out.
        """
        self.limits = Limits(ratePerSource=Rate(0.001, 1))
        self.ledger = self.open()
        self.join("x", window=5)
        sources = [chr(ord("a") + n) for n in range(QUEUE + 10)]
        for id, each in enumerate(sources, 1):
            self.come(f"{each}1")
            self.ledger.claim("x", [id], self.now)
            self.ledger.close("x", [id], self.now)
        for each in sources:
            self.come(f"{each}2")
        self.assertEqual(self.ledger.waiting, QUEUE)
        self.assertEqual(self.table.refusals, {"queue-full": 10})
        self.assertEqual(self.ledger.capacity(""), 5)

    def test_queueFullOfAll(self) -> None:
        """
        If the limit of all keeps them out, they may wait: nobody else comes in either.
        """
        self.limits = Limits(most=1, maxPerSource=1)
        self.ledger = self.open()
        self.join("x", window=5)
        self.come("A1")
        for n in range(QUEUE):
            self.come(f"{chr(ord('a') + n)}1")
        self.come("Z1")
        self.assertEqual(self.table.refusals, {})
        self.assertEqual(self.ledger.waiting, QUEUE + 1)

    def test_queueNotFair(self) -> None:
        """
        If sources do not take turns, one source may have all places.
        """
        self.limits = Limits(most=1000, fair=False)
        self.table = SourceLimits(self.limits)
        self.ledger = super().open(tables=[self.table])
        self.assertEqual(self.come(*[f"a{n}" for n in range(QUEUE)]), [])
        self.assertEqual(self.ledger.waiting, QUEUE)

    def test_turns(self) -> None:
        """
        Sources take turns while they wait.
        """
        self.come("a1", "a2", "b1")
        self.assertEqual(self.join("x"), offers("x", a1=1, b1=2, a2=3))

    def test_token(self) -> None:
        """
        A connection waits for a token.
        """
        self.limits = Limits(ratePerSource=Rate(1.0, 1))
        self.ledger = self.open()
        self.join("x")
        self.assertEqual(self.come("a1", "a2", "a3"), offers("x", a1=1))
        self.assertEqual(self.tick(0.5), [])
        self.assertEqual(self.tick(0.5), offers("x", a2=2))
        self.assertEqual(self.tick(1.0), offers("x", a3=3))
