"""
What became of the connections, in numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass
class Counters:
    """
    What became of the connections since the start.
    """

    accepted: int = 0
    offered: int = 0
    claimed: int = 0
    refused: int = 0
    redispatched: int = 0
    revoked: int = 0
    lostInService: int = 0
    timedOut: int = 0
    silentTooLong: int = 0
    goneBeforeAdoption: int = 0
    stopped: int = 0

    def __str__(self) -> str:
        return ", ".join(
            f"{each.name} {getattr(self, each.name)}" for each in fields(self)
        )
