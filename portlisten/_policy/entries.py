"""
The ledger's records of one connection, and of one worker.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from portlisten._policy.source_limits import Source
from portlisten._policy.tallies import Tally
from portlisten.errors import ProtocolError

#: The largest id of an offer.
MAXIMUM_ID = 0xFFFFFFFF

#: When a connection was accepted, in seconds, and a number among all connections.
Order: TypeAlias = "tuple[float, int]"

#: Where a connection stands among those that wait.  If sources take turns: whether it
#: is late, its turn, and its number among all connections.
Turn: TypeAlias = "tuple[float, int] | tuple[bool, int, int]"


class Entry:
    """
    One connection.

    @ivar order: its place in the order of arrival.
    @ivar port: the number of its port.
    @ivar name: the name of its port.  Only workers that want the name get it.
    @ivar connection: the caller's object.
    @ivar canCheck: whether the kernel can tell if it is untouched.
    @ivar accepted: when it was accepted, in seconds.
    @ivar tally: the tally of its name.
    @ivar worker: the worker that it was offered to last.
    @ivar id: the id of that offer.
    @ivar since: when it entered its present state, in seconds.
    @ivar ready: when it began to wait for a worker, and not for its client any more, in
        seconds.
    @ivar heard: whether something has come from its client: bytes, or the end of its
        side.  If this is false, nothing has come, or nobody has checked.
    @ivar watched: whether the caller watches it since it became silent.
    @ivar source: the source of its client, if the port has limits; otherwise L{None}.
    @ivar turn: its place among those that wait, if sources take turns; otherwise
        L{None}.
    @ivar waits: whether it counts as waiting for its source.
    @ivar late: whether a limit keeps it out, or did: it waits behind all others.
    @ivar parked: whether a limit keeps it out.
    @ivar ended: when its client was first seen to have ended its side and sent nothing,
        in seconds.  L{None} if that was not seen since it waits.
    """

    __slots__ = (
        "accepted",
        "canCheck",
        "connection",
        "ended",
        "heard",
        "id",
        "late",
        "name",
        "order",
        "parked",
        "port",
        "ready",
        "since",
        "source",
        "tally",
        "turn",
        "waits",
        "watched",
        "worker",
    )

    def __init__(
        self,
        number: int,
        port: int,
        name: str,
        connection: Any,
        canCheck: bool,
        accepted: float,
        tally: Tally,
    ) -> None:
        self.order: Order = (accepted, number)
        self.port = port
        self.name = name
        self.connection = connection
        self.canCheck = canCheck
        self.accepted = accepted
        self.worker: Worker | None = None
        self.id = 0
        self.tally = tally
        self.since = accepted
        self.ready = accepted
        self.heard = False
        self.watched = False
        self.source: Source | None = None
        self.turn: Turn | None = None
        self.waits = False
        self.late = False
        self.parked = False
        self.ended: float | None = None


class End(NamedTuple):
    """
    How a connection ended, for the log.

    @ivar counter: the counter that counts it, see
        L{portlisten._policy.counters.Counters}.
    @ivar entry: the connection.
    """

    counter: str
    entry: Entry


@dataclass(eq=False, slots=True)
class Worker:
    """
    One worker, and so one channel.

    @ivar names: the names of the ports whose connections it wants.
    @ivar user: its user.  The copies that are asleep are counted for their users.
    @ivar usableWindow: how much of its window it may use.  A refusal halves this.  Each
        claim adds one, up to the window.
    @ivar limit: how many connections it may have, offered or claimed.  L{None} if as
        many as it claims.
    @ivar first: if its clients speak first, how long to keep a silent connection from
        it, in seconds.  Otherwise L{None}.
    @ivar offered: the connections that it may claim, by id, the oldest first.
    @ivar serving: the ids that it has claimed and not yet reported CLOSED, with the
        tallies of the names of their ports.
    @ivar copies: the connections of these ids whose copies are still held.
    @ivar gives: whether it says before others touch its connections.  Then it has not
        touched the connections of which it has not said so, and the time of their
        copies is not counted.
    @ivar given: those of these ids that it has given to other processes, which may live
        longer than it does.
    @ivar silent: if it has a limit, the ids of its connections that were silent when
        they were offered, although its clients speak first.
    @ivar turn: the number of its last turn.  Later turns have larger numbers.
    @ivar open: whether it may have further offers.
    @ivar blocked: whether it may have no offers for now.
    @ivar parked: likewise, since the next listener serves.
    @ivar resume: when its pause after a refusal ends, in seconds.
    @ivar revoked: whether it is being revoked.
    @ivar asleep: whether it left without having read the last frame that it was sent.
        Then the time of its copies is not counted.
    @ivar elsewhere: how many connections it says it has that were not offered to it on
        this channel.
    @ivar takesOver: whether it is the next listener.
    """

    channel: Any
    window: int
    usableWindow: int
    names: frozenset[str]
    user: Hashable
    limit: int | None = None
    first: float | None = None
    offered: dict[int, Entry] = field(default_factory=dict)
    serving: dict[int, Entry] = field(default_factory=dict)
    copies: dict[int, Entry] = field(default_factory=dict)
    gives: bool = False
    given: set[int] = field(default_factory=set)
    silent: set[int] = field(default_factory=set)
    nextId: int = 1
    turn: int = 0
    open: bool = True
    blocked: bool = False
    parked: bool = False
    resume: float = 0.0
    revoked: bool = False
    asleep: bool = False
    elsewhere: int = 0
    takesOver: bool = False

    @property
    def outstanding(self) -> int:
        """
        How many connections it has, offered or claimed.
        """
        return len(self.offered) + len(self.serving)

    @property
    def load(self) -> int:
        """
        How many connections it has, wherever they came from.
        """
        return len(self.offered) + len(self.serving) + self.elsewhere

    @property
    def capacity(self) -> int:
        """
        How many more offers it may have now.
        """
        if not self.open or self.blocked or self.parked:
            return 0
        room = self.usableWindow - len(self.offered)
        if self.limit is not None:
            room = min(room, self.limit - self.load)
        return max(0, room)

    @property
    def silentCapacity(self) -> int:
        """
        How many more silent connections it may be offered now, if its clients speak
        first.  These take at most half of its limit, so that a client that speaks finds
        a place.
        """
        if self.limit is None:
            return self.capacity
        return min(self.capacity, max(0, self.limit // 2 - len(self.silent)))

    def newId(self) -> int:
        """
        Find an id that is not in use.  After the largest id, 1 is next.
        """
        while self.nextId in self.offered or self.nextId in self.serving:
            self.nextId = self.nextId % MAXIMUM_ID + 1
        id, self.nextId = self.nextId, self.nextId % MAXIMUM_ID + 1
        return id

    def takeOffers(self, ids: Collection[int], frame: str) -> list[Entry]:
        """
        Take the offers that the worker answers.

        @param frame: the name of the frame that answers them.
        @raise ProtocolError: if one of the ids is not on offer.  Nothing is taken then.
        """
        offered, named = self.offered, set(ids)
        if len(named) < len(ids) or not offered.keys() >= named:
            raise ProtocolError(f"{frame} of a connection that is not on offer to it")
        return [offered.pop(id) for id in ids]

    def endService(self, ids: Collection[int]) -> list[Entry]:
        """
        Note that the worker serves these connections no more.

        @return: the entries of each.
        @raise ProtocolError: if it does not serve one of them.  Nothing changes then.
        """
        serving, named = self.serving, set(ids)
        if len(named) < len(ids) or not serving.keys() >= named:
            raise ProtocolError("CLOSED of a connection that it does not serve")
        if self.given:
            self.given.difference_update(ids)
        if self.silent:
            self.silent.difference_update(ids)
        return [serving.pop(id) for id in ids]

    def own(self) -> Iterator[Entry]:
        """
        Find each connection that it serves, whose copy is closed, and that it has not
        given to other processes.
        """
        for id, entry in self.serving.items():
            if id not in self.copies and id not in self.given:
                yield entry

    def ofOthers(self) -> list[Entry]:
        """
        Find each connection that it has given to other processes.
        """
        return [self.serving[id] for id in self.given]

    def give(self, ids: Collection[int]) -> None:
        """
        Note that other processes may touch these connections.

        @raise ProtocolError: if it does not serve one of them.  Nothing changes then.
        """
        if len(set(ids)) < len(ids) or not self.serving.keys() >= set(ids):
            raise ProtocolError("GIVEN of a connection that it does not serve")
        self.given.update(ids)

    def hangs(self, now: float, timeout: float) -> bool:
        """
        Whether its oldest offer was unclaimed for too long, and it is not revoked yet.
        """
        offer = next(iter(self.offered.values()), None)
        return not self.revoked and offer is not None and now - offer.since >= timeout
