"""
The listener's end of a channel: drives a
L{portlisten._wire.listener_session.ListenerSession}.
"""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from twisted.internet.interfaces import (
    IFileDescriptorReceiver,
    IReactorTime,
)
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from portlisten import _kernel
from portlisten._channel.limits import PEER_GONE
from portlisten._channel.protocol import Channel
from portlisten._channel.transport import ChannelTransport
from portlisten._channel.unread import Unread
from portlisten._listener.about import about
from portlisten._listener.interfaces import IChannel, IConnection, IDispatcher
from portlisten._wire.frames import Claim, ListenerHello
from portlisten._wire.listener_session import (
    Event,
    Joined,
    Left,
    ListenerSession,
    News,
    Ours,
    Refused,
)
from portlisten._wire.session import MAXIMUM_MISTAKES, Broken
from portlisten.errors import ProtocolError


@implementer(IChannel, IFileDescriptorReceiver)
class ListenerChannel(Channel):
    """
    The listener's end.  A worker is at the other end.

    @param number: the worker's number, for the log.
    @param timeout: how long the worker's HELLO may take, in seconds.
    @param credentials: the worker's, or L{None} to ask the kernel.

    @ivar waited: says of an offer how long the connection has waited, in hundredths of
        a second.  L{None} if the other end is no listener.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        dispatcher: IDispatcher,
        hello: ListenerHello,
        number: int,
        timeout: float = 5.0,
        credentials: _kernel.Credentials | None = None,
    ) -> None:
        session = ListenerSession(hello, self._mayHaveRead)
        super().__init__(reactor, session, timeout)
        self._session: ListenerSession = session
        self._dispatcher = dispatcher
        self._credentials = credentials
        # Offers kept for flush(): ids, ports and cookies; and their descriptors.
        self._offers: list[tuple[int, int, int]] = []
        self._descriptors: list[int] = []
        # The channel handles these events itself.  The dispatcher gets all others.
        self._handlers: dict[type[Event], Callable[[Any], None]] = {
            Joined: self._onJoined,
            Left: self._onBye,
            Broken: self._onBroken,
        }
        # Counts what the worker has not read, if the transport can count it.
        self._sent: Unread | None = None
        # How many of the worker's frames were wrong, up to the present event.
        self._mistakes = 0
        # Whether the worker's descriptors are queued in the socket: do not read them.
        self._descriptorsQueued = False
        # Whether the dispatcher knows that the worker joined.
        self._joined = False
        # Whether the worker closed its reading side, and so cannot read REVOKED.
        self._cannotRead = False
        self.number = number
        self.waited: Callable[[int], int] | None = None
        self.name = self.label = f"worker {number}"
        self.user = -1 if credentials is None else credentials.uid
        self.pid = 0

    def __str__(self) -> str:
        return self.label

    def connectionMade(self) -> None:
        super().connectionMade()
        if self._credentials is None:
            self._credentials = _kernel.credentials(self._socket)
        self.user, self.pid = self._credentials.uid, self._credentials.pid
        self.label += f" (pid {self.pid}, uid {self.user})"
        # Only our own transport counts this.
        self._sent = getattr(self.transport, "sent", None)
        self._dispatcher.connected(self)
        self._write(self._session.hello())

    # IChannel

    def offer(
        self, id: int, port: int, connection: IConnection, more: bool = False
    ) -> None:
        if self._lost:
            return  # connectionLost is about to tell the dispatcher
        self._offers.append((id, port, connection.cookie))
        self._descriptors.append(connection.fileno())
        if not more:
            self.flush()

    def flush(self) -> None:
        if not self._offers:
            return
        # The next bytes carry the descriptors.  So no descriptor comes after its
        # frame, and some may come before.
        send = self._transport.sendFileDescriptor
        for descriptor in self._descriptors:
            send(descriptor)
        frames = self._session.offer(self._offers, self.waited)
        self._dropOffers()
        self._unsent = True
        self._writeNow(frames)

    def _dropOffers(self) -> None:
        self._offers = []
        self._descriptors = []

    def shareSocket(self, port: int, sock: socket.socket) -> None:
        self.flush()
        frames = self._session.shareSocket(port, _kernel.cookie(sock))
        if frames:
            self._transport.sendFileDescriptor(sock.fileno())
            self._write(frames)

    def shareLoads(
        self,
        slot: int,
        ports: int,
        loads: _kernel.SharedMemory,
        members: _kernel.SharedMemory,
    ) -> None:
        self.flush()
        frames = self._session.shareLoads(slot, ports, loads.number, members.number)
        if frames:
            self._transport.sendFileDescriptor(loads.descriptor)
            self._transport.sendFileDescriptor(members.descriptor)
            self._write(frames)

    def withdraw(self, sock: socket.socket) -> None:
        self._send(self._session.withdraw, _kernel.cookie(sock))

    def leave(self) -> None:
        self._send(self._session.leave)

    def drained(self) -> None:
        self._send(self._session.drained)

    def _send(self, command: Callable[..., bytes], *arguments: object) -> None:
        """
        Write the frames of a command of the session, after the offers that are kept.
        """
        self.flush()
        frames = command(*arguments)
        if frames:
            self._write(frames)

    def revoke(self, reason: str) -> None:
        if self._session.ours is not Ours.OPEN:
            return
        if not self._joined:
            self.bye(reason)
            return
        self.flush()
        self._session.revoke(reason)
        self._stopWaiting()
        self._dispatcher.revoking(self)
        self._sendRevoked()

    def bye(self, reason: str) -> None:
        if not self._session.ended:
            self._stopWaiting()
            self._joined = False
            self._send(self._session.bye, reason)
            self._close()

    # How much the worker has read

    def unread(self) -> bool:
        charge = self._charge()
        if self._sent is not None:
            self._sent.settle(charge)
        return (self._unsent and not self._session.ended) or charge > 0

    def inFlight(self) -> int:
        if self._sent is None or not self._sent.descriptors:
            return 0
        self._sent.settle(self._charge())
        return self._sent.descriptors

    def _charge(self) -> int:
        if self._duplicate is None:
            return 0
        try:
            return _kernel.unread(self._duplicate)
        except OSError:
            return 0

    def _mayHaveRead(self, size: int) -> bool:
        """
        Say whether the worker may have read this many of the bytes that were written.
        """
        sent = self._sent
        if sent is None or size <= sent.settle(self._charge()):
            return True
        # If the worker has just read them, the kernel's count may be a little late.
        select.poll().poll(1)
        return size <= sent.settle(self._charge())

    def process(self) -> int | None:
        assert self._credentials is not None
        return _kernel.peerProcess(self._socket, self._credentials.pid)

    def dismiss(self) -> bool:
        duplicate = self._duplicate
        if duplicate is None:
            return True
        if not self._descriptorsQueued:
            self._duplicate = None
            duplicate.close()
            return True
        if isinstance(self.transport, ChannelTransport):
            # The last process that closes the socket may have to wait.
            self.transport.getHandle().close()
        try:
            _kernel.closeElsewhere(duplicate)
        except OSError as error:
            self._logLimited(
                self.log.error,
                "{channel} left a descriptor that cannot be closed yet: {error}",
                event="descriptor-stuck",
                **about(self),
                error=error.strerror,
            )
            return False
        self._duplicate = None
        return True

    # Frames of the worker

    def _feed(self, data: bytes) -> None:
        """
        Process bytes that came.  The dispatcher gets the events of one read together,
        up to the next event that the channel itself handles.
        """
        pending: list[News] = []
        for event in self._session.receive(data):
            handler = self._handlers.get(type(event))
            if handler is None:
                pending.append(event)
            else:
                self._report(pending)
                pending = []
                if self._readsOn:
                    self._carryOut(handler, event)
        self._report(pending)

    @property
    def _readsOn(self) -> bool:
        """
        Whether the next event counts.
        """
        return not self._session.ended and self._mistakes <= MAXIMUM_MISTAKES

    def _report(self, events: Sequence[News]) -> None:
        """
        Report events to the dispatcher.  If it objects to an event, revoke the
        channel.  The events after that one count all the same.
        """
        rest = iter(events)
        while events and self._readsOn:
            if self._carryOut(self._pass, rest):
                return

    def _carryOut(self, step: Callable[[Any], None], argument: object) -> bool:
        """
        Take a step that events lead to.

        @return: whether it succeeded.
        """
        try:
            step(argument)
            return True
        except ProtocolError as error:
            reason = str(error)
        except Exception:
            self._logBug(Failure())
            reason = "an internal error"
        self._mistakes += 1
        self._session.mistake()
        self._fail(reason)
        return False

    def _pass(self, events: Iterator[News]) -> None:
        """
        Pass events to the dispatcher.  If the worker guesses ids, pass them one by one:
        one event may lead to the offer that the next one guesses.
        """
        if not self._session.guesses:
            self._dispatcher.received(self, events)
            return
        for event in events:
            if isinstance(event, (Claim, Refused)):
                self._session.checkAnswer(event.ids)
            self._dispatcher.received(self, [event])

    def _onJoined(self, event: Joined) -> None:
        # More offers than that would not fit the socket's buffer.
        window = min(event.window, _kernel.offersThatFit(self._socket))
        self._stopWaiting()
        self._joined = True
        if event.label:
            self.name = event.label
            who = f"{event.label}, pid {self.pid}, uid {self.user}"
            self.label = f"worker {self.number} ({who})"
        self._report([replace(event, window=window)])

    def _onBye(self, event: Left) -> None:
        self._leave(event.reason)

    def _onBroken(self, event: Broken) -> None:
        self._mistakes += 1
        if event.bug is not None:
            self._logBug(Failure(event.bug))
        self._fail(event.reason)

    def _logBug(self, failure: Failure) -> None:
        self.log.failure(
            "a bug in portlisten ends the channel of {end}",
            failure,
            event="bug",
            end=self,
        )

    def descriptorsCame(self) -> None:
        """
        The worker sent a descriptor.  No frame of a worker has one.
        """
        self._descriptorsQueued = True
        # The bytes that came with the descriptor are still to be processed.
        self._feeding = True
        self._fail("it sent a descriptor")

    def _receive(self) -> bytes:
        if self._descriptorsQueued:
            return b""
        refuses = _kernel.refusesDescriptors(self._socket)
        data, self._descriptorsQueued = _kernel.receiveBytes(
            self._socket, refuses=refuses
        )
        return data

    def fileDescriptorReceived(self, descriptor: int) -> None:
        """
        The worker sent a descriptor.  No frame of a worker has one, so close it.
        """
        try:
            _kernel.closeCopy(socket.socket(fileno=descriptor))
        except OSError:
            os.close(descriptor)
        # The bytes that came with the descriptor are still to be processed.
        self._feeding = True
        self._fail("it sent a descriptor")

    # Revoking

    def _fail(self, reason: str) -> None:
        if self._session.ours is Ours.OPEN:
            self._logLimited(
                self.log.warn,
                "{channel} is cut off: {reason}",
                event="worker-cut-off",
                **about(self),
                reason=reason,
            )
        self.revoke(reason)

    def _sendRevoked(self) -> None:
        """
        Get REVOKED into the kernel, or wait for that.  If the channel ends without
        REVOKED, the worker serves what it holds.

        If a worker hangs, its buffer has space for REVOKED, since its window is
        bounded.  If a worker claims without reading, its buffer may be full.  Then its
        offers stay its own, as if it had claimed them, since it might serve them.

        If possible, this writes at once, and does not wait for the transport.  epoll
        calls a Unix socket writable only while three quarters of its buffer are free
        (C{unix_writable} in net/unix/af_unix.c).
        """
        if self._unsent:
            return
        frames = self._session.revocation()
        try:
            sent = self._socket.send(frames)
        except OSError as error:
            # The worker may have closed its end, or the reading side of it.
            self._cannotRead = error.errno in PEER_GONE
            sent = len(frames) if self._cannotRead else 0
        if sent < len(frames):
            self._write(frames[sent:])
        else:
            self._batchDone()

    @property
    def _revokedDelivered(self) -> bool:
        """
        Whether REVOKED is in the kernel, or cannot be read any more.
        """
        return self._session.revokedSent and not self._unsent

    def _flushed(self) -> None:
        if self._session.reason is None:
            return  # the worker is not being revoked
        if self._session.ours is Ours.REVOKING:
            self._sendRevoked()
        else:
            self._batchDone()

    def _batchDone(self) -> None:
        if self._session.reason is None:
            return
        # Claims count, too, that came with the frame that led to the revocation.
        ready = self._session.ours is Ours.REVOKED and not self._unsent
        if ready and not self._feeding:
            self._shut()

    def _shut(self) -> None:
        """
        Shut down the reading side of the channel.  For the kernel this is one step.
        What the worker wrote before the step can be read here.  What the worker writes
        after the step fails there.
        """
        self._session.shut()
        self._readOn()
        self._leave(self._leaveReason)

    # The end

    @property
    def _leaveReason(self) -> str | None:
        """
        Why the worker leaves, or L{None} if it is dead.  Once REVOKED is in the
        kernel, the end of the channel is no sign of death: the worker may have
        read REVOKED, and left as it should.
        """
        if self._died and not (self._revokedDelivered and not self._cannotRead):
            return None
        return self._session.reason or "the channel to it failed"

    def _leave(self, reason: str | None) -> None:
        """
        End the channel: the worker can claim nothing more.  Unsent offers must not be
        sent later: their descriptors are about to be offered to other workers.

        @param reason: why the worker leaves, or L{None} if it is dead.
        """
        if not self._session.ended:
            self._session.end()
            self._stopWaiting()
            self._dropOffers()
            self._transport.abortConnection()
            self._reportLeft(reason)

    def _reportLeft(self, reason: str | None) -> None:
        if self._joined:
            self._joined = False
            if reason is None:
                self._dispatcher.died(self)
            else:
                self._dispatcher.left(self, reason)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        leaveReason, informed = self._leaveReason, self._died or self._revokedDelivered
        self._session.end()
        self._dropOffers()
        if self._joined and not informed:
            self._sendRevokedAfterFailure()
        self._reportLeft(leaveReason)
        if self._duplicate is not None:
            try:
                # It stays open until dismiss().
                self._duplicate.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        self._dispatcher.channelClosed(self)

    def _sendRevokedAfterFailure(self) -> None:
        """
        The channel failed, and the worker lives.  Send REVOKED: without it, the worker
        takes the end of the channel for the listener's death, and serves its offers.
        If REVOKED cannot be sent, all of its offers count as claimed.
        """
        frames = self._session.revocation("the channel failed")
        try:
            sent = self._socket.send(frames) == len(frames)
        except OSError as error:
            if error.errno in PEER_GONE:
                return  # the worker closed its reading side: it has decided already
            sent = False
        unanswered = self._session.unanswered
        if not sent and unanswered:
            self._dispatcher.received(self, [Claim(unanswered)])
