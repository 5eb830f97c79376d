"""
A small event loop in a thread of its own, for programs without one.

The thread that serves clients may be busy for as long as it likes.  So another thread
reads the channel.  Both use the same objects, and L{Loop.lock} guards these: the loop
holds the lock during each call that it makes, and other threads hold it while they use
the objects.  No call under the lock waits for anything but the log.

A signal handler, or the end of an object that the garbage collector finds, may come at
any point of any thread, also where that thread has the lock.  Such code uses
L{Loop.call}.
"""

from __future__ import annotations

import heapq
import itertools
import math
import os
import select
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from portlisten._anyloop import log

#: The longest sleep, in seconds.  epoll takes no more milliseconds than fit a C{int}.
_LONGEST_SECONDS = 86400.0


class Handle:
    """
    A call that a L{Loop} makes later.
    """

    def __init__(self, then: Callable[..., object], arguments: tuple[object, ...]):
        self._then = then
        self._arguments = arguments
        self._cancelled = False

    def cancel(self) -> None:
        """
        Do not make the call.
        """
        self._cancelled = True

    def make(self) -> None:
        """
        Make the call, unless it was cancelled.  If it fails, log that.
        """
        if self._cancelled:
            return
        try:
            self._then(*self._arguments)
        except Exception as bug:
            log.bug("a bug in portlisten", bug, event="bug")


class Loop:
    """
    Has those methods of C{asyncio.AbstractEventLoop} that portlisten uses.  Hold the
    lock while you call one.

    @ivar lock: see the module.
    @ivar turned: called with the lock at the end of each turn that made calls, and
        after each L{call} that was made at once.
    @ivar interrupted: called if a L{call} that was made at once raised an exception.
    @raise OSError: if the process has no free descriptor.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.turned: Callable[[], None] = lambda: None
        self.interrupted: Callable[[], None] = lambda: None
        self._epoll = select.epoll()
        self._readers: dict[int, Callable[[], None]] = {}
        self._soon: deque[Handle] = deque()
        self._later: list[tuple[float, int, Handle]] = []
        self._numbers = itertools.count()
        self._thread: threading.Thread | None = None
        self._awakes = -math.inf
        self._closed = False
        try:
            self._wakeUp = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        except BaseException:
            self._epoll.close()
            raise
        # Another thread may write to it at any time, so it stays open for so long; and
        # functions of atexit may, too.
        weakref.finalize(self, os.close, self._wakeUp).atexit = False
        self._epoll.register(self._wakeUp, select.EPOLLIN)

    def start(self, name: str) -> None:
        """
        Begin to run, in a thread that does not keep the process alive.

        @param name: the thread's.
        @raise RuntimeError: if there can be no more threads.
        """
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def join(self, seconds: float) -> None:
        """
        Wait until the thread has ended.  Call this without the lock.
        """
        if self._thread is not None:
            self._thread.join(seconds)

    def close(self) -> None:
        """
        Stop the thread.
        """
        if not self._closed:
            self._closed = True
            if self._thread is None:
                self._epoll.close()
            else:
                self._wake()

    def abandon(self) -> None:
        """
        Close the loop after a fork, in the child, which does not have the thread.
        """
        self.lock = threading.RLock()
        self._closed = True
        self._epoll.close()

    def time(self) -> float:
        """
        Read C{CLOCK_MONOTONIC}, in seconds.
        """
        return time.monotonic()

    def is_closed(self) -> bool:
        """
        Whether L{close} or L{abandon} was called.
        """
        return self._closed

    def call_soon(self, then: Callable[..., object], *arguments: object) -> Handle:
        """
        Make a call in the next turn.
        """
        handle = Handle(then, arguments)
        self._soon.append(handle)
        self._wake()
        return handle

    def call_later(
        self, delay: float, then: Callable[..., object], *arguments: object
    ) -> Handle:
        """
        Make a call after a delay.

        @param delay: in seconds.
        """
        handle = Handle(then, arguments)
        due = self.time() + delay
        heapq.heappush(self._later, (due, next(self._numbers), handle))
        if due < self._awakes:
            self._wake()
        return handle

    def call(self, then: Callable[..., object], *arguments: object) -> None:
        """
        Make a call: at once if the lock is free, and otherwise in the next turn.  Call
        this without the lock.

        @raise BaseException: what a signal handler raises meanwhile.  The call is made
            again in the next turn.
        """
        if self._closed:
            return
        # The method is private.  CPython has it for the module's own use, since 2.x.
        free = not self.lock._is_owned() and self.lock.acquire(blocking=False)  # type: ignore[attr-defined]
        if not free:
            self._soon.append(Handle(then, arguments))
            self._wake(surely=True)
            return
        try:
            then(*arguments)
            self.turned()
        except BaseException:
            self._soon.append(Handle(then, arguments))
            self._soon.append(Handle(self.interrupted, ()))
            self._wake(surely=True)
            raise
        finally:
            self.lock.release()

    def add_reader(self, descriptor: int, then: Callable[[], None]) -> None:
        """
        Call back while a descriptor is readable.

        @raise OSError: if it cannot be watched.
        """
        self._epoll.register(descriptor, select.EPOLLIN)
        self._readers[descriptor] = then

    def remove_reader(self, descriptor: int) -> None:
        """
        Do not watch a descriptor any more.
        """
        if self._readers.pop(descriptor, None) is not None:
            self._epoll.unregister(descriptor)

    def _wake(self, surely: bool = False) -> None:
        """
        End the loop's sleep, if it sleeps.

        @param surely: whether to do this without the lock.
        """
        if surely or self._asleep:
            self._awakes = -math.inf
            with suppress(BlockingIOError):
                os.eventfd_write(self._wakeUp, 1)

    @property
    def _asleep(self) -> bool:
        return self._awakes > -math.inf

    def _run(self) -> None:
        while self._turn():
            pass
        self._epoll.close()

    def _turn(self) -> bool:
        """
        Wait until there is something to do, and do it.

        @return: whether the loop goes on.
        """
        with self.lock:
            if self._closed:
                return False
            if self._soon:
                timeout: float | None = 0
            elif self._later:
                self._awakes = self._later[0][0]
                timeout = min(max(0, self._awakes - self.time()), _LONGEST_SECONDS)
            else:
                self._awakes = math.inf
                timeout = None
        # This waits for at least so long: it rounds up to milliseconds.
        events = self._epoll.poll(timeout)
        with self.lock:
            self._awakes = -math.inf
            for descriptor, _ in events:
                if descriptor == self._wakeUp:
                    with suppress(BlockingIOError):
                        os.eventfd_read(self._wakeUp)
                elif descriptor in self._readers:
                    Handle(self._readers[descriptor], ()).make()
            now = self.time()
            while self._later and self._later[0][0] <= now:
                self._soon.append(heapq.heappop(self._later)[2])
            for _ in range(len(self._soon)):
                self._soon.popleft().make()
            # If this wakes another thread, the lock is free when that thread runs.
            self.turned()
        return True
