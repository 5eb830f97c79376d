"""
Connections that wait, and from whose clients nothing has come.
"""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heapify, heappop, heappush
from typing import Any

from portlisten._policy.entries import Entry, Order

#: How many entries that were taken the heap may hold, beside one for each that was not.
_SLACK = 64


class SilentConnections:
    """
    The silent connections of one name.  To add or take one costs the logarithm of their
    number.

    @ivar entries: the entries, by their connections.  Only this object changes them.
    """

    __slots__ = ("_heap", "entries")

    def __init__(self) -> None:
        self.entries: dict[Any, Entry] = {}
        # This may hold entries that were taken.
        self._heap: list[tuple[Order, Entry]] = []

    def __len__(self) -> int:
        return len(self.entries)

    def __contains__(self, entry: Entry) -> bool:
        return self.entries.get(entry.connection) is entry

    def add(self, entry: Entry) -> None:
        """
        Add a connection, which is not watched yet.
        """
        entry.watched = False
        self.entries[entry.connection] = entry
        heappush(self._heap, (entry.order, entry))

    def watched(self, connections: Iterable[Any]) -> None:
        """
        Note that connections are watched.  Some of them may not be here.
        """
        for each in connections:
            entry = self.entries.get(each)
            if entry is not None:
                entry.watched = True

    def take(self, connection: Any) -> Entry | None:
        """
        Take a connection.

        @return: L{None} if it is not here.
        """
        entry = self.entries.pop(connection, None)
        if len(self._heap) > 2 * len(self.entries) + _SLACK:
            self._heap = [(each.order, each) for each in self.entries.values()]
            heapify(self._heap)
        return entry

    @property
    def oldest(self) -> Entry | None:
        """
        The oldest connection, or L{None}.
        """
        while self._heap:
            entry = self._heap[0][1]
            if entry in self:
                return entry
            heappop(self._heap)
        return None
