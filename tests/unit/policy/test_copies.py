"""
Tests for L{portlisten._policy.copies}.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from portlisten._policy.copies import Copies
from portlisten._policy.entries import Entry, Worker
from portlisten._policy.tallies import Tally

HOLD = 1.0


class CopiesTests(SynchronousTestCase):
    """
    Tests for L{Copies}, of which four may be asleep.  Connections are letters.
    """

    def setUp(self) -> None:
        self.copies = Copies(HOLD, 4)

    def claim(self, connections: str, user: int = 1000, now: float = 0.0) -> Worker:
        """
        Make a new worker claim connections.
        """
        worker = Worker("x", 8, 8, frozenset(), user)
        for id, each in enumerate(connections, 1):
            entry = Entry(id, 1, "web", each, True, now, Tally())
            entry.worker, entry.id = worker, id
            worker.copies[id] = entry
            self.copies.add(entry, now)
        return worker

    def held(self) -> str:
        """
        The connections whose copies are held, in their order.
        """
        self.assertEqual(len(self.copies), len(list(self.copies)))
        return "".join(entry.connection for entry in self.copies)

    def test_hold(self) -> None:
        """
        The oldest copy is overdue when its time is over.
        """
        self.assertIsNone(self.copies.overdue(100.0))
        self.claim("a", now=1.0)
        self.claim("b", now=1.5)
        self.assertIsNone(self.copies.overdue(HOLD + 0.9))
        overdue = self.copies.overdue(HOLD + 1.0)
        assert overdue is not None
        self.assertEqual(overdue.connection, "a")

    def test_discard(self) -> None:
        """
        A copy that is discarded is held no more, whether it is asleep or not.
        """
        awake, asleep = self.claim("ab"), self.claim("cd")
        self.copies.sleep(asleep)
        self.copies.discard(awake.copies[1])
        self.copies.discard(asleep.copies[2])
        self.assertEqual(self.held(), "bc")
        self.copies.discard(asleep.copies[1])
        self.assertEqual(self.held(), "b")

    def test_sleep(self) -> None:
        """
        While copies are asleep, their time does not run; it begins when they wake.
        """
        worker = self.claim("ab")
        self.claim("c")
        self.copies.sleep(worker)
        self.assertTrue(worker.asleep)
        self.assertEqual(self.held(), "cab")
        self.copies.wake(worker, 50.0)
        self.assertFalse(worker.asleep)
        self.assertEqual(self.held(), "cab")
        self.copies.clear()
        self.assertEqual(self.held(), "")

    def test_woken(self) -> None:
        """
        Copies that woke are held for as long as others.
        """
        worker = self.claim("a")
        self.copies.sleep(worker)
        self.assertIsNone(self.copies.overdue(100.0))
        self.copies.wake(worker, 100.0)
        self.assertIsNone(self.copies.overdue(100.9))
        self.assertIs(self.copies.overdue(101.0), worker.copies[1])

    def test_tooMany(self) -> None:
        """
        If too many are asleep, the oldest must not be.
        """
        worker = self.claim("abcde")
        self.assertIsNone(self.copies.tooManyAsleep())
        self.copies.sleep(worker)
        self.assertIs(self.copies.tooManyAsleep(), worker.copies[1])
        self.copies.discard(worker.copies[1])
        self.assertIsNone(self.copies.tooManyAsleep())

    def test_users(self) -> None:
        """
        It is the user with the most copies asleep that loses its oldest.
        """
        for connections, user in (("ab", 1000), ("cde", 1001)):
            worker = self.claim(connections, user)
            self.copies.sleep(worker)
        self.assertIs(self.copies.tooManyAsleep(), worker.copies[1])
