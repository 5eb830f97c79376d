"""
Tests for L{portlisten._policy.link}: when a worker joins again at once.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from portlisten._listener.retirement import ALL_IS_HANDED_OVER, LET_GO
from portlisten._listener.roster import UNDRAINED
from portlisten._policy.link import STOP_REASON, asksToJoinAgain


class JoinAgainTests(SynchronousTestCase):
    """
    Tests for L{asksToJoinAgain}.
    """

    def test_asks(self) -> None:
        """
        The reasons of a listener that is replaced, and of one that undrains a worker,
        ask for it.
        """
        for reason in (LET_GO, UNDRAINED, "join again"):
            self.assertIs(asksToJoinAgain(reason), True)

    def test_doesNot(self) -> None:
        """
        Other reasons do not, nor does a channel that was lost without any.
        """
        for reason in (None, "", "the listener stops", STOP_REASON, ALL_IS_HANDED_OVER):
            self.assertIs(asksToJoinAgain(reason), False)
        self.assertIs(asksToJoinAgain("join again later"), False)
