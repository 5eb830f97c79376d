"""
Slowing down workers that die at once, again and again.

A worker that crashes when it starts, under a supervisor that starts it anew,
would have the listener offer connections and take them back in a circle.  So
who has died a few times in a row without finishing a single connection waits a
little before its next offer, twice as long each time, up to a limit.  The first
connection that it finishes clears its name.  Who died while it waited has shown
nothing, so that counts for nothing.  Workers are told apart by their
user: a crash gives the next process another pid.

Nothing here keeps time: the one who asks waits.
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
        self._strikes: dict[int, int] = {}

    def failed(self, user: int) -> None:
        """
        A worker died that had finished nothing.
        """
        self._strikes[user] = self._strikes.get(user, 0) + 1

    def succeeded(self, user: int) -> None:
        """
        A worker finished a connection.
        """
        self._strikes.pop(user, None)

    def delay(self, user: int) -> float:
        """
        How long the user's next worker has to wait, in seconds.
        """
        beyond = self._strikes.get(user, 0) - self._free
        if beyond < 0 or not self._longest:
            return 0.0
        # Beyond 2**30 times the first there is no use in reckoning.
        return min(self._longest, self._first * 2.0 ** min(beyond, 30))
