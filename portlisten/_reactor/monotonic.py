"""
The monotonic clock of the reactor.

Twisted's reactors use the wall clock (twisted#2424).  If that clock is set back, every
timer waits that much longer.  If it is set forward, every timer is due at once.  Here
every duration is on C{CLOCK_MONOTONIC}.  Nobody can set that clock, and it stands still
while the machine is suspended.

Portlisten's commands own their process, so they put the whole reactor on that clock
(L{makeMonotonic}).  An endpoint runs in another program's process, and does not change
the reactor's time: it uses a L{TimerClock}.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from twisted.internet.base import ReactorBase
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.posixbase import PosixReactorBase
from twisted.logger import Logger

from portlisten._reactor.persistent import RETRY_SECONDS, Persistent
from portlisten._reactor.timer_clock import TimerClock

log = Logger()


def makeMonotonic(reactor: Any, retry: float = RETRY_SECONDS) -> None:
    """
    Put a reactor on C{CLOCK_MONOTONIC}, and make it try registrations again.  Only the
    owner of the process may do so.  Pending calls keep their remaining time.  If the
    reactor is not Twisted's, such as a test's, this does nothing.

    @param retry: how long to wait before a registration is tried again, in seconds.
    """
    if not isinstance(reactor, ReactorBase) or _isMonotonic(reactor):
        return
    pending: list[Any] = list(reactor.getDelayedCalls())
    left = [max(0.0, call.getTime() - reactor.seconds()) for call in pending]
    reactor.seconds = time.monotonic
    for call, seconds in zip(pending, left, strict=True):
        call.seconds = time.monotonic
        call.reset(seconds)
    monotonicReactor(reactor).takeOver(retry)


def _isMonotonic(reactor: Any) -> bool:
    return reactor.seconds is time.monotonic


def monotonicReactor(reactor: Any) -> Any:
    """
    Get the reactor that portlisten's own objects use.  Each call for the same reactor
    returns the same object.

    @return: a reactor with monotonic time and L{Persistent} registrations.  If the
        reactor is not Twisted's, the reactor itself.
    """
    if not isinstance(reactor, ReactorBase):
        return reactor
    if reactor not in _reactors:
        _reactors[reactor] = MonotonicReactor(reactor)
    return _reactors[reactor]


def posixReactor(reactor: Any) -> Any:
    """
    Get the reactor for transports of Twisted's that are made without
    C{adoptStreamConnection}.  As with L{makePersistent}, its registrations are
    L{Persistent}.  So to make a transport fails neither for lack of memory nor of
    watches.

    @return: L{None} if the reactor is not made by L{monotonicReactor}, or is not
        Twisted's, or adopts connections in a way of its own.
    """
    if not isinstance(reactor, MonotonicReactor):
        return None
    inner = reactor.wrapped
    adopts = getattr(type(inner), "adoptStreamConnection", None)
    if (
        adopts is not PosixReactorBase.adoptStreamConnection
        or "adoptStreamConnection" in vars(inner)
    ):
        return None
    return inner if reactor.takenOver else reactor.persistent


def makePersistent(transport: Any, reactor: Any) -> None:
    """
    Make a transport of a server's protocol use L{Persistent} registrations, and the
    reactor's own time.

    @param reactor: made by L{monotonicReactor}.
    """
    if isinstance(reactor, MonotonicReactor) and not reactor.takenOver:
        transport.reactor = reactor.persistent


class MonotonicReactor(Persistent):
    """
    A reactor for portlisten's own objects.  It tries registrations again, and its time
    is monotonic.

    @ivar persistent: the reactor for other programs' transports.
    @ivar wrapped: the reactor.
    @ivar takenOver: whether the reactor itself tries registrations again.
    """

    def __init__(self, reactor: Any) -> None:
        clock = reactor
        if not _isMonotonic(reactor):
            try:
                clock = TimerClock(reactor)
            except OSError as error:
                log.error(
                    "cannot make a timer ({error}): durations follow the wall clock",
                    event="clock-not-monotonic",
                    error=error.strerror,
                )
        super().__init__(reactor, clock)
        self.wrapped = reactor
        self.persistent = Persistent(reactor, clock)
        self.takenOver = False
        self.seconds: Callable[[], float] = clock.seconds
        self.callLater: Callable[..., IDelayedCall] = clock.callLater
        self.getDelayedCalls = clock.getDelayedCalls

    def takeOver(self, retry: float) -> None:
        """
        Make the reactor itself try registrations again.

        @param retry: how long to wait before that, in seconds.
        """
        self.takenOver = True
        self.retry = retry
        for name in ("addReader", "addWriter", "removeReader", "removeWriter"):
            setattr(self._reactor, name, getattr(self, name))


_reactors: WeakKeyDictionary[Any, MonotonicReactor] = WeakKeyDictionary()
