"""
How many channels each user may have at a time.

The number of places is limited, and no user may take all.  The last quarter is for
users with few channels: there, a user must leave as many places free as it has taken.
"""

from __future__ import annotations

from collections import Counter


class Places:
    """
    The places, and how many each user has taken.

    @param total: the number of places.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._kept = max(1, total // 4) if total > 1 else 0
        self._users: Counter[int] = Counter()

    def take(self, user: int) -> bool:
        """
        Take a place, if the user may have one more.

        @return: whether the place was taken.
        """
        free = self._total - self._users.total()
        if free <= self._kept and self._users[user] >= free:
            return False
        self._users[user] += 1
        return True

    def free(self, user: int) -> None:
        """
        Give a place back.
        """
        self._users[user] -= 1
        if not self._users[user]:
            del self._users[user]

    def describe(self, user: int) -> str:
        """
        Say, for the log, how many places are taken.
        """
        return (
            f"{self._users.total()} of {self._total} places for workers are taken,"
            f" {self._users[user]} of them by uid {user}"
        )
