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

import socket
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import (
    IPullProducer,
    IReactorTime,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from portlisten import _kernel
from portlisten._channel.transport import ChannelTransport
from portlisten._reactor.deadline import Deadline
from portlisten._reactor.log_limit import logLimit
from portlisten._wire.frames import (
    Decoder,
    Frame,
    Vocabulary,
    encode,
)
from portlisten.errors import ProtocolError

#: How many bad frames of a channel are read past.
MISTAKES = 16

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


class Channel(Protocol):
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
        self._quiet = logLimit(reactor)
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
