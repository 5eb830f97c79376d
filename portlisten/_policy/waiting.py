"""
Connections that wait for a worker.

The connections of each name have a queue of their own.  If no worker wants one name,
the connections of other names go on.

A queue has three parts.  A connection in the I{silent} part is kept until something
comes from its client, or until it has been kept for long enough.  One in the I{parked}
part is beyond a limit of its source or of its port, and waits until the limit lets it
in.  All others are I{ready}.

In a I{fair} queue, the sources of the ready connections take turns.  Each connection
gets the number of a turn when it begins to wait: the one after the turn of the source's
connection before it, or the present turn if the source has none that waits.  The lowest
number is offered first.  So the first connection of a source waits for no more than one
turn of all others, however many of one source wait; and if the source was just served,
for what is left of that turn as well.  This is start-time fair queueing,
and a deficit round robin in which all connections have one size.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from heapq import heapify, heappop, heappush
from operator import attrgetter
from typing import Any

from portlisten._policy.entries import Entry, Turn
from portlisten._policy.silent import SilentConnections

#: The order of arrival.
_ORDER = attrgetter("order")


class WaitingQueue:
    """
    The connections of one name that wait, in the order of their arrival.

    A client may have ended its side and sent nothing.  It may want an answer all the
    same, but most such clients have left.  So its connection takes no place, as long as
    the number of these connections is at most half of the places.

    @param name: the name.
    @param places: how many connections may wait, the silent ones among them.
    @param patience: how long a connection may wait, in seconds since it was accepted.
    @param fair: whether sources take turns.
    @param silence: if a client ended its side and sent nothing, how long it may wait,
        in seconds since that was seen.

    @ivar places: how many connections may wait.
    @ivar heap: the ready connections, in their order: the first is the
        oldest, or the one whose turn it is.
    @ivar parked: the parked connections, by the caller's objects, the oldest first.
    @ivar silent: the silent connections.
    @ivar hold: how long a silent connection is kept, in seconds.  If this is 0, no
        further connections become silent.
    """

    __slots__ = (
        "_holdBegan",
        "_last",
        "_patience",
        "_placeless",
        "_silence",
        "_turn",
        "fair",
        "heap",
        "hold",
        "name",
        "parked",
        "places",
        "silent",
    )

    def __init__(
        self,
        name: str,
        places: int,
        patience: float,
        silence: float,
        fair: bool = False,
    ) -> None:
        self.name = name
        self.places = places
        self._patience = patience
        self._silence = silence
        self._placeless = 0
        # The present turn, and the last that a source may have next.
        self._turn = 0
        self._last = 0
        self.fair = fair
        self.heap: list[tuple[Turn, Entry]] = []
        self.parked: dict[Any, Entry] = {}
        self.silent = SilentConnections()
        self.hold = 0.0
        self._holdBegan = 0.0

    @property
    def count(self) -> int:
        """
        How many connections wait.
        """
        return len(self.heap) + len(self.silent.entries) + len(self.parked)

    @property
    def free(self) -> int:
        """
        How many more connections may wait.  If workers died or refused connections,
        this may be negative: more connections wait than have a place.
        """
        placeless = min(self._placeless, self.places // 2)
        return self.places - self.count + placeless

    def add(self, entry: Entry) -> bool:
        """
        Let a connection wait, in the order of arrival.

        @return: whether it is silent.
        """
        again = entry.worker is not None
        entry.worker = None
        entry.ended = None
        if self.hold and not entry.heard:
            self.silent.add(entry)
            return True
        heappush(self.heap, (self._place(entry, again), entry))
        return False

    def _place(self, entry: Entry, again: bool = False) -> Turn:
        """
        Find the place of a connection among those that are ready.

        @param again: whether it was offered before.  Then it goes before others.
        """
        source = entry.source
        if not self.fair or source is None:
            return (False, self._turn, entry.order[1]) if self.fair else entry.order
        if entry.turn is None:
            turn = self._turn
            if not again:
                turn = max(turn, source.finish)
                source.finish = turn + 1
                self._last = max(self._last, source.finish)
            entry.turn = (entry.late, turn, entry.order[1])
        return entry.turn

    def park(self, entry: Entry) -> None:
        """
        Let a connection wait until L{release}.
        """
        self.parked[entry.connection] = entry

    def release(self, entry: Entry) -> bool:
        """
        Let a parked connection wait like all others, behind them.

        @return: whether it is silent.
        """
        del self.parked[entry.connection]
        if entry.ended is not None:
            self._placeless -= 1
        return self.add(entry)

    def pop(self) -> Entry:
        """
        Take the oldest ready connection.
        """
        entry = heappop(self.heap)[1]
        if entry.ended is not None:
            self._placeless -= 1
        turn = entry.turn
        if turn is not None and not turn[0]:
            self._turn = max(self._turn, int(turn[1]))
        if not self.heap:
            # Nobody has a debt to those who come next.
            self._turn = max(self._turn, self._last)
        return entry

    def takeAll(self) -> list[Entry]:
        """
        Take all connections, the oldest first.
        """
        entries = [entry for _, entry in self.heap]
        entries += [*self.parked.values(), *self.silent.entries.values()]
        self.remove([each.connection for each in entries])
        return sorted(entries, key=_ORDER)

    def takeReadyOverdue(self, now: float) -> list[Entry]:
        """
        Take the ready and parked connections whose patience is over.
        """
        if not self.fair and not self.parked:
            found = []
            while self.readyOverdue(now):
                found.append(self.pop())
            return found
        entries = [*[entry for _, entry in self.heap], *self.parked.values()]
        due = [each for each in entries if now - each.accepted >= self._patience]
        self.remove([each.connection for each in due])
        return sorted(due, key=_ORDER)

    def takeOverdue(self, now: float) -> list[Entry]:
        """
        Take all connections whose patience is over.
        """
        found = self.takeReadyOverdue(now)
        silent = self.silent
        while (
            oldest := silent.oldest
        ) is not None and now - oldest.accepted >= self._patience:
            silent.take(oldest.connection)
            found.append(oldest)
        return found

    def _oldest(self) -> tuple[Entry | None, Entry | None]:
        """
        The oldest of those that are ready, and of those that are parked.
        """
        ready: Entry | None = None
        if self.fair:
            ready = min([entry for _, entry in self.heap], key=_ORDER, default=None)
        elif self.heap:
            ready = self.heap[0][1]
        parked = next(iter(self.parked.values())) if self.parked else None
        return ready, parked

    def overdue(self, now: float) -> bool:
        """
        Whether the patience of the oldest connection is over.
        """
        silent = self.silent.oldest if self.silent.entries else None
        return self.readyOverdue(now) or (
            silent is not None and now - silent.accepted >= self._patience
        )

    def oldestReady(self, now: float) -> float:
        """
        How long the oldest ready or parked connection has waited, in seconds; 0 if none
        waits.
        """
        found = [each.accepted for each in self._oldest() if each is not None]
        return max(0.0, now - min(found)) if found else 0.0

    def readyOverdue(self, now: float) -> bool:
        """
        Whether the patience of the oldest ready or parked connection is over.
        """
        if not self.fair and not self.parked:
            return bool(self.heap) and now - self.heap[0][1].accepted >= self._patience
        return self.oldestReady(now) >= self._patience

    def remove(self, connections: Collection[Any]) -> list[Entry]:
        """
        Remove connections.  Some of them may not wait here.

        @return: the entries of the removed connections.
        """
        connections = set(connections)
        removed: list[tuple[Turn, Entry]] = []
        stay: list[tuple[Turn, Entry]] = []
        for each in self.heap:
            (removed if each[1].connection in connections else stay).append(each)
        if removed:
            self._placeless -= sum(entry.ended is not None for _, entry in removed)
            heapify(stay)
            self.heap = stay
        found = [entry for _, entry in removed]
        if self.parked:
            popped = [self.parked.pop(each, None) for each in connections]
            parked = [each for each in popped if each is not None]
            self._placeless -= sum(entry.ended is not None for entry in parked)
            found += parked
        if self.silent.entries:
            taken = [self.silent.take(each) for each in connections]
            found += [each for each in taken if each is not None]
        return found

    # Silent connections

    def setHold(self, hold: float, now: float) -> list[Entry]:
        """
        Set how long a silent connection is kept.  If none was kept so far, those that
        wait become silent if nothing is known to have come from their clients.

        @return: the connections that became silent.
        """
        begins = hold > 0 and not self.hold
        self.hold = hold
        if not begins:
            return []
        self._holdBegan = now
        found = [entry for _, entry in self.heap if not entry.heard]
        if found:
            self.heap = [each for each in self.heap if each[1].heard]
            heapify(self.heap)
        for entry in found:
            self.silent.add(entry)
        return found

    def spoke(self, connections: Iterable[Any], now: float) -> None:
        """
        Something has come from the clients of these connections.  Some of them may not
        be silent, or not wait here.
        """
        for each in connections:
            entry = self.silent.take(each)
            if entry is not None:
                entry.heard = True
                entry.ready = now
                heappush(self.heap, (self._place(entry), entry))

    def wasKept(self, entry: Entry, now: float) -> bool:
        """
        Whether a silent connection has been kept for long enough.  This is so at the
        latest when its patience is over.
        """
        kept = now - max(entry.accepted, self._holdBegan)
        return kept >= self.hold or now - entry.accepted >= self._patience

    def keptUntil(self, entry: Entry) -> float:
        """
        Until when a silent connection is kept from the workers, in seconds.  If none is
        kept any more, that is when it was accepted.
        """
        if not self.hold:
            return entry.accepted
        return max(entry.accepted, self._holdBegan) + self.hold

    def dueSilent(self, now: float, crowded: bool) -> Entry | None:
        """
        The silent connection that is offered next.

        @param crowded: whether no further connection can be accepted.
        @return: the oldest, if it was kept for long enough, or if the queue is full, or
            crowded.
        """
        oldest = self.silent.oldest
        full = crowded or self.free <= 0
        if oldest is None or not (full or self.wasKept(oldest, now)):
            return None
        return oldest

    def mustGo(self, entry: Entry, now: float, crowded: bool) -> bool:
        """
        Whether a silent connection that cannot be offered is given up.  As long as it
        is not watched, its client may have spoken.

        @param crowded: whether no further connection can be accepted.
        """
        full = crowded or self.free <= 0
        return entry.watched and (
            (full and self.wasKept(entry, now))
            or now - entry.accepted >= self._patience
        )

    # Clients that ended their side

    def clientsHalfClosed(
        self, connections: Collection[Any], now: float, crowded: bool
    ) -> list[Any]:
        """
        Note that the clients of these connections have ended their side and sent
        nothing.  That is a word from them: their connections are ready.

        @param crowded: whether descriptors are scarce.
        @return: the connections to give up.  If descriptors are scarce, these are all.
            Otherwise, they are the connections that have waited too long, and the
            oldest if the connections are too many.
        """
        if self.silent.entries:
            self.spoke(connections, now)
        entries = [entry for _, entry in self.heap if entry.connection in connections]
        if self.parked:
            parked = [self.parked.get(each) for each in connections]
            entries += [each for each in parked if each is not None]
        found = [(entry.order, entry) for entry in sorted(entries, key=_ORDER)]
        for _, entry in found:
            if entry.ended is None:
                entry.ended = now
                entry.heard = True
                self._placeless += 1
        many = self._placeless - self.places // 2
        due = []
        for _, entry in found:
            assert entry.ended is not None
            if crowded or now - entry.ended >= self._silence or many > 0:
                many -= 1
                due.append(entry.connection)
        return due
