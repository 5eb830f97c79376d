"""
Finding the connections that workers have touched, so that their copies can be closed.

Each copy costs a few system calls, and there may be thousands.  So only some are
checked in one turn, and the next in the next.  If there are few, all are checked in
each turn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from portlisten._listener.interfaces import IConnection

#: How often copies are checked, in seconds.
CHECK_SECONDS = 0.02

#: How many copies are checked at a time.
SLICE = 400


class CopyCheck:
    """
    Checks copies in turn.

    @param copies: gives the connections whose copies are held.
    """

    def __init__(self, copies: Callable[[], Sequence[IConnection]]) -> None:
        self._findCopies = copies
        self._round: Sequence[IConnection] = ()
        self._next = 0

    def check(self) -> list[IConnection]:
        """
        Check the next copies.  A copy that was closed since this round began counts as
        untouched.

        @return: those that were touched.
        """
        if self._next >= len(self._round):
            self._round = self._findCopies()
            self._next = 0
        some = self._round[self._next : self._next + SLICE]
        self._next += SLICE
        if self._next >= len(self._round):
            self._round = ()
        return [copy for copy in some if copy.untouched() is False]
