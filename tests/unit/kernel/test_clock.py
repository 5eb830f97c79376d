"""
Tests for L{portlisten._kernel.clock}.
"""

from __future__ import annotations

import errno
import os
import resource
import select
import time

from twisted.trial.unittest import SynchronousTestCase

from portlisten._kernel import clock
from tests.support.descriptors import watchDescriptors


class TimerTests(SynchronousTestCase):
    """
    Tests for L{clock.timer} and L{clock.setTimer}.
    """

    def setUp(self) -> None:
        """
        Make a timer.
        """
        watchDescriptors(self)
        self.timer = clock.timer()
        self.addCleanup(os.close, self.timer)

    def readable(self, seconds: float) -> bool:
        """
        Whether it becomes readable within a time.
        """
        poll = select.poll()
        poll.register(self.timer, select.POLLIN)
        return bool(poll.poll(seconds * 1000))

    def test_idle(self) -> None:
        """
        It is never readable by itself, does not block and is not inherited.
        """
        self.assertFalse(self.readable(0))
        self.assertRaises(BlockingIOError, os.read, self.timer, 8)
        self.assertFalse(os.get_inheritable(self.timer))

    def test_set(self) -> None:
        """
        It becomes readable when its time is over.
        """
        began = time.monotonic()
        clock.setTimer(self.timer, 0.3)
        self.assertTrue(self.readable(10))
        self.assertGreaterEqual(time.monotonic() - began, 0.3)

    def test_again(self) -> None:
        """
        It can be set again, to later as well, and is not readable meanwhile.
        """
        clock.setTimer(self.timer, 0.01)
        self.assertTrue(self.readable(10))
        clock.setTimer(self.timer, 1000.5)
        self.assertFalse(self.readable(0.05))
        clock.setTimer(self.timer, 0.01)
        self.assertTrue(self.readable(10))

    def test_past(self) -> None:
        """
        A time that is over already is over at once.
        """
        for delay in (0, -5, 1e-12):
            clock.setTimer(self.timer, delay)
            self.assertTrue(self.readable(10))

    def test_fails(self) -> None:
        """
        A descriptor that is no timer cannot be set.
        """
        error = self.assertRaises(OSError, clock.setTimer, -1, 1)
        self.assertEqual(error.errno, errno.EBADF)

    def test_noDescriptor(self) -> None:
        """
        There may be no descriptor for one.
        """
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
        try:
            error = self.assertRaises(OSError, clock.timer)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        self.assertEqual(error.errno, errno.EMFILE)
