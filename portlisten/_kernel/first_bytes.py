"""
Connections from whose clients nothing has come yet.

To watch a connection with poll(2) or epoll(7) does not touch it: nothing is read, and
no option or flag changes.
"""

from __future__ import annotations

import select
from collections.abc import Iterable
from typing import Protocol, TypeVar

# Bytes, urgent bytes, and the end of the client's side.  Errors and hang-ups are always
# reported: poll(2).
_SOMETHING = select.POLLIN | select.POLLPRI | select.POLLRDHUP

# With EPOLLONESHOT, a descriptor that stays in the set by accident is reported once.
_SOMETHING_ONCE = (
    select.EPOLLIN | select.EPOLLPRI | select.EPOLLRDHUP | select.EPOLLONESHOT
)
# With EPOLLET, each arrival is reported, though nothing is read: epoll(7).
_EACH_ARRIVAL = select.EPOLLIN | select.EPOLLPRI | select.EPOLLRDHUP | select.EPOLLET
_ENDED = select.EPOLLHUP | select.EPOLLERR


class HasDescriptor(Protocol):
    """
    A socket, or what has one.
    """

    def fileno(self) -> int: ...


T = TypeVar("T", bound=HasDescriptor)

#: How many connections one call reports at the most.
MAXIMUM_EVENTS = 512


def silent(socks: Iterable[T]) -> list[T]:
    """
    Find the connections from whose clients nothing has come: no bytes, no end, and no
    error.

    @raise OSError: if the system call fails.
    """
    by = {sock.fileno(): sock for sock in socks}
    poll = select.poll()
    for descriptor in by:
        poll.register(descriptor, _SOMETHING)
    for descriptor, _ in poll.poll(0):
        del by[descriptor]
    return list(by.values())


class FirstBytes:
    """
    Waits until something comes from clients: an epoll(7) of its own.

    A descriptor must be removed before it is closed.  If another process holds the
    same connection, the kernel goes on watching it, and a closed descriptor can not be
    removed any more: see epoll(7), "Questions and answers".

    @raise OSError: if no epoll can be made.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()

    def fileno(self) -> int:
        """
        The descriptor of the epoll.  It is readable if something has come.
        """
        return self._epoll.fileno()

    def add(self, descriptor: int, again: bool = False) -> None:
        """
        Watch a connection.  The descriptor stays the caller's.

        @param again: whether it is reported each time that more comes, and not just
            once.
        @raise OSError: if that is impossible, as for lack of memory, or if the user has
            C{fs.epoll.max_user_watches} watches.
        """
        self._epoll.register(descriptor, _EACH_ARRIVAL if again else _SOMETHING_ONCE)

    def remove(self, descriptor: int) -> None:
        """
        Stop watching a connection.
        """
        try:
            self._epoll.unregister(descriptor)
        except OSError:
            pass  # EPOLLONESHOT limits what it can report

    def come(self) -> list[tuple[int, bool]]:
        """
        Find the connections of whose clients something has come.  They are still
        watched for the kernel: remove them.  Unless L{add} was told otherwise, they are
        not reported again.

        @return: their descriptors; and for each, whether both sides of the connection
            have ended, or it has an error.
        """
        events = self._epoll.poll(0, MAXIMUM_EVENTS)
        return [(descriptor, bool(event & _ENDED)) for descriptor, event in events]

    def close(self) -> None:
        """
        Stop watching all connections.
        """
        self._epoll.close()
