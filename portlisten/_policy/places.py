"""
How many channels each user may have at a time.

The number of places is limited, and no user may take them all.  The last quarter is for
users that have few: a user has to leave as many places free as it has taken.
"""

from __future__ import annotations

from collections import Counter


class Places:
    """
    The places, and which user has how many.

    @param total: how many there are.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._kept = max(1, total // 4) if total > 1 else 0
        self._users: Counter[int] = Counter()

    def take(self, user: int) -> bool:
        """
        Take a place, if the user may have one more.

        @return: whether they may.
        """
        free = self._total - self._users.total()
        if free <= self._kept and self._users[user] >= free:
            return False
        self._users[user] += 1
        return True

    def free(self, user: int) -> None:
        """
        Give one back.
        """
        self._users[user] -= 1
        if not self._users[user]:
            del self._users[user]

    def describe(self, user: int) -> str:
        """
        Say for people how the places are taken.
        """
        return (
            f"{self._users.total()} of {self._total} places for workers are taken,"
            f" {self._users[user]} of them by uid {user}"
        )
