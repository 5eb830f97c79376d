"""
The descriptors that this process has open.
"""

from __future__ import annotations

import gc
import os
import time
from unittest import TestCase

# Its descriptors stay open, so they must be open before the first count.
from twisted.internet import reactor as _reactor
from twisted.internet.tcp import _reservedFD

from portlisten._reactor.monotonic import monotonicReactor

_reservedFD.reserve()
monotonicReactor(_reactor)


def descriptors() -> dict[int, str]:
    """
    Return the open descriptors of this process, and their targets.
    """
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            pass  # the descriptor of the listing itself
    return found


def watchDescriptors(test: TestCase, patience: float = 0.0) -> None:
    """
    Let a test fail if it leaves descriptors open, or closes a descriptor that was open
    before.  Call this first in C{setUp}: cleanups run in reverse order, so the check
    runs last.

    @param patience: how long threads may take to close theirs, in seconds.
    """
    before = descriptors()

    def compare() -> None:
        end = time.monotonic() + patience
        while descriptors() != before and time.monotonic() < end:
            gc.collect()
            time.sleep(0.01)
        test.assertEqual(descriptors(), before)

    test.addCleanup(compare)
