"""
Find the clients that have left while their connections waited.

Many clients may wait, and many may leave at once.  So each call checks only a slice of
them, and the next call checks the next slice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from portlisten import _kernel

T = TypeVar("T", bound=_kernel.HasOptions)

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
        self, waiting: Callable[[], Sequence[T]], now: float
    ) -> tuple[list[T], list[T]]:
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
        return _kernel.departed(some)
