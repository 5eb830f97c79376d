"""
Slowing down workers that die at once, again and again.

If a worker crashes when it starts, and a supervisor restarts it, the listener would
offer connections and take them back in a circle.  So deaths of workers that have
finished no connection are counted.  After a few such deaths in a row, the next worker
waits a little before its first offer.  It waits twice as long each time, up to a limit.
The deaths are counted for each user: after a crash, the next process has another pid.

When a worker finishes its first connection, the deaths before it joined are
forgiven.  Later deaths are not: they may be those of another program.  If a worker
dies while it waits for its first offer, that death does not count.

This module keeps no time: the caller waits.
"""

from __future__ import annotations


class Throttle:
    """
    Counts the deaths of each user's workers.

    @param free: after how many deaths in a row the next worker begins to wait.
    @param first: how long the first wait is, in seconds.
    @param longest: how long the longest wait is, in seconds.  If 0, no worker waits.
    """

    def __init__(
        self, free: int = 10, first: float = 0.1, longest: float = 10.0
    ) -> None:
        self._free = free
        self._first = first
        self._longest = longest
        self._deaths: dict[int, int] = {}
        self._forgiven: dict[int, int] = {}

    def deaths(self, user: int) -> int:
        """
        How many workers of a user have died so far with no connection finished.  Note
        this number when a worker begins, for L{succeeded}.
        """
        return self._deaths.get(user, 0)

    def failed(self, user: int) -> None:
        """
        Note that a worker died with no connection finished.
        """
        self._deaths[user] = self._deaths.get(user, 0) + 1

    def succeeded(self, user: int, deaths: int) -> None:
        """
        Note that a worker finished its first connection.  The deaths before it began
        are forgiven.

        @param deaths: what L{deaths} returned when the worker began.
        """
        self._forgiven[user] = max(self._forgiven.get(user, 0), deaths)

    def delay(self, user: int) -> float:
        """
        How long the user's next worker must wait, in seconds.
        """
        strikes = self._deaths.get(user, 0) - self._forgiven.get(user, 0)
        beyond = strikes - self._free
        if beyond < 0 or not self._longest:
            return 0.0
        # At 2**30 times the first wait, the limit is reached anyway.
        return min(self._longest, self._first * 2.0 ** min(beyond, 30))
