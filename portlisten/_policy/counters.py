"""
What became of the connections, in numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

#: The counters that count how connections ended in the listener.  Each connection ends
#: once.  So C{accepted} is the sum of these, and of the connections that the listener
#: still knows: see L{portlisten._policy.inventory.Whereabouts}.
ENDS = (
    "finished",
    "lostInService",
    "unusable",
    "timedOut",
    "silentTooLong",
    "goneBeforeAdoption",
    "given",
    "leftWithWorker",
    "handedOver",
    "stopped",
)


@dataclass
class Counters:
    """
    What became of the connections since the start.

    @ivar accepted: how many were accepted.
    @ivar offered: how many offers were made.  A connection may be offered again.
    @ivar claimed: how many offers were claimed.
    @ivar refused: how many offers were refused.
    @ivar redispatched: how many connections were taken back from workers that left or
        died.
    @ivar revoked: how many workers were revoked.
    @ivar finished: how many connections were reported CLOSED.
    @ivar lostInService: how many were lost with a worker that died.
    @ivar unusable: how many were made unusable by a worker that did not claim them.
    @ivar timedOut: how many waited longer than their patience.
    @ivar silentTooLong: how many were given up since nothing came from their clients.
    @ivar goneBeforeAdoption: how many had clients that left before a worker served
        them.
    @ivar given: how many a worker had given to other processes before it left or died.
    @ivar leftWithWorker: how many a worker kept that left its channel: it said BYE, or
        was revoked.  A worker also keeps its connections if the listener stops.
    @ivar handedOver: how many waited when the next listener took over, and went there.
    @ivar stopped: how many waited when the listener stopped.
    """

    accepted: int = 0
    offered: int = 0
    claimed: int = 0
    refused: int = 0
    redispatched: int = 0
    revoked: int = 0
    finished: int = 0
    lostInService: int = 0
    unusable: int = 0
    timedOut: int = 0
    silentTooLong: int = 0
    goneBeforeAdoption: int = 0
    given: int = 0
    leftWithWorker: int = 0
    handedOver: int = 0
    stopped: int = 0

    @property
    def ended(self) -> int:
        """
        How many connections have ended in the listener.
        """
        return sum([getattr(self, name) for name in ENDS])

    def __str__(self) -> str:
        return ", ".join(
            f"{each.name} {getattr(self, each.name)}" for each in fields(self)
        )
