"""
The Twisted protocols at the two ends of a channel.

They are thin.  They drive L{portlisten._wire.worker_session} and
L{portlisten._wire.listener_session}, which decide what a frame, a claim or the end of
the channel means.  They need a transport that provides C{IUNIXTransport} and
C{ISystemHandle}, as Twisted's own Unix transports do.

Three properties of those transports shape this module:

  - A transport tells only a pull producer that the write buffer has reached the kernel:
    it calls C{resumeProducing} just then.  L{_FlushNotifier} is such a producer.
  - If a write fails, the transport drops the connection, and with it the bytes that the
    peer had written and this end had not read.  These may contain claims, or REVOKED.
    So each end keeps a duplicate of the socket, and reads the rest of the stream.  Only
    then does it decide whether the peer is dead.  The peer is dead only if the kernel
    says that the peer's end is closed.  After any other failure the peer may be alive.
    Then a worker serves no connection that may have been given to another worker.
  - If C{dataReceived} raises an exception, the transport drops the connection without a
    reason.  If C{fileDescriptorReceived} raises one, descriptors leak.  Neither may
    raise.
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
from portlisten._channel.limits import MAXIMUM_REST_BYTES, READ_TRIES
from portlisten._channel.transport import ChannelTransport
from portlisten._reactor.deadline import Deadline
from portlisten._reactor.log_limit import logLimit
from portlisten._wire.session import Session


@implementer(IPullProducer)
class _FlushNotifier:
    """
    Calls back each time that the transport's write buffer has reached the kernel.
    """

    def __init__(self, flushed: Callable[[], None]) -> None:
        self._flushed: Callable[[], None] | None = None
        self._callback = flushed

    def watch(self, transport: Any) -> None:
        """
        Register with a transport.  The transport asks for data at once, which is no
        flush, and so this ignores it.
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
    One end of a channel: the part that is common to both ends.

    @param session: the session that this drives.
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
        # Whether some written bytes are not in the kernel yet.
        self._unsent = False
        # Whether the transport is closed, and whether the other end is closed.
        self._lost = False
        self._died = False
        # Whether bytes that were read are being processed.
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
        # Only ChannelTransport has writeNow.  Other transports write in the next turn
        # of the loop.
        self._writeNow = getattr(self.transport, "writeNow", self._transport.write)

    @property
    def _socket(self) -> socket.socket:
        assert self._duplicate is not None
        return self._duplicate

    @property
    def _transport(self) -> Any:
        # The transport provides several interfaces, and Python has no type for that.
        return self.transport

    def _write(self, data: bytes) -> None:
        self._unsent = True
        self._transport.write(data)

    def _bufferFlushed(self) -> None:
        self._unsent = False
        self._flushed()

    def _close(self) -> None:
        """
        Close the channel once all written bytes are in the kernel.
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
        Find out whether the other end is dead.  Stop it from writing, and process the
        bytes that it wrote and the transport did not read.
        """
        session = self._session
        if self._duplicate is None or session.ended:
            return
        ours = isinstance(self.transport, ChannelTransport)
        # Twisted's own transport has shut the socket down already.
        self._died = not ours or _kernel.hungUp(self._socket)
        try:
            self._socket.shutdown(socket.SHUT_RD)
        except OSError:
            pass  # ENOTCONN: the other end is closed, and can write nothing more
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

    # For subclasses

    def _feed(self, data: bytes) -> None:
        """
        Give bytes that came to the session, and handle its events.
        """
        raise NotImplementedError

    def _batchDone(self) -> None:
        """
        The bytes of one read are processed.
        """
        raise NotImplementedError

    def _receive(self) -> bytes:
        """
        Read once from the duplicate.

        @return: the bytes, which are none at the end.
        @raise OSError: if the read failed.
        """
        raise NotImplementedError

    def _flushed(self) -> None:
        """
        All written bytes are in the kernel.
        """
        raise NotImplementedError

    def _fail(self, reason: str) -> None:
        """
        End the channel because of the other end's error.
        """
        raise NotImplementedError

    def fileDescriptorReceived(self, descriptor: int) -> None:
        raise NotImplementedError
