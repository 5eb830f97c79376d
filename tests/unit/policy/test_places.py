"""
Tests for L{portlisten._policy.places}.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from portlisten._policy.places import Places


def takeAll(places: Places, user: int) -> int:
    """
    Let a user take as many places as possible.
    """
    count = 0
    while places.take(user):
        count += 1
    return count


class PlacesTests(SynchronousTestCase):
    """
    Tests for L{Places}.
    """

    def test_nobodyTakesAll(self) -> None:
        """
        A user may take three quarters of the places, and no more.
        """
        self.assertEqual(takeAll(Places(100), 1), 75)

    def test_lastQuarter(self) -> None:
        """
        In the last quarter each user has to leave as many places free as they have.
        """
        places = Places(100)
        takeAll(places, 1)
        self.assertEqual(takeAll(places, 2), 13)
        self.assertEqual(takeAll(places, 3), 6)
        self.assertEqual(takeAll(places, 4), 3)
        self.assertFalse(places.take(1))

    def test_newcomer(self) -> None:
        """
        As long as a place is free, a user that has none gets one.
        """
        places = Places(10)
        takeAll(places, 1)
        for user in (2, 3):
            self.assertTrue(places.take(user))
        self.assertFalse(places.take(4))

    def test_together(self) -> None:
        """
        Users with few places each get all places together.
        """
        places = Places(20)
        self.assertTrue(all(places.take(user) for user in range(20)))
        self.assertFalse(places.take(20))

    def test_onePlace(self) -> None:
        """
        If only one place exists, any user may take it.
        """
        places = Places(1)
        self.assertTrue(places.take(1))
        self.assertFalse(places.take(2))

    def test_few(self) -> None:
        """
        Of a few places, one is kept for another user.
        """
        for total in (2, 3, 4, 7):
            places = Places(total)
            self.assertEqual(takeAll(places, 1), total - 1)
            self.assertTrue(places.take(2))

    def test_free(self) -> None:
        """
        A place that was given back can be taken again, and leaves no trace.
        """
        places = Places(8)
        takeAll(places, 1)
        places.free(1)
        self.assertTrue(places.take(1))
        for _ in range(6):
            places.free(1)
        self.assertIn("0 of 8 places", places.describe(1))
        self.assertEqual(takeAll(places, 2), 6)

    def test_describe(self) -> None:
        """
        For people it says how many places are taken, and how many by whom.
        """
        places = Places(8)
        for user in (1, 1, 2):
            places.take(user)
        self.assertEqual(
            places.describe(1),
            "3 of 8 places for workers are taken, 2 of them by uid 1",
        )
        self.assertIn("0 of them by uid 3", places.describe(3))
