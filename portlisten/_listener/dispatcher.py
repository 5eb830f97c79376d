"""
The dispatcher connects the ports, the workers and the ledger.  It reports events to the
ledger, and has the ledger's decisions carried out.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from zope.interface import implementer

from portlisten import _kernel
from portlisten._listener.about import about
from portlisten._listener.admission import Newcomers
from portlisten._listener.connection import AcceptedConnection, unusable
from portlisten._listener.copy_check import CHECK_SECONDS, CopyCheck
from portlisten._listener.departed_clients import DepartedClients
from portlisten._listener.departed_workers import DepartedWorkers
from portlisten._listener.execution import Executor
from portlisten._listener.interfaces import IChannel, IConnection, IDispatcher
from portlisten._listener.limits import Limiter
from portlisten._listener.lost_clients import LostClients
from portlisten._listener.retirement import Retirement
from portlisten._listener.roster import Roster
from portlisten._listener.sharing import Sharing
from portlisten._listener.silent_clients import SilentClients
from portlisten._model import Kind, Port
from portlisten._policy.decisions import Decision
from portlisten._policy.ledger import Ledger
from portlisten._policy.source_limits import Source
from portlisten._policy.throttle import Throttle
from portlisten._reactor.deadline import RunningTime
from portlisten._reactor.log_limit import logLimit
from portlisten._wire.frames import (
    LONGEST_WAIT,
    Claim,
    ClientGone,
    Closed,
    Given,
    Serving,
)
from portlisten._wire.listener_session import Draining, Joined, News, Refused

#: How much time can count as passed between two readings of the clock, in seconds.  The
#: time in which this process did not run counts for no worker and no client.
LONGEST_TICK_SECONDS = 0.2

#: At the end, how long the last frames to the workers may take, in seconds.
FAREWELL_SECONDS = 1.0


@implementer(IDispatcher)
class Dispatcher:
    """
    The listener without its sockets.

    @param reactor: an L{IReactorTime}.  If the clients of a worker speak first, it must
        also be an L{IReactorFDSet}.
    @param ledger: decides what becomes of connections.
    @param throttle: says how long a worker waits for its first offer.
    @param sharing: lets workers use the sockets of shared ports.
    @param timedOut: called when the patience of connections ran out.
    @param flightLimit: how many descriptors the kernel lets a user have in flight.
    @param limiter: says who comes in; by default, everybody does.

    @ivar lostClients: logs the clients that were lost.
    @ivar roster: the workers that have joined.
    @ivar departed: the workers that have left.
    @ivar capacityChanged: called when the listener may be able to accept again.
    @ivar handOffEnded: called at the end, before each worker is sent BYE.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        ledger: Ledger,
        throttle: Throttle,
        sharing: Sharing,
        timedOut: Callable[[], None] = lambda: None,
        flightLimit: int = 1024,
        limiter: Limiter | None = None,
    ) -> None:
        self._reactor = reactor
        self._now = RunningTime(reactor.seconds, LONGEST_TICK_SECONDS)
        self._logLimited = logLimit(reactor)
        self._flightLimit = flightLimit
        self._ledger = ledger
        self._sharing = sharing
        self._newcomers = Newcomers(reactor, throttle)
        self._copyCheck = CopyCheck(ledger.copies)
        self._departedClients = DepartedClients()
        self.lostClients = LostClients(reactor)
        self._silentClients = SilentClients(reactor, self._somethingCame)
        self._limiter = limiter = limiter or Limiter(reactor, (), {})
        limiter.enter = self._enter
        self._executor = Executor(
            reactor, self._silentClients, timedOut, limiter.refused
        )
        self.departed = DepartedWorkers(reactor, ledger, self._now, self._run)
        self.roster = Roster(
            reactor, ledger, sharing, self._newcomers, self.left, self._admit
        )
        self._channels: dict[IChannel, None] = {}
        # Workers that only use shared sockets.  They send no reports, so a closed
        # channel is not a crash.
        self._onlySharing: set[IChannel] = set()
        self._timer: IDelayedCall | None = None
        self._stopped: Deferred[None] | None = None
        self._retirement: Retirement | None = None
        self._deadline = 0.0
        self._overdueSeen = False
        self._byeSent = False
        self._notifying = False
        # The decisions that the events of one read lead to, until all are processed.
        self._batch: list[Decision] | None = None
        self._waitsElsewhere: Callable[[], bool] = lambda: False
        self._expectsWorkers: Callable[[], bool] = lambda: True
        self.capacityChanged: Callable[[], None] = lambda: None
        self.handOffEnded: Callable[[], None] = lambda: None

    def capacity(self, name: str) -> int:
        """
        How many connections may be accepted now on ports of this name.
        """
        limiter = self._limiter
        held = limiter.held
        return self._ledger.capacity(name, limiter.heldFor(name) if held else 0, held)

    def busy(self, name: str) -> bool:
        """
        Whether connections on ports of this name may as well stay in the backlog a
        little longer.  If accepted now, they would only wait at a worker, and the
        listener would wake up once more.
        """
        if self._limiter.trips(name):
            return False
        now = self._now()
        return self._ledger.busy(name, now, now - CHECK_SECONDS)

    def now(self) -> float:
        """
        Return the ledger's time, in seconds.
        """
        return self._now()

    @property
    def channels(self) -> int:
        """
        How many workers are connected.  Some may not have joined yet.
        """
        return len(self._channels)

    def serves(self, name: str) -> bool:
        """
        Whether a worker takes connections of ports of this name.
        """
        return self._ledger.serves(name)

    def report(self) -> None:
        """
        Log what became of the connections, and where the others are.
        """
        ledger = self._ledger
        self.log.info(
            "{workers} workers, {waiting} connections waiting{silence}, {unclaimed}"
            " offered, {held} held{shared}; since the start: {counters}",
            event="report",
            silence=f" ({ledger.silent} silent)" if ledger.silent else "",
            silent=ledger.silent,
            shared=str(self._sharing),
            workers=ledger.workers,
            waiting=ledger.waiting,
            unclaimed=ledger.unclaimed,
            held=ledger.held,
            counters=ledger.counters,
        )

    # Ports

    def accepted(
        self,
        port: Port,
        connections: Sequence[AcceptedConnection],
        waited: float = 0.0,
    ) -> None:
        """
        Take connections that came in by a port, at least one.  Owns them afterwards.

        @param waited: how long they have waited at another listener, in seconds.
        """
        limiter = self._limiter
        if limiter.denies and not waited:
            connections = limiter.undenied(port, connections)
            if not connections:
                return
        if not limiter.concerns(port.number):
            self._add(port, connections, waited)
            return
        connections, addresses = limiter.arrived(port, connections, waited)
        if connections:
            self._enter(port, connections, addresses, waited)

    def _enter(
        self,
        port: Port,
        connections: Sequence[AcceptedConnection],
        addresses: Sequence[bytes],
        waited: float = 0.0,
    ) -> None:
        """
        Take the connections that their port's limits let in.

        @param addresses: the bytes of the addresses that they come from.
        """
        admitted = self._limiter.judge(port, connections, addresses, waited > 0)
        if admitted.connections:
            self._add(
                port, admitted.connections, waited, admitted.sources, admitted.parked
            )
        else:
            self._run([])

    def _add(
        self,
        port: Port,
        connections: Sequence[AcceptedConnection],
        waited: float,
        sources: Sequence[Source] | None = None,
        parked: Collection[IConnection] = (),
    ) -> None:
        canCheck = connections[0].canCheck
        now = self._now()
        silent: set[IConnection] | None = None
        if self._ledger.keeps(port.name, now):
            silent = self._silentClients.find(connections)
        self._run(
            self._ledger.addConnections(
                port.number,
                connections,
                now,
                canCheck,
                port.name,
                silent,
                waited,
                sources,
                parked,
            )
        )
        if len(connections) > 1:
            self._giveWay()

    def _somethingCame(
        self, spoken: Collection[IConnection], gone: Collection[IConnection]
    ) -> None:
        """
        Something has come from silent clients.

        @param gone: the connections whose clients have left.
        """
        decisions = self._ledger.clientsLeft(gone)
        self._run(decisions + self._ledger.spoke(spoken, self._now()))

    # IDispatcher, which documents these

    def connected(self, channel: IChannel) -> None:
        self._channels[channel] = None

    def joined(self, channel: IChannel, event: Joined) -> None:
        retirement = self._retirement
        if retirement is not None and channel is retirement.successor:
            self._run(retirement.admit(channel, event, self._now()))
            return
        self.roster.joined(channel, event)
        if not self.roster.drainInherited(channel):
            self._newcomers.add(channel, partial(self._admit, channel, event))

    def claimed(self, channel: IChannel, ids: Sequence[int]) -> None:
        self._sharing.workerReads(channel)
        self._run(self._ledger.claim(channel, ids, self._now()))

    def refused(self, channel: IChannel, ids: Sequence[int], reason: str) -> None:
        found = unusable(self._ledger.offersTo(channel, ids))
        decisions = self._ledger.refuse(channel, ids, self._now(), found)
        self._logLimited(
            self.log.info,
            "{channel} refused {count} connections: {reason}",
            event="offers-refused",
            **about(channel),
            count=len(ids),
            reason=reason,
        )
        self._run(decisions)

    def closed(self, channel: IChannel, ids: Sequence[int]) -> None:
        self._run(self._ledger.close(channel, ids, self._now()))
        self._newcomers.finished(channel)

    def clientGone(self, channel: IChannel, ids: Sequence[int]) -> None:
        self._run(self._ledger.clientGone(channel, ids, self._now()))

    def draining(self, channel: IChannel) -> None:
        self._logLimited(
            self.log.info,
            "{channel} drains",
            event="worker-drains",
            **about(channel),
        )
        self.roster.drains(channel)
        if self._newcomers.waits(channel):
            self._newcomers.drain(channel)
        else:
            self._sharing.removeWorker(channel)
            self._ledger.drain(channel)
        channel.drained()

    def revoking(self, channel: IChannel) -> None:
        if self._newcomers.waits(channel):
            return
        if channel in self._onlySharing:
            self._newcomers.sharingFailed(channel)
        self._newcomers.failed(channel)
        self._sharing.removeWorker(channel)
        self._ledger.revoke(channel)

    def left(self, channel: IChannel, reason: str) -> None:
        self.roster.left(channel)
        if self._newcomers.leave(channel):
            return
        self._sharing.removeWorker(channel)
        self.departed.left(channel, reason)

    def died(self, channel: IChannel) -> None:
        self.roster.left(channel)
        if self._newcomers.leave(channel):
            return
        self._newcomers.failed(channel)
        self._sharing.removeWorker(channel)
        if channel in self._onlySharing:
            self._logLimited(
                self.log.info,
                "{channel} is gone",
                event="worker-left",
                **about(channel),
            )
            self._run(self._ledger.workerDied(channel, (), self._now()))
        else:
            self.departed.died(channel)
            self._schedule()

    def channelClosed(self, channel: IChannel) -> None:
        self._channels.pop(channel, None)
        self.roster.left(channel)
        self._newcomers.channelClosed(channel)
        self._onlySharing.discard(channel)
        self.departed.channelClosed(channel)
        self._schedule()

    # Workers

    def _admit(self, channel: IChannel, event: Joined) -> None:
        ports = event.ports
        if not self._sharing.addWorker(channel, ports, event.balances):
            self._logLimited(
                self.log.warn,
                "{channel} is turned away, and may try again: too many sockets are on"
                " their way to workers that have not read them",
                event="worker-refused",
                **about(channel),
            )
            self.roster.left(channel)
            channel.bye("too many shared sockets are on their way to workers")
            return
        handedOff = [port for port in ports if port.kind is Kind.CONNECTIONS]
        if handedOff:
            self._newcomers.begin(channel)
        else:
            self._onlySharing.add(channel)
        limit = "" if event.limit is None else f" and a limit of {event.limit}"
        self._logLimited(
            self.log.info,
            "{channel} joined, with a window of {window}, for {names}",
            event="worker-joined",
            **about(channel),
            window=f"{event.window}{limit}",
            names=", ".join(dict.fromkeys(port.name or port.label for port in ports)),
        )
        names = [port.name for port in handedOff]
        self._run(
            self._ledger.addWorker(
                channel,
                event.window,
                self._now(),
                names,
                channel.user,
                event.limit,
                event.first,
                event.gives,
            )
        )

    def _blockSlowReaders(self) -> None:
        """
        If more than half of the permitted descriptors are in flight, give no offers to
        workers that have not read all of theirs.
        """
        inFlight = {channel: channel.inFlight() for channel in self._channels}
        total = sum(inFlight.values()) + self.departed.inFlight
        crowded = total > self._flightLimit // 2
        for channel, count in inFlight.items():
            self._ledger.block(channel, crowded and count > 0)

    # The successor

    def retire(
        self,
        grace: float,
        names: Collection[str],
        waits: Callable[[], Collection[str]],
        more: Callable[[], bool],
    ) -> Deferred[None]:
        """
        Hand over what waits to the next listener, and let the workers go.  The channel
        of the next listener is the next one that L{succeededBy} names.

        @param grace: how long that may take, in seconds.
        @param names: the names of its ports.
        @param waits: says which names of other ports have clients in their backlogs.
        @param more: says whether more connections may come that wait.
        @return: fires when this is done.
        """
        now = self._now()
        self._retirement = retirement = Retirement(
            self,
            self._ledger,
            now + grace,
            names,
            waits,
            lambda: more() or self._awaitsHeaders(),
        )
        # The next listener has limits of its own.
        self._run(self._ledger.releaseAll(now))
        return retirement.done

    def _awaitsHeaders(self) -> bool:
        """
        Whether connections are held until their proxies say where they come from.
        """
        return self._limiter.held > 0

    def succeededBy(self, channel: IChannel) -> None:
        """
        After L{retire}: name the channel of the next listener, which is about to join.
        """
        assert self._retirement is not None
        self._retirement.successor = channel
        self._retirement.step(self._now())
        self._schedule()

    def waited(self, channel: IChannel, id: int) -> int:
        """
        How long a connection has waited that is on offer to the next listener, in
        hundredths of a second.
        """
        seconds = self._ledger.waited(channel, id, self._now())
        return min(round(seconds * 100), LONGEST_WAIT)

    def takeBack(self) -> None:
        """
        The next listener is dead: undo L{retire}.
        """
        retirement, self._retirement = self._retirement, None
        if retirement is not None:
            retirement.undo()
            self._run([])

    def workerChannels(self) -> list[IChannel]:
        """
        The channels that are not closed.
        """
        return list(self._channels)

    def portsOf(self, channel: IChannel) -> Collection[str]:
        """
        The names of the ports that a worker serves; none if it has not joined.
        """
        return self.roster.ports(channel)

    def letGo(self, channel: IChannel, reason: str) -> None:
        """
        Let a worker go that has no offers.  May be called again.
        """
        self.roster.letGo(channel)
        if self._ledger.knows(channel):
            self.left(channel, reason)
        else:
            self._newcomers.leave(channel)
            self.roster.left(channel)
        channel.bye(reason)

    # The end

    def stop(
        self,
        grace: float,
        waitsElsewhere: Callable[[], bool] = lambda: False,
        expectsWorkers: Callable[[], bool] = lambda: True,
    ) -> Deferred[None]:
        """
        Hand off the connections that wait and those that still come, then say BYE to
        the workers.  While connections wait, new workers may join.

        @param grace: how long the hand-off may take, in seconds.
        @param waitsElsewhere: says whether more connections are to come.
        @param expectsWorkers: says whether to go on while no worker takes connections.
        @return: fires when this is done.
        """
        self._stopped = Deferred()
        self._waitsElsewhere = waitsElsewhere
        self._expectsWorkers = expectsWorkers
        now = self._now()
        self._deadline = now + grace
        self._run(self._ledger.releaseAll(now) + self._ledger.keepNoSilent(now))
        return self._stopped

    def _proceed(self, now: float) -> None:
        """
        Take the next step of L{stop}, if it is time for it.
        """
        ledger = self._ledger
        if not self._byeSent:
            busy = (
                ledger.unclaimed
                or self._awaitsHeaders()
                or (
                    (ledger.waiting or self._waitsElsewhere())
                    and (ledger.workers or self._expectsWorkers())
                )
            )
            if busy and now < self._deadline:
                return
            self._byeSent = True
            self._deadline = now + FAREWELL_SECONDS
            self.handOffEnded()
            for channel in list(self._channels):
                self._newcomers.leave(channel)
                channel.bye("the listener stops")
        if self._stopped is not None and (not self.channels or now >= self._deadline):
            stopped, self._stopped = self._stopped, None
            self._retirement = None
            self._sharing.stop()
            self._run(ledger.stop())
            self._silentClients.close()
            self._limiter.stop()
            self.departed.stop()
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            self._logLimited.flush()
            self.report()
            stopped.callback(None)

    # The inside

    def _run(self, decisions: Iterable[Decision]) -> None:
        if self._batch is not None:
            self._batch += decisions
            return
        try:
            self._carryOut(decisions)
        finally:
            # Even if something fails, time must pass.
            self._schedule()
        if not self._notifying:
            # This may accept, which calls this method again.
            self._notifying = True
            try:
                self.capacityChanged()
            finally:
                self._notifying = False

    def _carryOut(self, decisions: Iterable[Decision]) -> None:
        if self._ledger.ends:
            self.lostClients.report(self._ledger.ends)
        if self._ledger.left:
            self._limiter.left(self._ledger.left)
        watched, unwatched = self._executor.carryOut(decisions)
        if watched:
            self._ledger.watched(watched)
        if unwatched:
            self._carryOut(self._ledger.spoke(unwatched, self._now()))

    def _giveWay(self) -> None:
        """
        If there are several workers, let them and the clients run before the next turn
        of the loop, which then has the claims of all of them.  A single worker would
        only wait the longer for its next connections.
        """
        if len(self._channels) > 1:
            _kernel.giveWay()

    def _schedule(self) -> None:
        """
        Let time pass in the ledger, as long as anything depends on time.
        """
        if self._timer is None and (
            self._ledger.timed
            or self.departed.changes
            or self._stopped is not None
            or self._retirement is not None
        ):
            self._timer = self._reactor.callLater(CHECK_SECONDS, self._tick)

    def _tick(self) -> None:
        self._timer = None
        try:
            self._passTime(self._now())
        finally:
            # Even if something fails, time must pass.
            self._schedule()

    def _passTime(self, now: float) -> None:
        ledger = self._ledger
        self.departed.check(now)
        _kernel.reap()
        self._blockSlowReaders()
        decisions = ledger.closeTouched(self._copyCheck.check())
        gone, ended = self._departedClients.check(ledger.waitingConnections, now)
        decisions += ledger.clientsLeft(gone) + ledger.clientsHalfClosed(ended, now)
        if ledger.overdue(now) and not self._overdueSeen:
            # A claim that changes this may have come, and is not read yet.
            self._overdueSeen = True
            self._timer = self._reactor.callLater(0, self._tick)
            self._run(decisions)
            return
        self._overdueSeen = False
        self._limiter.passTime()
        if self._retirement is not None or self._stopped is not None:
            # More may have come that limits keep out.
            decisions += ledger.releaseAll(now)
        self._run(decisions + ledger.passTime(now))
        if self._retirement is not None:
            self._retirement.step(now)
        if self._stopped is not None:
            self._proceed(now)

    # Events of one read

    def received(self, channel: IChannel, events: Iterable[News]) -> None:
        """
        See L{IDispatcher}.
        """
        gathered: list[Decision] = []
        self._batch = gathered
        try:
            for event in events:
                if isinstance(event, Claim):
                    self.claimed(channel, event.ids)
                elif isinstance(event, Closed):
                    self.closed(channel, event.ids)
                elif isinstance(event, Draining):
                    # The offers so far go out before the answer.
                    decisions, gathered[:] = gathered[:], []
                    self._carryOut(decisions)
                    self.draining(channel)
                elif isinstance(event, ClientGone):
                    self.clientGone(channel, event.ids)
                elif isinstance(event, Refused):
                    self.refused(channel, event.ids, event.reason)
                elif isinstance(event, Given):
                    self._run(self._ledger.give(channel, event.ids))
                elif isinstance(event, Serving):
                    self.roster.serving(channel, event.count)
                    self._run(self._ledger.serving(channel, event.count, self._now()))
                else:
                    self.joined(channel, event)
        finally:
            self._batch = None
            self._run(gathered)
            self.roster.check(channel)
            self._giveWay()
