"""
The listener's end of a channel.
"""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Collection

from twisted.internet.interfaces import (
    IFileDescriptorReceiver,
    IReactorTime,
)
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from portlisten import _kernel
from portlisten._channel.protocol import Channel
from portlisten._channel.transport import GONE, ChannelTransport, Unread
from portlisten._listener.interfaces import IChannel, IConnection, IDispatcher
from portlisten._wire.frames import (
    FROM_WORKER,
    REFUSALS,
    Bye,
    Claim,
    ClientGone,
    Closed,
    Decoder,
    Drain,
    Drained,
    Frame,
    Listener,
    ListenerHello,
    Refuse,
    Revoked,
    Withdraw,
    WorkerHello,
    encode,
    encodeOffer,
)
from portlisten._wire.session import MISTAKES
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
        super().__init__(reactor, timeout)
        self._decoder = Decoder(FROM_WORKER)
        self._mistakes = 0
        self._over = False
        self._dispatcher = dispatcher
        self._hello = hello
        self._who = who
        self._offers: list[tuple[int, int, IConnection]] = []
        # Where the frames end of those that are not answered, in bytes written.
        self._ends: dict[int, int] = {}
        self._sent: Unread | None = None
        self._poisoned = False
        self._joined = False
        self._draining = False
        self._revoking: str | None = None
        self._wordSaid = False
        self._shutting = False
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
        self._send(self._hello)

    def _send(self, *frames: Frame) -> None:
        self.flush()
        self._write(b"".join(map(encode, frames)))

    # IChannel

    def offer(
        self, id: int, port: int, connection: IConnection, more: bool = False
    ) -> None:
        if self._lost:
            return  # the dispatcher is about to hear of it
        self._offers.append((id, port, connection))
        if not more:
            self.flush()

    def flush(self) -> None:
        if not self._offers:
            return
        offers, self._offers = self._offers, []
        frames = []
        end = self._transport.queued if self._sent is not None else 0
        for id, port, connection in offers:
            # Descriptors ride on whatever bytes go out next, so this one is not
            # later than its frame, and may be earlier.
            self._transport.sendFileDescriptor(connection.fileno())
            frame = encodeOffer(id, port, connection.cookie)
            end += len(frame)
            self._ends[id] = end
            frames.append(frame)
        self._unsent = True
        self._writeNow(b"".join(frames))

    def lend(self, port: int, sock: socket.socket) -> None:
        if not self._ended and self._revoking is None:
            self._transport.sendFileDescriptor(sock.fileno())
            self._send(Listener(port, _kernel.cookie(sock)))

    def withdraw(self, sock: socket.socket) -> None:
        if not self._ended and self._revoking is None:
            self._send(Withdraw(_kernel.cookie(sock)))

    def unread(self) -> bool:
        charge = self._charge()
        if self._sent is not None:
            self._sent.settle(charge)
        return (self._unsent and not self._ended) or charge > 0

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
            # Whoever is the last to close it may have to wait.
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

    def drained(self) -> None:
        if not self._ended and self._revoking is None:
            self._send(Drained())

    def revoke(self, reason: str) -> None:
        if self._ended or self._revoking is not None:
            return
        if not self._joined:
            self.bye(reason)
            return
        self.flush()
        self._revoking = reason
        self._stopWaiting()
        self._dispatcher.revoking(self)
        self._sayRevoked(reason)

    def bye(self, reason: str) -> None:
        if not self._ended:
            self._stopWaiting()
            self._joined = False
            self._send(Bye(reason))
            self._end()
            self._close()

    # What the worker says

    @property
    def _ended(self) -> bool:
        return self._over

    @property
    def _deaf(self) -> bool:
        return self._mistakes > MISTAKES

    def _end(self) -> None:
        self._over = True

    def _feed(self, data: bytes) -> None:
        if self._ended or self._deaf:
            return
        try:
            for frame in self._decoder.feed(data):
                self._obey(frame)
                if self._ended or self._mistakes > MISTAKES:
                    break
        except ProtocolError as error:
            self._mistakes = MISTAKES + 1
            self._fail(str(error))

    def _obey(self, frame: Frame) -> None:
        """
        Handle a frame.  A bad one ends the channel, but does not undo what
        follows it: a claim counts as long as it can be read.  But only so many
        bad ones are put up with.
        """
        try:
            self._handle(frame)
        except ProtocolError as error:
            self._mistakes += 1
            self._fail(str(error))
        except Exception:
            self._mistakes += 1
            self.log.failure("a bug in portlisten ends the channel of {end}", end=self)
            self._fail("an internal error")

    def _handle(self, frame: Frame) -> None:
        if isinstance(frame, WorkerHello):
            ports = self._hello.wanted(frame)
            self._stopWaiting()
            self._joined = True
            window = min(frame.window, self._hello.window, _kernel.room(self._socket))
            self._dispatcher.joined(self, window, ports)
        elif isinstance(frame, Claim):
            self._seeRead(frame.ids)
            self._dispatcher.claimed(self, frame.ids)
        elif isinstance(frame, Closed):
            self._dispatcher.closed(self, frame.ids)
        elif isinstance(frame, ClientGone):
            self._dispatcher.gone(self, frame.ids)
        elif isinstance(frame, Refuse):
            self._seeRead(frame.ids)
            reason = REFUSALS.get(frame.reason, f"reason {frame.reason}")
            self._dispatcher.refused(self, frame.ids, reason)
        elif isinstance(frame, Drain):
            if self._draining:
                raise ProtocolError("a second DRAIN")
            self._draining = True
            self._dispatcher.draining(self)
        elif isinstance(frame, Bye):
            self._part(f"it says: {frame.reason}")

    def _seeRead(self, ids: Collection[int]) -> None:
        """
        See that a worker could know of the offer that it answers.  Ids can be guessed.
        If a worker answers unread offers, descriptors pile up in flight, and the kernel
        limits how many a user has in flight.  If a worker answers an offer that is not
        even sent, the connection may be closed, and its descriptor's number would soon
        be another's.

        @raise ProtocolError: if it could not.
        """
        sent = self._sent
        if sent is not None:
            end = max((self._ends.get(id, 0) for id in ids), default=0)
            if end > sent.settle(self._charge()):
                # Somebody who has just read it may be ahead of the kernel's books.
                select.poll().poll(1)
                if end > sent.settle(self._charge()):
                    raise ProtocolError("an answer to an offer that it has not read")
        for id in ids:
            self._ends.pop(id, None)

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
            _kernel.forget(socket.socket(fileno=descriptor))
        except OSError:
            os.close(descriptor)
        # The bytes that it came with are still to be fed.
        self._feeding = True
        self._fail("it sent a descriptor")

    def _fail(self, reason: str) -> None:
        if not self._ended and self._revoking is None:
            self._quiet(
                self.log.warn,
                "{label} is cut off: {reason}",
                label=self.label,
                reason=reason,
            )
        self.revoke(reason)

    def _sayRevoked(self, reason: str) -> None:
        """
        Get the word of the revocation into the kernel, or wait for that: a
        worker that sees the end of the channel without it serves what it holds.

        A worker that hangs has room for it, its window being bounded.  One that
        claims without reading may have none: what it was offered stays with it,
        since it might serve it, as if it had claimed that too.  But
        epoll calls a Unix socket writable only while three quarters of its
        buffer are free (C{unix_writable} in net/unix/af_unix.c), so this does
        not wait for the transport where it need not.
        """
        if self._unsent:
            return
        word = encode(Revoked()) + encode(Bye(reason))
        try:
            sent = self._socket.send(word)
        except OSError as error:
            # It may have closed its end, or the way to it, before it could hear the
            # word.
            self._cannotHear = error.errno in GONE
            sent = len(word) if self._cannotHear else 0
        self._wordSaid = True
        if sent < len(word):
            self._unsent = True
            self._transport.write(word[sent:])
        else:
            self._batchDone()

    def _flushed(self) -> None:
        if self._revoking is not None and not self._wordSaid:
            self._sayRevoked(self._revoking)
        else:
            self._batchDone()

    def _batchDone(self) -> None:
        # Claims that came with the frame that led to this count, too.
        ready = self._wordSaid and not self._unsent
        if ready and not (self._feeding or self._shutting or self._ended):
            self._shut()

    def _shut(self) -> None:
        """
        Shut the worker's way to us.  For the kernel this is one step: what the
        worker wrote before it can be read here, and what it writes after it
        fails there.
        """
        self._shutting = True
        self._readOn()
        self._part(self._departure)

    @property
    def _departure(self) -> str | None:
        """
        Why the worker leaves, or L{None} if it is dead.  Once the word is in the
        kernel, the end of the channel is no sign of death: the worker may have
        heard it, and left as it was told.
        """
        heard = self._wordSaid and not self._unsent and not self._cannotHear
        if self._died and not heard:
            return None
        return self._revoking or "the channel to it failed"

    def _part(self, reason: str | None) -> None:
        """
        Nothing more can be claimed here.  What is still unsent must not be sent
        later: its descriptors are about to become somebody else's.

        @param reason: why the worker leaves, or L{None} if it is dead.
        """
        if not self._ended:
            self._end()
            self._stopWaiting()
            self._offers.clear()
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
        self._end()
        self._offers.clear()
        said = self._wordSaid and not self._unsent
        if self._joined and not (self._died or said):
            self._leaveToIt()
        self._depart(self._departure)
        if self._duplicate is not None:
            try:
                # It stays open for as long as there are questions.
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
        word = encode(Revoked()) + encode(Bye("the channel failed"))
        try:
            told = self._socket.send(word) == len(word)
        except OSError as error:
            if error.errno in GONE:
                return  # it closed the way to it, and so has judged already
            told = False
        if not told and self._ends:
            self._dispatcher.claimed(self, tuple(self._ends))
