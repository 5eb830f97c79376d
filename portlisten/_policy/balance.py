"""
Which worker gets the next connection.

A worker is a candidate if it wants the port's name, has capacity, and does not pause.
The next worker is the candidate with the fewest connections.  With round robin, the
number of connections does not matter.  Among equals, the next worker is the
one whose last turn was the longest ago.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from operator import attrgetter
from typing import Any, Protocol, TypeVar


class Candidate(Protocol):
    """
    A worker, as far as the choice needs it.

    @ivar turn: the number of its last turn.  Later turns have larger numbers.
    """

    turn: int

    @property
    def names(self) -> Collection[str]:
        """
        The names of the ports whose connections it wants.
        """

    @property
    def capacity(self) -> int:
        """
        How many more offers it may have now.
        """

    @property
    def resume(self) -> float:
        """
        When its pause ends, in seconds.
        """

    @property
    def load(self) -> int:
        """
        How many connections it has, wherever they came from.
        """


AnyCandidate = TypeVar("AnyCandidate", bound=Candidate)


class Balance:
    """
    Chooses the next worker.

    @param roundRobin: whether to ignore how many connections the candidates have.
    """

    def __init__(self, roundRobin: bool = False) -> None:
        self._rank: Callable[[Candidate], Any] = (
            attrgetter("turn") if roundRobin else _leastLoaded
        )
        self._turn = 0

    def candidates(
        self, workers: Iterable[AnyCandidate], name: str, now: float
    ) -> list[AnyCandidate]:
        """
        Find the workers that may get a connection of this name.

        @param now: the time, in seconds.
        """
        return [
            worker
            for worker in workers
            if worker.capacity and worker.resume <= now and name in worker.names
        ]

    def choose(self, candidates: list[AnyCandidate]) -> AnyCandidate:
        """
        Choose the next worker, and count this as its turn.

        @param candidates: at least one worker.
        """
        worker = (
            min(candidates, key=self._rank) if len(candidates) > 1 else candidates[0]
        )
        self._turn += 1
        worker.turn = self._turn
        return worker


def _leastLoaded(worker: Candidate) -> tuple[int, int]:
    return (worker.load, worker.turn)
