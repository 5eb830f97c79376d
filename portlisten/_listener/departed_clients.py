"""
Find the clients that have left while their connections waited.

Many clients may wait, and many may leave at once.  So each call checks only a slice of
them, and the next call checks the next slice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from socket import SocketType
from typing import Protocol, TypeVar

from portlisten import _kernel


class _HasSocket(Protocol):
    @property
    def socket(self) -> SocketType:
        """
        The socket of a connection.
        """


Connection = TypeVar("Connection", bound=_HasSocket)

#: If few clients wait, how often each is checked, in seconds.
CLIENT_CHECK_SECONDS = 0.25

#: How many clients one call checks.
SLICE = 64


class DepartedClients:
    """
    Checks clients, one slice after another.
    """

    def __init__(self) -> None:
        self._next = 0
        self._began = 0.0

    def check(
        self, waiting: Callable[[], Sequence[Connection]], now: float
    ) -> tuple[list[Connection], list[Connection]]:
        """
        Check the next slice.

        @param waiting: returns the connections of all clients that wait, in an order
            that changes little from call to call.  It is called only if a check is
            due.
        @param now: the time, in seconds.
        @return: what L{_kernel.departed} says of the checked connections.
        """
        if self._next == 0:
            if now - self._began < CLIENT_CHECK_SECONDS:
                return [], []
            self._began = now
        connections = waiting()
        some = connections[self._next : self._next + SLICE]
        self._next += SLICE
        if self._next >= len(connections):
            self._next = 0
        by = {connection.socket: connection for connection in some}
        gone, ended = _kernel.departed(by)
        return [by[sock] for sock in gone], [by[sock] for sock in ended]
