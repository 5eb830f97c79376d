"""
The limits of the listener's ports: whom each lets in.

L{portlisten._policy.source_limits} decides.  This module finds out where a client comes
from, ends the connections that are refused, and asks the kernel about connections whose
ends no worker reports: those of workers that have left, and those that were there when
the listener started.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from heapq import nlargest
from ipaddress import ip_address, ip_network
from operator import attrgetter
from typing import Any, NamedTuple

from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from portlisten import _kernel
from portlisten._control.status import SourceStatus
from portlisten._listener.connection import AcceptedConnection
from portlisten._listener.proxied_clients import ProxiedClients
from portlisten._model import InternetAddress, Kind, Port
from portlisten._policy.denials import Denial, Denials
from portlisten._policy.entries import Entry
from portlisten._policy.networks import Network, Networks, nameOf, plain, prefixed
from portlisten._policy.source_limits import (
    Beyond,
    Limits,
    Source,
    SourceLimits,
)
from portlisten._reactor.log_limit import logLimit

#: How often the kernel is asked which connections live, in seconds, as long as there
#: are some whose ends no worker reports.
CHECK_SECONDS = 1.0

#: How often it is asked at the most, if a source with such connections is refused.
LEAST_CHECK_SECONDS = 0.1

#: The kernel looks at all TCP sockets of the host.  So after a question that took long,
#: it is not asked again for this many times as long.
PAUSE_FACTOR = 20

#: How often refusals are logged, in seconds.
LOG_SECONDS = 10.0

#: How long after a refusal the listener accepts although all workers are busy, in
#: seconds: other clients may wait behind those that are refused.
TRIPPED_SECONDS = 1.0

# What makes a source busy, as SourceStatus has it.
_BUSY = attrgetter("alive", "waiting", "refused")

# All addresses of IPv4, and of IPv6.
_ANY = ("0.0.0.0", "::")  # noqa: S104

#: Takes connections of a port, and the bytes of the addresses that they come from.
#: For how long the connections have waited at another listener, in seconds, comes last.
Enter = Callable[[Port, Sequence[AcceptedConnection], Sequence[bytes], float], None]


class Admitted(NamedTuple):
    """
    Connections that come in, or wait.

    @ivar connections: the connections.
    @ivar sources: the source of each.
    @ivar parked: those that a limit keeps out for now.
    """

    connections: list[AcceptedConnection]
    sources: list[Source]
    parked: set[AcceptedConnection]


class _PortLimits:
    """
    The limits of one port, and its sources.  If a port is on all addresses of IPv4 and
    of IPv6, its two sockets share them.

    @ivar ports: the port, or both of its halves.
    """

    def __init__(self, port: Port, limits: Limits) -> None:
        self.port = port
        self.ports = [port]
        self.limits = limits
        self.table = SourceLimits(limits)
        self.allow = Networks(limits.allow)
        self.deny = Networks(limits.deny)
        self.proxies = Networks(limits.proxies)
        self.lists = bool(limits.allow or limits.deny)
        self.counts = limits.maxPerSource is not None or limits.most is not None
        self.checked = 0.0
        self.pause = LEAST_CHECK_SECONDS
        # The connections that the last answer of the kernel lacked.
        self.missing: set[int] = set()
        self.refused: Counter[str] = Counter()
        self.worst: Counter[str] = Counter()

    def isOtherHalf(self, port: Port, limits: Limits) -> bool:
        """
        Whether a port is the same one on all addresses of the other family.
        """
        own, other = self.port.address, port.address
        return (
            isinstance(own, InternetAddress)
            and isinstance(other, InternetAddress)
            and {own.host, other.host} == {*_ANY}
            and (own.port, self.port.name, self.limits)
            == (other.port, port.name, limits)
        )

    def has(self, host: str) -> bool:
        """
        Whether a connection to a local host came in by this port.

        @param host: as the kernel writes it.
        """
        for each in self.ports:
            assert isinstance(each.address, InternetAddress)
            bound = each.address.host
            if bound in _ANY:
                if (":" in bound) == (":" in host):
                    return True
            elif _kernel.packed((bound, 0)) == _kernel.packed((host, 0)):
                return True
        return False

    def key(self, address: bytes) -> bytes:
        """
        Find what the connections of a source have in common.

        @param address: the bytes of the address of its client.
        """
        if len(address) == 4:
            prefix = self.limits.prefix
            return address if prefix == 32 else prefixed(address, prefix)
        prefix = self.limits.prefix6
        if prefix == 64:
            return address[:8]
        return prefixed(address, prefix) if address else address

    def describe(self, key: Any) -> str:
        """
        Write a source in readable form.
        """
        if not key:
            return "unknown"
        if len(key) == 8:
            key += bytes(8)
        prefix = self.limits.prefix if len(key) == 4 else self.limits.prefix6
        address = ip_address(key)
        if prefix == address.max_prefixlen:
            return str(address)
        return str(ip_network((key, prefix)))


class Limiter:
    """
    Says who comes in at the ports of a listener.

    @param reactor: an L{IReactorTime} and L{IReactorFDSet}.
    @param ports: the listener's ports.
    @param limits: the limits of those that have some, by their numbers.
    @param counts: whether workers report the ends of connections, so that connections
        are counted.

    @ivar tables: the sources of all ports that have limits.
    @ivar fair: the names of the ports whose sources take turns while they wait.
    @ivar now: says what time it is, in seconds.
    @ivar enter: takes connections whose sources are known now.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        ports: Sequence[Port],
        limits: Mapping[int, Limits],
        counts: bool = True,
    ) -> None:
        self._reactor = reactor
        self._stopped = False
        # Buckets fill up, and denials end, while the listener does nothing.  So this is
        # not the ledger's time.
        self.now: Callable[[], float] = reactor.seconds
        self._counts = counts
        self._logLimited = logLimit(reactor)
        self._checking: IDelayedCall | None = None
        self._logging: IDelayedCall | None = None
        self._tripped: dict[str, float] = {}
        self._denials = Denials()
        self.enter: Enter = lambda port, connections, addresses, waited: None
        # For how long connections that are held have waited at another listener, in
        # seconds.
        self._waited: dict[AcceptedConnection, float] = {}
        taken = [each for each in ports if each.kind is Kind.CONNECTIONS]
        perSource = [
            each.name
            for each in taken
            if (own := limits.get(each.number)) is not None and own.fair
        ]
        self.fair = frozenset(perSource if counts else ())
        self._ports: dict[int, _PortLimits] = {}
        for each in taken:
            self._ports[each.number] = self._share(
                each, limits.get(each.number, Limits())
            )
        self._limited = {
            each.number: self._ports[each.number]
            for each in taken
            if each.number in limits or each.name in self.fair
        }
        # The limits of all ports, and of those that have some: each once.
        self._own = tuple(dict.fromkeys(self._ports.values()))
        self._ownLimited = tuple(dict.fromkeys(self._limited.values()))
        self.tables = tuple(each.table for each in self._ownLimited)
        self._proxied = {
            number: ProxiedClients(reactor, partial(self._known, own.port))
            for number, own in self._ports.items()
            if own.limits.proxies
        }

    def _share(self, port: Port, limits: Limits) -> _PortLimits:
        for own in self._ports.values():
            if own.isOtherHalf(port, limits):
                own.ports.append(port)
                return own
        return _PortLimits(port, limits)

    @property
    def held(self) -> int:
        """
        How many connections are held whose sources are not known yet.
        """
        return sum([each.count for each in self._proxied.values()])

    def heldFor(self, name: str) -> int:
        """
        How many of these came by ports of one name.
        """
        return sum(
            [
                each.count
                for number, each in self._proxied.items()
                if self._ports[number].port.name == name
            ]
        )

    def concerns(self, number: int) -> bool:
        """
        Whether a port has limits.

        @param number: its number.
        """
        return number in self._limited

    def trips(self, name: str) -> bool:
        """
        Whether a client was refused a moment ago on a port of this name.
        """
        last = self._tripped.get(name)
        return last is not None and self.now() - last < TRIPPED_SECONDS

    # Clients that an operator denies

    def deny(self, network: Network, seconds: float | None) -> None:
        """
        Deny the clients of a network on all ports.

        @param seconds: for how long; L{None} until L{allow}.
        """
        for each in self._denials.deny(network, seconds, self.now()):
            self.log.warn(
                "{network} is denied no more: {count} networks are denied, which is the"
                " most",
                event="denial-forgotten",
                network=nameOf(each.network),
                count=len(self._denials),
            )

    def allow(self, network: Network) -> bool:
        """
        Undo L{deny}.

        @return: whether the network was denied.
        """
        return self._denials.allow(network, self.now())

    def denials(self, most: int | None = None) -> tuple[int, list[Denial]]:
        """
        List what L{deny} has denied, those that were denied last first.

        @param most: how many to list; L{None} for all.
        @return: how many there are, and the list.
        """
        found = self._denials.all(self.now(), most)
        return len(self._denials), found

    def deniedBy(self, network: Network) -> tuple[Network, bool] | None:
        """
        Say why a network is denied.

        @return: the denied network that contains it, and whether the settings deny that
            one; L{None} if none does.
        """
        found = self._denials.containing(network, self.now())
        if found is not None:
            return found, False
        network = plain(network)
        for own in self._ownLimited:
            by = own.deny.containing(network)
            if by is not None:
                return by, True
        return None

    @property
    def denies(self) -> bool:
        """
        Whether L{deny} has denied anybody.
        """
        return len(self._denials) > 0

    def undenied(
        self, port: Port, connections: Sequence[AcceptedConnection]
    ) -> Sequence[AcceptedConnection]:
        """
        Refuse connections of clients that L{deny} has denied.

        @param connections: the caller owns those that are returned.
        @return: the others.
        """
        now, own = self.now(), self._ports[port.number]
        taken = []
        for each in connections:
            if self._denials.denies(each.packed, now):
                self._refuse(own, each, None, "denied")
            else:
                taken.append(each)
        return taken

    # Connections

    def begin(self) -> None:
        """
        Count the connections that are there already: the listener before this one has
        accepted them, and workers have them.
        """
        now = self.now()
        for own in self._ownLimited:
            if not (self._counts and own.counts):
                continue
            for each in self._living(own) or ():
                address = _kernel.packed((each.peer, 0))
                if address not in own.proxies:
                    source = own.table.find(own.key(address), now)
                    own.table.count(source)
                    own.table.keep(source, each.cookie)
        self._watch()

    def arrived(
        self,
        port: Port,
        connections: Sequence[AcceptedConnection],
        waited: float = 0.0,
    ) -> tuple[Sequence[AcceptedConnection], Sequence[bytes]]:
        """
        Find the addresses that connections come from.  Keeps those whose proxies have
        not said it yet, for L{enter}.

        @param connections: owned by this object from now on, except those that are
            returned.
        @param waited: how long they have waited at another listener, in seconds.
        @return: the others, and the bytes of their addresses.
        """
        own = self._ports[port.number]
        addresses = [each.packed for each in connections]
        if not own.limits.proxies:
            return connections, addresses
        trusted = own.proxies
        direct = [
            (each, address)
            for each, address in zip(connections, addresses, strict=True)
            if address not in trusted
        ]
        if len(direct) < len(connections):
            others = {each for each, _ in direct}
            proxied = [each for each in connections if each not in others]
            if waited:
                self._waited.update(dict.fromkeys(proxied, waited))
            self._proxied[port.number].add(proxied)
        return [each for each, _ in direct], [address for _, address in direct]

    def _known(
        self, port: Port, found: Sequence[tuple[AcceptedConnection, str | None]]
    ) -> None:
        """
        The sources of connections are known that came by a proxy.
        """
        taken: dict[float, list[AcceptedConnection]] = {}
        addresses: dict[float, list[bytes]] = {}
        for connection, host in found:
            waited = self._waited.pop(connection, 0.0)
            address = _kernel.packed((host, 0)) if host is not None else b""
            if host is None:
                self._refuse(self._ports[port.number], connection, None, "no-header")
            elif not waited and self._denials.denies(address, self.now()):
                self._refuse(self._ports[port.number], connection, None, "denied")
            else:
                taken.setdefault(waited, []).append(connection)
                addresses.setdefault(waited, []).append(address)
        for waited, connections in taken.items():
            self.enter(port, connections, addresses[waited], waited)

    def judge(
        self,
        port: Port,
        connections: Sequence[AcceptedConnection],
        addresses: Sequence[bytes],
        again: bool = False,
    ) -> Admitted:
        """
        Say which connections come in, and end the others.

        @param connections: those that do not come in are closed; the caller owns the
            others.
        @param addresses: the bytes of the addresses that they come from.
        @param again: whether they have come in at the listener before this one.
        """
        now = self.now()
        own = self._ports[port.number]
        table = own.table
        arrive, key = table.arrive, own.key
        # Most addresses are sources themselves.
        whole = own.limits.prefix == 32
        taken: list[AcceptedConnection] = []
        sources: list[Source] = []
        parked: set[AcceptedConnection] = set()
        if again and table.kept:
            table.gone([each.cookie for each in connections])
        for connection, address in zip(connections, addresses, strict=True):
            if own.lists and not again and (listed := self._listed(own, address)):
                self._refuse(own, connection, None, listed)
                continue
            source, reason = arrive(
                address if whole and len(address) == 4 else key(address), now
            )
            if reason:
                reason = self._reconsider(own, source, reason, now)
            if reason:
                if own.limits.beyond is Beyond.WAIT:
                    parked.add(connection)
                elif again:
                    table.count(source)
                else:
                    self._refuse(own, connection, source, reason)
                    continue
            taken.append(connection)
            sources.append(source)
        if parked:
            self._tripped[port.name] = now
        if not self._counts:
            for source in sources:
                source.depart()
        return Admitted(taken, sources, parked)

    def _reconsider(
        self, own: _PortLimits, source: Source, reason: str, now: float
    ) -> str:
        """
        Before a connection is refused, ask the kernel whether others of its source have
        ended, if no worker reports that.

        @return: the limit that keeps it out; empty if it comes in.
        """
        table = own.table
        if table.kept and self._learns(own, now):
            reason = table.reached(source, now)
            if not reason:
                table.admit(source, now)
        return reason

    def left(self, entries: list[Entry]) -> None:
        """
        Nobody will report the ends of these connections.  Empties the list.
        """
        taken, entries[:] = entries[:], []
        for entry in taken:
            source, entry.source = entry.source, None
            if source is not None:
                source.table.keep(source, entry.connection.cookie)
        self._watch()

    def passTime(self) -> None:
        """
        Tell the sources what time it is.
        """
        now = self.now()
        for each in self.tables:
            each.now = now

    def refused(self) -> None:
        """
        Connections were refused that could not wait.
        """
        now = self.now()
        self._tripped.update((name, now) for name in self.fair)
        if self._logging is None:
            self._logRefusals()

    def stop(self) -> None:
        """
        Let nobody in any more, and log what is left to say.
        """
        self._stopped = True
        for call in (self._checking, self._logging):
            if call is not None:
                call.cancel()
        self._checking = None
        self._logRefusals()
        for proxied in self._proxied.values():
            for connection in proxied.close():
                connection.closeCopy()
        self._proxied = {}
        self._waited.clear()

    def _listed(self, own: _PortLimits, address: bytes) -> str:
        """
        Say why the lists keep an address out; empty if they do not.
        """
        if address in own.deny:
            return "denied"
        if own.allow and address not in own.allow:
            return "not-allowed"
        return ""

    def _refuse(
        self,
        own: _PortLimits,
        connection: AcceptedConnection,
        source: Source | None,
        reason: str,
    ) -> None:
        own.table.refuse(source, reason)
        self._tripped[own.port.name] = self.now()
        if source is not None:
            where = own.describe(source.key)
        else:
            where = str(connection.address[0] if connection.address else "unknown")
        if len(own.worst) < 1000 or where in own.worst:
            own.worst[where] += 1
        if own.limits.beyond is Beyond.CLOSE:
            connection.closeCopy()
        else:
            connection.reset()
        if self._logging is None:
            self._logRefusals()

    # What the kernel knows

    def _living(self, own: _PortLimits) -> Collection[_kernel.LiveConnection] | None:
        """
        Ask the kernel for the connections of a port that live.

        @return: L{None} if it cannot say now, for lack of descriptors or memory, or
            because too many connections come and go.
        """
        address = own.port.address
        assert isinstance(address, InternetAddress)
        try:
            found = _kernel.liveConnections(address.port)
        except OSError as error:
            if error.errno in _kernel.TEMPORARY_ERRORS:
                self._logLimited(
                    self.log.warn,
                    "the kernel cannot say now which connections of {port} live:"
                    " {error}; it is asked again",
                    event="connections-unknown",
                    port=own.port.label,
                    error=error.strerror,
                )
                return None
            self._logLimited(
                self.log.warn,
                "the kernel does not say which connections of {port} live: {error};"
                " those that workers keep when they leave are not counted any more",
                event="connections-unknown",
                port=own.port.label,
                error=error.strerror,
            )
            return []
        return [each for each in found if own.has(each.host)]

    def _learns(self, own: _PortLimits, now: float) -> bool:
        """
        Ask the kernel which connections have ended, unless that was just done.

        @return: whether it was asked.
        """
        if now - own.checked < own.pause:
            return False
        self._check(own, now)
        return True

    def _check(self, own: _PortLimits, now: float) -> None:
        """
        Ask the kernel.  An answer may lack a connection, if others end meanwhile.  So
        one has ended if two answers lack it.
        """
        began = time.monotonic()
        living = self._living(own)
        if living is not None:
            missing = own.table.kept.keys() - {each.cookie for each in living}
            own.table.gone(missing & own.missing)
            own.missing = missing - own.missing
        own.checked = now
        took = time.monotonic() - began
        own.pause = max(LEAST_CHECK_SECONDS, PAUSE_FACTOR * took)

    def _watch(self) -> None:
        """
        As long as there are connections whose ends no worker reports, ask the kernel.
        """
        if (
            self._checking is None
            and not self._stopped
            and any(each.kept for each in self.tables)
        ):
            self._checking = self._reactor.callLater(CHECK_SECONDS, self._checkAll)

    def _checkAll(self) -> None:
        self._checking = None
        try:
            now = self.now()
            for own in self._ownLimited:
                if own.table.kept:
                    self._learns(own, now)
        finally:
            self._watch()

    # What others are told

    def busiest(self, most: int = 10) -> list[SourceStatus]:
        """
        Describe the sources with the most connections, and after these, those that were
        refused most often.

        @param most: how many.
        """
        found: dict[str, list[int]] = {}
        for own in self._ownLimited:
            # There may be many, and few are described.
            for source in nlargest(most, own.table.sources, key=_BUSY):
                sums = found.setdefault(own.describe(source.key), [0, 0, 0])
                for place, count in enumerate(_BUSY(source)):
                    sums[place] += count
        busy = [each for each in found.items() if any(each[1])]
        chosen = sorted(busy, key=lambda each: (each[1], each[0]))[-most:]
        return [SourceStatus(name, *sums) for name, sums in reversed(chosen)]

    def refusals(self) -> dict[str, dict[str, int]]:
        """
        Say how many connections were refused, by the names of the ports, and by
        reasons.
        """
        found: dict[str, dict[str, int]] = {}
        for own in self._own:
            by = found.setdefault(own.port.name, {})
            for reason, count in own.table.refusals.items():
                by[reason] = by.get(reason, 0) + count
        return found

    def _logRefusals(self) -> None:
        """
        Log what was refused since the last time, and look again later if there was any.
        """
        self._logging = None
        found = False
        for own in self._own:
            counts = Counter(own.table.refusals)
            fresh = counts - own.refused
            own.refused = counts
            worst, own.worst = own.worst, Counter()
            if not fresh:
                continue
            found = True
            [(source, most)] = worst.most_common(1) or [("unknown", 0)]
            self.log.warn(
                "clients of {port} were refused: {reasons}; {most} of {count} came from"
                " {source}",
                event="limits-refused",
                port=own.port.label,
                count=fresh.total(),
                reasons=", ".join(f"{name} {n}" for name, n in fresh.items()),
                source=source,
                most=most,
            )
        if found and not self._stopped:
            self._logging = self._reactor.callLater(LOG_SECONDS, self._logRefusals)
