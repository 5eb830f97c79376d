"""
Slowing down workers that die at once, again and again.

If a worker crashes when it starts, and a supervisor starts it anew, the listener
would offer connections and take them back in a circle.  So if a user's workers have
died a few times in a row, with no connection finished, the next one waits a little
before its first offer, twice as long each time, up to a limit.  Workers
are told apart by their user: a crash gives the next process another pid.

When a worker finishes its first connection, the deaths before it joined are
forgiven.  Later deaths are not: they may be those of another program.  If a worker
dies while it waits for its first offer, that death does not count.

Nothing here keeps time: the caller waits.
"""

from __future__ import annotations


class Throttle:
    """
    The strikes of each user.

    @param free: how many deaths in a row cost nothing.
    @param first: what the next one costs, in seconds.
    @param longest: what one costs at the most, in seconds.
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
        How many workers of a user have died so far that had finished nothing.  Note it
        when a worker begins, for L{succeeded}.
        """
        return self._deaths.get(user, 0)

    def failed(self, user: int) -> None:
        """
        A worker died that had finished nothing.
        """
        self._deaths[user] = self._deaths.get(user, 0) + 1

    def succeeded(self, user: int, deaths: int) -> None:
        """
        A worker finished a connection.  The deaths before it began are forgiven.  Later
        deaths are not: they may be those of another program.

        @param deaths: what L{deaths} said when it began.
        """
        self._forgiven[user] = max(self._forgiven.get(user, 0), deaths)

    def delay(self, user: int) -> float:
        """
        How long the user's next worker has to wait, in seconds.
        """
        strikes = self._deaths.get(user, 0) - self._forgiven.get(user, 0)
        beyond = strikes - self._free
        if beyond < 0 or not self._longest:
            return 0.0
        # Beyond 2**30 times the first the limit is reached anyway.
        return min(self._longest, self._first * 2.0 ** min(beyond, 30))
