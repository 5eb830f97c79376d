"""
The Protocols at the two ends of a channel.

The Protocols are thin: they drive L{portlisten._wire.worker_session} and
L{portlisten._wire.listener_session}, which decide what a frame, a claim or the end of
the channel means.  They need a transport that provides C{IUNIXTransport} and
C{ISystemHandle}, as Twisted's own Unix transports do.

Three things about those transports shape this module:

  - They tell nobody when the write buffer has reached the kernel, except a pull
    producer, whose C{resumeProducing} runs just then.  L{_FlushNotifier} is one.
  - If a write fails, they drop the connection, along with what the peer had written
    and this end had not read.  That may be claims, or a REVOKED.  So each end keeps a
    duplicate of the socket, and reads what is left of the stream before it judges
    whether the peer is dead.  The peer is dead only if the kernel says that its end
    is closed.  After any other failure the peer may live, so nothing is served that
    may have been given to another worker.
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
from portlisten._wire.session import Session

#: How many bytes are read at the most that are left at the end of a channel: more
#: than the other end's buffer holds.
MAXIMUM_REST_BYTES = 1 << 22

#: How often a read is tried there that fails.
READ_TRIES = 10


@implementer(IPullProducer)
class _FlushNotifier:
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

    @param session: decides.
    @param timeout: how long the other end's HELLO may take, in seconds.
    """

    log = Logger()

    def __init__(self, reactor: IReactorTime, session: Session, timeout: float) -> None:
        self._session = session
        self._reactor = reactor
        self._timeout = timeout
        self._deadline: Deadline | None = None
        self._logLimited = logLimit(reactor)
        self._flushes = _FlushNotifier(self._bufferFlushed)
        self._duplicate: socket.socket | None = None
        # Whether something that was written is not in the kernel.
        self._unsent = False
        # Whether the transport is gone, and whether the other end is closed.
        self._lost = False
        self._died = False
        # Whether what was read is being carried out.
        self._feeding = False

    def connectionMade(self) -> None:
        try:
            self._duplicate = self._transport.getHandle().dup()
        except OSError:
            # An exception alone would leave the transport in the reactor.
            self._session.end()
            self._transport.abortConnection()
            raise
        self._startDeadline(self._helloTimedOut)
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

    def _write(self, data: bytes) -> None:
        self._unsent = True
        self._transport.write(data)

    def _bufferFlushed(self) -> None:
        self._unsent = False
        self._flushed()

    def _close(self) -> None:
        """
        Close once everything written is in the kernel.
        """
        self._transport.unregisterProducer()
        self._transport.loseConnection()

    def _startDeadline(self, then: Callable[[], None]) -> None:
        self._stopWaiting()
        self._deadline = Deadline(self._reactor, self._timeout, then)

    def _stopWaiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = None

    def _helloTimedOut(self) -> None:
        self._fail(f"no HELLO within {self._timeout:g} s")

    def dataReceived(self, data: bytes) -> None:
        self._feeding = True
        try:
            self._feed(data)
            if self._session.readsNoMore and not self._session.ended:
                self._transport.pauseProducing()
        finally:
            self._feeding = False
        self._batchDone()

    def _readOn(self) -> None:
        """
        See whether the other end is dead.  Stop it from writing, and take in what it
        had written and the transport did not read.
        """
        session = self._session
        if self._duplicate is None or session.ended:
            return
        ours = isinstance(self.transport, ChannelTransport)
        # Twisted's own has shut it down by itself.
        self._died = not ours or _kernel.hungUp(self._socket)
        try:
            self._socket.shutdown(socket.SHUT_RD)
        except OSError:
            pass  # ENOTCONN: the other end is gone, and can write nothing more
        left, tries = MAXIMUM_REST_BYTES, READ_TRIES
        while left > 0 and tries and not (session.ended or session.readsNoMore):
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
        self._stopWaiting()

    # What each end does in its own way

    def _feed(self, data: bytes) -> None:
        """
        Take in what came, and carry out what comes of it.
        """
        raise NotImplementedError

    def _batchDone(self) -> None:
        """
        All that was read at once is carried out.
        """
        raise NotImplementedError

    def _receive(self) -> bytes:
        """
        Read once from the duplicate.
        """
        raise NotImplementedError

    def _flushed(self) -> None:
        """
        All that was written is in the kernel.
        """
        raise NotImplementedError

    def _fail(self, reason: str) -> None:
        """
        The other end is of no use.
        """
        raise NotImplementedError

    def fileDescriptorReceived(self, descriptor: int) -> None:
        raise NotImplementedError
