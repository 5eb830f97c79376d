"""
Tests for L{portlisten._policy.ledger}: how workers end, and clients that leave.
"""

from __future__ import annotations

from portlisten._policy.decisions import CloseCopy, GiveUp, Reason, Revoke
from tests.support.ledgers import (
    HOLD,
    TIMEOUT,
    UNCLAIMED,
    LedgerTestCase,
    givesUp,
    letsGo,
    offers,
)


class DeathTests(LedgerTestCase):
    """
    Tests for workers that die.
    """

    def setUp(self) -> None:
        """
        Have a worker that was offered six connections.
        """
        super().setUp()
        self.join("x", 6)
        self.accept("abcdef")

    def test_offered(self) -> None:
        """
        Offered connections go to another worker.
        """
        self.join("y")
        self.assertEqual(self.die("x"), offers("y", a=1, b=2, c=3, d=4, e=5, f=6))
        self.assertCounted(accepted=6, offered=12, redispatched=6)

    def test_untouched(self) -> None:
        """
        Claimed and untouched connections go to another worker, together with the
        others, the oldest first.
        """
        self.claim("x", 4, 2)
        self.join("y")
        self.assertEqual(self.die("x"), offers("y", a=1, b=2, c=3, d=4, e=5, f=6))
        self.assertEqual((self.ledger.copies(), self.ledger.unclaimed), ([], 6))
        self.assertCounted(accepted=6, offered=12, claimed=2, redispatched=6)

    def test_beforeWaiting(self) -> None:
        """
        It goes ahead of younger connections that wait, and behind older ones.
        """
        self.accept("g")
        self.refuse("x", 1, 3)
        self.assertEqual(self.ledger.waiting, 3)
        self.assertEqual(self.die("x"), [])
        self.assertEqual(self.join("y"), offers("y", a=1, b=2, c=3, d=4, e=5, f=6, g=7))

    def test_touched(self) -> None:
        """
        Claimed and touched connections end, and are counted.
        """
        self.claim("x", 1, 2, 3)
        self.join("y")
        self.assertEqual(
            self.die("x", touched="ac"),
            [
                *givesUp("ac", Reason.LOST_IN_SERVICE),
                *offers("y", b=1, d=2, e=3, f=4),
            ],
        )
        self.assertEqual(self.ledger.held, 4)
        self.assertCounted(
            accepted=6, offered=10, claimed=3, redispatched=4, lostInService=2
        )

    def test_inItsHands(self) -> None:
        """
        Connections in the worker's hands end with it, and are counted.  Connections
        that ended before are not.
        """
        self.claim("x", 1, 2, 3)
        self.ledger.closeTouched("ab")
        self.close("x", 1)
        self.assertEqual(self.die("x"), [])
        self.assertEqual((self.ledger.waiting, self.ledger.held), (4, 4))
        self.assertCounted(
            accepted=6,
            offered=6,
            claimed=3,
            redispatched=4,
            finished=1,
            lostInService=1,
        )

    def test_cannotCheck(self) -> None:
        """
        If the kernel cannot tell whether connections are untouched, claimed ones count
        as lost.
        """
        self.ledger = self.open()
        self.join("x")
        self.accept("ab", canCheck=False)
        self.claim("x", 1)
        self.join("y")
        self.assertEqual(self.die("x"), offers("y", b=1))
        self.assertEqual(self.claim("y", 1), letsGo("b"))
        self.assertEqual(self.ledger.counters.lostInService, 1)

    def test_others(self) -> None:
        """
        Nothing changes for the connections of other workers.
        """
        self.join("y", 1)
        self.accept("g")
        self.claim("y", 1)
        self.claim("x", 1)
        self.ledger.drain("y")
        self.die("x")
        self.assertEqual(self.ledger.copies(), ["g"])
        self.assertEqual(self.ledger.outstanding("y"), 1)

    def test_claimAgain(self) -> None:
        """
        The next worker may claim what the dead one had claimed, and it is held
        for as long as ever.
        """
        self.claim("x", 1)
        self.now += HOLD / 2
        self.die("x")
        self.join("y", 1)
        self.now += HOLD
        self.claim("y", 1)
        self.assertEqual(self.tick(HOLD / 2), [])
        self.assertEqual(self.tick(HOLD / 2), letsGo("a"))


class PartTests(LedgerTestCase):
    """
    Tests for workers that leave and go on serving.
    """

    def test_parted(self) -> None:
        """
        Its claimed connections are its own, and their copies are held as long as any.
        Its unclaimed offers go to another worker, the oldest first.  Nothing is lost.
        """
        self.join("x", 5)
        self.accept("abcde")
        self.claim("x", 4, 2, 1)
        self.ledger.closeTouched("a")
        self.join("y")
        self.assertEqual(self.part("x"), offers("y", c=1, e=2))
        self.assertEqual((self.ledger.copies(), self.ledger.held), (["d", "b"], 4))
        self.assertEqual(self.tick(1.0), letsGo("db"))
        self.assertEqual((self.ledger.copies(), self.ledger.held), ([], 2))
        self.assertCounted(
            accepted=5, offered=7, claimed=3, redispatched=2, leftWithWorker=3
        )

    def test_ends(self) -> None:
        """
        If its process ends, others get the claimed connections that it had not touched.
        """
        self.join("x", 5)
        self.accept("abc")
        self.claim("x", 1, 2)
        self.assertEqual(self.part("x"), [])
        self.join("y")
        self.assertEqual(self.ledger.copiesOf("x"), ["a", "b"])
        self.assertEqual(
            self.ledger.processEnded("x", ["b"], self.now),
            [GiveUp("b", Reason.LOST_IN_SERVICE), *offers("y", a=2)],
        )
        self.assertEqual(self.ledger.processEnded("x", [], self.now), [])
        self.assertCounted(
            accepted=3, offered=5, claimed=2, redispatched=2, lostInService=1
        )

    def test_asleep(self) -> None:
        """
        As long as it stands still, its copies are not timed.
        """
        self.join("x", 5)
        self.accept("ab")
        self.claim("x", 1, 2)
        self.ledger.workerLeft("x", self.now, asleep=True)
        self.assertEqual(self.tick(100.0), [])
        self.assertEqual((self.ledger.copies(), self.ledger.held), (["a", "b"], 2))
        self.assertEqual(self.ledger.closeTouched("a"), letsGo("a"))
        self.ledger.workerAwoke("x", self.now)
        self.ledger.workerAwoke("x", self.now + 5)
        self.assertEqual(self.tick(0.9), [])
        self.assertEqual(self.tick(0.1), letsGo("b"))
        self.assertEqual(self.ledger.held, 0)

    def test_manyAsleep(self) -> None:
        """
        No more of them are held than a quarter of the budget.
        """
        self.ledger = self.open(budget=40)
        self.join("x", 20)
        self.accept("abcdefghijklmnopqrst")
        self.claim("x", *range(1, 21))
        copies = self.ledger.copies()
        decisions = self.ledger.workerLeft("x", self.now, asleep=True)
        gone = [each.connection for each in decisions if isinstance(each, CloseCopy)]
        self.assertEqual(gone + self.ledger.copies(), copies)
        self.assertEqual(len(self.ledger.copies()), 10)

    def test_usersAsleep(self) -> None:
        """
        Each user has a share of the copies that are asleep.  The user with the most
        loses its oldest, so a user with few loses none.
        """
        self.ledger = self.open(budget=16)
        self.ledger.addWorker("x", 1, self.now, user=1000)
        self.accept("a")
        self.claim("x", 1)
        self.ledger.workerLeft("x", self.now, asleep=True)
        for channel, connections in (("y", "bcd"), ("z", "ef")):
            self.ledger.addWorker(channel, 4, self.now, user=1001)
            self.accept(connections)
            self.claim(channel, *range(1, len(connections) + 1))
            decisions = self.ledger.workerLeft(channel, self.now, asleep=True)
        self.assertEqual(decisions, letsGo("bc"))
        self.assertEqual(self.ledger.copies(), ["a", "d", "e", "f"])
        self.assertEqual(self.ledger.held, 4)


class DepartureTests(LedgerTestCase):
    """
    Tests for clients that leave while they wait.
    """

    def test_left(self) -> None:
        """
        They are given up, and their places are free; the others keep their order.
        """
        self.accept("abcd")
        self.assertEqual(self.ledger.waitingConnections(), list("abcd"))
        room = self.ledger.capacity()
        self.assertEqual(
            self.ledger.clientsLeft("ac"),
            [GiveUp("a", Reason.GONE), GiveUp("c", Reason.GONE)],
        )
        self.assertEqual(self.ledger.capacity(), room + 2)
        self.assertEqual(self.ledger.clientsLeft("ac"), [])
        self.assertEqual(self.join("x"), offers("x", b=1, d=2))
        self.assertCounted(accepted=4, offered=2, goneBeforeAdoption=2)

    def test_halfClosed(self) -> None:
        """
        The connections of clients that may have left take no place, and are offered all
        the same.  After a while they are given up.
        """
        self.accept("abcd")
        room = self.ledger.capacity()
        self.assertEqual(self.ledger.clientsHalfClosed("abc", self.now), [])
        self.assertEqual(self.ledger.clientsHalfClosed("abc", self.now), [])
        self.assertEqual((self.ledger.capacity(), self.ledger.waiting), (room + 3, 4))
        self.assertEqual(self.join("x", 1), offers("x", a=1))
        self.assertEqual(self.ledger.capacity(), room + 3)
        self.assertEqual(self.ledger.clientsHalfClosed("bc", self.now + 4.9), [])
        self.assertEqual(
            self.ledger.clientsHalfClosed("bc", self.now + 5),
            [GiveUp("b", Reason.GONE), GiveUp("c", Reason.GONE)],
        )
        self.assertEqual(self.ledger.capacity(), room + 3)
        self.refuse("x", 1)
        self.assertEqual(self.ledger.capacity(), room + 2)

    def test_crowded(self) -> None:
        """
        They are given up at once if most of the budget is in use.
        """
        self.ledger = self.open(budget=8)
        self.accept("abcde")
        self.assertEqual(self.ledger.clientsHalfClosed("a", self.now), [])
        self.accept("f")
        self.assertEqual(
            self.ledger.clientsHalfClosed("a", self.now), [GiveUp("a", Reason.GONE)]
        )


class RevocationTests(LedgerTestCase):
    """
    Tests for workers that hang.
    """

    def test_timeout(self) -> None:
        """
        A worker that leaves an offer unclaimed for too long is revoked, once.
        """
        self.join("x")
        self.accept("a")
        self.assertEqual(self.tick(TIMEOUT - 0.01), [])
        self.assertEqual(self.tick(0.01), [Revoke("x", UNCLAIMED)])
        self.assertEqual(self.tick(TIMEOUT), [])
        self.assertCounted(accepted=1, offered=1, revoked=1)

    def test_noMore(self) -> None:
        """
        A revoked worker is offered nothing more, not even at that moment.
        """
        self.join("x", 1)
        self.accept("ab")
        self.assertEqual(self.tick(TIMEOUT), [Revoke("x", UNCLAIMED)])
        self.assertEqual(self.ledger.workers, 0)
        self.assertEqual(self.claim("x", 1), [])
        self.assertEqual(self.ledger.waiting, 1)

    def test_thenParted(self) -> None:
        """
        The connections that it claimed before its end are its own.  Only then do the
        others go to another worker.
        """
        self.join("x")
        self.accept("abc")
        self.now += TIMEOUT
        self.join("y")
        self.assertEqual(self.tick(), [Revoke("x", UNCLAIMED)])
        self.assertEqual(self.claim("x", 2), [])
        self.assertEqual(self.part("x"), offers("y", a=1, c=2))
        self.assertEqual(self.ledger.copies(), ["b"])

    def test_oldest(self) -> None:
        """
        It is the oldest offer that counts, even if younger ones were claimed.
        """
        self.join("x")
        self.accept("a")
        self.now += TIMEOUT - HOLD / 2
        self.accept("b")
        self.claim("x", 2)
        self.assertEqual(self.tick(HOLD / 2), [Revoke("x", UNCLAIMED)])

    def test_claimedInTime(self) -> None:
        """
        Claiming the oldest gives the next one its own time.
        """
        self.join("x")
        self.accept("a")
        self.now += 1
        self.accept("b")
        self.claim("x", 1)
        self.assertEqual(self.tick(TIMEOUT - 1), letsGo("a"))
        self.assertEqual(self.tick(1), [Revoke("x", UNCLAIMED)])

    def test_sinceOffered(self) -> None:
        """
        Time that a connection waited, or was on offer to another, does not
        count.
        """
        self.accept("a")
        self.now += TIMEOUT
        self.join("x")
        self.now += TIMEOUT - 1
        self.join("y")
        self.assertEqual(self.die("x"), offers("y", a=1))
        self.assertEqual(self.tick(TIMEOUT - 0.01), [])
        self.assertEqual(self.tick(0.01), [Revoke("y", UNCLAIMED)])

    def test_draining(self) -> None:
        """
        A draining worker has to answer as well.
        """
        self.join("x")
        self.accept("a")
        self.ledger.drain("x")
        self.assertEqual(self.tick(TIMEOUT), [Revoke("x", UNCLAIMED)])

    def test_several(self) -> None:
        """
        Each worker that hangs is revoked, and no other.
        """
        for channel in ("x", "y", "z"):
            self.join(channel)
        self.accept("abc")
        self.claim("y", 1)
        self.assertEqual(
            self.tick(TIMEOUT),
            [CloseCopy("b"), Revoke("x", UNCLAIMED), Revoke("z", UNCLAIMED)],
        )
        self.assertEqual(self.ledger.workers, 1)

    def test_idle(self) -> None:
        """
        A worker that was offered nothing does not hang.
        """
        self.join("x")
        self.assertEqual(self.tick(TIMEOUT * 2), [])
