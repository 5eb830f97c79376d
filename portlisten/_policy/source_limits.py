"""
Limits of the clients that a port takes: of each source, and of all together.

This module decides and never acts.  A connection is opaque here, and so is what makes a
source.  All times are in seconds.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Hashable, Iterable
from dataclasses import dataclass
from enum import Enum
from itertools import islice
from typing import Any

from portlisten._policy.networks import Network


class Beyond(Enum):
    """
    What happens to a client beyond a limit.

    @cvar RESET: its connection is reset.
    @cvar CLOSE: its connection is closed.
    @cvar WAIT: it waits, behind everybody else.
    """

    RESET = "reset"
    CLOSE = "close"
    WAIT = "wait"


@dataclass(frozen=True)
class Rate:
    """
    How many connections may come in a time: a token bucket.

    @ivar perSecond: how many tokens come each second.
    @ivar burst: how many tokens the bucket holds.
    """

    perSecond: float
    burst: int


@dataclass(frozen=True)
class Limits:
    """
    The limits of a port.  L{None} stands for no limit.

    @ivar maxPerSource: how many connections a source may have at a time.
    @ivar ratePerSource: how many connections of a source may come in a time.
    @ivar most: how many connections the port may have at a time.
    @ivar rate: how many connections may come in a time.
    @ivar allow: only clients of these networks come in; if empty, all.
    @ivar deny: clients of these networks do not come in.
    @ivar beyond: what happens to clients beyond a limit.  Clients that may not come in
        are reset, or closed.
    @ivar fair: whether sources take turns while connections wait.
    @ivar prefix: how many leading bits of an IPv4 address make the source.
    @ivar prefix6: the same for IPv6.
    @ivar proxies: the networks whose PROXY headers are believed.
    """

    maxPerSource: int | None = None
    ratePerSource: Rate | None = None
    most: int | None = None
    rate: Rate | None = None
    allow: tuple[Network, ...] = ()
    deny: tuple[Network, ...] = ()
    beyond: Beyond = Beyond.RESET
    fair: bool = True
    prefix: int = 32
    prefix6: int = 64
    proxies: tuple[Network, ...] = ()


#: How many sources of a port are known at a time.
MAXIMUM_SOURCES = 32768

#: How many sources are looked at to find one that can be forgotten.
_CANDIDATES = 8

#: How many sources are looked at in one event, to let parked connections in.
_SOURCES_PER_EVENT = 16


class Source:
    """
    One source of a port's clients.

    @ivar key: what its connections have in common, such as an address.
    @ivar table: the table of its port.
    @ivar alive: how many connections it has that came in and have not ended.
    @ivar kept: how many of these only the kernel knows of.
    @ivar waiting: how many of its connections wait, the parked ones among them.
    @ivar refused: how many of its connections were refused.
    @ivar due: when its bucket is full again, in seconds.
    @ivar recent: whether it came since it was last looked at, to be forgotten.
    @ivar finish: the turn after its last one in the queue.
    @ivar parked: its connections that wait until a limit lets them in, the oldest
        first; L{None} if it never had any.
    """

    __slots__ = (
        "alive",
        "due",
        "finish",
        "kept",
        "key",
        "parked",
        "recent",
        "refused",
        "table",
        "waiting",
    )

    def __init__(self, key: Hashable, table: SourceLimits) -> None:
        self.key = key
        self.table = table
        self.alive = 0
        self.kept = 0
        self.waiting = 0
        self.refused = 0
        self.due = 0.0
        self.recent = True
        self.finish = 0
        self.parked: OrderedDict[Any, None] | None = None

    def depart(self) -> None:
        """
        One of its connections has ended.
        """
        self.alive -= 1
        table = self.table
        table.alive -= 1
        if table.parked:
            table.freed.append(self)


class SourceLimits:
    """
    The sources of a port, and what they may do.

    The table is bounded.  If it is full, a source is forgotten that has no connection
    and a full bucket: nothing is lost then.  If there is none among the first few, the
    one is forgotten that has not come for the longest time.  Its connections do not
    count for it any more, and its bucket is full.  Each event takes constant time.

    @param limits: the limits.
    @param most: how many sources are known at a time.

    @ivar limits: the limits.
    @ivar now: the time, in seconds, as the caller said last.
    @ivar alive: how many connections of all sources came in and have not ended.
    @ivar parked: how many connections wait until a limit lets them in.
    @ivar freed: the sources whose connections ended while some were parked.
    @ivar kept: the sources of connections that only the kernel knows of, by cookies.
    @ivar refusals: how many connections were refused, by reasons.
    """

    def __init__(self, limits: Limits, most: int = MAXIMUM_SOURCES) -> None:
        self.limits = limits
        self.now = 0.0
        self.alive = 0
        self.parked = 0
        self.freed: list[Source] = []
        self.kept: dict[int, Source] = {}
        self.refusals: dict[str, int] = {}
        self._perSource = limits.maxPerSource
        self._all = limits.most
        self._mostSources = most
        self._interval, self._tolerance = _bucket(limits.ratePerSource)
        self._allInterval, self._allTolerance = _bucket(limits.rate)
        self._due = 0.0
        self._sources: OrderedDict[Hashable, Source] = OrderedDict()
        self._parking: OrderedDict[Source, None] = OrderedDict()

    @property
    def sources(self) -> Collection[Source]:
        """
        The sources that are known.
        """
        return self._sources.values()

    @property
    def full(self) -> bool:
        """
        Whether the port has as many connections as it may have.
        """
        return self._all is not None and self.alive >= self._all

    def find(self, key: Hashable, now: float) -> Source:
        """
        Find a source.  If it is not known, add it.
        """
        source = self._sources.get(key)
        if source is None:
            if len(self._sources) >= self._mostSources:
                source = self._forget(now)
            if source is None:
                source = Source(key, self)
            else:
                source.key = key
            self._sources[key] = source
        return source

    def arrive(self, key: Hashable, now: float) -> tuple[Source, str]:
        """
        A connection arrives.  If no limit is reached, it comes in, and counts until
        L{Source.depart}.

        @param now: the time, in seconds.
        @return: its source, and the name of the limit; empty if it comes in.
        """
        source = self._sources.get(key)
        if source is None:
            source = self.find(key, now)
        source.recent = True
        self.now = now
        # This is reached() and admit() without their calls: each connection comes by.
        alive, all = source.alive, self.alive
        if self._all is not None and all >= self._all:
            return source, "max"
        if self._perSource is not None and alive >= self._perSource:
            return source, "max-per-source"
        interval, due = self._interval, source.due
        if interval and due - now > self._tolerance:
            return source, "rate-per-source"
        if self._allInterval:
            if self._due - now > self._allTolerance:
                return source, "rate"
            self._due = max(self._due, now) + self._allInterval
        if interval:
            source.due = (due if due > now else now) + interval
        source.alive = alive + 1
        self.alive = all + 1
        return source, ""

    def reached(self, source: Source, now: float) -> str:
        """
        Say which limit keeps the next connection of a source out; empty if none does.
        """
        if self._all is not None and self.alive >= self._all:
            return "max"
        if self._perSource is not None and source.alive >= self._perSource:
            return "max-per-source"
        if self._interval and source.due - now > self._tolerance:
            return "rate-per-source"
        if self._allInterval and self._due - now > self._allTolerance:
            return "rate"
        return ""

    def admit(self, source: Source, now: float) -> None:
        """
        Let a connection in, whatever the limits say.
        """
        self.count(source)
        if self._interval:
            source.due = max(source.due, now) + self._interval
        if self._allInterval:
            self._due = max(self._due, now) + self._allInterval

    def count(self, source: Source) -> None:
        """
        Count a connection that came in some time ago.
        """
        source.alive += 1
        self.alive += 1

    def refuse(self, source: Source | None, reason: str) -> None:
        """
        Count a connection that is refused.

        @param source: L{None} if it has none that is counted.
        """
        self.refusals[reason] = self.refusals.get(reason, 0) + 1
        if source is not None:
            source.refused += 1

    # Connections that only the kernel knows of

    def keep(self, source: Source, cookie: int) -> None:
        """
        A connection counts until L{gone}: nobody will say when it ends.  If it is kept
        already, it was counted twice, and counts once from now on.
        """
        if cookie in self.kept:
            source.depart()
        else:
            self.kept[cookie] = source
            source.kept += 1

    def gone(self, cookies: Iterable[int]) -> None:
        """
        Connections that were kept have ended, or are counted in another way from now
        on.  Some of them may not be known.
        """
        for cookie in cookies:
            source = self.kept.pop(cookie, None)
            if source is not None:
                source.kept -= 1
                source.depart()

    # Connections that wait until a limit lets them in

    def park(self, source: Source, connection: Any) -> None:
        """
        Let a connection wait until no limit keeps it out.
        """
        if source.parked is None:
            source.parked = OrderedDict()
        source.parked[connection] = None
        self.parked += 1
        self._parking[source] = None

    def unpark(self, source: Source, connection: Any) -> None:
        """
        A connection does not wait any more: its client has left, or waited for too
        long.
        """
        assert source.parked is not None
        del source.parked[connection]
        self._unparked(source)

    def released(self, everybody: bool = False) -> list[Any]:
        """
        Find the connections that come in at the time L{now}.  They count from then on.

        @param everybody: whether time has passed, so that a bucket may have a token.
        """
        now = self.now
        found: list[Any] = []
        if everybody or self._all is not None:
            count = len(self._parking) if everybody else _SOURCES_PER_EVENT
            found += self._letIn(list(islice(self._parking, count)), now)
        freed, self.freed = self.freed, []
        return found + self._letIn(freed, now)

    def releaseAll(self) -> list[Any]:
        """
        Let all of them in, whatever the limits say.
        """
        found: list[Any] = []
        for source in list(self._parking):
            while source.parked:
                self.admit(source, self.now)
                found.append(source.parked.popitem(last=False)[0])
                self._unparked(source)
        return found

    def _letIn(self, sources: Iterable[Source], now: float) -> list[Any]:
        """
        Let connections of some sources in.  The sources take turns.
        """
        found: list[Any] = []
        turn = [each for each in sources if each.parked]
        while turn:
            others: list[Source] = []
            for source in turn:
                if not source.parked or self.reached(source, now):
                    continue
                self.admit(source, now)
                found.append(source.parked.popitem(last=False)[0])
                self._unparked(source)
                others.append(source)
            turn = others
        return found

    def _unparked(self, source: Source) -> None:
        self.parked -= 1
        if source.parked:
            self._parking.move_to_end(source)
        else:
            del self._parking[source]

    def _forget(self, now: float) -> Source | None:
        """
        Make a place for a source.

        @return: the one that is forgotten, as if it were new; L{None} if somebody still
            needs it.
        """
        sources = self._sources
        for _ in range(_CANDIDATES):
            key, source = sources.popitem(last=False)
            if not (source.alive or source.parked or source.due > now):
                source.refused = source.finish = 0
                return source
            if not source.recent:
                return None
            source.recent = False
            sources[key] = source
        sources.popitem(last=False)
        return None


def _bucket(rate: Rate | None) -> tuple[float, float]:
    """
    How long a token takes to come, and how far ahead of the tokens the connections may
    be, in seconds.  The interval is 0 if there is no limit.

    A bucket of tokens and a time at which it is full again say the same: this is the
    generic cell rate algorithm.
    """
    if rate is None:
        return 0.0, 0.0
    interval = 1 / rate.perSecond
    # A token that comes just now is one.
    return interval, (rate.burst - 1) * interval + interval / 1_000_000
