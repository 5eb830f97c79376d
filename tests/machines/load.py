"""
What clients saw.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

#: What can happen to a request but that it is answered.
FAILURES = ("refused", "unreachable", "cut", "late", "wrong")


@dataclass(frozen=True)
class Asked:
    """
    One request.

    @ivar what: C{ok}, or one of L{FAILURES}: the connection was C{refused}; nobody had
        the address (C{unreachable}); the connection was C{cut} before the answer was
        whole; it was C{late}, which is that nothing came for as long as the client
        waits; or the answer was C{wrong}.
    @ivar began: in monotonic seconds, which all processes of this host share.
    @ivar ended: the same.
    @ivar kept: whether it went over a connection of an earlier request.
    @ivar machine: which machine has answered.
    @ivar version: which version of the site.
    @ivar client: the client's address, as the worker saw it.
    @ivar why: what the client said of a failure.
    """

    what: str
    began: float
    ended: float
    kept: bool = False
    machine: str = ""
    version: str = ""
    client: str = ""
    why: str = ""

    @property
    def took(self) -> float:
        """
        How long it took, in seconds.
        """
        return self.ended - self.began


class Seen:
    """
    What clients saw.

    @ivar asked: all requests, in the order of their ends.
    """

    def __init__(self, asked: Sequence[Asked]) -> None:
        self.asked = sorted(asked, key=lambda each: each.ended)

    def __str__(self) -> str:
        return f"{len(self.asked)} requests, {self.failures()}"

    def during(self, since: float, until: float = float("inf")) -> Seen:
        """
        Those that began in a time.
        """
        return Seen([each for each in self.asked if since <= each.began < until])

    def across(self, since: float, until: float) -> Seen:
        """
        Those that were under way at any moment of a time.
        """
        return Seen(
            [each for each in self.asked if each.began < until and each.ended > since]
        )

    @property
    def lost(self) -> list[Asked]:
        """
        Those that were not answered.
        """
        return [each for each in self.asked if each.what != "ok"]

    def failures(self) -> str:
        """
        Say what happened to those that were not answered.
        """
        counts = Counter(each.what for each in self.lost)
        return ", ".join(f"{counts[each]} {each}" for each in counts) or "0 errors"

    def machines(self) -> Counter[str]:
        """
        How many each machine has answered.
        """
        return Counter(each.machine for each in self.asked if each.what == "ok")

    @property
    def longest(self) -> float:
        """
        How long the slowest took that was answered, in seconds.
        """
        return max((each.took for each in self.asked if each.what == "ok"), default=0)

    def check(self) -> Seen:
        """
        Check that each was answered.
        """
        assert len(self.asked) > 20, f"too few requests: {self}"
        assert not self.lost, f"{self}: {self.lost[:5]}"
        return self
