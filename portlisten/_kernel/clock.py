"""
Timers as descriptors: timerfd_create(2).
"""

from __future__ import annotations

import ctypes
import os
import time

from portlisten._kernel.errors import lastError

_libc = ctypes.CDLL(None, use_errno=True)


class _Timespec(ctypes.Structure):
    _fields_ = [("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long)]


class _TimerSpec(ctypes.Structure):
    _fields_ = [("interval", _Timespec), ("value", _Timespec)]


def timer() -> int:
    """
    Make a timer: a descriptor that becomes readable when a time is over on
    C{CLOCK_MONOTONIC}.  This is timerfd_create(2), which Python has since 3.13.

    @return: the non-blocking descriptor, which the caller owns.
    @raise OSError: if the kernel cannot make one.
    """
    # TFD_CLOEXEC and TFD_NONBLOCK are O_CLOEXEC and O_NONBLOCK.
    descriptor = _libc.timerfd_create(
        time.CLOCK_MONOTONIC, os.O_CLOEXEC | os.O_NONBLOCK
    )
    if descriptor < 0:
        raise lastError()
    return int(descriptor)


def setTimer(descriptor: int, delay: float) -> None:
    """
    Set a timer: its descriptor becomes readable after a time, and not before.

    @param descriptor: made by L{timer}.
    @param delay: in seconds.
    @raise OSError: if the descriptor is no timer.
    """
    nanoseconds = max(1, round(delay * 1e9))
    value = _TimerSpec(_Timespec(0, 0), _Timespec(*divmod(nanoseconds, 1000000000)))
    if _libc.timerfd_settime(descriptor, 0, ctypes.byref(value), None) < 0:
        raise lastError()
