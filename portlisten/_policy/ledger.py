"""
The listener's book: which connection is where, and whose it is.

The hard idea of the whole program is in this module, so here is all of it.

A connection that was sent to a worker is a descriptor in a queue of the
kernel's.  Nothing tells the sender whether the worker ever took it out: it may
be killed while the descriptor is queued, or after it took it out and before it
did anything with it.  A sender that closes its own descriptor once it has sent
it loses such connections; their clients see a reset.  One that hands them to
the next worker whenever in doubt serves some of them twice.

So the listener keeps its own descriptor, the I{copy}, and what it knows grows
in steps::

    accepted --> waiting --> offered --> claimed --> in the worker's hands
                    ^           |           |
                    +-----------+-----------+   the worker died, or refused

  - B{Waiting}: no worker had room.  Oldest first; each has its patience.

  - B{Offered}: sent, and not claimed.  The worker must not touch it yet, so
    whatever becomes of the worker, the next one may have it, provided that the
    first can no longer claim it.  A worker that died can not.  A worker that
    hangs must first be I{revoked}: the edge shuts down the reading side of the
    channel, which is one step in the kernel.  After that step, the worker's claim
    fails.  A claim from before it can still be read.  Only then comes
    L{Ledger.parted}.

  - B{Claimed}: the worker said that it takes it, before it touched it.  From
    here on the kernel is the witness.  If the connection is as the client made it
    (I{pristine}: nothing read, nothing written), the worker's death harms nobody,
    and the next worker may have it.  If it is not, it was in service, and is lost
    with its worker, as in any server.

  - B{In the worker's hands}: the copy is closed, because the connection was
    seen not to be pristine, or the worker reported it CLOSED, or it stayed
    silent for so long that the copy was not worth its descriptor any more.

A worker may leave its channel and live on: it was revoked, or said BYE.  Then what it
claimed is its own.  While the process lives, no other worker may have these
connections, even if they are untouched.  Their copies are kept as those of any worker
are.  If the process ends before it has touched them, the next worker may have them.  If
the process has not even read the last frame that it was sent, it stands still.  So the
time for which its copies are kept begins when it has read that frame.

The worker's word counts for little on the way: it can not make the listener
lose another worker's connection, only its own.  Ids are the listener's, and are
checked against what is outstanding on the very channel that they come from.

This module decides and never acts: no sockets, no clock, no reactor.  Events
go in as method calls with the time they happened, in seconds; out come
L{decisions<Decision>}, in the order in which they are to be carried out.
Connections and channels are opaque to it.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable
from dataclasses import dataclass, field, fields
from enum import Enum
from heapq import heapify, heappop, heappush
from typing import Any, NamedTuple, TypeAlias

from portlisten.errors import ProtocolError


class Reason(Enum):
    """
    Why a connection ended in the listener.
    """

    TIMED_OUT = "no worker took it within its patience"
    LOST_IN_SERVICE = "the worker that served it died"
    GONE = "its client left while it waited"
    STOPPED = "the listener stopped while it waited"
    SPOILED = "a worker that did not take it made it unusable"


class HandOff(NamedTuple):
    """
    Send this connection to this channel, under this id, and keep the copy.
    """

    channel: Any
    id: int
    connection: Any
    port: int


class LetGo(NamedTuple):
    """
    Close the copy: the connection is in the worker's hands.
    """

    connection: Any


class GiveUp(NamedTuple):
    """
    Close the connection: nobody will serve it.
    """

    connection: Any
    reason: Reason


class Revoke(NamedTuple):
    """
    Revoke this channel, then say L{Ledger.parted}: its worker hangs.
    """

    channel: Any
    reason: str


Decision: TypeAlias = "HandOff | LetGo | GiveUp | Revoke"


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
    goneBeforeAdoption: int = 0
    stopped: int = 0

    def __str__(self) -> str:
        return ", ".join(
            f"{each.name} {getattr(self, each.name)}" for each in fields(self)
        )


class _Entry:
    """
    One connection in the book.

    @ivar serial: its place in the order of arrival.
    @ivar port: the number of the port that it came in by.
    @ivar name: what that port is called, which says whose it may become.
    @ivar connection: the edge's object.
    @ivar witness: whether the kernel can tell if it is pristine.
    @ivar accepted: when it was accepted.
    @ivar worker: whom it was offered to last, and there under which C{id}.
    @ivar since: when it entered its present state.
    @ivar ended: when its client was seen to have ended its side with nothing sent, if
        it was, while it waited.
    """

    __slots__ = (
        "accepted",
        "connection",
        "ended",
        "id",
        "name",
        "port",
        "serial",
        "since",
        "witness",
        "worker",
    )

    def __init__(
        self,
        serial: int,
        port: int,
        name: str,
        connection: Any,
        witness: bool,
        accepted: float,
    ) -> None:
        self.serial = serial
        self.port = port
        self.name = name
        self.connection = connection
        self.witness = witness
        self.accepted = accepted
        self.worker: _Worker | None = None
        self.id = 0
        self.since = accepted
        self.ended: float | None = None


@dataclass(eq=False, slots=True)
class _Worker:
    """
    One channel in the book.

    @ivar names: what the ports are called whose connections it wants; if empty,
        it wants all.
    @ivar limit: how much of its window it is given: less after it refused
        something, and more again with each claim.
    @ivar offered: what it may claim, by id, the oldest first.
    @ivar serving: the ids that it has claimed and not yet reported CLOSED.
    @ivar copies: those of them whose copy is still held.
    @ivar turn: when it had its last offer, as a number that only grows.
    @ivar open: whether it may have further offers.
    @ivar blocked: whether it may have none for now.
    @ivar resume: when it may have them again, after it refused one.
    @ivar revoked: whether it was found to hang.
    @ivar asleep: whether it left and has not read the last word to it: its copies
        are not timed.
    """

    channel: Any
    window: int
    limit: int
    names: frozenset[str]
    offered: dict[int, _Entry] = field(default_factory=dict)
    serving: set[int] = field(default_factory=set)
    copies: dict[int, _Entry] = field(default_factory=dict)
    nextId: int = 1
    turn: int = 0
    open: bool = True
    blocked: bool = False
    resume: float = 0.0
    revoked: bool = False
    asleep: bool = False

    @property
    def outstanding(self) -> int:
        return len(self.offered) + len(self.serving)

    @property
    def room(self) -> int:
        if not self.open or self.blocked:
            return 0
        return max(0, self.limit - len(self.offered))

    def wants(self, name: str) -> bool:
        return name in self.names

    def newId(self) -> int:
        """
        Find an id that is not in use: after 4,294,967,295 of them they come
        round again.
        """
        while self.nextId in self.offered or self.nextId in self.serving:
            self.nextId = self.nextId % 0xFFFFFFFF + 1
        id, self.nextId = self.nextId, self.nextId % 0xFFFFFFFF + 1
        return id


class Ledger:
    """
    The book.

    @param queue: how many connections of one name may wait when no worker has
        room: fewer, if with several names that would be most of the budget.
    @param budget: how many descriptors of connections may be held at a time,
        whatever their state.  About half of them are copies of claimed
        connections, in equal shares of at least a window; a worker that claims
        beyond its share has its oldest let go.
    @param patience: how long a connection may wait, in seconds since it was
        accepted.
    @param hold: how long the copy of a claimed connection that stays pristine
        is kept, in seconds.
    @param claimTimeout: how long an offer may stay unclaimed before its worker
        counts as hung, in seconds.
    @param pause: how long a worker that refused an offer gets no other, in
        seconds.
    @param silence: how long a client may wait that has ended its side with nothing
        sent, in seconds since that was seen.  It may want an answer all the same, but
        most such clients have left: so it takes no place in the queue.
    @param roundRobin: give each worker with room its turn, whatever it has.
    @param names: what the ports are called.  Those of one name have their own
        queue: where nobody serves it, the others go on.

    @ivar counters: what became of the connections.
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
    ) -> None:
        self.counters = Counters()
        self._waiting: dict[str, list[tuple[int, _Entry]]] = {
            name: [] for name in names
        }
        self._placeless = dict.fromkeys(self._waiting, 0)
        self._silence = silence
        # With all other queues full, and all the copies there should be, there is
        # a quarter of the budget left for one name.
        others = len(self._waiting) - 1
        self._queue = min(queue, budget // 4 // others) if others > 0 else queue
        self._budget = budget
        self._patience = patience
        self._hold = hold
        self._claimTimeout = claimTimeout
        self._pause = pause
        self._roundRobin = roundRobin
        self._workers: dict[Hashable, _Worker] = {}
        self._departed: dict[Hashable, _Worker] = {}
        self._copies: dict[_Entry, None] = {}
        self._sleeping: dict[_Entry, None] = {}
        self._serial = 0
        self._turn = 0
        self._now = 0.0

    @property
    def waiting(self) -> int:
        """
        How many connections wait for a worker.
        """
        return sum(map(len, self._waiting.values()))

    @property
    def unclaimed(self) -> int:
        """
        How many connections are offered and not claimed.
        """
        return sum(len(worker.offered) for worker in self._workers.values())

    @property
    def held(self) -> int:
        """
        How many descriptors of connections the listener holds.
        """
        return self.waiting + self.unclaimed + len(self._copies) + len(self._sleeping)

    @property
    def workers(self) -> int:
        """
        How many workers take offers.
        """
        return sum(worker.open for worker in self._workers.values())

    @property
    def hasTakers(self) -> bool:
        """
        Whether there is a worker for any of those that wait.
        """
        return any(queue and self.serves(name) for name, queue in self._waiting.items())

    def serves(self, name: str) -> bool:
        """
        Whether there is a worker for connections of this name.
        """
        return any(
            worker.open and worker.wants(name) for worker in self._workers.values()
        )

    @property
    def timed(self) -> bool:
        """
        Whether there is anything that changes as time passes.
        """
        return self.held > 0 or any(
            worker.resume > self._now for worker in self._workers.values()
        )

    def room(self, name: str = "") -> int:
        """
        How many connections may be accepted now, on ports of this name.
        """
        windows = sum(
            worker.room
            for worker in self._workers.values()
            if worker.resume <= self._now and worker.wants(name)
        )
        placeless = min(self._placeless[name], self._queue // 2)
        queue = self._queue - len(self._waiting[name]) + placeless
        return max(0, min(windows + queue, self._budget - self.held))

    def busy(self, name: str, now: float, since: float) -> bool:
        """
        Whether all workers that have room for a connection of this name are about
        other things: each has yet to claim something, but not for long.

        @param since: what was offered before this has waited for long: its worker
            may hang, and is not waited for.
        """
        takers = self._takers(name, now)
        return bool(takers) and all(
            worker.offered and next(iter(worker.offered.values())).since > since
            for worker in takers
        )

    def outstanding(self, channel: Hashable) -> int:
        """
        How many connections a worker has, offered or claimed.
        """
        worker = self._workers.get(channel)
        return 0 if worker is None else worker.outstanding

    def copies(self) -> list[Any]:
        """
        The claimed connections whose copies are held, the oldest first: those
        that the kernel is asked about.
        """
        return [entry.connection for entry in (*self._copies, *self._sleeping)]

    def waits(self) -> list[Any]:
        """
        The connections that wait for a worker.
        """
        return [
            entry.connection for queue in self._waiting.values() for _, entry in queue
        ]

    def copiesOf(self, channel: Hashable) -> list[Any]:
        """
        Those of L{copies} that one worker has claimed.
        """
        worker = self._workers.get(channel) or self._departed.get(channel)
        if worker is None:
            return []
        return [entry.connection for entry in worker.copies.values()]

    def offersTo(self, channel: Hashable, ids: Iterable[int] = ()) -> list[Any]:
        """
        The connections that a worker may claim.

        @param ids: which of them; if empty, all.
        """
        worker = self._workers.get(channel)
        if worker is None:
            return []
        offered = worker.offered
        return [offered[id].connection for id in ids or offered if id in offered]

    # Events of the ports

    def accepted(
        self,
        port: int,
        connections: Iterable[Any],
        now: float,
        witness: bool = True,
        name: str = "",
    ) -> list[Decision]:
        """
        Connections came in.

        @param name: what their port is called.
        @param witness: whether the kernel can tell if they are pristine.  If
            not, a claim is all there is, and lets the copy go.
        """
        for connection in connections:
            self._serial += 1
            self.counters.accepted += 1
            self._wait(_Entry(self._serial, port, name, connection, witness, now))
        return self._dispatch(now)

    # Events of the channels

    def joined(
        self, channel: Hashable, window: int, now: float, names: Iterable[str] = ("",)
    ) -> list[Decision]:
        """
        A worker said HELLO.

        @param names: what the ports are called whose connections it is to serve.
        """
        self._workers[channel] = _Worker(channel, window, window, frozenset(names))
        return self._dispatch(now)

    def claimed(
        self, channel: Hashable, ids: Collection[int], now: float
    ) -> list[Decision]:
        """
        A worker takes what it was offered.

        @raise ProtocolError: if one of these is not on offer there.
        """
        worker = self._worker(channel)
        decisions: list[Decision] = []
        entries = self._takeOffers(worker, ids, "CLAIM")
        worker.limit = min(worker.window, worker.limit + 1)
        self.counters.claimed += len(entries)
        worker.serving.update(ids)
        for entry in entries:
            if not entry.witness:
                decisions.append(LetGo(entry.connection))
                continue
            entry.since = now
            worker.copies[entry.id] = entry
            self._copies[entry] = None
        # A window full of claims may come out of the channel of a dead worker: the
        # copies of these are for others.
        share = max(worker.window, self._budget // 2 // len(self._workers))
        while len(worker.copies) > share:
            decisions.append(self._letGo(next(iter(worker.copies.values()))))
        return decisions + self._dispatch(now)

    def refused(
        self,
        channel: Hashable,
        ids: Collection[int],
        now: float,
        spoiled: Collection[Any] = (),
    ) -> list[Decision]:
        """
        A worker will never touch what it was offered.

        @param spoiled: those of its L{offersTo} that are of no use to anybody.  It is
            no sign of trouble to refuse them.
        @raise ProtocolError: if one of these is not on offer there.
        """
        worker = self._worker(channel)
        decisions: list[Decision] = []
        for entry in self._takeOffers(worker, ids, "REFUSE"):
            self.counters.refused += 1
            if entry.connection in spoiled:
                decisions.append(self._spoil(entry))
            else:
                self._wait(entry)
        if len(decisions) < len(ids):
            worker.limit = max(1, worker.limit // 2)
            worker.resume = now + self._pause
        return decisions + self._dispatch(now)

    def closed(
        self, channel: Hashable, ids: Collection[int], now: float
    ) -> list[Decision]:
        """
        A worker has done with connections that it had claimed.

        @raise ProtocolError: if one of these is not in service there.
        """
        worker = self._worker(channel)
        if len(set(ids)) < len(ids) or not worker.serving.issuperset(ids):
            raise ProtocolError("CLOSED of a connection that it does not serve")
        worker.serving.difference_update(ids)
        decisions: list[Decision] = [
            self._letGo(worker.copies[id]) for id in ids if id in worker.copies
        ]
        return decisions + self._dispatch(now)

    def gone(
        self, channel: Hashable, ids: Collection[int], now: float
    ) -> list[Decision]:
        """
        Like L{closed}, for connections whose clients had left before the worker
        could adopt them.
        """
        decisions = self.closed(channel, ids, now)
        self.counters.goneBeforeAdoption += len(ids)
        return decisions

    def draining(self, channel: Hashable) -> None:
        """
        A worker wants no more offers.
        """
        self._worker(channel).open = False

    def revoking(self, channel: Hashable) -> None:
        """
        A worker is being revoked, because it hangs or broke the protocol.
        """
        worker = self._worker(channel)
        worker.open = False
        if not worker.revoked:
            worker.revoked = True
            self.counters.revoked += 1

    def died(
        self,
        channel: Hashable,
        touched: Collection[Any],
        now: float,
        spoiled: Collection[Any] = (),
    ) -> list[Decision]:
        """
        A worker is dead, and all that it had said was read.

        @param touched: those of its L{copiesOf} that are not pristine.
        @param spoiled: those of its L{offersTo} that are of no use to anybody.
        """
        worker = self._workers.pop(channel)
        self.counters.lostInService += len(worker.serving) - len(worker.copies)
        decisions = self._divide(worker, touched)
        decisions += self._takeBack(worker, spoiled)
        return decisions + self._dispatch(now)

    def _takeBack(self, worker: _Worker, spoiled: Collection[Any]) -> list[Decision]:
        """
        Have others offered what a worker did not claim.
        """
        decisions: list[Decision] = []
        for entry in worker.offered.values():
            if entry.connection in spoiled:
                decisions.append(self._spoil(entry))
            else:
                self._redispatch(entry)
        worker.offered.clear()
        return decisions

    def _spoil(self, entry: _Entry) -> GiveUp:
        self.counters.lostInService += 1
        return GiveUp(entry.connection, Reason.SPOILED)

    def _divide(self, worker: _Worker, touched: Collection[Any]) -> list[Decision]:
        """
        Of the copies of a dead worker, give up those in service, and take back the
        others.
        """
        decisions: list[Decision] = []
        for entry in worker.copies.values():
            self._forget(entry)
            if entry.connection in touched:
                self.counters.lostInService += 1
                decisions.append(GiveUp(entry.connection, Reason.LOST_IN_SERVICE))
            else:
                self._redispatch(entry)
        return decisions

    def parted(
        self,
        channel: Hashable,
        now: float,
        asleep: bool = False,
        spoiled: Collection[Any] = (),
    ) -> list[Decision]:
        """
        A worker is gone from the channel and may well live: it said BYE, or
        was revoked and what it had said was read to the end.  What it claimed
        is its own; what it did not claim, it never can.

        @param asleep: whether it has yet to read the last word that it was sent.
        @param spoiled: those of its L{offersTo} that are of no use to anybody.
        """
        worker = self._workers.pop(channel)
        worker.open = False
        if worker.copies:
            self._departed[channel] = worker
        decisions: list[Decision] = []
        if asleep:
            worker.asleep = True
            for entry in worker.copies.values():
                del self._copies[entry]
                self._sleeping[entry] = None
            while len(self._sleeping) > self._budget // 4:
                decisions.append(self._letGo(next(iter(self._sleeping))))
        decisions += self._takeBack(worker, spoiled)
        return decisions + self._dispatch(now)

    def awoke(self, channel: Hashable, now: float) -> None:
        """
        A worker that had left has read the last word to it.
        """
        worker = self._departed.get(channel)
        if worker is not None and worker.asleep:
            worker.asleep = False
            for entry in worker.copies.values():
                del self._sleeping[entry]
                entry.since = now
                self._copies[entry] = None

    def ended(
        self, channel: Hashable, touched: Collection[Any], now: float
    ) -> list[Decision]:
        """
        The process of a worker that had left is dead.

        @param touched: those of its L{copiesOf} that are not pristine.
        """
        worker = self._departed.pop(channel, None)
        if worker is None:
            return []
        return self._divide(worker, touched) + self._dispatch(now)

    def left(self, connections: Iterable[Any]) -> list[Decision]:
        """
        The clients of some that wait have left.
        """
        gone = set(connections)
        decisions: list[Decision] = []
        for name, queue in self._waiting.items() if gone else ():
            stay = [each for each in queue if each[1].connection not in gone]
            if len(stay) == len(queue):
                continue
            for _, entry in queue:
                if entry.connection in gone:
                    self._placeless[name] -= entry.ended is not None
                    decisions.append(GiveUp(entry.connection, Reason.GONE))
            heapify(stay)
            self._waiting[name] = stay
        self.counters.goneBeforeAdoption += len(decisions)
        return decisions

    def halfClosed(self, connections: Iterable[Any], now: float) -> list[Decision]:
        """
        The clients of some that wait have ended their side with nothing sent.  They
        are given up after a while, and at once if there are many of them, or
        descriptors get scarce.
        """
        ended = set(connections)
        if not ended:
            return []
        crowded = self.held >= self._budget * 3 // 4
        due = []
        for name, queue in self._waiting.items():
            found = sorted(each for each in queue if each[1].connection in ended)
            for _, entry in found:
                if entry.ended is None:
                    entry.ended = now
                    self._placeless[name] += 1
            many = self._placeless[name] - self._queue // 2
            for _, entry in found:
                assert entry.ended is not None
                late = self._due(entry.ended, self._silence, now)
                if crowded or late or many > 0:
                    many -= 1
                    due.append(entry.connection)
        return self.left(due)

    def block(self, channel: Hashable, blocked: bool) -> None:
        """
        Give a worker no offers for now, or give it some again.
        """
        worker = self._workers.get(channel)
        if worker is not None:
            worker.blocked = blocked

    # Events of the clock and the kernel

    def witnessed(self, touched: Iterable[Any]) -> list[Decision]:
        """
        Some L{copies} are no longer pristine: their workers took them up.
        """
        gone = set(touched)
        return [
            self._letGo(entry)
            for entry in [*self._copies, *self._sleeping]
            if entry.connection in gone
        ]

    def overdue(self, now: float) -> bool:
        """
        Whether L{ticked} would find a client that has waited, or a worker that has not
        claimed, for too long.
        """
        return any(
            queue and self._due(queue[0][1].accepted, self._patience, now)
            for queue in self._waiting.values()
        ) or any(self._hangs(worker, now) for worker in self._workers.values())

    def _hangs(self, worker: _Worker, now: float) -> bool:
        offer = next(iter(worker.offered.values()), None)
        return (
            not worker.revoked
            and offer is not None
            and self._due(offer.since, self._claimTimeout, now)
        )

    def ticked(self, now: float) -> list[Decision]:
        """
        Time has passed.
        """
        decisions: list[Decision] = []
        for queue in self._waiting.values():
            while queue and self._due(queue[0][1].accepted, self._patience, now):
                self.counters.timedOut += 1
                decisions.append(GiveUp(self._pop(queue).connection, Reason.TIMED_OUT))
        while self._copies:
            oldest = next(iter(self._copies))
            if not self._due(oldest.since, self._hold, now):
                break
            decisions.append(self._letGo(oldest))
        for worker in self._workers.values():
            if self._hangs(worker, now):
                self.revoking(worker.channel)
                decisions.append(
                    Revoke(
                        worker.channel,
                        f"an offer unclaimed for {self._claimTimeout:g} s",
                    )
                )
        return decisions + self._dispatch(now)

    def stopped(self) -> list[Decision]:
        """
        The listener ends: what waits is nobody's, and what was offered is its
        worker's, who sees the listener gone.
        """
        decisions: list[Decision] = []
        for queue in self._waiting.values():
            while queue:
                self.counters.stopped += 1
                decisions.append(GiveUp(self._pop(queue).connection, Reason.STOPPED))
        for worker in (*self._workers.values(), *self._departed.values()):
            for entry in (*worker.offered.values(), *worker.copies.values()):
                decisions.append(LetGo(entry.connection))
            worker.offered.clear()
        self._workers.clear()
        self._departed.clear()
        self._copies.clear()
        self._sleeping.clear()
        return decisions

    # The inside

    def _worker(self, channel: Hashable) -> _Worker:
        worker = self._workers.get(channel)
        if worker is None:
            raise ProtocolError("it has no part in the work yet")
        return worker

    @staticmethod
    def _due(since: float, delay: float, now: float) -> bool:
        return now - since >= delay

    def _wait(self, entry: _Entry) -> None:
        entry.worker = None
        entry.ended = None
        heappush(self._waiting[entry.name], (entry.serial, entry))

    def _pop(self, queue: list[tuple[int, _Entry]]) -> _Entry:
        """
        Take the oldest out of a queue.
        """
        entry = heappop(queue)[1]
        if entry.ended is not None:
            self._placeless[entry.name] -= 1
        return entry

    def _redispatch(self, entry: _Entry) -> None:
        self.counters.redispatched += 1
        self._wait(entry)

    def _takeOffers(
        self, worker: _Worker, ids: Collection[int], frame: str
    ) -> list[_Entry]:
        offered = worker.offered
        if len(set(ids)) < len(ids) or not offered.keys() >= set(ids):
            raise ProtocolError(f"{frame} of a connection that is not on offer to it")
        return [offered.pop(id) for id in ids]

    def _letGo(self, entry: _Entry) -> LetGo:
        self._forget(entry)
        worker = entry.worker
        assert worker is not None
        del worker.copies[entry.id]
        if not worker.copies:
            self._departed.pop(worker.channel, None)
        return LetGo(entry.connection)

    def _forget(self, entry: _Entry) -> None:
        self._copies.pop(entry, None)
        self._sleeping.pop(entry, None)

    def _takers(self, name: str, now: float) -> list[_Worker]:
        """
        Those that want this name and have room.
        """
        return [
            worker
            for worker in self._workers.values()
            if worker.room and worker.resume <= now and worker.wants(name)
        ]

    def _rank(self, worker: _Worker) -> tuple[int, int]:
        """
        Least outstanding first, or all alike; among equals, the one whose last turn
        is the longest ago.
        """
        return (0 if self._roundRobin else worker.outstanding, worker.turn)

    def _dispatch(self, now: float) -> list[Decision]:
        decisions: list[Decision] = []
        self._now = now
        queues = [queue for queue in self._waiting.values() if queue]
        names = [queue[0][1].name for queue in queues]
        takers = {name: self._takers(name, now) for name in names}
        while queues:
            # That of the oldest.
            queue = min(queues) if len(queues) > 1 else queues[0]
            entry = queue[0][1]
            able = takers[entry.name]
            if not able:
                queues.remove(queue)
                continue
            worker = min(able, key=self._rank) if len(able) > 1 else able[0]
            self._pop(queue)
            if not queue:
                queues.remove(queue)
            self._turn += 1
            worker.turn = self._turn
            entry.worker, entry.id, entry.since = worker, worker.newId(), now
            worker.offered[entry.id] = entry
            self.counters.offered += 1
            decisions.append(
                HandOff(worker.channel, entry.id, entry.connection, entry.port)
            )
            if not worker.room:
                for able in takers.values():
                    if worker in able:
                        able.remove(worker)
        return decisions
