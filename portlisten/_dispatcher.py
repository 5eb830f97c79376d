"""
Between the ports, the workers and the ledger: carries out what the ledger
decides, and tells it what happened.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from zope.interface import implementer

from portlisten import _linux
from portlisten._accept import Accepted
from portlisten._frames import Kind, Port, socketName
from portlisten._ledger import Decision, GiveUp, HandOff, Ledger, LetGo, Reason
from portlisten._sharing import Sharing
from portlisten._throttle import Throttle
from portlisten.interfaces import IChannel, IConnection, IDispatcher

#: How often the kernel is asked about the copies that are held, in seconds.
WITNESS_INTERVAL = 0.02

#: How long the last words to the workers may take at the end, in seconds.
FAREWELL = 1.0


@implementer(IConnection)
class AcceptedConnection:
    """
    A connection as the listener holds it.

    @param sock: keeps it, until L{forget}.
    @param address: of the client, as C{accept} gave it.
    """

    __slots__ = ("_address", "_socket", "cookie")

    def __init__(self, sock: socket.SocketType, address: Any) -> None:
        self._socket = sock
        self._address = address
        self.cookie = _linux.cookie(sock)

    @property
    def peer(self) -> str:
        """
        See L{IConnection}.
        """
        if isinstance(self._address, tuple):
            host, port = self._address[:2]
            return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        return socketName(self._address) or "a client on a Unix socket"

    @property
    def witnessed(self) -> bool:
        """
        Whether the kernel can tell if it is pristine.
        """
        return self._socket.family != socket.AF_UNIX

    def fileno(self) -> int:
        """
        See L{IConnection}.
        """
        return self._socket.fileno()

    def pristine(self) -> bool:
        """
        See L{IConnection}.
        """
        return bool(_linux.pristine(self._socket))

    def forget(self) -> None:
        """
        See L{IConnection}.
        """
        _linux.forget(self._socket)


@implementer(IDispatcher)
class Dispatcher:
    """
    The listener, but for its sockets.

    @param reactor: an L{IReactorTime}.
    @param ledger: the book.
    @param throttle: says who has to wait before it is given anything.
    @param sharing: lends what is shared.
    @param timedOut: called when the patience of connections ran out.

    @ivar roomChanged: called when there may be room to accept again.
    @ivar channelEnded: called when there may be room for another worker.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        ledger: Ledger,
        throttle: Throttle,
        sharing: Sharing,
        timedOut: Callable[[], None] = lambda: None,
    ) -> None:
        self._reactor = reactor
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
        self._timer: IDelayedCall | None = None
        self._stopped: Deferred[None] | None = None
        self._deadline = 0.0
        self._parting = False
        self._telling = False
        self.roomChanged: Callable[[], None] = lambda: None
        self.channelEnded: Callable[[], None] = lambda: None

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
        now = self._reactor.seconds()
        return self._ledger.busy(name, now, now - WITNESS_INTERVAL)

    @property
    def channels(self) -> int:
        """
        How many workers are connected, whether they take part or not.
        """
        return len(self._channels)

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
                port.number, connections, self._reactor.seconds(), witness, port.name
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
            self.log.warn(
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
            self.log.warn(
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
        self.log.info(
            "{channel} joined, with a window of {window}, for {names}",
            channel=channel.label,
            window=window,
            names=", ".join(dict.fromkeys(port.name or port.label for port in ports)),
        )
        names = [port.name for port in handedOff]
        self._run(self._ledger.joined(channel, window, self._reactor.seconds(), names))

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
        self._run(self._ledger.claimed(channel, ids, self._reactor.seconds()))

    def refused(self, channel: IChannel, ids: Sequence[int], reason: str) -> None:
        """
        See L{IDispatcher}.
        """
        decisions = self._ledger.refused(channel, ids, self._reactor.seconds())
        self.log.info(
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
        self._run(self._ledger.closed(channel, ids, self._reactor.seconds()))
        began = self._unproven.pop(channel, None)
        if began is not None:
            self._throttle.succeeded(channel.user, began)

    def gone(self, channel: IChannel, ids: Sequence[int]) -> None:
        """
        See L{IDispatcher}.
        """
        self._run(self._ledger.gone(channel, ids, self._reactor.seconds()))

    def draining(self, channel: IChannel) -> None:
        """
        See L{IDispatcher}.
        """
        self.log.info("{channel} drains", channel=channel.label)
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
        before = self._ledger.counters.redispatched
        decisions = self._ledger.parted(channel, self._reactor.seconds())
        self.log.info(
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
            self.log.info("{channel} is gone", channel=channel.label)
            self._run(self._ledger.died(channel, (), self._reactor.seconds()))
            return
        counters = self._ledger.counters
        again, lost = counters.redispatched, counters.lostInService
        touched = {
            copy for copy in self._ledger.copiesOf(channel) if not copy.pristine()
        }
        decisions = self._ledger.died(channel, touched, self._reactor.seconds())
        self.log.warn(
            "{channel} died, {again} connections to hand off again, {lost} lost in"
            " service",
            channel=channel.label,
            again=counters.redispatched - again,
            lost=counters.lostInService - lost,
        )
        self._run(decisions)

    def disconnected(self, channel: IChannel) -> None:
        """
        See L{IDispatcher}.
        """
        self._channels.pop(channel, None)
        self._unproven.pop(channel, None)
        self._borrowers.discard(channel)
        self.channelEnded()

    # The end

    def stop(self, grace: float) -> Deferred[None]:
        """
        Hand off what is held, while there are workers to take it, then part
        with them.  No more connections and no more workers must come in.

        @param grace: how long that may take, in seconds.
        @return: fires when it is done.
        """
        self._stopped = Deferred()
        self._deadline = self._reactor.seconds() + grace
        self._schedule()
        return self._stopped

    def _proceed(self, now: float) -> None:
        """
        Take the next step towards the end, if it is time for it.
        """
        ledger = self._ledger
        if not self._parting:
            busy = ledger.unclaimed or ledger.hasTakers
            if busy and now < self._deadline:
                return
            self._parting = True
            self._deadline = now + FAREWELL
            for channel in list(self._channels):
                self._stillHeld(channel)
                channel.bye("the listener stops")
        if self._stopped is not None and (not self._channels or now >= self._deadline):
            stopped, self._stopped = self._stopped, None
            self._sharing.stop()
            self._run(ledger.stopped())
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            self.report()
            stopped.callback(None)

    # The inside

    def _run(self, decisions: Iterable[Decision]) -> None:
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
                self.log.warn(
                    "the connection of {peer} is closed: {reason}",
                    peer=decision.connection.peer,
                    reason=decision.reason.value,
                )
                decision.connection.forget()
                timedOut = timedOut or decision.reason is Reason.TIMED_OUT
            else:
                self.log.warn(
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
        if self._timer is None and (self._ledger.timed or self._stopped is not None):
            self._timer = self._reactor.callLater(WITNESS_INTERVAL, self._tick)

    def _tick(self) -> None:
        self._timer = None
        now = self._reactor.seconds()
        touched = [copy for copy in self._ledger.copies() if not copy.pristine()]
        self._run(self._ledger.witnessed(touched) + self._ledger.ticked(now))
        if self._stopped is not None:
            self._proceed(now)
        self._schedule()
