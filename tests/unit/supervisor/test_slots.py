"""
Tests for L{portlisten._supervisor.slots}.
"""

from twisted.trial.unittest import SynchronousTestCase

from portlisten._supervisor.slots import freeSlot, labelOf


class SlotsTests(SynchronousTestCase):
    """
    Tests for slots.
    """

    def test_free(self) -> None:
        """
        The lowest free slot is found.
        """
        for used, expected in (([], 1), ([1, 2], 3), ([1, 3], 2), ([2, 3], 1)):
            self.assertEqual(freeSlot(used), expected)

    def test_label(self) -> None:
        """
        A label has the group and the slot.
        """
        self.assertEqual(labelOf("web", 3), "web-3")
