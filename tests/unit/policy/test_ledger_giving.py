"""
Tests for L{portlisten._policy.ledger} with workers that give their connections to other
processes.
"""

from __future__ import annotations

from portlisten._policy.decisions import CloseCopy
from portlisten.errors import ProtocolError
from tests.support.ledgers import HOLD, LedgerTestCase, letsGo, offers


class GivingTests(LedgerTestCase):
    """
    Tests for L{Ledger.give}.
    """

    def setUp(self) -> None:
        super().setUp()
        self.join("x", gives=True)

    def give(self, *ids: int) -> list[object]:
        """
        Let the worker say that others may touch connections.
        """
        return [*self.ledger.give("x", ids)]

    def test_death(self) -> None:
        """
        If the worker dies, others get what it has not given, even if the kernel says
        that all of it is untouched.  What was given is not lost.
        """
        self.accept("abc")
        self.claim("x", 1, 2, 3)
        self.assertEqual(self.give(2), letsGo("b"))
        self.die("x")
        self.assertEqual(self.join("y"), offers("y", a=1, c=2))
        self.assertCounted(accepted=3, offered=5, claimed=3, redispatched=2, given=1)

    def test_held(self) -> None:
        """
        The time of its copies is not counted.
        """
        self.accept("ab")
        self.claim("x", 1, 2)
        self.give(1)
        self.assertEqual(self.tick(100 * HOLD), [])
        self.assertEqual(self.ledger.copies(), ["b"])
        self.assertEqual(self.ledger.closeTouched("b"), letsGo("b"))
        self.assertEqual(self.give(2), [])

    def test_closed(self) -> None:
        """
        A given connection ends like any other, and so frees a place.
        """
        self.join("z", limit=1, gives=True)
        self.ledger.drain("x")
        self.accept("ab")
        self.claim("z", 1)
        self.assertEqual(self.ledger.give("z", [1]), letsGo("a"))
        self.assertEqual(self.close("z", 1), offers("z", b=2))
        self.claim("z", 2)
        self.die("z")
        self.assertEqual(self.join("y"), offers("y", b=1))

    def test_left(self) -> None:
        """
        If the worker leaves and lives, the time of its copies is counted from then on.
        """
        self.accept("ab")
        self.claim("x", 1, 2)
        self.give(1)
        self.tick(100 * HOLD)
        self.part("x")
        self.assertEqual(self.tick(HOLD / 2), [])
        self.assertEqual(self.tick(HOLD / 2), letsGo("b"))
        self.assertEqual(self.ledger.held, 0)

    def test_processEnded(self) -> None:
        """
        If its process ends before that, others get them.
        """
        self.accept("ab")
        self.claim("x", 1, 2)
        self.give(1)
        self.part("x")
        self.ledger.processEnded("x", (), self.now)
        self.assertEqual(self.join("y"), offers("y", b=1))

    def test_asleep(self) -> None:
        """
        A worker that leaves without reading the last frame has its copies held until it
        reads the frame, and for their time after that.
        """
        self.accept("a")
        self.claim("x", 1)
        self.ledger.workerLeft("x", self.now, asleep=True)
        self.assertEqual(self.tick(100 * HOLD), [])
        self.ledger.workerAwoke("x", self.now)
        self.assertEqual(self.tick(HOLD), letsGo("a"))

    def test_number(self) -> None:
        """
        A quarter of the budget is the most that such workers hold in copies.
        """
        self.ledger = self.open(budget=16)
        for channel in "xyz":
            self.join(channel, 4, gives=True)
        closed = []
        for channel, connections in (("x", "abc"), ("y", "def"), ("z", "gh")):
            for other in "xyz":
                self.ledger.block(other, other != channel)
            self.accept(connections)
            ids = range(1, len(connections) + 1)
            closed += self.claim(channel, *ids)
        gone = [each.connection for each in closed if isinstance(each, CloseCopy)]
        self.assertEqual(len(self.ledger.copies()), 4)
        self.assertEqual(sorted(gone + self.ledger.copies()), list("abcdefgh"))

    def test_foreign(self) -> None:
        """
        A worker cannot give what it does not serve, and what it serves stays as it is.
        """
        self.accept("ab")
        self.claim("x", 1)
        for ids in ((2,), (1, 2), (7,), (1, 1)):
            error = self.assertRaises(ProtocolError, self.ledger.give, "x", ids)
            self.assertEqual(str(error), "GIVEN of a connection that it does not serve")
        self.assertEqual(self.ledger.copies(), ["a"])

    def test_twice(self) -> None:
        """
        To say it again changes nothing.
        """
        self.accept("ab")
        self.claim("x", 1, 2)
        self.assertEqual(self.give(1), letsGo("a"))
        self.assertEqual(self.give(1), [])
        self.die("x")
        self.assertCounted(accepted=2, offered=2, claimed=2, redispatched=1, given=1)
