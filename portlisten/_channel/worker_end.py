"""
The worker's end of a channel, in Twisted: drives a
L{portlisten._wire.worker_session.WorkerSession}.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from twisted.internet.interfaces import (
    IFileDescriptorReceiver,
    IReactorTime,
)
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from portlisten import _kernel
from portlisten._channel.interfaces import IAdopter, IWorkerChannel
from portlisten._channel.limits import HELLO_SECONDS
from portlisten._channel.protocol import Channel
from portlisten._channel.transport import ChannelTransport
from portlisten._model import Kind
from portlisten._wire.frames import MAXIMUM_WINDOW
from portlisten._wire.session import Broken
from portlisten._wire.worker_events import (
    Adopt,
    ByeReceived,
    Close,
    CloseMemory,
    DrainConfirmed,
    Event,
    Joined,
    LeaveRequested,
    Left,
    ShareLoads,
    UseSocket,
    Withdrawn,
)
from portlisten._wire.worker_session import WorkerSession
from portlisten.errors import WrongSocket

#: How many connections are claimed at a time.  They are adopted in the turn of the loop
#: in which the claim is written, and the next ones in the next turn.  So the first
#: clients are answered before the last connections are adopted.
CLAIMS_PER_WRITE = 16


@implementer(IWorkerChannel, IFileDescriptorReceiver)
class WorkerChannel(Channel):
    """
    The worker's end of a channel.  The listener is at the other end.

    @param adopter: gets the connections and sockets that come.
    @param window: how many unclaimed offers the worker wants at the most.
    @param timeout: how long the listener's HELLO may take, in seconds.
    @param names: the names of the ports that the worker wants; if empty, all ports.
    @param takes: the kinds that the worker can take.
    @param limit: the most connections that the worker wants to have, or L{None}.
    @param first: if the worker's clients speak first, how long the listener keeps a
        connection whose client is silent, in seconds, or L{None}.
    @param label: the worker's name for the operator, or nothing.
    @param balances: whether the adopter takes C{loadsShared}.
    @param waitsOn: called each time that the listener's HELLO takes too long.  Says
        whether to wait for as long again.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        adopter: IAdopter,
        window: int = MAXIMUM_WINDOW,
        timeout: float = HELLO_SECONDS,
        names: Collection[str] = (),
        takes: Collection[Kind] = (Kind.CONNECTIONS,),
        limit: int | None = None,
        first: float | None = None,
        label: str = "",
        balances: bool = False,
        waitsOn: Callable[[], bool] = lambda: False,
    ) -> None:
        session: WorkerSession[socket.socket] = WorkerSession(
            window,
            names,
            takes,
            limit=limit,
            label=label,
            first=first,
            leaves=True,
            balances=balances,
            most=CLAIMS_PER_WRITE,
            hasCookie=_kernel.hasCookie,
            identify=self._identify,
        )
        super().__init__(reactor, session, timeout)
        self._session: WorkerSession[socket.socket] = session
        self._adopter = adopter
        self._waitsOn = waitsOn
        self._closing = False
        self._saidBye = False
        self._ignored: Sequence[str] = ()
        self._handlers: dict[type[Event[socket.socket]], Callable[[Any], None]] = {
            Adopt: self._adopt,
            Close: self._closeSocket,
            Joined: self._onJoined,
            UseSocket: self._useSocket,
            ShareLoads: self._shareLoads,
            CloseMemory: self._closeMemory,
            Withdrawn: self._onWithdrawn,
            DrainConfirmed: self._onDrainConfirmed,
            LeaveRequested: self._onLeaveRequested,
            ByeReceived: self._onByeReceived,
            Broken: self._onBroken,
            Left: self._onLeft,
        }

    def __str__(self) -> str:
        return "the listener"

    @property
    def broken(self) -> bool:
        """
        See L{IWorkerChannel}.
        """
        return self._session.broken

    @property
    def released(self) -> bool:
        """
        See L{IWorkerChannel}.
        """
        return self._saidBye

    @property
    def ignored(self) -> Sequence[str]:
        """
        See L{IWorkerChannel}.
        """
        return self._ignored

    def connectionMade(self) -> None:
        super().connectionMade()
        # Twisted's own transport does not set close-on-exec.
        self._inheritable = not isinstance(self.transport, ChannelTransport)
        self._write(self._session.hello())

    # IWorkerChannel

    def drain(self) -> None:
        self._carryOut(self._session.drain())
        self._pump()

    def closed(self, id: int) -> None:
        self._session.closed(id)
        self._pumpSoon()

    def clientGone(self, id: int) -> None:
        self._session.clientGone(id)
        self._pumpSoon()

    def reportServing(self, total: int) -> None:
        self._session.serving(max(0, total - self._session.inService))
        self._pumpSoon()

    def bye(self, reason: str) -> None:
        if not self._session.ended:
            self._stopWaiting()
            self._carryOut(self._session.leave(reason))
            self._pump()

    def _helloTimedOut(self) -> None:
        if self._waitsOn():
            self._startDeadline(self._helloTimedOut)
        else:
            super()._helloTimedOut()

    # What is received

    def _feed(self, data: bytes) -> None:
        events = self._session.receive(data)
        if events:
            self._carryOut(events)

    def _batchDone(self) -> None:
        self._pump(now=True)

    def fileDescriptorReceived(self, descriptor: int) -> None:
        """
        Give a descriptor to the session.  If the descriptor cannot be used, or comes
        too late, close it.

        @param descriptor: owned by this object from now on.
        """
        session = self._session
        if not session.wantsDescriptors:
            os.close(descriptor)
            return
        if self._inheritable:
            os.set_inheritable(descriptor, False)
        try:
            sock = _kernel.received(descriptor)
        except OSError as error:
            number = _kernel.memoryNumber(descriptor) if session.wantsMemories else None
            if number is None:
                os.close(descriptor)
                self._complainOf(error)
                return
            self._carryOut(session.memoryArrived(number, descriptor))
        else:
            events = session.descriptorCame(sock)
            if events:
                self._carryOut(events)
                self._pump()

    def _identify(self, sock: socket.socket) -> tuple[Kind, int] | None:
        try:
            return _kernel.recognize(sock, self._session.takes)
        except (OSError, WrongSocket) as error:
            self._complainOf(error)
            return None

    def _complainOf(self, error: Exception) -> None:
        self._logLimited(
            self.log.warn,
            "a descriptor came that cannot be used: {error}",
            event="descriptor-unusable",
            error=error,
        )

    def _receive(self) -> bytes:
        data, descriptors = _kernel.receive(self._socket)
        for descriptor in descriptors:
            self.fileDescriptorReceived(descriptor)
        return data

    def _fail(self, reason: str) -> None:
        self._carryOut(self._session.fail(reason))
        self._pump()

    # Events of the session

    def _carryOut(self, events: Iterable[Event[socket.socket]]) -> None:
        for event in events:
            try:
                self._handlers[type(event)](event)
            except Exception:
                self._logBug(Failure())
                self._session.mistake()
                self._carryOut(self._session.fail("an internal error"))

    def _logBug(self, failure: Failure) -> None:
        self.log.failure(
            "a bug in portlisten ends the channel of {end}",
            failure,
            event="bug",
            end=self,
        )

    def _adopt(self, event: Adopt[socket.socket]) -> None:
        try:
            self._adopter.adopt(self, event.offer, event.token)
        except Exception:
            self.log.failure("a bug in portlisten loses a connection", event="bug")

    def _closeSocket(self, event: Close[socket.socket]) -> None:
        event.token.close()

    def _onJoined(self, event: Joined) -> None:
        self._stopWaiting()
        self._ignored = event.ignored
        self._adopter.registered(self, event.ports)

    def _useSocket(self, event: UseSocket[socket.socket]) -> None:
        if self._session.ended:
            event.token.close()
        else:
            descriptor = event.token.detach()
            self._adopter.socketShared(self, event.port, event.cookie, descriptor)

    def _shareLoads(self, event: ShareLoads) -> None:
        if self._session.ended:
            os.close(event.loads)
            os.close(event.members)
        else:
            self._adopter.loadsShared(self, event)

    def _closeMemory(self, event: CloseMemory) -> None:
        os.close(event.descriptor)

    def _onWithdrawn(self, event: Withdrawn) -> None:
        self._adopter.withdrawn(self, event.cookie)

    def _onDrainConfirmed(self, event: DrainConfirmed) -> None:
        self._adopter.drained(self)

    def _onLeaveRequested(self, event: LeaveRequested) -> None:
        self._adopter.leaveRequested(self)

    def _onByeReceived(self, event: ByeReceived) -> None:
        """
        The end of the stream follows, and perhaps REVOKED before it.
        """
        self._saidBye = True

    def _onBroken(self, event: Broken) -> None:
        self._stopWaiting()
        if event.bug is not None:
            self._logBug(Failure(event.bug))

    def _onLeft(self, event: Left) -> None:
        self._adopter.lost(self, event.reason)

    # What is sent

    def _pump(self, now: bool = False) -> None:
        """
        Write the session's next frames, unless a write is under way.

        @param now: whether to write without waiting for the next turn of the loop, so
            that claimed connections are adopted before this returns.
        """
        session = self._session
        frames = session.outgoing()
        if session.ended:
            self._writeLast(frames)
        elif frames:
            self._unsent = True
            write = self._writeNow if now else self._transport.write
            write(frames)

    def _writeLast(self, frames: bytes) -> None:
        if self._closing:
            return
        self._closing = True
        if frames:
            self._write(frames)
        self._close()

    def _pumpSoon(self) -> None:
        """
        Write the session's next frames in the next turn of the loop, together with
        frames that are added until then.  If a transport has nothing to write, it calls
        C{_flushed} in its next turn, which writes them.
        """
        if not (self._unsent or self._session.ended):
            self._transport.startWriting()

    def _flushed(self) -> None:
        adopted = self._session.flushed()
        for event in adopted:
            self._adopt(event)
        # More claims would adopt more connections in this turn.
        self._pump(now=not adopted)

    # The end

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        if self._duplicate is not None:
            self._sendFinalBye()
            self._duplicate.close()
        error = reason.value
        why = str(error.strerror) if isinstance(error, OSError) else None
        self._closing = True
        self._carryOut(self._session.channelEnded(self._died, why))

    def _sendFinalBye(self) -> None:
        """
        If the listener is alive, tell it that this worker is alive as well.
        """
        frames = self._session.finalBye(self._died)
        try:
            if frames:
                _kernel.retry(self._socket.send, frames)
        except OSError:
            pass  # the listener then takes this worker for dead
