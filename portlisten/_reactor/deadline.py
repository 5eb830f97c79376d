"""
Time limits in a process that may be stopped, as by SIGSTOP.

When a stopped process goes on, its timers are due, and bytes that arrived meanwhile are
still unread.  So a L{Deadline} gives I/O one turn before it calls back.  L{RunningTime}
does not count the time in which the process did not run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall

#: If a timer is later than this, the process was stopped.  In seconds.
LATE_SECONDS = 0.5


class Deadline:
    """
    Calls back once, when a time is over and I/O has had one turn after that.  If the
    timer is late by more than L{LATE_SECONDS}, the process was stopped, and perhaps
    other processes with it.  Then the whole time begins anew.

    @param clock: an L{IReactorTime}.
    @param delay: how long to wait, in seconds.
    @param then: called with the arguments when the time is over.
    """

    def __init__(
        self, clock: Any, delay: float, then: Callable[..., Any], *arguments: object
    ) -> None:
        self._clock = clock
        self._then = then
        self._arguments = arguments
        self._delay = delay
        self._begin()

    def _begin(self) -> None:
        self._end = self._clock.seconds() + self._delay
        self._call: IDelayedCall = self._clock.callLater(self._delay, self._due)

    def active(self) -> bool:
        """
        Whether it has neither called back nor been cancelled.
        """
        return bool(self._call.active())

    def cancel(self) -> None:
        """
        Do not call back.  May be called at any time, any number of times.
        """
        if self._call.active():
            self._call.cancel()

    def _due(self) -> None:
        if self._clock.seconds() - self._end > LATE_SECONDS:
            self._begin()
        else:
            self._call = self._clock.callLater(0, self._then, *self._arguments)


class RunningTime:
    """
    The time in which this process ran.  It is estimated from repeated readings of a
    clock.

    @param seconds: reads the clock, in seconds.
    @param most: the most time that passes between two readings while the process
        runs, in seconds.
    """

    def __init__(self, seconds: Callable[[], float], most: float) -> None:
        self._seconds = seconds
        self._most = most
        self._last = seconds()
        self._lost = 0.0

    def __call__(self) -> float:
        last, self._last = self._last, self._seconds()
        self._lost += max(0.0, self._last - last - self._most)
        return self._last - self._lost
