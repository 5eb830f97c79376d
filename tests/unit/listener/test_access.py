"""
Tests for L{portlisten._listener.access}.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from portlisten._kernel import Credentials
from portlisten._listener.access import Access
from portlisten._wire.frames import MAXIMUM_REASON


class AccessTests(SynchronousTestCase):
    """
    Tests for L{Access}.
    """

    def permits(
        self, access: Access, uid: int = 7, gid: int = 8, groups: tuple[int, ...] = ()
    ) -> bool:
        """
        Ask whether a process is permitted.
        """
        return access.permits(Credentials(1, uid, gid, groups))

    def test_everybody(self) -> None:
        """
        An empty list permits every user.
        """
        self.assertTrue(self.permits(Access()))

    def test_user(self) -> None:
        """
        A list of users lets in these.
        """
        self.assertTrue(self.permits(Access(users=[7])))
        self.assertFalse(self.permits(Access(users=[8])))

    def test_group(self) -> None:
        """
        A list of groups lets in their members, by their first group or another.
        """
        self.assertTrue(self.permits(Access(groups=[8])))
        self.assertTrue(self.permits(Access(groups=[9]), groups=(10, 9)))
        self.assertFalse(self.permits(Access(groups=[9]), groups=(10,)))

    def test_either(self) -> None:
        """
        With both lists, one of them is enough.
        """
        access = Access(users=[7], groups=[9])
        self.assertTrue(self.permits(access))
        self.assertTrue(self.permits(access, uid=1, groups=(9,)))
        self.assertFalse(self.permits(access, uid=1))

    def test_explain(self) -> None:
        """
        A refused process is told which options decide and, if its groups are not known,
        that they are not known.
        """
        reason = "uid 3 may not be a worker here: the listener's --allow-user"
        for groups, known, told in (([], False, False), ([9], True, False)):
            self.assertTold(groups, known, told, reason)
        self.assertTold([9], False, True, reason)

    def assertTold(
        self, groups: list[int], known: bool, told: bool, reason: str
    ) -> None:
        """
        Compare.
        """
        who = Credentials(1, 3, 4, (), known)
        text = Access([7], groups).explain(who)
        self.assertTrue(text.startswith(reason))
        self.assertEqual("only its first one counts, gid 4" in text, told)
        self.assertLess(len(text), MAXIMUM_REASON)
