"""
Tests for L{portlisten._policy.ledger} with the next listener, and with connections that
waited at the listener before.
"""

from __future__ import annotations

from portlisten._policy.decisions import Decision, Reason
from tests.support.ledgers import (
    HOLD,
    PATIENCE,
    PORT,
    LedgerTestCase,
    givesUp,
    letsGo,
    offers,
)


class SuccessorTests(LedgerTestCase):
    """
    The next listener joins as a worker.
    """

    def succeed(self, *names: str) -> list[Decision]:
        """
        Let the next listener join.
        """
        return self.ledger.addWorker(
            "next", 8, self.now, names or ("",), takesOver=True
        )

    def test_claim(self) -> None:
        """
        What the next listener claims is its own at once, and the copy is closed.
        """
        self.accept("ab")
        self.assertEqual(self.succeed(), offers("next", a=1, b=2))
        self.assertEqual(self.claim("next", 1), letsGo("a"))
        self.assertEqual(self.ledger.held, 1)
        self.assertEqual(self.ledger.copiesOf("next"), [])
        self.assertCounted(accepted=2, offered=2, claimed=1, handedOver=1)

    def test_more(self) -> None:
        """
        Each claim makes room for the next offer.
        """
        self.ledger.addWorker("next", 1, self.now, takesOver=True)
        self.assertEqual(self.accept("ab"), offers("next", a=1))
        self.assertEqual(self.claim("next", 1), letsGo("a") + offers("next", b=2))

    def test_dies(self) -> None:
        """
        If it dies, only what it had not claimed waits again.
        """
        self.accept("abc")
        self.succeed()
        self.claim("next", 2)
        self.assertEqual(self.die("next"), [])
        self.assertEqual(self.ledger.waiting, 2)
        self.assertEqual(self.join("x"), offers("x", a=1, c=2))
        self.assertCounted(
            accepted=3, offered=5, claimed=1, redispatched=2, handedOver=1
        )

    def test_leaves(self) -> None:
        """
        When it has left, nothing is held for it.
        """
        self.accept("a")
        self.succeed()
        self.claim("next", 1)
        self.assertEqual(self.part("next"), [])
        self.assertEqual(self.tick(HOLD), [])
        self.assertIs(self.ledger.knows("next"), False)
        self.assertCounted(accepted=1, offered=1, claimed=1, handedOver=1)

    def test_claimTimes(self) -> None:
        """
        What is handed over does not count as claimed by a worker in the times: the next
        listener's worker claims it.
        """
        self.accept("a")
        self.succeed()
        self.claim("next", 1)
        self.assertEqual(sum(self.ledger.tallies.by[""].claimTimes), 0)

    def test_names(self) -> None:
        """
        It gets only what it has a port for.
        """
        self.ledger = self.open(names=["web", "mail"])
        self.accept("a", name="web")
        self.accept("b", name="mail")
        self.assertEqual(self.succeed("web"), offers("next", a=1))
        self.assertEqual(self.ledger.waitingFor("web"), 0)
        self.assertEqual(self.ledger.waitingFor("mail"), 1)
        self.assertEqual(self.ledger.waitingFor("other"), 0)
        self.assertEqual(set(self.ledger.names), {"web", "mail"})


class WaitedTests(LedgerTestCase):
    """
    Connections that waited at the listener before.
    """

    def inherit(self, connections: str, waited: float) -> list[Decision]:
        """
        Let connections come from the listener before.
        """
        return self.ledger.addConnections(PORT, connections, self.now, waited=waited)

    def test_patience(self) -> None:
        """
        A connection that has waited elsewhere has only the rest of its patience.
        """
        self.inherit("a", PATIENCE - 2)
        self.accept("b")
        self.assertEqual(self.tick(1), [])
        self.assertEqual(self.tick(1), givesUp("a", Reason.TIMED_OUT))
        self.assertEqual(self.ledger.waiting, 1)

    def test_over(self) -> None:
        """
        If its patience is over when it comes, it is given up at the next look, unless a
        worker takes it at once.
        """
        self.inherit("a", PATIENCE + 1)
        self.assertEqual(self.tick(), givesUp("a", Reason.TIMED_OUT))
        self.join("x")
        self.assertEqual(self.inherit("b", PATIENCE + 1), offers("x", b=1))

    def test_order(self) -> None:
        """
        Connections go in the order in which they were accepted, wherever that was.
        """
        self.accept("a")
        self.inherit("b", 5)
        self.inherit("cd", 10)
        self.assertEqual(self.join("x"), offers("x", c=1, d=2, b=3, a=4))

    def test_waited(self) -> None:
        """
        How long an offered connection has waited goes from one listener to the next.
        """
        self.join("x")
        self.inherit("a", 1.5)
        self.accept("b")
        self.now += 2
        self.assertEqual(self.ledger.waited("x", 1, self.now), 3.5)
        self.assertEqual(self.ledger.waited("x", 2, self.now), 2.0)
        self.assertEqual(self.ledger.waited("x", 2, self.now - 9), 0.0)

    def test_oldest(self) -> None:
        """
        The time that it has waited shows in the queue.
        """
        self.accept("a")
        self.inherit("b", 7)
        self.assertEqual(self.ledger.queues(self.now)[""].oldest, 7)


class ServingTests(LedgerTestCase):
    """
    Workers say how many connections they have from another listener.
    """

    def test_least(self) -> None:
        """
        The worker with the fewest connections in all gets the next one.
        """
        self.join("x")
        self.join("y")
        self.assertEqual(self.ledger.serving("x", 2, self.now), [])
        self.assertEqual(self.accept("ab"), offers("y", a=1, b=2))
        self.assertEqual(self.accept("c"), offers("x", c=1))

    def test_limit(self) -> None:
        """
        They count for the worker's limit, and when some have ended, there is room.
        """
        self.join("x", limit=2)
        self.ledger.serving("x", 2, self.now)
        self.assertEqual(self.accept("ab"), [])
        self.assertEqual(self.ledger.serving("x", 1, self.now), offers("x", a=1))
        self.assertEqual(self.ledger.outstanding("x"), 1)

    def test_aboveLimit(self) -> None:
        """
        A worker may have more than its limit, and just gets no more.
        """
        self.join("x", limit=2)
        self.ledger.serving("x", 9, self.now)
        self.assertEqual(self.accept("a"), [])
        self.assertEqual(self.ledger.serving("x", 0, self.now), offers("x", a=1))

    def test_roundRobin(self) -> None:
        """
        With round robin, they do not matter.
        """
        self.ledger = self.open(roundRobin=True)
        self.join("x")
        self.join("y")
        self.ledger.serving("x", 5, self.now)
        self.assertEqual(self.accept("ab"), [*offers("x", a=1), *offers("y", b=1)])

    def test_stranger(self) -> None:
        """
        A worker that has not joined yet changes nothing.
        """
        self.assertEqual(self.ledger.serving("x", 3, self.now), [])
        self.assertIs(self.ledger.knows("x"), False)
        self.join("x")
        self.assertIs(self.ledger.knows("x"), True)
