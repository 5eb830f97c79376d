"""
Tests for L{portlisten._kernel.spare}.
"""

from __future__ import annotations

import errno
import gc
import os

from twisted.trial.unittest import SynchronousTestCase

from portlisten._kernel import SpareDescriptor, descriptorsShort
from tests.support.descriptors import descriptors, watchDescriptors
from tests.support.workers import exhausted


class SpareDescriptorTests(SynchronousTestCase):
    """
    Tests for L{SpareDescriptor}.
    """

    def setUp(self) -> None:
        watchDescriptors(self)
        self.spare = SpareDescriptor()
        self.addCleanup(self.spare.release)

    def duplicate(self) -> None:
        """
        Take a descriptor for a moment.
        """
        os.close(os.dup(0))

    def test_reserve(self) -> None:
        """
        It keeps one descriptor, however often it is asked to, and closes it once.
        """
        before = len(descriptors())
        self.assertEqual(len(descriptors()), before)
        self.assertTrue(self.spare.reserve())
        self.assertTrue(self.spare.reserve())
        self.assertEqual(len(descriptors()), before + 1)
        self.spare.release()
        self.spare.release()
        self.assertEqual(len(descriptors()), before)

    def test_notInherited(self) -> None:
        """
        Another program does not get the descriptor.
        """
        before = descriptors()
        self.spare.reserve()
        [kept] = set(descriptors()) - set(before)
        self.assertFalse(os.get_inheritable(kept))

    def test_noRoom(self) -> None:
        """
        It says so if it can keep none.
        """
        with exhausted():
            self.assertFalse(self.spare.reserve())
        self.assertTrue(self.spare.reserve())

    def test_use(self) -> None:
        """
        A call that needs a descriptor succeeds when no other is free.
        """
        self.spare.reserve()
        with exhausted():
            self.assertRaises(OSError, self.duplicate)
            self.spare.use(self.duplicate)

    def test_notNeeded(self) -> None:
        """
        A call that succeeds at once leaves the kept descriptor, and its result is
        returned.
        """
        self.spare.reserve()
        before = descriptors()
        self.assertEqual(self.spare.use(lambda: 42), 42)
        self.assertEqual(descriptors(), before)

    def test_fails(self) -> None:
        """
        A call that fails is made twice, and then fails.
        """
        calls: list[int] = []

        def fail() -> None:
            calls.append(1)
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

        error = self.assertRaises(OSError, self.spare.use, fail)
        self.assertEqual((error.errno, len(calls)), (errno.ENOMEM, 2))


class ShortTests(SynchronousTestCase):
    """
    Tests for L{descriptorsShort}.
    """

    def test_limit(self) -> None:
        """
        Descriptors are short if no number below the limit is free.
        """
        gc.collect()
        before = descriptors()
        one, other = os.pipe()
        os.close(one)
        os.close(other)
        free = min(one, other)
        self.assertFalse(descriptorsShort(free + 1))
        self.assertTrue(descriptorsShort(free))
        self.assertEqual(descriptors(), before)

    def test_none(self) -> None:
        """
        They are short if none is free.
        """
        with exhausted():
            self.assertTrue(descriptorsShort(1 << 20))
