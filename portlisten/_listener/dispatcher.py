"""
Between the ports, the workers and the ledger: carries out what the ledger
decides, and tells it what happened.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from zope.interface import implementer

from portlisten import _kernel
from portlisten._listener.admission import Newcomers
from portlisten._listener.connection import AcceptedConnection, spoiled
from portlisten._listener.copy_check import CHECK_SECONDS, CopyCheck
from portlisten._listener.departed_clients import DepartedClients
from portlisten._listener.departed_workers import DepartedWorkers
from portlisten._listener.interfaces import IChannel, IDispatcher
from portlisten._listener.sharing import Sharing
from portlisten._model import Kind, Port
from portlisten._policy.decisions import Decision, GiveUp, HandOff, LetGo, Reason
from portlisten._policy.ledger import Ledger
from portlisten._policy.throttle import Throttle
from portlisten._ports.accepting import Accepted
from portlisten._reactor.deadline import RunningTime
from portlisten._reactor.log_limit import logLimit
from portlisten._wire.frames import Claim, ClientGone, Closed
from portlisten._wire.listener_session import Draining, News, Refused

#: How much time counts as passed at the most between two looks at the clock, in
#: seconds: while the process stands still, nobody's time runs.
LONGEST_TICK = 0.2

#: How long the last frames to the workers may take at the end, in seconds.
FAREWELL_SECONDS = 1.0


@implementer(IDispatcher)
class Dispatcher:
    """
    The listener, but for its sockets.

    @param reactor: an L{IReactorTime}.
    @param ledger: decides what becomes of connections.
    @param throttle: says which workers have to wait before they get their first offer.
    @param sharing: lets workers use the sockets of shared ports.
    @param timedOut: called when the patience of connections ran out.
    @param flightLimit: how many descriptors the kernel lets a user have in flight.

    @ivar departed: the workers that have left.
    @ivar roomChanged: called when it may be possible to accept again.
    @ivar parting: called when no worker is waited for any more.
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
    ) -> None:
        self._reactor = reactor
        self._now = RunningTime(reactor.seconds, LONGEST_TICK)
        self._quiet = logLimit(reactor)
        self._flightLimit = flightLimit
        self._ledger = ledger
        self._timedOut = timedOut
        self._sharing = sharing
        self._newcomers = Newcomers(reactor, throttle)
        self._copyCheck = CopyCheck(ledger.copies)
        self._departedClients = DepartedClients()
        self.departed = DepartedWorkers(reactor, ledger, self._now, self._run)
        self._channels: dict[IChannel, None] = {}
        # Workers that only use shared sockets.  They send no reports, so a closed
        # channel is not a crash.
        self._onlySharing: set[IChannel] = set()
        self._timer: IDelayedCall | None = None
        self._stopped: Deferred[None] | None = None
        self._deadline = 0.0
        self._judging = False
        self._parting = False
        self._telling = False
        # What the events of one read lead to, until all of them were heard.
        self._gathered: list[Decision] | None = None
        self._waitsElsewhere: Callable[[], bool] = lambda: False
        self.roomChanged: Callable[[], None] = lambda: None
        self.parting: Callable[[], None] = lambda: None

    def capacity(self, name: str) -> int:
        """
        How many connections may be accepted now, on ports of this name.
        """
        return self._ledger.capacity(name)

    def busy(self, name: str) -> bool:
        """
        Whether what might be accepted now, on ports of this name, may as well stay
        in the backlog a little longer: it would only wait at a worker, and the
        listener would wake up once more for it.
        """
        now = self._now()
        return self._ledger.busy(name, now, now - CHECK_SECONDS)

    @property
    def channels(self) -> int:
        """
        How many workers are connected, whether they have joined or not.
        """
        return len(self._channels)

    def serves(self, name: str) -> bool:
        """
        Whether a worker takes connections of ports of this name.
        """
        return self._ledger.serves(name)

    def report(self) -> None:
        """
        Log what became of the connections, and what is where.
        """
        ledger = self._ledger
        self.log.info(
            "{workers} workers, {waiting} connections waiting, {unclaimed} offered,"
            " {held} held{shared}; since the start: {counters}",
            shared=str(self._sharing),
            workers=ledger.workers,
            waiting=ledger.waiting,
            unclaimed=ledger.unclaimed,
            held=ledger.held,
            counters=ledger.counters,
        )

    # Ports

    def accepted(self, port: Port, batch: Sequence[Accepted]) -> None:
        """
        Connections came in by a port, at least one.  Keeps their sockets.
        """
        connections = [AcceptedConnection(*each) for each in batch]
        canCheck = connections[0].canCheck
        self._run(
            self._ledger.addConnections(
                port.number, connections, self._now(), canCheck, port.name
            )
        )

    # IDispatcher, which documents these

    def connected(self, channel: IChannel) -> None:
        self._channels[channel] = None

    def joined(self, channel: IChannel, window: int, ports: Sequence[Port]) -> None:
        self._newcomers.add(channel, partial(self._admit, channel, window, ports))

    def claimed(self, channel: IChannel, ids: Sequence[int]) -> None:
        self._sharing.workerReads(channel)
        self._run(self._ledger.claim(channel, ids, self._now()))

    def refused(self, channel: IChannel, ids: Sequence[int], reason: str) -> None:
        unusable = spoiled(self._ledger.offersTo(channel, ids))
        decisions = self._ledger.refuse(channel, ids, self._now(), unusable)
        self._quiet(
            self.log.info,
            "{channel} refused {count} connections: {reason}",
            channel=channel.label,
            count=len(ids),
            reason=reason,
        )
        self._run(decisions)

    def closed(self, channel: IChannel, ids: Sequence[int]) -> None:
        self._run(self._ledger.close(channel, ids, self._now()))
        self._newcomers.finished(channel)

    def gone(self, channel: IChannel, ids: Sequence[int]) -> None:
        self._run(self._ledger.clientGone(channel, ids, self._now()))

    def draining(self, channel: IChannel) -> None:
        self._quiet(self.log.info, "{channel} drains", channel=channel.label)
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

    def parted(self, channel: IChannel, reason: str) -> None:
        if self._newcomers.leave(channel):
            return
        self._sharing.removeWorker(channel)
        self.departed.left(channel, reason)

    def died(self, channel: IChannel) -> None:
        if self._newcomers.leave(channel):
            return
        self._newcomers.failed(channel)
        self._sharing.removeWorker(channel)
        if channel in self._onlySharing:
            self._quiet(self.log.info, "{channel} is gone", channel=channel.label)
            self._run(self._ledger.workerDied(channel, (), self._now()))
        else:
            self.departed.died(channel)
            self._schedule()

    def disconnected(self, channel: IChannel) -> None:
        self._channels.pop(channel, None)
        self._newcomers.forget(channel)
        self._onlySharing.discard(channel)
        self.departed.channelClosed(channel)
        self._schedule()

    # Workers

    def _admit(self, channel: IChannel, window: int, ports: Sequence[Port]) -> None:
        if not self._sharing.addWorker(channel, ports):
            self._quiet(
                self.log.warn,
                "{channel} is turned away, and may try again: too many sockets are on"
                " their way to workers that have not read them",
                channel=channel.label,
            )
            channel.bye("too many shared sockets are on their way to workers")
            return
        handedOff = [port for port in ports if port.kind is Kind.CONNECTIONS]
        if handedOff:
            self._newcomers.begin(channel)
        else:
            self._onlySharing.add(channel)
        self._quiet(
            self.log.info,
            "{channel} joined, with a window of {window}, for {names}",
            channel=channel.label,
            window=window,
            names=", ".join(dict.fromkeys(port.name or port.label for port in ports)),
        )
        names = [port.name for port in handedOff]
        now = self._now()
        self._run(self._ledger.addWorker(channel, window, now, names, channel.user))

    def _blockSlowReaders(self) -> None:
        """
        If half of the descriptors that may be in flight are, give no offers to workers
        that have not read all of theirs.
        """
        inFlight = {channel: channel.inFlight() for channel in self._channels}
        total = sum(inFlight.values()) + self.departed.inFlight
        crowded = total > self._flightLimit // 2
        for channel, count in inFlight.items():
            self._ledger.block(channel, crowded and count > 0)

    # The end

    def stop(
        self, grace: float, waitsElsewhere: Callable[[], bool] = lambda: False
    ) -> Deferred[None]:
        """
        Hand off what is held, and what is yet to come, then part with the workers.
        If no worker takes it, one may still come.

        @param grace: how long that may take, in seconds.
        @param waitsElsewhere: says whether there is more to come.
        @return: fires when it is done.
        """
        self._stopped = Deferred()
        self._waitsElsewhere = waitsElsewhere
        self._deadline = self._now() + grace
        self._schedule()
        return self._stopped

    def _proceed(self, now: float) -> None:
        """
        Take the next step towards the end, if it is time for it.
        """
        ledger = self._ledger
        if not self._parting:
            busy = ledger.unclaimed or ledger.waiting or self._waitsElsewhere()
            if busy and now < self._deadline:
                return
            self._parting = True
            self._deadline = now + FAREWELL_SECONDS
            self.parting()
            for channel in list(self._channels):
                self._newcomers.leave(channel)
                channel.bye("the listener stops")
        if self._stopped is not None and (not self.channels or now >= self._deadline):
            stopped, self._stopped = self._stopped, None
            self._sharing.stop()
            self._run(ledger.stop())
            self.departed.stop()
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            self._quiet.flush()
            self.report()
            stopped.callback(None)

    # The inside

    def _run(self, decisions: Iterable[Decision]) -> None:
        if self._gathered is not None:
            self._gathered += decisions
            return
        try:
            self._carryOut(decisions)
        finally:
            # Whatever fails, time passes.
            self._schedule()
        if not self._telling:
            # This may accept, which leads here again.
            self._telling = True
            try:
                self.roomChanged()
            finally:
                self._telling = False

    def _carryOut(self, decisions: Iterable[Decision]) -> None:
        timedOut = False
        offered = set()
        for decision in decisions:
            if isinstance(decision, HandOff):
                channel, id, connection, port = decision
                channel.offer(id, port, connection, more=True)
                offered.add(channel)
            elif isinstance(decision, LetGo):
                decision.connection.closeCopy()
            elif isinstance(decision, GiveUp):
                self._quiet(
                    self.log.info if decision.reason is Reason.GONE else self.log.warn,
                    "the connection of {peer} is closed: {reason}",
                    peer=decision.connection.peer,
                    reason=decision.reason.value,
                )
                decision.connection.closeCopy()
                timedOut = timedOut or decision.reason is Reason.TIMED_OUT
            else:
                self._quiet(
                    self.log.warn,
                    "{channel} hangs, and is revoked: {reason}",
                    channel=decision.channel.label,
                    reason=decision.reason,
                )
                decision.channel.revoke(decision.reason)
        for channel in offered:
            channel.flush()
        if timedOut:
            self._timedOut()

    def _schedule(self) -> None:
        """
        Let time pass in the ledger, as long as anything depends on it.
        """
        if self._timer is None and (
            self._ledger.timed or self.departed.changes or self._stopped is not None
        ):
            self._timer = self._reactor.callLater(CHECK_SECONDS, self._tick)

    def _tick(self) -> None:
        self._timer = None
        try:
            self._turn(self._now())
        finally:
            # Whatever fails, time passes.
            self._schedule()

    def _turn(self, now: float) -> None:
        ledger = self._ledger
        self.departed.look(now)
        _kernel.reap()
        self._blockSlowReaders()
        decisions = ledger.closeTouched(self._copyCheck.look())
        gone, ended = self._departedClients.look(ledger.waitingConnections, now)
        decisions += ledger.clientsLeft(gone) + ledger.clientsHalfClosed(ended, now)
        if ledger.overdue(now) and not self._judging:
            # What would change the judgement may have come, and is not read yet.
            self._judging = True
            self._timer = self._reactor.callLater(0, self._tick)
            self._run(decisions)
            return
        self._judging = False
        self._run(decisions + ledger.passTime(now))
        if self._stopped is not None:
            self._proceed(now)

    # What a worker says

    def received(self, channel: IChannel, events: Iterable[News]) -> None:
        """
        See L{IDispatcher}.
        """
        gathered: list[Decision] = []
        self._gathered = gathered
        try:
            for event in events:
                if isinstance(event, Claim):
                    self.claimed(channel, event.ids)
                elif isinstance(event, Closed):
                    self.closed(channel, event.ids)
                elif isinstance(event, Draining):
                    # What was offered before goes out before the answer.
                    decisions, gathered[:] = gathered[:], []
                    self._carryOut(decisions)
                    self.draining(channel)
                elif isinstance(event, ClientGone):
                    self.gone(channel, event.ids)
                elif isinstance(event, Refused):
                    self.refused(channel, event.ids, event.reason)
                else:
                    self.joined(channel, event.window, event.ports)
        finally:
            self._gathered = None
            self._run(gathered)
