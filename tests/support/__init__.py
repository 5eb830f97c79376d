"""
What several tests need.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import socket
import struct
from unittest import TestCase

from hypothesis import HealthCheck, settings

# Its descriptors are there to stay, so they must be there before any count.
from twisted.internet import reactor as _reactor
from twisted.internet.task import Clock
from twisted.internet.tcp import _reservedFD

from portlisten._reactor.monotonic import ours

_reservedFD.reserve()
ours(_reactor)

#: How much time passes at once for a process that runs, in seconds.
STEP = 0.02

#: Of tests that try many histories; C{PORTLISTEN_EXAMPLES} says how many.
SETTINGS = settings(
    max_examples=int(os.environ.get("PORTLISTEN_EXAMPLES", "300")),
    stateful_step_count=50,
    deadline=None,
    derandomize="CI" in os.environ,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


class RunningClock(Clock):
    """
    A clock whose time passes in small steps, as it does for a process that runs.
    """

    def advance(self, amount: float) -> None:
        """
        See L{Clock.advance}.
        """
        end = self.rightNow + amount
        while self.rightNow + 2 * STEP < end:
            super().advance(STEP)
        super().advance(end - self.rightNow)
        self.rightNow = end


class TurningClock(Clock):
    """
    A clock that makes in a turn what is due at its beginning, as a reactor does.
    """

    def advance(self, amount: float) -> None:
        """
        See L{Clock.advance}.
        """
        self.rightNow += amount
        due = [call for call in self.calls if call.getTime() <= self.rightNow]
        for call in due:
            self.calls.remove(call)
            call.called = 1
            call.func(*call.args, **call.kw)


def descriptors() -> dict[int, str]:
    """
    What this process has open: descriptors, and what they lead to.
    """
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            pass  # that of the listing itself
    return found


def assertOneLine(test: TestCase, command: str, message: str) -> None:
    """
    Check the form of what a command refuses its arguments with.
    """
    test.assertTrue(message.startswith(f"{command}: "))
    test.assertTrue(message.endswith(f" (see 'twistd {command} --help')"))
    test.assertEqual(len(message.splitlines()), 1)


def watchDescriptors(test: TestCase) -> None:
    """
    Have a test fail if it leaves descriptors open, or closes one that was open
    before.  Call it first in C{setUp}, so that it looks last.
    """
    before = descriptors()

    def compare() -> None:
        test.assertEqual(descriptors(), before)

    test.addCleanup(compare)


def spoil(descriptor: int) -> None:
    """
    Make a listening socket of a TCP connection, as whoever has a descriptor can.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    unspecified = struct.pack("=H14x", socket.AF_UNSPEC)
    assert libc.connect(descriptor, unspecified, len(unspecified)) == 0
    assert libc.listen(descriptor, 1) == 0


def unusedUID() -> int:
    """
    A number that is no user's.
    """
    return next(
        number
        for number in range(54321, 65000)
        if number not in {entry.pw_uid for entry in pwd.getpwall()}
    )
