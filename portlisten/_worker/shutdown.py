"""
The stop of a worker, whatever its wire.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred, succeed


class Stop:
    """
    May be asked for any number of times, and happens once.

    @param begin: called when it is asked for first.

    @ivar asked: whether it was asked for.
    @ivar over: whether it has come to its end.
    """

    def __init__(self, begin: Callable[[], None]) -> None:
        self._begin = begin
        self._waiting: list[Deferred[None]] = []
        self.asked = False
        self.over = False

    def ask(self) -> Deferred[None]:
        """
        Ask for it.

        @return: fires when it is over.
        """
        if self.over:
            return succeed(None)
        stopped: Deferred[None] = Deferred()
        self._waiting.append(stopped)
        if not self.asked:
            self.asked = True
            self._begin()
        return stopped

    def finish(self) -> None:
        """
        Have it be over.
        """
        self.over = True
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.callback(None)
