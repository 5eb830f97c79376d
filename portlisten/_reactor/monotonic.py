"""
What the reactor lacks: time that no clock setting changes, and registrations that
outlast a kernel that is short of something.

B{Time.}  Twisted's reactors go by the wall clock (twisted#2424).  If that clock is set
back, every timer waits for as much longer.  If it is set forward, every timer is due at
once.  Here every duration is on C{CLOCK_MONOTONIC}, which nobody sets and which stands
still while the machine is suspended.  Our commands own their process, so they put the
whole reactor on it (L{own}).  An endpoint is a guest in the process of another program,
and leaves the reactor's time alone: it has a L{TimerClock} of its own.

B{A process that stood still.}  When a stopped process goes on, its timers are due,
and what came for it meanwhile is still unread.  So a L{Deadline} gives I/O one turn
before it judges, and L{RunningTime} does not count the time in which the process
did not run.

B{Registration.}  epoll_ctl(2) can fail for lack of memory, or of watches.  Twisted
passes the error to the caller that wanted to read or write, and the caller would have
to give up.  L{Persistent} tries again.  In a process of our commands, the reactor
itself tries again (L{own}).  In another program's process, only our own parts and the
transports of adopted connections do.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Sequence
from heapq import heapify, heappop, heappush
from typing import Any
from weakref import WeakKeyDictionary

from twisted.internet.base import DelayedCall, ReactorBase
from twisted.internet.interfaces import IDelayedCall, IReactorTime, IReadDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from portlisten import _kernel

#: How long to wait before a registration is tried again, if nobody says, in seconds.
RETRY = 0.1

#: How long registrations have to succeed before it is said anew that they fail, in
#: seconds.
QUIET = 10.0

#: How late a process is that stood still, in seconds.
LATE = 0.5

# What a registration fails with if a later one would as well: see epoll_ctl(2).
_FINAL = frozenset([errno.EBADF, errno.EINVAL, errno.EPERM, errno.ELOOP])

log = Logger()


def own(reactor: Any, retry: float = RETRY) -> None:
    """
    Put a reactor on C{CLOCK_MONOTONIC}, and make it try registrations again.  Only the
    owner of the process may do so.  Pending calls keep the time that is left to them.
    A reactor that is not Twisted's, such as a test's, is left alone.

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
    ours(reactor).takeOver(retry)


def _isMonotonic(reactor: Any) -> bool:
    return reactor.seconds is time.monotonic


def ours(reactor: Any) -> Any:
    """
    Get what our own parts use in the place of a reactor: the same for all of them.

    @return: a reactor with monotonic time, and L{Persistent} registrations; or, for
        a reactor that is not Twisted's, that reactor.
    """
    if not isinstance(reactor, ReactorBase):
        return reactor
    if reactor not in _ours:
        _ours[reactor] = OurReactor(reactor)
    return _ours[reactor]


def makePersistent(transport: Any, reactor: Any) -> None:
    """
    Make a transport of a server's protocol use L{Persistent} registrations, and the
    reactor's own time.

    @param reactor: what L{ours} gave.
    """
    if isinstance(reactor, OurReactor) and not reactor.owned:
        transport.reactor = reactor.persistent


@implementer(IReactorTime, IReadDescriptor)
class TimerClock:
    """
    Monotonic time in a reactor that goes by the wall clock.  A timerfd is registered
    with the reactor while calls are pending.

    @param reactor: an L{IReactorFDSet}.
    @raise OSError: if there is no descriptor to be had.
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
        Make the calls that are due.  Those that they lead to wait for the next turn.
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
                log.failure("a timed call failed")
        self._schedule()

    def connectionLost(self, reason: Failure) -> None:
        """
        The reactor has done with all its descriptors.
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
            # By the wall clock, for once.
            self._reactor.callLater(RETRY, self._schedule)


class Persistent:
    """
    A reactor whose registrations are tried again if the kernel is short of something.
    In all else it is the reactor that it stands for.

    @param clock: an L{IReactorTime}.

    @ivar retry: how long to wait before trying again, in seconds.
    """

    def __init__(self, reactor: Any, clock: Any) -> None:
        self._reactor = reactor
        self._clock = clock
        self.addReader, self.removeReader = self._persist(
            reactor.addReader, reactor.removeReader
        )
        self.addWriter, self.removeWriter = self._persist(
            reactor.addWriter, reactor.removeWriter
        )
        self._failed = -QUIET
        self.retry = RETRY

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def _persist(
        self, add: Callable[[Any], None], remove: Callable[[Any], None]
    ) -> tuple[Callable[[Any], None], Callable[[Any], None]]:
        """
        Make two methods of L{IReactorFDSet}, which are called several times for each
        connection.
        """
        pending: dict[Any, IDelayedCall] = {}

        def persistentAdd(each: Any) -> None:
            if pending:
                _cancel(pending.pop(each, None))
            try:
                add(each)
            except OSError as error:
                if error.errno in _FINAL:
                    raise
                self._complain(error)
                pending[each] = self._clock.callLater(self.retry, again, each)

        def again(each: Any) -> None:
            del pending[each]
            if each.fileno() != -1:
                persistentAdd(each)

        def persistentRemove(each: Any) -> None:
            if pending:
                _cancel(pending.pop(each, None))
            try:
                remove(each)
            except OSError as error:
                self._complain(error)
                self._removeAgain(each, remove)

        return persistentAdd, persistentRemove

    def _removeAgain(self, each: Any, remove: Callable[[Any], None]) -> None:
        for _ in range(_TRIES):
            if each.fileno() == -1:
                break
            # EPollReactor forgets half of it when it fails.
            known = getattr(self._reactor, "_selectables", {})
            known.setdefault(each.fileno(), each)
            try:
                remove(each)
            except OSError as error:
                self._complain(error)
            else:
                break

    def _complain(self, error: OSError) -> None:
        last, self._failed = self._failed, self._clock.seconds()
        if self._failed - last >= QUIET:
            log.error(
                "the reactor's registration fails: {error}; it is tried again every"
                " {retry:g} s",
                error=error.strerror,
                retry=self.retry,
            )


#: How often a registration is tried to be taken back.
_TRIES = 10


def _cancel(call: IDelayedCall | None) -> None:
    if call is not None:
        call.cancel()


class OurReactor(Persistent):
    """
    A reactor for our own parts: with monotonic time as well.

    @ivar persistent: the one for others' transports.
    """

    def __init__(self, reactor: Any) -> None:
        clock = reactor
        if not _isMonotonic(reactor):
            try:
                clock = TimerClock(reactor)
            except OSError as error:
                log.error(
                    "no timer of our own ({error}): durations follow the wall clock",
                    error=error.strerror,
                )
        super().__init__(reactor, clock)
        self.persistent = Persistent(reactor, clock)
        self.owned = False
        self.seconds: Callable[[], float] = clock.seconds
        self.callLater: Callable[..., IDelayedCall] = clock.callLater
        self.getDelayedCalls = clock.getDelayedCalls

    def takeOver(self, retry: float) -> None:
        """
        Make the reactor itself try registrations again.

        @param retry: how long to wait before that, in seconds.
        """
        self.owned = True
        self.retry = retry
        for name in ("addReader", "addWriter", "removeReader", "removeWriter"):
            setattr(self._reactor, name, getattr(self, name))


_ours: WeakKeyDictionary[Any, OurReactor] = WeakKeyDictionary()


class Deadline:
    """
    Calls back once when a time is over and, after that, I/O has had one turn.  If it
    finds itself much too late, the process stood still, and perhaps others with it:
    then the whole time begins anew.

    @param clock: an L{IReactorTime}.
    @param delay: how long to wait, in seconds.
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
        Do not call back.  May be called at any time, and again.
        """
        if self._call.active():
            self._call.cancel()

    def _due(self) -> None:
        if self._clock.seconds() - self._end > LATE:
            self._begin()
        else:
            self._call = self._clock.callLater(0, self._then, *self._arguments)


class RunningTime:
    """
    The time in which this process ran, as far as it can be told by looking at a
    clock again and again.

    @param seconds: the clock, in seconds.
    @param most: how much time passes at the most between two looks.
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
