"""
What became of the connections, in numbers, by the names of their ports.

The listener counts each connection several times, so each count costs as little as
possible.  The sums over all names are made only if somebody asks.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection
from dataclasses import dataclass, field, fields

from portlisten._policy.claim_times import BOUNDS
from portlisten._policy.counters import Counters

#: The counters of one name.  A worker may serve several names, so it is revoked for
#: none of them.
COUNTED = tuple(each.name for each in fields(Counters) if each.name != "revoked")


@dataclass(eq=False)
class Tally(Counters):
    """
    The counters of one name, which are in L{COUNTED}.

    @ivar claimTimes: how many waited until they were claimed for at most as long as
        each of L{BOUNDS}, and longer than the bound before; and last, how many waited
        for longer than all bounds.
    @ivar claimSeconds: how long all together waited, in seconds.
    """

    claimTimes: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))
    claimSeconds: float = 0.0

    def claim(self, waited: float) -> None:
        """
        Count a claim.  This takes the same short time, no matter how many there were.

        @param waited: how long the connection waited for it, in seconds.
        """
        self.claimed += 1
        self.claimTimes[bisect_left(BOUNDS, waited)] += 1
        self.claimSeconds += waited


class Tallies:
    """
    The counters of all names.

    @param names: the names of the ports.

    @ivar by: the tallies, by names.
    @ivar revoked: how many workers were revoked.
    """

    __slots__ = ("by", "revoked")

    def __init__(self, names: Collection[str]) -> None:
        self.by = {name: Tally() for name in names}
        self.revoked = 0

    def sum(self) -> Counters:
        """
        Add up the counters of all names.
        """
        tallies = self.by.values()
        sums = {
            name: sum([getattr(each, name) for each in tallies]) for name in COUNTED
        }
        return Counters(**sums, revoked=self.revoked)
