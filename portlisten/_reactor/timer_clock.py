"""
A monotonic clock inside a reactor that uses the wall clock.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from heapq import heapify, heappop, heappush
from typing import Any

from twisted.internet.base import DelayedCall
from twisted.internet.interfaces import IDelayedCall, IReactorTime, IReadDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from portlisten import _kernel

#: How long to wait before the timer is registered again, if that failed, in seconds.
RETRY_SECONDS = 0.1

log = Logger()


@implementer(IReactorTime, IReadDescriptor)
class TimerClock:
    """
    Monotonic time in a reactor that uses the wall clock.  A timerfd is registered with
    the reactor while calls are pending.

    @param reactor: an L{IReactorFDSet}.
    @raise OSError: if the process has no free descriptor.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._calls: list[DelayedCall] = []
        self._descriptor = _kernel.timer()
        self._reading = False

    # IReactorTime

    def seconds(self) -> float:
        """
        See L{IReactorTime}.
        """
        return time.monotonic()

    def callLater(
        self, delay: float, callable: Callable[..., Any], *args: object, **kw: object
    ) -> DelayedCall:
        """
        See L{IReactorTime}.
        """
        call = DelayedCall(
            self.seconds() + delay,
            callable,
            args,
            kw,
            self._cancelled,
            self._moved,
            self.seconds,
        )
        heappush(self._calls, call)
        self._schedule()
        return call

    def getDelayedCalls(self) -> Sequence[IDelayedCall]:
        """
        See L{IReactorTime}.
        """
        return [call for call in self._calls if call.active()]

    # IReadDescriptor

    def fileno(self) -> int:
        """
        See L{IReadDescriptor}.
        """
        return self._descriptor

    def logPrefix(self) -> str:
        """
        See L{ILoggingContext}.
        """
        return "portlisten"

    def doRead(self) -> None:
        """
        Make the calls that are due.  If these schedule further calls, the further calls
        wait for the next turn.
        """
        try:
            os.read(self._descriptor, 8)
        except OSError:
            pass
        now = self.seconds()
        due = []
        while self._calls and self._calls[0].time <= now:
            due.append(heappop(self._calls))
        for call in due:
            if not call.active():
                continue
            if call.delayed_time > 0:
                call.activate_delay()
                heappush(self._calls, call)
                continue
            call.called = 1
            try:
                call.func(*call.args, **call.kw)
            except Exception:
                log.failure("a timed call failed", event="bug")
        self._schedule()

    def connectionLost(self, reason: Failure) -> None:
        """
        The reactor has removed all its readers.
        """
        self._reading = False

    def _cancelled(self, call: DelayedCall) -> None:
        if call in self._calls:
            self._calls.remove(call)
            self._moved(call)

    def _moved(self, call: DelayedCall) -> None:
        heapify(self._calls)
        self._schedule()

    def _schedule(self) -> None:
        try:
            if self._calls:
                _kernel.setTimer(self._descriptor, self._calls[0].time - self.seconds())
            if self._calls and not self._reading:
                self._reactor.addReader(self)
                self._reading = True
            elif self._reading and not self._calls:
                self._reactor.removeReader(self)
                self._reading = False
        except OSError:
            # This delay follows the wall clock.
            self._reactor.callLater(RETRY_SECONDS, self._schedule)
