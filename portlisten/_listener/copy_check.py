"""
Find the connections that workers have touched, so that their copies can be closed.

To check a copy takes a few system calls, and the listener may hold thousands of copies.
So each call checks only a slice of them, and the next call checks the next slice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from portlisten._listener.interfaces import IConnection

#: How often copies are checked, in seconds.
CHECK_SECONDS = 0.02

#: How many copies one call checks.
SLICE = 400


class CopyCheck:
    """
    Checks copies, one slice after another.

    @param copies: returns the connections whose copies are held.
    """

    def __init__(self, copies: Callable[[], Sequence[IConnection]]) -> None:
        self._findCopies = copies
        self._round: Sequence[IConnection] = ()
        self._next = 0

    def check(self) -> list[IConnection]:
        """
        Check the next slice.  If a copy was closed since this round began, it counts as
        untouched.

        @return: the connections that were touched.
        """
        if self._next >= len(self._round):
            self._round = self._findCopies()
            self._next = 0
        some = self._round[self._next : self._next + SLICE]
        self._next += SLICE
        if self._next >= len(self._round):
            self._round = ()
        return [copy for copy in some if copy.untouched() is False]
