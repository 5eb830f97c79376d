"""
Tests for L{portlisten._policy.complaints}.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from portlisten._policy.complaints import Complaint


class ComplaintTests(SynchronousTestCase):
    """
    Tests for L{Complaint}.
    """

    def setUp(self) -> None:
        self.complaint = Complaint()

    def test_once(self) -> None:
        """
        A reason is said once, however often it is given.
        """
        said = [self.complaint.isNew("no room") for _ in range(3)]
        self.assertEqual(said, [True, False, False])

    def test_changed(self) -> None:
        """
        Another reason is said, and the first one again after it.
        """
        said = [self.complaint.isNew(each) for each in ("a", "b", "b", "a")]
        self.assertEqual(said, [True, True, False, True])

    def test_success(self) -> None:
        """
        A success ends a complaint once, and the reason is said again after it.
        """
        self.assertFalse(self.complaint.clear())
        self.complaint.isNew("no room")
        self.assertTrue(self.complaint.clear())
        self.assertFalse(self.complaint.clear())
        self.assertTrue(self.complaint.isNew("no room"))
