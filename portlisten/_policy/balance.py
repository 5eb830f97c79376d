"""
Which worker gets the next connection.

A worker is a candidate if it wants the port's name, has capacity, and does not pause.
The next worker is the candidate with the fewest connections.  With round robin, the
number of connections does not matter.  Among equals, the next worker is the
one whose last turn was the longest ago.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from heapq import heapify, heappop, heapreplace
from typing import Protocol, TypeVar


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
        self._roundRobin = roundRobin
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
        return self.assign(candidates, 1)[0]

    def assign(self, candidates: list[AnyCandidate], count: int) -> list[AnyCandidate]:
        """
        Choose the workers that get the next connections, one after the other, and count
        each choice as a turn.

        @param candidates: workers with capacity.
        @param count: how many connections there are.
        @return: a worker for each connection; fewer if the capacity of all is less.
        """
        if len(candidates) == 1:
            self._turn += 1
            [worker] = candidates
            worker.turn = self._turn
            return [worker] * min(count, worker.capacity)
        chosen: list[AnyCandidate] = []
        step = 0 if self._roundRobin else 1
        ranks = [
            (worker.load * step, worker.turn, place)
            for place, worker in enumerate(candidates)
        ]
        heapify(ranks)
        capacities = [worker.capacity for worker in candidates]
        while ranks and len(chosen) < count:
            load, _, place = ranks[0]
            self._turn += 1
            worker = candidates[place]
            worker.turn = self._turn
            chosen.append(worker)
            capacities[place] -= 1
            if capacities[place] > 0:
                heapreplace(ranks, (load + step, self._turn, place))
            else:
                heappop(ranks)
        return chosen
