"""
Watching descriptors in an event loop.
"""

from __future__ import annotations

import select
from collections.abc import Callable

from portlisten import _kernel
from portlisten._anyloop.interfaces import EventLoop

READ = select.EPOLLIN
WRITE = select.EPOLLOUT


class Poller:
    """
    Watches descriptors with an epoll of its own.  The loop watches only the epoll.

    If the other end of a Unix socket closed with bytes unread, the socket is in error.
    libuv stops watching a descriptor that is in error (C{uv__poll_io} in
    src/unix/poll.c).  On uvloop, the last bytes and the end of a channel would then not
    be seen.  An epoll is never in error.

    @raise OSError: if the process has no free descriptor.
    """

    def __init__(self, loop: EventLoop) -> None:
        self._loop = loop
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[int], None]] = {}
        try:
            loop.add_reader(self._epoll.fileno(), self._ready)
        except BaseException:
            self._epoll.close()
            raise

    def watch(
        self, descriptor: int, events: int, callback: Callable[[int], None]
    ) -> None:
        """
        Call back with the events while there are some.  If the descriptor is watched
        already, this changes the events.  If the new events are none, this ends the
        watch.

        @param descriptor: L{forget} it before it is closed.
        @raise OSError: if that fails.
        """
        if not events:
            self.forget(descriptor)
        elif descriptor in self._callbacks:
            self._callbacks[descriptor] = callback
            self._epoll.modify(descriptor, events)
        else:
            self._epoll.register(descriptor, events)
            self._callbacks[descriptor] = callback

    def forget(self, descriptor: int) -> None:
        """
        Do not watch a descriptor any more, if it is watched.
        """
        if self._callbacks.pop(descriptor, None) is not None:
            # If it stayed in the epoll, the loop would never rest.
            _kernel.retry(self._epoll.unregister, descriptor)

    def close(self) -> None:
        """
        Watch nothing any more.  May be called again, and after the loop was closed.
        """
        if self._epoll.closed:
            return
        self._callbacks.clear()
        if not self._loop.is_closed():
            self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()

    def _ready(self) -> None:
        for descriptor, events in self._epoll.poll(0):
            callback = self._callbacks.get(descriptor)
            if callback is not None:
                callback(events)
            if self._epoll.closed:
                break
