"""
Which worker gets the next connection.

A worker is a candidate if it wants the port's name, may be offered something more, and
does not pause.  Among the candidates, the next is the worker with the fewest
outstanding connections or, with round robin, any.  Among equals it is the worker whose
last turn is the longest ago.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from operator import attrgetter
from typing import Any, Protocol, TypeVar


class Candidate(Protocol):
    """
    What is known of a worker.

    @ivar turn: when it had its last offer, as a number that only grows.
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
        How many offers it may have now, besides those that it has.
        """

    @property
    def resume(self) -> float:
        """
        When its pause ends, in seconds.
        """

    @property
    def outstanding(self) -> int:
        """
        How many connections it has, offered or claimed.
        """


AnyCandidate = TypeVar("AnyCandidate", bound=Candidate)


class Balance:
    """
    Chooses.

    @param roundRobin: give each candidate its turn, however many connections it has.
    """

    def __init__(self, roundRobin: bool = False) -> None:
        self._rank: Callable[[Candidate], Any] = (
            attrgetter("turn") if roundRobin else _leastOutstanding
        )
        self._turn = 0

    def candidates(
        self, workers: Iterable[AnyCandidate], name: str, now: float
    ) -> list[AnyCandidate]:
        """
        Find the workers that may have a connection of this name.

        @param now: the time, in seconds.
        """
        return [
            worker
            for worker in workers
            if worker.capacity and worker.resume <= now and name in worker.names
        ]

    def choose(self, candidates: list[AnyCandidate]) -> AnyCandidate:
        """
        Choose the next worker.  This is its turn.

        @param candidates: at least one.
        """
        worker = (
            min(candidates, key=self._rank) if len(candidates) > 1 else candidates[0]
        )
        self._turn += 1
        worker.turn = self._turn
        return worker


def _leastOutstanding(worker: Candidate) -> tuple[int, int]:
    return (worker.outstanding, worker.turn)
