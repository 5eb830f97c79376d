"""
Connections that wait for a worker.

The connections of each name have a queue of their own.  If no worker wants one name,
the connections of other names go on.
"""

from __future__ import annotations

from collections.abc import Collection
from heapq import heapify, heappop, heappush
from typing import Any

from portlisten._policy.entries import Entry


class WaitingQueue:
    """
    The connections of one name that wait, in the order of their arrival.

    A client may have ended its side and sent nothing.  It may want an answer all the
    same, but most such clients have left.  So its connection takes no place, as long as
    the number of these connections is at most half of the places.

    @param name: the name.
    @param places: how many connections may wait.
    @param patience: how long a connection may wait, in seconds since it was accepted.
    @param silence: if a client ended its side and sent nothing, how long it may wait,
        in seconds since that was seen.

    @ivar heap: the connections, with their serial numbers: the first is the oldest.
    """

    __slots__ = ("_patience", "_placeless", "_places", "_silence", "heap", "name")

    def __init__(self, name: str, places: int, patience: float, silence: float) -> None:
        self.name = name
        self._places = places
        self._patience = patience
        self._silence = silence
        self._placeless = 0
        self.heap: list[tuple[int, Entry]] = []

    @property
    def free(self) -> int:
        """
        How many more connections may wait.  If workers died or refused connections,
        this may be negative: more connections wait than have a place.
        """
        placeless = min(self._placeless, self._places // 2)
        return self._places - len(self.heap) + placeless

    def add(self, entry: Entry) -> None:
        """
        Let a connection wait, in the order of arrival.
        """
        entry.worker = None
        entry.ended = None
        heappush(self.heap, (entry.serial, entry))

    def pop(self) -> Entry:
        """
        Take the oldest connection.
        """
        entry = heappop(self.heap)[1]
        if entry.ended is not None:
            self._placeless -= 1
        return entry

    def overdue(self, now: float) -> bool:
        """
        Whether the patience of the oldest connection is over.
        """
        return bool(self.heap) and now - self.heap[0][1].accepted >= self._patience

    def remove(self, connections: Collection[Any]) -> list[Any]:
        """
        Remove connections.  Some of them may not wait here.

        @return: the removed connections.
        """
        removed: list[tuple[int, Entry]] = []
        stay: list[tuple[int, Entry]] = []
        for each in self.heap:
            (removed if each[1].connection in connections else stay).append(each)
        if removed:
            self._placeless -= sum(entry.ended is not None for _, entry in removed)
            heapify(stay)
            self.heap = stay
        return [entry.connection for _, entry in removed]

    def clientsHalfClosed(
        self, connections: Collection[Any], now: float, crowded: bool
    ) -> list[Any]:
        """
        Note that the clients of these connections have ended their side and sent
        nothing.

        @param crowded: whether descriptors are scarce.
        @return: the connections to give up.  If descriptors are scarce, these are all.
            Otherwise, they are the connections that have waited too long, and the
            oldest if the connections are too many.
        """
        found = sorted(each for each in self.heap if each[1].connection in connections)
        for _, entry in found:
            if entry.ended is None:
                entry.ended = now
                self._placeless += 1
        many = self._placeless - self._places // 2
        due = []
        for _, entry in found:
            assert entry.ended is not None
            if crowded or now - entry.ended >= self._silence or many > 0:
                many -= 1
                due.append(entry.connection)
        return due
