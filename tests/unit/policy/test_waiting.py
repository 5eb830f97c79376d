"""
Tests for L{portlisten._policy.waiting}.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from portlisten._policy.entries import Entry
from portlisten._policy.tallies import Tally
from portlisten._policy.waiting import WaitingQueue

PLACES = 4
PATIENCE = 60.0
SILENCE = 5.0


class WaitingQueueTests(SynchronousTestCase):
    """
    Tests for L{WaitingQueue}.  Connections are letters.
    """

    def setUp(self) -> None:
        self.queue = WaitingQueue("web", PLACES, PATIENCE, SILENCE)

    def add(self, connections: str, now: float = 0.0) -> None:
        """
        Let connections wait, which arrived in the order of the alphabet.
        """
        for each in connections:
            self.queue.add(Entry(ord(each), 1, "web", each, True, now, Tally()))

    def test_order(self) -> None:
        """
        Connections leave in the order of their arrival, whenever they were added.
        """
        self.add("cadb")
        self.assertEqual([self.queue.pop().connection for _ in range(4)], [*"abcd"])
        self.assertEqual(self.queue.heap, [])

    def test_free(self) -> None:
        """
        Each takes a place; if more wait than have one, the number is negative.
        """
        self.assertEqual(self.queue.free, PLACES)
        self.add("abcde")
        self.assertEqual(self.queue.free, -1)

    def test_placeless(self) -> None:
        """
        A connection takes no place if its client has ended its side, which counts for
        half of the places at the most.
        """
        self.add("abcd")
        for number, each in enumerate("abc"):
            self.queue.clientsHalfClosed([each], 0.0, False)
            self.assertEqual(self.queue.free, min(number + 1, PLACES // 2))

    def test_placeAgain(self) -> None:
        """
        However such a connection leaves, the others have the places that they had.
        """
        self.add("abcd")
        self.queue.clientsHalfClosed("ab", 0.0, False)
        self.assertEqual(self.queue.pop().connection, "a")
        self.assertEqual(self.queue.free, 2)
        [removed] = self.queue.remove("bz")
        self.assertEqual(removed.connection, "b")
        self.assertEqual(self.queue.free, 2)

    def test_addedAgain(self) -> None:
        """
        A connection that comes back has a place again.
        """
        self.add("a")
        self.queue.clientsHalfClosed("a", 0.0, False)
        self.queue.add(self.queue.pop())
        self.assertEqual(self.queue.free, PLACES - 1)

    def test_overdue(self) -> None:
        """
        The patience of the oldest is over a time after it was accepted.
        """
        self.assertFalse(self.queue.overdue(1000.0))
        self.add("a", 1.0)
        self.assertFalse(self.queue.overdue(PATIENCE + 0.9))
        self.assertTrue(self.queue.overdue(PATIENCE + 1.0))

    def test_halfClosed(self) -> None:
        """
        A connection whose client has ended its side is due after a while, counted from
        when that was first seen.
        """
        self.add("ab")
        self.assertEqual(self.queue.clientsHalfClosed("a", 1.0, False), [])
        self.assertEqual(self.queue.clientsHalfClosed("az", SILENCE + 0.9, False), [])
        self.assertEqual(self.queue.clientsHalfClosed("a", SILENCE + 1.0, False), ["a"])

    def test_tooMany(self) -> None:
        """
        If such connections are more than half of the places, the oldest are due.
        """
        self.add("abcd")
        self.assertEqual(self.queue.clientsHalfClosed("dca", 0.0, False), ["a"])

    def test_crowded(self) -> None:
        """
        If descriptors are scarce, all such connections are due.
        """
        self.add("ab")
        self.assertEqual(self.queue.clientsHalfClosed("ab", 0.0, True), ["a", "b"])
