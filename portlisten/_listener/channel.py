"""
The listener's end of a channel: drives a
L{portlisten._wire.listener_session.ListenerSession}.
"""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.interfaces import (
    IFileDescriptorReceiver,
    IReactorTime,
)
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from portlisten import _kernel
from portlisten._channel.protocol import Channel
from portlisten._channel.transport import PEER_GONE, ChannelTransport
from portlisten._channel.unread import Unread
from portlisten._listener.interfaces import IChannel, IConnection, IDispatcher
from portlisten._wire.frames import Claim, ListenerHello
from portlisten._wire.listener_session import (
    Event,
    Joined,
    Left,
    ListenerSession,
    News,
    Ours,
)
from portlisten._wire.session import MISTAKES, Broken
from portlisten.errors import ProtocolError


@implementer(IChannel, IFileDescriptorReceiver)
class ListenerChannel(Channel):
    """
    The listener's end, a worker at the other.

    @param number: the worker's, for the log.
    @param timeout: how long HELLO may take, in seconds.
    @param who: the worker, or L{None} to find out.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        dispatcher: IDispatcher,
        hello: ListenerHello,
        number: int,
        timeout: float = 5.0,
        who: _kernel.Credentials | None = None,
    ) -> None:
        session = ListenerSession(hello, self._mayHaveRead)
        super().__init__(reactor, session, timeout)
        self._session: ListenerSession = session
        self._dispatcher = dispatcher
        self._who = who
        # What is kept for L{flush}: ids, ports and cookies; and descriptors.
        self._offers: list[tuple[int, int, int]] = []
        self._descriptors: list[int] = []
        # The events that the dispatcher does not hear at once with others.
        self._answers: dict[type[Event], Callable[[Any], None]] = {
            Joined: self._admit,
            Left: self._left,
            Broken: self._cutOff,
        }
        # What is not read yet, if the transport knows.
        self._sent: Unread | None = None
        # Whether descriptors are in the socket that must not be read.
        self._poisoned = False
        # Whether the dispatcher takes the worker for one that takes part.
        self._joined = False
        # Whether the worker closed the way to it, and so cannot hear REVOKED.
        self._cannotHear = False
        self.label = f"worker {number}"
        self.user = -1 if who is None else who.uid

    def __str__(self) -> str:
        return self.label

    def connectionMade(self) -> None:
        super().connectionMade()
        if self._who is None:
            self._who = _kernel.credentials(self._socket)
        self.label += f" (pid {self._who.pid}, uid {self._who.uid})"
        self.user = self._who.uid
        # Only our own transport knows.
        self._sent = getattr(self.transport, "sent", None)
        self._dispatcher.connected(self)
        self._write(self._session.hello())

    # IChannel

    def offer(
        self, id: int, port: int, connection: IConnection, more: bool = False
    ) -> None:
        if self._lost:
            return  # the dispatcher is about to hear of it
        self._offers.append((id, port, connection.cookie))
        self._descriptors.append(connection.fileno())
        if not more:
            self.flush()

    def flush(self) -> None:
        if not self._offers:
            return
        # Descriptors ride on whatever bytes go out next, so each is not later than its
        # frame, and may be earlier.
        send = self._transport.sendFileDescriptor
        for descriptor in self._descriptors:
            send(descriptor)
        said = self._session.offer(self._offers)
        self._forgetOffers()
        self._unsent = True
        self._writeNow(said)

    def _forgetOffers(self) -> None:
        self._offers = []
        self._descriptors = []

    def shareSocket(self, port: int, sock: socket.socket) -> None:
        self.flush()
        said = self._session.shareSocket(port, _kernel.cookie(sock))
        if said:
            self._transport.sendFileDescriptor(sock.fileno())
            self._write(said)

    def withdraw(self, sock: socket.socket) -> None:
        self._say(self._session.withdraw, _kernel.cookie(sock))

    def drained(self) -> None:
        self._say(self._session.drained)

    def _say(self, command: Callable[..., bytes], *arguments: object) -> None:
        """
        Write what a command of the session says, behind the offers that are kept.
        """
        self.flush()
        said = command(*arguments)
        if said:
            self._write(said)

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
            self._say(self._session.bye, reason)
            self._close()

    # What the worker has read

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
        Say whether the worker may have read so many of the bytes that were written.
        """
        sent = self._sent
        if sent is None or size <= sent.settle(self._charge()):
            return True
        # A worker that has just read it may be ahead of the kernel's count.
        select.poll().poll(1)
        return size <= sent.settle(self._charge())

    def process(self) -> int | None:
        assert self._who is not None
        return _kernel.peerProcess(self._socket, self._who.pid)

    def dismiss(self) -> bool:
        duplicate = self._duplicate
        if duplicate is None:
            return True
        if not self._poisoned:
            self._duplicate = None
            duplicate.close()
            return True
        if isinstance(self.transport, ChannelTransport):
            # The process that closes it last may have to wait.
            self.transport.getHandle().close()
        try:
            _kernel.closeElsewhere(duplicate)
        except OSError as error:
            self._quiet(
                self.log.error,
                "{label} left a descriptor that cannot be closed yet: {error}",
                label=self.label,
                error=error.strerror,
            )
            return False
        self._duplicate = None
        return True

    # What the worker says

    def _feed(self, data: bytes) -> None:
        """
        Take in what came.  The dispatcher gets all that it is to hear of one read at
        once, up to what the channel itself has to answer.
        """
        heard: list[News] = []
        for event in self._session.receive(data):
            answer = self._answers.get(type(event))
            if answer is None:
                heard.append(event)
            else:
                self._tell(heard)
                heard = []
                if not self._session.ended:
                    answer(event)
        self._tell(heard)

    def _tell(self, events: Sequence[News]) -> None:
        """
        Tell the dispatcher.  If it finds an event wrong, the channel is revoked, and
        the events behind that count.
        """
        left = iter(events)
        mistakes = 0
        while events and mistakes <= MISTAKES and not self._session.ended:
            mistakes += 1
            try:
                self._dispatcher.received(self, left)
                return
            except ProtocolError as error:
                reason = str(error)
            except Exception:
                self._sayBug(Failure())
                reason = "an internal error"
            self._session.mistake()
            self._fail(reason)

    def _admit(self, event: Joined) -> None:
        self._stopWaiting()
        self._joined = True
        # More than that would not fit.
        window = min(event.window, _kernel.offersThatFit(self._socket))
        self._tell([Joined(window, event.ports)])

    def _left(self, event: Left) -> None:
        self._part(event.reason)

    def _cutOff(self, event: Broken) -> None:
        if event.bug is not None:
            self._sayBug(Failure(event.bug))
        self._fail(event.reason)

    def _sayBug(self, failure: Failure) -> None:
        self.log.failure(
            "a bug in portlisten ends the channel of {end}", failure, end=self
        )

    def descriptorsCame(self) -> None:
        """
        A worker sent what it has no business to send.
        """
        self._poisoned = True
        # The bytes that it came with are still to be fed.
        self._feeding = True
        self._fail("it sent a descriptor")

    def _receive(self) -> bytes:
        if self._poisoned:
            return b""
        refuses = _kernel.refusesDescriptors(self._socket)
        data, self._poisoned = _kernel.receiveBytes(self._socket, refuses=refuses)
        return data

    def fileDescriptorReceived(self, descriptor: int) -> None:
        """
        Close what a worker has no business to send.
        """
        try:
            _kernel.closeCopy(socket.socket(fileno=descriptor))
        except OSError:
            os.close(descriptor)
        # The bytes that it came with are still to be fed.
        self._feeding = True
        self._fail("it sent a descriptor")

    # Revoking

    def _fail(self, reason: str) -> None:
        if self._session.ours is Ours.OPEN:
            self._quiet(
                self.log.warn,
                "{label} is cut off: {reason}",
                label=self.label,
                reason=reason,
            )
        self.revoke(reason)

    def _sendRevoked(self) -> None:
        """
        Get REVOKED into the kernel, or wait for that: a worker that sees the end of the
        channel without it serves what it holds.

        A worker that hangs has room for it, its window being bounded.  One that
        claims without reading may have none: what it was offered stays with it,
        since it might serve it, as if it had claimed that too.  But
        epoll calls a Unix socket writable only while three quarters of its
        buffer are free (C{unix_writable} in net/unix/af_unix.c), so this does
        not wait for the transport where it need not.
        """
        if self._unsent:
            return
        word = self._session.revocation()
        try:
            sent = self._socket.send(word)
        except OSError as error:
            # It may have closed its end, or the way to it, before it could hear that.
            self._cannotHear = error.errno in PEER_GONE
            sent = len(word) if self._cannotHear else 0
        if sent < len(word):
            self._write(word[sent:])
        else:
            self._batchDone()

    @property
    def _revokedIsIn(self) -> bool:
        """
        Whether REVOKED is in the kernel, or need not be.
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
        # Claims that came with the frame that led to this count, too.
        ready = self._session.ours is Ours.REVOKED and not self._unsent
        if ready and not self._feeding:
            self._shut()

    def _shut(self) -> None:
        """
        Shut the worker's way to us.  For the kernel this is one step: what the
        worker wrote before it can be read here, and what it writes after it
        fails there.
        """
        self._session.shut()
        self._readOn()
        self._part(self._departure)

    # The end

    @property
    def _departure(self) -> str | None:
        """
        Why the worker leaves, or L{None} if it is dead.  Once REVOKED is in the
        kernel, the end of the channel is no sign of death: the worker may have
        heard it, and left as it was told.
        """
        if self._died and not (self._revokedIsIn and not self._cannotHear):
            return None
        return self._session.reason or "the channel to it failed"

    def _part(self, reason: str | None) -> None:
        """
        Nothing more can be claimed here.  What is still unsent must not be sent
        later: its descriptors are about to become another worker's.

        @param reason: why the worker leaves, or L{None} if it is dead.
        """
        if not self._session.ended:
            self._session.end()
            self._stopWaiting()
            self._forgetOffers()
            self._transport.abortConnection()
            self._depart(reason)

    def _depart(self, reason: str | None) -> None:
        if self._joined:
            self._joined = False
            if reason is None:
                self._dispatcher.died(self)
            else:
                self._dispatcher.parted(self, reason)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        departure, knows = self._departure, self._died or self._revokedIsIn
        self._session.end()
        self._forgetOffers()
        if self._joined and not knows:
            self._leaveToIt()
        self._depart(departure)
        if self._duplicate is not None:
            try:
                # It stays open until it is dismissed.
                self._duplicate.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        self._dispatcher.disconnected(self)

    def _leaveToIt(self) -> None:
        """
        The channel failed, and the worker lives.  It is told so: otherwise it takes
        the end of the channel for the listener's death, and serves what it was
        offered.  If it cannot be told, that is as if it had claimed all of it.
        """
        word = self._session.revocation("the channel failed")
        try:
            told = self._socket.send(word) == len(word)
        except OSError as error:
            if error.errno in PEER_GONE:
                return  # it closed the way to it, and so has judged already
            told = False
        unanswered = self._session.unanswered
        if not told and unanswered:
            self._dispatcher.received(self, [Claim(unanswered)])
