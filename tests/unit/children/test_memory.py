"""
Tests for L{portlisten._children.memory}.
"""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from portlisten._children.memory import FRESH_SECONDS, Memory


class MemoryTests(SynchronousTestCase):
    """
    How often the host is looked at.
    """

    def test_once(self) -> None:
        """
        One look is enough for all sessions, until it is old or a session is new.
        """
        clock = Clock()
        looks = 0
        sizes = {7: 100, 8: 200}

        def read() -> dict[int, int]:
            nonlocal looks
            looks += 1
            return dict(sizes)

        memory = Memory(read, clock.seconds)
        self.assertEqual([memory.of(each) for each in (7, 8, 7)], [100, 200, 100])
        self.assertEqual(looks, 1)
        sizes.update({7: 101, 9: 300})
        clock.advance(FRESH_SECONDS / 2)
        self.assertEqual((memory.of(7), looks), (100, 1))
        self.assertEqual((memory.of(9), memory.of(7), looks), (300, 101, 2))
        sizes[7] = 102
        clock.advance(FRESH_SECONDS)
        self.assertEqual((memory.of(7), looks), (102, 3))
        self.assertEqual(memory.of(10), 0)
