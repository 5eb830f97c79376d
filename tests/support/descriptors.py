"""
The descriptors that this process has open.
"""

from __future__ import annotations

import os
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


def watchDescriptors(test: TestCase) -> None:
    """
    Let a test fail if it leaves descriptors open, or closes a descriptor that was open
    before.  Call this first in C{setUp}: cleanups run in reverse order, so the check
    runs last.
    """
    before = descriptors()

    def compare() -> None:
        test.assertEqual(descriptors(), before)

    test.addCleanup(compare)
