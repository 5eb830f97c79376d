"""
The inventory: where each connection is, and which worker has it.

The ledger is an inventory that also decides: see L{portlisten._policy.ledger}.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable
from dataclasses import dataclass
from typing import Any

from portlisten._policy.balance import Balance
from portlisten._policy.copies import Copies
from portlisten._policy.counters import Counters
from portlisten._policy.entries import End, Entry, Worker
from portlisten._policy.source_limits import SourceLimits
from portlisten._policy.tallies import Tallies
from portlisten._policy.waiting import WaitingQueue
from portlisten.errors import ProtocolError


@dataclass(frozen=True)
class Whereabouts:
    """
    Where the connections are that the listener still knows.  Each is in one place.

    @ivar waiting: how many wait for a worker.
    @ivar offered: how many are offered to a worker, and not claimed.
    @ivar claimed: how many are claimed by a worker that has not left.
    @ivar departed: how many were claimed by a worker that has left since, and may still
        be untouched: if its process ends, they are offered again.
    """

    waiting: int
    offered: int
    claimed: int
    departed: int


@dataclass(frozen=True)
class QueueSummary:
    """
    The connections of one name that wait.

    @ivar waiting: how many wait.
    @ivar silent: how many of these wait for their clients to speak.
    @ivar oldest: how long the oldest has waited that does not wait for its client, in
        seconds; 0 if none waits.
    @ivar limit: how many may wait.
    @ivar workers: how many workers take connections of this name.
    """

    waiting: int
    silent: int
    oldest: float
    limit: int
    workers: int


@dataclass(frozen=True)
class Holdings:
    """
    What one worker has.

    @ivar offered: how many connections are offered to it, and not claimed.
    @ivar claimed: how many it has claimed, and not closed.
    @ivar unanswered: for how long its oldest offer is not claimed, in seconds; 0 if it
        has none.
    """

    offered: int = 0
    claimed: int = 0
    unanswered: float = 0.0


class Inventory:
    """
    All connections that the listener holds, and all workers.

    @param queue: how many connections of one name may wait while no worker has
        capacity.  With several names, fewer may wait if the queues would take most of
        the budget.
    @param budget: how many descriptors of connections may be held at a time, in all
        states together.  About half may be copies of claimed connections, in equal
        shares of at least a window.  If a worker claims beyond its share, its oldest
        copies are closed.
    @param patience: how long a connection may wait, in seconds since it was
        accepted.
    @param hold: how long to keep the copy of a claimed connection that stays
        untouched, in seconds.
    @param claimTimeout: how long an offer may stay unclaimed before its worker
        counts as hung, in seconds.
    @param pause: how long a worker gets no offers after it refused one, in seconds.
    @param silence: if a client ended its side and sent nothing, how long it may wait,
        in seconds since that was seen.
    @param roundRobin: whether to ignore how many connections the workers have.
    @param names: the names of the ports.
    @param tables: the sources of the ports that have limits.
    @param fair: the names of the ports whose sources take turns.

    @ivar tallies: what became of the connections, by the names of their ports.
    @ivar ends: the connections that were lost since the caller emptied this, for the
        log: those whose clients left, and those that a revoked worker kept, as well.
    @ivar left: the connections of sources with limits whose ends nobody will report,
        since the caller emptied this.  They count until the caller learns from the
        kernel that they have ended.
    """

    def __init__(
        self,
        queue: int,
        budget: int,
        patience: float,
        hold: float = 1.0,
        claimTimeout: float = 5.0,
        pause: float = 0.1,
        roundRobin: bool = False,
        names: Collection[str] = ("",),
        silence: float = 5.0,
        tables: Collection[SourceLimits] = (),
        fair: Collection[str] = (),
    ) -> None:
        self.tallies = Tallies(names)
        self.ends: list[End] = []
        # If all other queues and the shares of copies are full, a quarter of the budget
        # is left for one name.
        others = len(set(names)) - 1
        places = min(queue, budget // 4 // others) if others > 0 else queue
        self._queues = {
            name: WaitingQueue(name, places, patience, silence, name in fair)
            for name in names
        }
        self._tables = tuple(tables)
        # Whether a limit keeps connections out that wait.
        self._parks = False
        self.left: list[Entry] = []
        self._copies = Copies(hold, budget // 4)
        self._workers: dict[Hashable, Worker] = {}
        self._departed: dict[Hashable, Worker] = {}
        self._budget = budget
        self._claimTimeout = claimTimeout
        self._pause = pause
        self._balance = Balance(roundRobin)
        self._number = 0
        self._now = 0.0
        # Whether a worker has joined whose clients speak first.
        self._usesFirst = False
        self._keepsSilent = True
        self._holdsAreOld = False
        # Connections that became silent, and for which there was no Watch yet.
        self._unwatched: list[Entry] = []

    @property
    def counters(self) -> Counters:
        """
        What became of the connections of all names.
        """
        return self.tallies.sum()

    @property
    def names(self) -> Collection[str]:
        """
        The names of the ports.
        """
        return self._queues.keys()

    @property
    def waiting(self) -> int:
        """
        How many connections wait for a worker.
        """
        return sum([queue.count for queue in self._queues.values()])

    @property
    def silent(self) -> int:
        """
        How many of the connections that wait are silent: nothing has come from their
        clients, and the workers' clients speak first.
        """
        return sum([len(queue.silent) for queue in self._queues.values()])

    @property
    def unclaimed(self) -> int:
        """
        How many connections are offered and not claimed.
        """
        return sum([len(worker.offered) for worker in self._workers.values()])

    @property
    def held(self) -> int:
        """
        How many descriptors of connections the listener holds.
        """
        return self.waiting + self.unclaimed + len(self._copies)

    @property
    def workers(self) -> int:
        """
        How many workers take offers.
        """
        return sum(worker.open for worker in self._workers.values())

    @property
    def hasTakers(self) -> bool:
        """
        Whether a worker wants any of the connections that wait.
        """
        return any(
            queue.count and self.serves(name) for name, queue in self._queues.items()
        )

    def serves(self, name: str) -> bool:
        """
        Whether a worker takes connections of this name.
        """
        return any(
            worker.open and name in worker.names for worker in self._workers.values()
        )

    @property
    def timed(self) -> bool:
        """
        Whether anything changes as time passes.
        """
        return self.held > 0 or any(
            worker.resume > self._now for worker in self._workers.values()
        )

    def capacity(self, name: str = "", coming: int = 0, held: int = 0) -> int:
        """
        How many connections may be accepted now on ports of this name.

        @param coming: how many of this name the caller holds, and will add.
        @param held: how many of all names.
        """
        now = self._now
        windows = 0
        for worker in self._workers.values():
            if worker.resume <= now and name in worker.names:
                windows += worker.capacity
        places = windows + self._queues[name].free - coming
        return max(0, min(places, self._budget - self.held - held))

    def busy(self, name: str, now: float, since: float) -> bool:
        """
        Whether all workers that have capacity for a connection of this name are busy: a
        worker is busy if it has a new offer that it has not claimed.

        @param since: if an offer is older than this, its worker may hang, and does not
            count as busy.
        """
        candidates = self._balance.candidates(self._workers.values(), name, now)
        return bool(candidates) and all(
            worker.offered and next(iter(worker.offered.values())).since > since
            for worker in candidates
        )

    def whereabouts(self) -> Whereabouts:
        """
        Count the connections in each place.
        """
        return Whereabouts(
            self.waiting,
            self.unclaimed,
            sum([len(worker.serving) for worker in self._workers.values()]),
            sum([len(worker.copies) for worker in self._departed.values()]),
        )

    def queues(self, now: float) -> dict[str, QueueSummary]:
        """
        Describe the connections that wait, by the names of their ports.
        """
        return {
            name: QueueSummary(
                queue.count,
                len(queue.silent),
                queue.oldestReady(now),
                queue.places,
                sum(
                    worker.open and name in worker.names
                    for worker in self._workers.values()
                ),
            )
            for name, queue in self._queues.items()
        }

    def holdings(self, channel: Hashable, now: float) -> Holdings:
        """
        Describe what a worker has.  It may not have joined, or have left.
        """
        worker = self._workers.get(channel)
        if worker is None:
            return Holdings()
        oldest = next(iter(worker.offered.values()), None)
        return Holdings(
            len(worker.offered),
            len(worker.serving),
            0.0 if oldest is None else max(0.0, now - oldest.since),
        )

    def knows(self, channel: Hashable) -> bool:
        """
        Whether a worker has joined, and has not left.
        """
        return channel in self._workers

    def waited(self, channel: Hashable, id: int, now: float) -> float:
        """
        How long a connection has waited that is offered to a worker, in seconds since
        it was accepted.
        """
        return max(0.0, now - self._workers[channel].offered[id].accepted)

    def waitingFor(self, name: str) -> int:
        """
        How many connections of a name wait for a worker.
        """
        queue = self._queues.get(name)
        return 0 if queue is None else queue.count

    def outstanding(self, channel: Hashable) -> int:
        """
        How many connections a worker has, offered or claimed.
        """
        worker = self._workers.get(channel)
        return 0 if worker is None else worker.outstanding

    def copies(self) -> list[Any]:
        """
        The claimed connections whose copies are held, the oldest first.  The caller
        asks the kernel whether they were touched.
        """
        return [entry.connection for entry in self._copies]

    def waitingConnections(self) -> list[Any]:
        """
        The connections that wait for a worker and are not silent.  The caller watches
        the silent ones.
        """
        found: list[Any] = []
        for queue in self._queues.values():
            found += [entry.connection for _, entry in queue.heap]
            found += queue.parked
        return found

    def copiesOf(self, channel: Hashable) -> list[Any]:
        """
        The claimed connections of one worker whose copies are held.
        """
        worker = self._workers.get(channel) or self._departed.get(channel)
        if worker is None:
            return []
        return [entry.connection for entry in worker.copies.values()]

    def offersTo(self, channel: Hashable, ids: Iterable[int] = ()) -> list[Any]:
        """
        The connections that a worker may claim.

        @param ids: the ids to look up.  If empty, all.
        """
        worker = self._workers.get(channel)
        if worker is None:
            return []
        offered = worker.offered
        return [offered[id].connection for id in ids or offered if id in offered]

    def overdue(self, now: float) -> bool:
        """
        Whether a client has waited, or a worker has not claimed, for too long.
        """
        return any(queue.overdue(now) for queue in self._queues.values()) or any(
            worker.hangs(now, self._claimTimeout) for worker in self._workers.values()
        )

    def _worker(self, channel: Hashable) -> Worker:
        worker = self._workers.get(channel)
        if worker is None:
            raise ProtocolError("it has no part in the work yet")
        return worker
