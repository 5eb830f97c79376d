"""
The copies of claimed connections.

A copy is closed when its connection was touched, or when the worker reports CLOSED.
The copy of an untouched connection is held for a time.  If a worker left and stands
still, its copies are I{asleep}.  So are those of a worker that says before others touch
its connections, until it says so or leaves.  Copies that are asleep are held without a
limit of time, but their number is limited.  If too many copies are asleep, the user
that has the most loses its oldest.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator

from portlisten._policy.entries import Entry, Worker


class Copies:
    """
    The copies that are held.

    @param hold: how long to hold a copy that is not asleep, in seconds.
    @param asleep: how many copies may be asleep.
    """

    def __init__(self, hold: float, asleep: int) -> None:
        self._hold = hold
        self._mostAsleep = asleep
        self._timed: dict[Entry, None] = {}
        self._asleep: dict[Hashable, dict[Entry, None]] = {}

    def __len__(self) -> int:
        return len(self._timed) + self._countAsleep()

    def __iter__(self) -> Iterator[Entry]:
        """
        All copies, the oldest claim first, and then those that are asleep.
        """
        yield from self._timed
        for entries in self._asleep.values():
            yield from entries

    def add(self, entry: Entry, now: float) -> None:
        """
        Hold the copy of a claimed connection.
        """
        entry.since = now
        worker = entry.worker
        if worker is not None and worker.gives:
            self._asleep.setdefault(worker.user, {})[entry] = None
        else:
            self._timed[entry] = None

    def discard(self, entry: Entry) -> None:
        """
        Hold a copy no more.
        """
        if entry in self._timed:
            del self._timed[entry]
            return
        assert entry.worker is not None
        user = entry.worker.user
        del self._asleep[user][entry]
        if not self._asleep[user]:
            del self._asleep[user]

    def clear(self) -> None:
        """
        Hold no copies any more.
        """
        self._timed.clear()
        self._asleep.clear()

    def overdue(self, now: float) -> Entry | None:
        """
        Find the oldest copy that is not asleep, if it was held for long enough.
        """
        oldest = next(iter(self._timed), None)
        if oldest is None or now - oldest.since < self._hold:
            return None
        return oldest

    def sleep(self, worker: Worker) -> None:
        """
        Stop counting the time for the copies of a worker.
        """
        worker.asleep = True
        for entry in worker.copies.values():
            self._timed.pop(entry, None)
            self._asleep.setdefault(worker.user, {})[entry] = None

    def wake(self, worker: Worker, now: float) -> None:
        """
        Start counting the time for the copies of a worker that were asleep.
        """
        worker.asleep = worker.gives = False
        for entry in worker.copies.values():
            self.discard(entry)
            self.add(entry, now)

    def tooManyAsleep(self) -> Entry | None:
        """
        If too many copies are asleep, find the one to close: the oldest copy of the
        user that has the most.
        """
        if self._countAsleep() <= self._mostAsleep:
            return None
        user = max(self._asleep, key=lambda each: len(self._asleep[each]))
        return next(iter(self._asleep[user]))

    def _countAsleep(self) -> int:
        return sum(map(len, self._asleep.values())) if self._asleep else 0
