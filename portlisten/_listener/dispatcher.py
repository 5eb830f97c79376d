"""
Between the ports, the workers and the ledger: carries out what the ledger
decides, and tells it what happened.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from zope.interface import implementer

from portlisten import _kernel
from portlisten._listener.connection import AcceptedConnection
from portlisten._listener.departures import Departures
from portlisten._listener.interfaces import IChannel, IConnection, IDispatcher
from portlisten._listener.sharing import Sharing
from portlisten._model import Kind, Port
from portlisten._policy.ledger import Decision, GiveUp, HandOff, Ledger, LetGo, Reason
from portlisten._policy.throttle import Throttle
from portlisten._ports.accepting import Accepted
from portlisten._reactor.monotonic import RunningTime
from portlisten._reactor.quiet import quiet
from portlisten._wire.frames import Claim, ClientGone, Closed
from portlisten._wire.listener_session import UNREAD, Draining, News, Refused
from portlisten.errors import ProtocolError

#: How often the kernel is asked about the copies that are held, in seconds.
WITNESS_INTERVAL = 0.02

#: How much time counts as passed at the most between two looks at the clock, in
#: seconds: while the process stands still, nobody's time runs.
LONGEST_TICK = 0.2

#: How often a dead worker's copy is looked at, where the kernel cannot say.
CERTAINTY = 20

#: How long a process may take to end, once its channel is closed, in seconds.
DEATH = 0.2

#: How long the last words to the workers may take at the end, in seconds.
FAREWELL = 1.0


@implementer(IDispatcher)
class Dispatcher:
    """
    The listener, but for its sockets.

    @param reactor: an L{IReactorTime}.
    @param ledger: the book.
    @param throttle: says who has to wait before it is given anything.
    @param sharing: lends what is shared.
    @param timedOut: called when the patience of connections ran out.
    @param flightLimit: how many descriptors the kernel lets a user have in flight.

    @ivar roomChanged: called when there may be room to accept again.
    @ivar channelEnded: called with each channel of which nothing is left.
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
        self._quiet = quiet(reactor)
        self._flightLimit = flightLimit
        self._ledger = ledger
        self._timedOut = timedOut
        self._throttle = throttle
        self._sharing = sharing
        self._channels: dict[IChannel, None] = {}
        self._held: dict[IChannel, IDelayedCall | None] = {}
        self._unproven: dict[IChannel, int] = {}
        # Those that only share: of what they do nothing is heard, and their end
        # may be in good order.
        self._borrowers: set[IChannel] = set()
        # Those that have left, and of which something is left: the process that may
        # still touch what it claimed, or descriptors that it has not read.
        self._departed: dict[IChannel, int | None] = {}
        self._closed: set[IChannel] = set()
        # Those that closed their channels, with their processes, and until when these
        # may take to end.
        self._dying: dict[IChannel, tuple[int, float]] = {}
        self._timer: IDelayedCall | None = None
        self._stopped: Deferred[None] | None = None
        self._deadline = 0.0
        self._departures = Departures()
        self._judging = False
        self._parting = False
        self._telling = False
        # What the events of one read lead to, until all of them were heard.
        self._gathered: list[Decision] | None = None
        self._waitsElsewhere: Callable[[], bool] = lambda: False
        self.roomChanged: Callable[[], None] = lambda: None
        self.channelEnded: Callable[[IChannel], None] = lambda channel: None
        self.parting: Callable[[], None] = lambda: None

    def room(self, name: str) -> int:
        """
        How many connections may be accepted now, on ports of this name.
        """
        return self._ledger.room(name)

    def busy(self, name: str) -> bool:
        """
        Whether what might be accepted now, on ports of this name, may as well stay
        in the backlog a little longer: it would only wait at a worker, and the
        listener wake once more for it.
        """
        now = self._now()
        return self._ledger.busy(name, now, now - WITNESS_INTERVAL)

    @property
    def channels(self) -> int:
        """
        How many workers are connected, whether they take part or not.
        """
        return len(self._channels)

    def serves(self, name: str) -> bool:
        """
        Whether a worker is there for ports of this name.
        """
        return self._ledger.serves(name)

    def unreadBy(self, user: int) -> int:
        """
        How many descriptors are in flight to a user's workers that have left.
        """
        return sum(
            channel.inFlight() for channel in self._departed if channel.user == user
        )

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
        witness = connections[0].witnessed
        self._run(
            self._ledger.accepted(
                port.number, connections, self._now(), witness, port.name
            )
        )

    # IDispatcher

    def connected(self, channel: IChannel) -> None:
        """
        See L{IDispatcher}.
        """
        self._channels[channel] = None

    def joined(self, channel: IChannel, window: int, ports: Sequence[Port]) -> None:
        """
        See L{IDispatcher}.
        """
        delay = self._throttle.delay(channel.user)
        if delay:
            self._quiet(
                self.log.warn,
                "{channel} has to wait for {delay:g} s: those before it died at once",
                channel=channel.label,
                delay=delay,
            )
            self._held[channel] = self._reactor.callLater(
                delay, self._admit, channel, window, ports
            )
        else:
            self._admit(channel, window, ports)

    def _admit(self, channel: IChannel, window: int, ports: Sequence[Port]) -> None:
        self._held.pop(channel, None)
        if not self._sharing.joined(channel, ports):
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
            self._unproven[channel] = self._throttle.joined(channel.user)
        else:
            self._borrowers.add(channel)
        self._quiet(
            self.log.info,
            "{channel} joined, with a window of {window}, for {names}",
            channel=channel.label,
            window=window,
            names=", ".join(dict.fromkeys(port.name or port.label for port in ports)),
        )
        names = [port.name for port in handedOff]
        self._run(self._ledger.joined(channel, window, self._now(), names))

    def _strike(self, channel: IChannel) -> None:
        if self._unproven.pop(channel, None) is not None:
            self._throttle.failed(channel.user)

    def _stillHeld(self, channel: IChannel) -> bool:
        """
        Forget a worker that waited for its first offer, if this one did.
        """
        if channel not in self._held:
            return False
        timer = self._held.pop(channel)
        if timer is not None:
            timer.cancel()
        return True

    def claimed(self, channel: IChannel, ids: Sequence[int]) -> None:
        """
        See L{IDispatcher}.
        """
        self._sharing.heard(channel)
        self._run(self._ledger.claimed(channel, ids, self._now()))

    def refused(self, channel: IChannel, ids: Sequence[int], reason: str) -> None:
        """
        See L{IDispatcher}.
        """
        spoiled = self._spoiled(channel, ids)
        decisions = self._ledger.refused(channel, ids, self._now(), spoiled)
        self._quiet(
            self.log.info,
            "{channel} refused {count} connections: {reason}",
            channel=channel.label,
            count=len(ids),
            reason=reason,
        )
        self._run(decisions)

    def closed(self, channel: IChannel, ids: Sequence[int]) -> None:
        """
        See L{IDispatcher}.
        """
        self._run(self._ledger.closed(channel, ids, self._now()))
        began = self._unproven.pop(channel, None)
        if began is not None:
            self._throttle.succeeded(channel.user, began)

    def gone(self, channel: IChannel, ids: Sequence[int]) -> None:
        """
        See L{IDispatcher}.
        """
        self._run(self._ledger.gone(channel, ids, self._now()))

    def draining(self, channel: IChannel) -> None:
        """
        See L{IDispatcher}.
        """
        self._quiet(self.log.info, "{channel} drains", channel=channel.label)
        timer = self._held.get(channel)
        if timer is not None:
            # It gave up before its time came, which now never does.
            timer.cancel()
            self._held[channel] = None
        elif channel not in self._held:
            self._sharing.left(channel)
            self._ledger.draining(channel)
        channel.drained()

    def revoking(self, channel: IChannel) -> None:
        """
        See L{IDispatcher}.
        """
        if channel not in self._held:
            if channel in self._borrowers:
                self._throttle.failed(channel.user)
            self._strike(channel)
            self._sharing.left(channel)
            self._ledger.revoking(channel)

    def parted(self, channel: IChannel, reason: str) -> None:
        """
        See L{IDispatcher}.
        """
        if self._stillHeld(channel):
            return
        self._sharing.left(channel)
        process, ended = self._processOf(channel)
        self._leave(channel, reason, process)
        if ended:
            self._ended(channel)

    def _processOf(self, channel: IChannel) -> tuple[int | None, bool]:
        """
        Find the process of a worker, if copies of what it claimed are held.

        @return: a pidfd, which is the caller's, or L{None}; and whether the process is
            known to have ended.
        """
        if not self._ledger.copiesOf(channel):
            return None, False
        try:
            return channel.process(), False
        except ProcessLookupError:
            return None, True

    def _leave(self, channel: IChannel, reason: str, process: int | None) -> None:
        """
        A worker has left and may live.

        @param process: a pidfd of it, or L{None} if it is not to be watched.  Keeps it.
        """
        before = self._ledger.counters.redispatched
        self._departed[channel] = process
        asleep = process is not None and channel.unread()
        spoiled = self._spoiled(channel)
        decisions = self._ledger.parted(channel, self._now(), asleep, spoiled)
        self._quiet(
            self.log.info,
            "{channel} left, {again} connections to hand off again: {reason}",
            channel=channel.label,
            again=self._ledger.counters.redispatched - before,
            reason=reason,
        )
        self._run(decisions)

    def died(self, channel: IChannel) -> None:
        """
        See L{IDispatcher}.
        """
        if self._stillHeld(channel):
            return
        self._strike(channel)
        self._sharing.left(channel)
        if channel in self._borrowers:
            self._quiet(self.log.info, "{channel} is gone", channel=channel.label)
            self._run(self._ledger.died(channel, (), self._now()))
        elif not self._mayLive(channel):
            self._dead(channel)

    def _mayLive(self, channel: IChannel) -> bool:
        """
        Whether the process of a worker that closed its channel has not ended.  Then
        it is given a moment to do so: as long as it lives, what it claimed is its own.
        """
        process, _ = self._processOf(channel)
        if process is None:
            return False
        if _kernel.hasEnded(process):
            os.close(process)
            return False
        self._ledger.draining(channel)
        self._dying[channel] = process, self._now() + DEATH
        self._schedule()
        return True

    def _judge(self, now: float) -> None:
        """
        See whether the workers that closed their channels are dead.
        """
        for channel, (process, end) in list(self._dying.items()):
            if _kernel.hasEnded(process):
                del self._dying[channel]
                os.close(process)
                self._dead(channel)
            elif now >= end:
                del self._dying[channel]
                self._leave(channel, "it closed the channel, and lives", process)

    def _dead(self, channel: IChannel) -> None:
        spoiled = self._spoiled(channel)
        self._mourn(
            channel, "{channel} died", partial(self._ledger.died, spoiled=spoiled)
        )

    def _mourn(
        self,
        channel: IChannel,
        what: str,
        divide: Callable[[IChannel, set[IConnection], float], list[Decision]],
    ) -> None:
        """
        A worker is dead: others get what it had not touched.

        @param what: what the log calls it.
        @param divide: asks the ledger what becomes of its connections.
        """
        counters = self._ledger.counters
        again, lost = counters.redispatched, counters.lostInService
        decisions = divide(channel, self._touched(channel), self._now())
        self._quiet(
            self.log.warn,
            what + ", {again} connections to hand off again, {lost} lost in service",
            channel=channel.label,
            again=counters.redispatched - again,
            lost=counters.lostInService - lost,
        )
        self._run(decisions)

    def _touched(self, channel: IChannel) -> set[IConnection]:
        """
        The connections that a dead worker had claimed and touched.  If the kernel does
        not say whether it touched one, that one counts: nothing may be served twice.
        """

        def isPristine(connection: IConnection) -> bool:
            for _ in range(CERTAINTY):
                pristine = connection.pristine()
                if pristine is not None:
                    return pristine
            return False

        return {copy for copy in self._ledger.copiesOf(channel) if not isPristine(copy)}

    def _spoiled(self, channel: IChannel, ids: Iterable[int] = ()) -> set[IConnection]:
        """
        The connections that a worker did not claim and made useless all the same: all
        other workers would refuse them, again and again.
        """
        offers = self._ledger.offersTo(channel, ids)
        return {connection for connection in offers if connection.spoiled()}

    def disconnected(self, channel: IChannel) -> None:
        """
        See L{IDispatcher}.
        """
        self._channels.pop(channel, None)
        self._unproven.pop(channel, None)
        self._borrowers.discard(channel)
        self._departed.setdefault(channel, None)
        self._closed.add(channel)
        self._bury(channel)
        self._schedule()

    def _look(self, now: float) -> None:
        """
        See what has become of the workers that have left.
        """
        self._judge(now)
        for channel, process in list(self._departed.items()):
            if process is not None and _kernel.hasEnded(process):
                self._departed[channel] = None
                os.close(process)
                self._ended(channel)
            elif not channel.unread():
                self._ledger.awoke(channel, now)
            self._bury(channel)

    def _ended(self, channel: IChannel) -> None:
        """
        The process of a worker that has left is dead.
        """
        if self._ledger.copiesOf(channel):
            self._mourn(
                channel, "the process of {channel} has ended", self._ledger.ended
            )

    def _bury(self, channel: IChannel) -> None:
        """
        Forget a channel of which nothing is left.
        """
        if channel in self._dying:
            return
        process = self._departed[channel]
        if process is not None and not self._ledger.copiesOf(channel):
            os.close(process)
            self._departed[channel] = process = None
        if process is None and channel in self._closed and not channel.inFlight():
            self._discard(channel)

    def _discard(self, channel: IChannel) -> None:
        process = self._departed[channel]
        if process is not None:
            os.close(process)
            self._departed[channel] = None
        if channel.dismiss():
            del self._departed[channel]
            self._closed.discard(channel)
            self.channelEnded(channel)

    def _balance(self) -> None:
        """
        Give no offers to workers that do not read, while half of what may be in
        flight is.
        """
        inFlight = {channel: channel.inFlight() for channel in self._channels}
        total = sum(inFlight.values())
        total += sum(channel.inFlight() for channel in self._departed)
        crowded = total > self._flightLimit // 2
        for channel, count in inFlight.items():
            self._ledger.block(channel, crowded and count > 0)

    # The end

    def stop(
        self, grace: float, waitsElsewhere: Callable[[], bool] = lambda: False
    ) -> Deferred[None]:
        """
        Hand off what is held, and what is yet to come, then part with the workers.
        If there is no worker for it, one may still come.

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
            self._deadline = now + FAREWELL
            self.parting()
            for channel in list(self._channels):
                self._stillHeld(channel)
                channel.bye("the listener stops")
        if self._stopped is not None and (not self.channels or now >= self._deadline):
            stopped, self._stopped = self._stopped, None
            self._sharing.stop()
            self._run(ledger.stopped())
            for process, _ in self._dying.values():
                os.close(process)
            self._dying.clear()
            for channel in list(self._departed):
                self._discard(channel)
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
            # Who is told may accept, which leads here again.
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
                decision.connection.forget()
            elif isinstance(decision, GiveUp):
                self._quiet(
                    self.log.info if decision.reason is Reason.GONE else self.log.warn,
                    "the connection of {peer} is closed: {reason}",
                    peer=decision.connection.peer,
                    reason=decision.reason.value,
                )
                decision.connection.forget()
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
        See that time passes in the ledger while it has anything to do with it.
        """
        if self._timer is None and (
            self._ledger.timed or self._expects or self._stopped is not None
        ):
            self._timer = self._reactor.callLater(WITNESS_INTERVAL, self._tick)

    @property
    def _expects(self) -> bool:
        """
        Whether something is still to come from workers that have left.
        """
        return bool(self._closed or self._dying) or any(
            process is not None for process in self._departed.values()
        )

    def _tick(self) -> None:
        self._timer = None
        try:
            self._turn(self._now())
        finally:
            # Whatever fails, time passes.
            self._schedule()

    def _turn(self, now: float) -> None:
        ledger = self._ledger
        self._look(now)
        _kernel.reap()
        self._balance()
        touched = [copy for copy in ledger.copies() if copy.pristine() is False]
        decisions = ledger.witnessed(touched)
        gone, ended = self._departures.look(ledger.waits(), now)
        decisions += ledger.left(gone) + ledger.halfClosed(ended, now)
        if ledger.overdue(now) and not self._judging:
            # What would change the judgement may be there and not yet read.
            self._judging = True
            self._timer = self._reactor.callLater(0, self._tick)
            self._run(decisions)
            return
        self._judging = False
        self._run(decisions + ledger.ticked(now))
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
                    if gathered:
                        self._checkSent(channel, event.ids)
                    self.claimed(channel, event.ids)
                elif isinstance(event, Closed):
                    self.closed(channel, event.ids)
                elif isinstance(event, Draining):
                    # What was offered before goes out before the answer.
                    self._carryOut(gathered)
                    gathered.clear()
                    self.draining(channel)
                elif isinstance(event, ClientGone):
                    self.gone(channel, event.ids)
                elif isinstance(event, Refused):
                    self._checkSent(channel, event.ids)
                    self.refused(channel, event.ids, event.reason)
                else:
                    self.joined(channel, event.window, event.ports)
        finally:
            self._gathered = None
            self._run(gathered)

    def _checkSent(self, channel: IChannel, ids: Collection[int]) -> None:
        """
        Check that a worker does not answer an offer that is made to it only now.

        @raise ProtocolError: if it does.
        """
        for decision in self._gathered or ():
            if isinstance(decision, HandOff):
                to, id, _, _ = decision
                if to is channel and id in ids:
                    raise ProtocolError(UNREAD)
