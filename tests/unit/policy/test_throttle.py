"""
Tests for L{portlisten._policy.throttle}.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from portlisten._policy.throttle import Throttle

USER = 1000


class ThrottleTests(SynchronousTestCase):
    """
    Tests for L{Throttle}.
    """

    def setUp(self) -> None:
        self.throttle = Throttle(free=3, first=0.5, longest=4.0)

    def die(self, times: int, user: int = USER) -> None:
        """
        Have workers die.
        """
        for _ in range(times):
            self.throttle.failed(user)

    def test_free(self) -> None:
        """
        A few deaths cost nothing.
        """
        self.assertEqual(self.throttle.delay(USER), 0.0)
        self.die(2)
        self.assertEqual(self.throttle.delay(USER), 0.0)

    def test_doubles(self) -> None:
        """
        Each one after that costs twice as much, up to the limit, however many.
        """
        delays = []
        self.die(2)
        for _ in range(5):
            self.die(1)
            delays.append(self.throttle.delay(USER))
        self.assertEqual(delays, [0.5, 1.0, 2.0, 4.0, 4.0])
        self.die(3000)
        self.assertEqual(self.throttle.delay(USER), 4.0)

    def test_users(self) -> None:
        """
        The deaths of one user do not count for another.
        """
        self.die(5)
        self.assertEqual(self.throttle.delay(USER + 1), 0.0)

    def test_forgiven(self) -> None:
        """
        Who finished a connection clears the name of those before it, and of no
        others.
        """
        self.die(5)
        began = self.throttle.deaths(USER)
        self.die(3)
        self.throttle.succeeded(USER, began)
        self.assertEqual(self.throttle.delay(USER), 0.5)

    def test_forgivenOnce(self) -> None:
        """
        An older worker takes back nothing that a younger one cleared.
        """
        older = self.throttle.deaths(USER)
        self.die(5)
        self.throttle.succeeded(USER, self.throttle.deaths(USER))
        self.throttle.succeeded(USER, older)
        self.assertEqual(self.throttle.delay(USER), 0.0)

    def test_off(self) -> None:
        """
        If the longest wait is 0, no worker waits.
        """
        self.throttle = Throttle(free=1, longest=0)
        self.die(9)
        self.assertEqual(self.throttle.delay(USER), 0.0)
