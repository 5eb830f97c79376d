"""
The Protocols at the two ends of a channel.

The Protocols are thin: frames in, frames out, descriptors along with them.  What a
claim or a death means is decided in L{portlisten._policy.ledger} and
L{portlisten._wire.claims}.  They need a transport that provides C{IUNIXTransport}
and C{ISystemHandle}, as Twisted's own Unix transports do.

Three things about those transports shape this module:

  - They tell nobody when the write buffer has reached the kernel, except a pull
    producer, whose C{resumeProducing} runs just then.  L{_Flushes} is one.
  - If a write fails, they drop the connection, along with what the peer had written
    and nobody had read.  That may be claims, or a REVOKED.  So each end keeps a
    duplicate of the socket, and reads what is left of the stream before it judges
    whether the peer is dead.  The peer is dead only if the kernel says that its end
    is closed.  After any other failure the peer may live, so nothing is served that
    may have been given to somebody else.
  - An exception from C{dataReceived} drops the connection without a reason, and
    one from C{fileDescriptorReceived} leaks descriptors.  Neither may raise.
"""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable, Collection
from typing import Any

from twisted.internet.interfaces import (
    IFileDescriptorReceiver,
    IPullProducer,
    IReactorTime,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from portlisten import _kernel
from portlisten._channel.transport import GONE, ChannelTransport, Unread
from portlisten._model import Kind
from portlisten._reactor.monotonic import Deadline
from portlisten._reactor.quiet import quiet
from portlisten._wire.claims import Claims
from portlisten._wire.frames import (
    FROM_LISTENER,
    FROM_WORKER,
    MAXIMUM_WINDOW,
    REFUSALS,
    Bye,
    Claim,
    Closed,
    Decoder,
    Drain,
    Drained,
    Frame,
    Gone,
    Listener,
    ListenerHello,
    Offer,
    Refuse,
    Revoked,
    Vocabulary,
    Withdraw,
    WorkerHello,
    encode,
    encodeOffer,
)
from portlisten.errors import ProtocolError, WrongSocket
from portlisten.interfaces import (
    IAdopter,
    IChannel,
    IConnection,
    IDispatcher,
    IWorkerChannel,
)

#: How many bad frames of a channel are read past.
MISTAKES = 16

#: How many shared sockets a worker keeps whose frames have not come.
MAXIMUM_LENT = 1024

#: How many bytes are read at the most that are left at the end of a channel: more
#: than the other end's buffer holds.
MAXIMUM_REST = 1 << 22

#: How often a read is tried there that fails.
TRIES = 10


@implementer(IPullProducer)
class _Flushes:
    """
    Calls back each time the transport's write buffer has reached the kernel.
    """

    def __init__(self, flushed: Callable[[], None]) -> None:
        self._flushed: Callable[[], None] | None = None
        self._callback = flushed

    def watch(self, transport: Any) -> None:
        """
        Begin.  Registering asks for data at once, which is no flush.
        """
        transport.registerProducer(self, False)
        self._flushed = self._callback

    def resumeProducing(self) -> None:
        if self._flushed is not None:
            self._flushed()

    def stopProducing(self) -> None:
        self._flushed = None


class _Channel(Protocol):
    """
    What both ends have in common.

    @cvar vocabulary: the frames that the other end may send.
    @param timeout: how long the other end's HELLO may take, in seconds.
    """

    vocabulary: Vocabulary
    log = Logger()

    def __init__(self, reactor: IReactorTime, timeout: float) -> None:
        self._reactor = reactor
        self._timeout = timeout
        self._deadline: Deadline | None = None
        self._quiet = quiet(reactor)
        self._decoder = Decoder(self.vocabulary)
        self._flushes = _Flushes(self._bufferFlushed)
        self._duplicate: socket.socket | None = None
        self._unsent = False
        self._lost = False
        self._died = False
        self._ended = False
        self._feeding = False
        self._mistakes = 0

    def connectionMade(self) -> None:
        try:
            self._duplicate = self._transport.getHandle().dup()
        except OSError:
            # An exception alone would leave the transport in the reactor.
            self._ended = True
            self._transport.abortConnection()
            raise
        self._wait(self._silent)
        self._flushes.watch(self._transport)
        # Only our own transport has it; with others it takes another turn of the
        # loop.
        self._writeNow = getattr(self.transport, "writeNow", self._transport.write)

    @property
    def _socket(self) -> socket.socket:
        assert self._duplicate is not None
        return self._duplicate

    @property
    def _transport(self) -> Any:
        # Of several interfaces at once, which the type of one cannot say.
        return self.transport

    def _send(self, *frames: Frame) -> None:
        self._unsent = True
        self._transport.write(b"".join(map(encode, frames)))

    def _bufferFlushed(self) -> None:
        self._unsent = False
        self._flushed()

    def _close(self) -> None:
        """
        Close once everything written is in the kernel.
        """
        self._ended = True
        self._transport.unregisterProducer()
        self._transport.loseConnection()

    def _wait(self, then: Callable[[], None]) -> None:
        self._stopWaiting()
        self._deadline = Deadline(self._reactor, self._timeout, then)

    def _stopWaiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = None

    def _silent(self) -> None:
        self._broken(f"no HELLO within {self._timeout:g} s")

    def dataReceived(self, data: bytes) -> None:
        self._feeding = True
        try:
            if not self._ended and self._mistakes <= MISTAKES:
                self._feed(data)
        finally:
            self._feeding = False
        self._fed()

    def _feed(self, data: bytes) -> None:
        try:
            for frame in self._decoder.feed(data):
                self._obey(frame)
                if self._ended or self._mistakes > MISTAKES:
                    break
        except ProtocolError as error:
            self._mistakes = MISTAKES + 1
            self._broken(str(error))
        if self._mistakes > MISTAKES and not self._ended:
            self._transport.pauseProducing()

    def _fed(self) -> None:
        """
        All frames that came in were obeyed.
        """
        raise NotImplementedError

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
            self._broken(str(error))
        except Exception:
            self._mistakes += 1
            self.log.failure("a bug in portlisten ends the channel of {end}", end=self)
            self._broken("an internal error")

    def _readOn(self) -> None:
        """
        See whether the other end is dead.  Stop it from writing, and take in what it
        had written and the transport did not read.
        """
        if self._duplicate is None or self._ended:
            return
        ours = isinstance(self.transport, ChannelTransport)
        # Twisted's own has shut it down by itself.
        self._died = not ours or _kernel.hungUp(self._socket)
        try:
            self._socket.shutdown(socket.SHUT_RD)
        except OSError:
            pass  # ENOTCONN: the other end is gone, and can write nothing more
        left, tries = MAXIMUM_REST, TRIES
        while left > 0 and tries and not self._ended and self._mistakes <= MISTAKES:
            try:
                data = self._receive()
            except OSError:
                tries -= 1
                continue
            if not data:
                break
            left -= len(data)
            self.dataReceived(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._lost = True
        self._readOn()
        self._ended = True
        self._stopWaiting()

    def _receive(self) -> bytes:
        """
        Read once from the duplicate.
        """
        raise NotImplementedError

    def _handle(self, frame: Frame) -> None:
        raise NotImplementedError

    def _flushed(self) -> None:
        raise NotImplementedError

    def _broken(self, reason: str) -> None:
        raise NotImplementedError

    def fileDescriptorReceived(self, descriptor: int) -> None:
        raise NotImplementedError


@implementer(IChannel, IFileDescriptorReceiver)
class ListenerChannel(_Channel):
    """
    The listener's end, a worker at the other.

    @param number: the worker's, for the log.
    @param timeout: how long HELLO may take, in seconds.
    @param who: the worker, or L{None} to find out.
    """

    vocabulary = FROM_WORKER

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
        self._deaf = False
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
        super()._send(*frames)

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
            self._close()

    # What the worker says

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
        elif isinstance(frame, Gone):
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
        self._broken("it sent a descriptor")

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
        self._broken("it sent a descriptor")

    def _broken(self, reason: str) -> None:
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
            self._deaf = error.errno in GONE
            sent = len(word) if self._deaf else 0
        self._wordSaid = True
        if sent < len(word):
            self._unsent = True
            self._transport.write(word[sent:])
        else:
            self._fed()

    def _flushed(self) -> None:
        if self._revoking is not None and not self._wordSaid:
            self._sayRevoked(self._revoking)
        else:
            self._fed()

    def _fed(self) -> None:
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
        heard = self._wordSaid and not self._unsent and not self._deaf
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
            self._ended = True
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


@implementer(IWorkerChannel, IFileDescriptorReceiver)
class WorkerChannel(_Channel):
    """
    The worker's end, the listener at the other.

    @param window: how many unclaimed offers the worker wants at the most.
    @param timeout: how long HELLO may take, in seconds.
    @param names: what the ports are called that it wants; if empty, it wants all.
    @param takes: what it takes of a port.
    """

    vocabulary = FROM_LISTENER

    def __init__(
        self,
        reactor: IReactorTime,
        adopter: IAdopter,
        window: int = MAXIMUM_WINDOW,
        timeout: float = 5.0,
        names: Collection[str] = (),
        takes: Collection[Kind] = (Kind.CONNECTIONS,),
    ) -> None:
        super().__init__(reactor, timeout)
        self._adopter = adopter
        self._hello = WorkerHello(window, tuple(names), frozenset(takes))
        self._claims: Claims[int] = Claims(window)
        self._lent: dict[int, int] = {}
        self.broken = False
        self._reason: str | None = None
        self._revoked = False
        self._farewell: str | None = None

    def __str__(self) -> str:
        return "the listener"

    def connectionMade(self) -> None:
        super().connectionMade()
        # Twisted's own does not ask for MSG_CMSG_CLOEXEC.
        self._inheritable = not isinstance(self.transport, ChannelTransport)
        self._send(self._hello)

    # IWorkerChannel

    def drain(self) -> None:
        if not self._ended:
            _closeAll(self._claims.draining())
            self._pump()

    def closed(self, id: int) -> None:
        if not self._ended:
            self._claims.served(id)
            self._pumpSoon()

    def gone(self, id: int) -> None:
        if not self._ended:
            self._claims.gone(id)
            self._pumpSoon()

    def bye(self, reason: str) -> None:
        if not self._ended and self._farewell is None:
            self._stopWaiting()
            self._farewell = self._reason = reason
            self.drain()

    # What the listener says

    def _handle(self, frame: Frame) -> None:
        if isinstance(frame, Offer):
            _closeAll(self._claims.offered(frame))
        elif isinstance(frame, ListenerHello):
            ports = frame.wanted(self._hello)
            self._stopWaiting()
            self._adopter.registered(self, ports)
        elif isinstance(frame, Listener):
            descriptor = self._lent.pop(frame.cookie, None)
            if descriptor is None:
                raise ProtocolError("a shared socket got lost on its way")
            self._adopter.lent(self, frame, descriptor)
        elif isinstance(frame, Withdraw):
            self._adopter.withdrawn(self, frame.cookie)
        elif isinstance(frame, Drained):
            self._adopter.drained(self)
        elif isinstance(frame, Revoked):
            self._revoked = True
            _closeAll(self._claims.revoked())
        elif isinstance(frame, Bye):
            self._reason = f"the listener says: {frame.reason}"

    def _fed(self) -> None:
        self._pump(now=True)

    def fileDescriptorReceived(self, descriptor: int) -> None:
        """
        Keep a descriptor for the frame that names it, and close one that none
        could: what cannot be taken here, or comes too late.
        """
        if self._revoked or self._ended:
            os.close(descriptor)
            return
        if self._inheritable:
            os.set_inheritable(descriptor, False)
        try:
            kind, cookie = _kernel.identify(descriptor, self._hello.takes)
            if kind is Kind.CONNECTIONS:
                _closeAll(self._claims.arrived(cookie, descriptor))
            else:
                self._keep(cookie, descriptor)
        except (OSError, WrongSocket) as error:
            self._quiet(
                self.log.warn, "a descriptor of no use came: {error}", error=error
            )
            os.close(descriptor)
        except ProtocolError as error:
            self._broken(str(error))

    def _keep(self, cookie: int, descriptor: int) -> None:
        """
        Keep a shared socket until the frame comes that names it.
        """
        if cookie in self._lent:
            os.close(self._lent[cookie])
        self._lent[cookie] = descriptor
        if len(self._lent) > MAXIMUM_LENT:
            raise ProtocolError(
                f"more than {MAXIMUM_LENT} sockets without their frames"
            )

    def _pump(self, now: bool = False) -> None:
        """
        Say what there is to say, unless something is being said.

        @param now: without waiting for the next turn of the loop, so that what is
            claimed is adopted before this returns.
        """
        if self._ended:
            return
        frames = self._claims.outgoing()
        if frames:
            self._unsent = True
            write = self._writeNow if now else self._transport.write
            write(b"".join(map(encode, frames)))
        elif not self._claims.writing:
            if self._farewell is not None:
                self._send(Bye(self._farewell))
            if self._farewell is not None or self._revoked:
                self._close()

    def _pumpSoon(self) -> None:
        """
        Say it in the next turn of the loop, with what else there will be to say:
        a transport that has nothing to write says that it has written.
        """
        if not self._claims.writing:
            self._transport.startWriting()

    def _flushed(self) -> None:
        for offer, descriptor in self._claims.flushed():
            try:
                self._adopter.adopt(self, offer, descriptor)
            except Exception:
                self.log.failure("a bug in portlisten loses a connection")
        self._pump()

    def _broken(self, reason: str) -> None:
        self.broken = True
        self.bye(reason)

    def _receive(self) -> bytes:
        data, descriptors = _kernel.receive(self._socket)
        for descriptor in descriptors:
            self.fileDescriptorReceived(descriptor)
        return data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        if self._duplicate is not None:
            if not (self._died or self._revoked or self._farewell is not None):
                self._sayFailed()
            self._duplicate.close()
        if self._reason is None and isinstance(reason.value, OSError):
            self._reason = str(reason.value.strerror)
        if self._revoked or self._farewell is not None or not self._died:
            _closeAll(self._claims.abandoned())
        else:
            mine, loose = self._claims.orphaned()
            _closeAll(loose)
            for offer, descriptor in mine:
                self._adopter.adopt(self, offer, descriptor)
        _closeAll(list(self._lent.values()))
        self._lent.clear()
        self._adopter.lost(self, self._reason)

    def _sayFailed(self) -> None:
        """
        Tell the listener, which lives, that this worker does as well.
        """
        try:
            _kernel.insist(self._socket.send, encode(Bye("the channel failed")))
        except OSError:
            pass  # it takes this worker for dead then


def _closeAll(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
