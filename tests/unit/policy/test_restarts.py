"""
Tests for L{portlisten._policy.restarts}.
"""

from twisted.trial.unittest import SynchronousTestCase

from portlisten._policy.restarts import Restarts


class RestartsTests(SynchronousTestCase):
    """
    Tests for L{Restarts}.
    """

    def test_pauses(self) -> None:
        """
        The pauses grow up to a limit, and after too many failures the process is given
        up.
        """
        restarts = Restarts(10)
        pauses = [restarts.ended(0, clean=False) for _ in range(10)]
        self.assertEqual(
            pauses, [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, None]
        )
        self.assertEqual(restarts.failures, 10)

    def test_never(self) -> None:
        """
        With 0, a process is never given up.
        """
        restarts = Restarts(0)
        pauses = [restarts.ended(0, clean=False) for _ in range(2000)]
        self.assertEqual(pauses[-1], 30.0)

    def test_forgiven(self) -> None:
        """
        If the process was ready for long, its failures are forgiven, and otherwise they
        are not.
        """
        restarts = Restarts(3)
        restarts.ended(0, clean=False)
        self.assertEqual(restarts.ended(59.9, clean=False), 0.5)
        self.assertEqual(restarts.ended(60.0, clean=False), 0.25)
        self.assertEqual(restarts.failures, 1)
        restarts.forgive()
        self.assertEqual(restarts.failures, 0)

    def test_clean(self) -> None:
        """
        A server that was ready may end with 0 as often as it likes.  One that was not
        ready has failed.
        """
        restarts = Restarts(2)
        for _ in range(5):
            self.assertEqual(restarts.ended(1.0, clean=True), 0.1)
        self.assertEqual(restarts.failures, 0)
        self.assertEqual(restarts.ended(0, clean=True), 0.25)
        self.assertIsNone(restarts.ended(0, clean=True))
