"""
The offers: which of the connections that wait is offered next, and to which worker.

Ready connections are offered first, the oldest before all others.

A worker may have said that its clients I{speak first}.  As long as nothing has come
from a client, such a worker has nothing to do for it.  So if the clients of all workers
of a name speak first, the queue of that name keeps its silent connections.  They use no
worker's window or limit.  When something comes, the connection is ready.  A silent
connection is offered all the same, in two cases:

  - It was kept for as long as the workers want.
  - The queue is full, or no descriptor is left.  Then the oldest is offered, so that
    others can be accepted.

Silent connections take at most half of a worker's limit.  So a client that speaks finds
a place, however many are silent.  If that half is taken, the oldest silent connection
is given up in two cases: its patience is over; or no other can be accepted, and it was
kept for as long as the workers want.  Otherwise clients that send nothing would keep
all others out.
"""

from __future__ import annotations

from portlisten._policy.decisions import Decision, GiveUp, HandOff, Reason, Watch
from portlisten._policy.entries import End, Entry, Order, Worker
from portlisten._policy.inventory import Inventory
from portlisten._policy.waiting import WaitingQueue


def _oldest(queue: WaitingQueue) -> Order:
    """
    The order of several queues: their first connections, the oldest first.
    """
    return queue.heap[0][1].order


class Offering(Inventory):
    """
    An inventory that offers what waits.
    """

    def keeps(self, name: str, now: float) -> bool:
        """
        Whether silent connections of this name are kept.  If so, the caller checks
        which of the accepted connections are silent.
        """
        if self._holdsAreOld:
            self._updateHolds(now)
        return self._queues[name].hold > 0

    def _wait(self, entry: Entry) -> None:
        """
        Let a connection wait.
        """
        self._countWaiting(entry)
        if self._queues[entry.name].add(entry):
            self._unwatched.append(entry)

    # Sources with limits

    def _countWaiting(self, entry: Entry) -> None:
        source = entry.source
        if source is not None and not entry.waits:
            entry.waits = True
            source.waiting += 1

    def _waitsNoMore(self, entry: Entry) -> None:
        source = entry.source
        if source is not None and entry.waits:
            entry.waits = False
            source.waiting -= 1

    def _ended(self, entry: Entry) -> None:
        """
        A connection has ended.  If its source has limits, it does not count any more.
        """
        source = entry.source
        if source is None:
            return
        if entry.waits:
            self._waitsNoMore(entry)
        if entry.parked:
            entry.parked = False
            source.table.unpark(source, entry)
        else:
            source.depart()
        entry.source = None

    def _park(self, entry: Entry) -> None:
        """
        Let a connection wait that is beyond a limit.
        """
        source = entry.source
        assert source is not None
        entry.parked = entry.late = self._parks = True
        self._countWaiting(entry)
        self._queues[entry.name].park(entry)
        source.table.park(source, entry)

    def _release(self, entries: list[Entry]) -> None:
        """
        Let parked connections wait like all others.
        """
        for entry in entries:
            entry.parked = False
            if self._queues[entry.name].release(entry):
                self._unwatched.append(entry)

    def _releaseParked(self, everybody: bool = False) -> None:
        """
        Let the parked connections wait like all others that no limit keeps out.
        """
        for table in self._tables:
            if table.parked:
                self._release(table.released(everybody))
        self._parks = any(table.parked for table in self._tables)

    # Offers

    def _dispatch(self, now: float) -> list[Decision]:
        """
        Offer the connections that wait to workers with capacity.
        """
        self._now = now
        if self._parks:
            self._releaseParked()
        if self._holdsAreOld:
            self._updateHolds(now)
        decisions = self._offerReady(now)
        if self._usesFirst:
            decisions += self._offerSilent(now)
            decisions += self._watchSilent()
        return decisions

    def _offerReady(self, now: float) -> list[Decision]:
        """
        Offer the ready connections, the oldest first.
        """
        queues = [queue for queue in self._queues.values() if queue.heap]
        if not queues:
            return []
        decisions: list[Decision] = []
        if len(queues) == 1:
            [queue] = queues
            for worker in self._choose(queue.name, len(queue.heap), now):
                decisions.append(self._offer(queue.pop(), worker, now))
            return decisions
        candidates = {
            queue: self._balance.candidates(self._workers.values(), queue.name, now)
            for queue in queues
        }
        while queues:
            queue = min(queues, key=_oldest) if len(queues) > 1 else queues[0]
            able = candidates[queue]
            if not able:
                queues.remove(queue)
                continue
            worker = self._balance.choose(able)
            decisions.append(self._offer(queue.pop(), worker, now))
            if not queue.heap:
                queues.remove(queue)
            if not worker.capacity:
                for able in candidates.values():
                    if worker in able:
                        able.remove(worker)
        return decisions

    def _offerNew(self, entries: list[Entry], now: float) -> list[Decision]:
        """
        Offer connections of one name that have just come in, if they need not wait.

        @param entries: loses those that are offered.
        """
        if self._usesFirst or any(queue.heap for queue in self._queues.values()):
            return []
        workers = self._choose(entries[0].name, len(entries), now) if entries else []
        decisions: list[Decision] = [
            self._offer(entry, worker, now)
            for entry, worker in zip(entries, workers, strict=False)
        ]
        del entries[: len(workers)]
        return decisions

    def _choose(self, name: str, count: int, now: float) -> list[Worker]:
        """
        Choose the workers that get the next connections of a name; fewer if not so many
        are able.
        """
        able = self._balance.candidates(self._workers.values(), name, now)
        return self._balance.assign(able, count) if able else []

    def _offer(self, entry: Entry, worker: Worker, now: float) -> HandOff:
        if entry.waits:
            self._waitsNoMore(entry)
        id = worker.newId()
        entry.worker = worker
        entry.id = id
        entry.since = now
        worker.offered[id] = entry
        entry.tally.offered += 1
        return HandOff(worker.channel, id, entry.connection, entry.port)

    # Silent connections

    def _workersChanged(self, usesFirst: bool = False) -> None:
        """
        Note that a worker came, went, or takes no more offers.

        @param usesFirst: whether its clients speak first.
        """
        self._usesFirst = self._usesFirst or usesFirst
        self._holdsAreOld = self._usesFirst

    def _updateHolds(self, now: float) -> None:
        self._holdsAreOld = False
        for queue in self._queues.values():
            holds = {
                worker.first or 0.0
                for worker in self._workers.values()
                if worker.open and not worker.parked and queue.name in worker.names
            }
            hold = min(holds, default=0.0) if self._keepsSilent else 0.0
            self._unwatched += queue.setHold(hold, now)

    def _offerSilent(self, now: float) -> list[Decision]:
        """
        Offer the silent connections that are due, the oldest first.
        """
        decisions: list[Decision] = []
        queues = [queue for queue in self._queues.values() if queue.silent]
        # An offer frees its descriptor only later.  So make one for this reason.
        crowded = bool(queues) and self.held >= self._budget
        while queues:
            due = {
                queue: entry
                for queue in queues
                if (entry := queue.dueSilent(now, crowded)) is not None
            }
            if not due:
                break
            queue, entry = min(due.items(), key=lambda item: item[1].order)
            able = self._balance.candidates(self._workers.values(), queue.name, now)
            workers = [each for each in able if not queue.hold or each.silentCapacity]
            if workers:
                queue.silent.take(entry.connection)
                entry.ready = min(now, queue.keptUntil(entry))
                worker = self._balance.choose(workers)
                decisions.append(self._offer(entry, worker, now))
                if queue.hold and worker.limit is not None:
                    worker.silent.add(entry.id)
                crowded = False
            elif able and queue.mustGo(entry, now, crowded):
                queue.silent.take(entry.connection)
                entry.tally.silentTooLong += 1
                self.ends.append(End("silentTooLong", entry))
                self._ended(entry)
                decisions.append(GiveUp(entry.connection, Reason.SILENT))
                crowded = False
            else:
                queues.remove(queue)
        return decisions

    def _watchSilent(self) -> list[Decision]:
        """
        Watch the connections that became silent and still wait.
        """
        unwatched, self._unwatched = self._unwatched, []
        return [
            Watch(entry.connection)
            for entry in unwatched
            if entry in self._queues[entry.name].silent
        ]
