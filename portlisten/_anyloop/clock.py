"""
The clock of an event loop.  The loops of asyncio and uvloop use C{CLOCK_MONOTONIC}.
"""

from __future__ import annotations

from collections.abc import Callable

from portlisten._anyloop.interfaces import Cancellable, EventLoop

#: The shortest wait, in seconds.  uvloop makes a call without a delay before it looks
#: for input.
SHORTEST_SECONDS = 0.001


class Call:
    """
    A call that a L{Clock} makes later.
    """

    def __init__(self, then: Callable[..., object], arguments: tuple[object, ...]):
        self._then = then
        self._arguments = arguments
        self._active = True
        self.handle: Cancellable | None = None

    def active(self) -> bool:
        """
        Whether the call was neither made nor cancelled.
        """
        return self._active

    def cancel(self) -> None:
        """
        Do not make the call.
        """
        self._active = False
        if self.handle is not None:
            self.handle.cancel()

    def make(self) -> None:
        """
        Make the call, now.
        """
        self._active = False
        self._then(*self._arguments)


class Clock:
    """
    Has those methods of Twisted's C{IReactorTime} that portlisten uses.
    """

    def __init__(self, loop: EventLoop) -> None:
        self._loop = loop

    def seconds(self) -> float:
        """
        Read the clock, in seconds.
        """
        return self._loop.time()

    def callLater(
        self, delay: float, then: Callable[..., object], *arguments: object
    ) -> Call:
        """
        Make a call after a delay, and after the loop has looked for input once.

        @param delay: in seconds.
        """
        call = Call(then, arguments)
        call.handle = self._loop.call_later(max(delay, SHORTEST_SECONDS), call.make)
        return call

    def callSoon(self, then: Callable[..., object], *arguments: object) -> Call:
        """
        Make a call in the next turn of the loop.
        """
        call = Call(then, arguments)
        call.handle = self._loop.call_soon(call.make)
        return call


class Soon:
    """
    Calls back in the next turn of the loop, once for all requests until then.

    @param then: called back.
    """

    def __init__(self, clock: Clock, then: Callable[[], object]) -> None:
        self._clock = clock
        self._then = then
        self._call: Call | None = None

    @property
    def requested(self) -> bool:
        """
        Whether it will call back.
        """
        return self._call is not None and self._call.active()

    def request(self) -> None:
        """
        Call back in the next turn.
        """
        if not self.requested:
            self._call = self._clock.callSoon(self._then)

    def cancel(self) -> None:
        """
        Do not call back.  May be called at any time.
        """
        if self._call is not None:
            self._call.cancel()
            self._call = None
