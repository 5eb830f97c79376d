"""
A transport for channels.

The protocols of L{portlisten._channel.protocol} work over Twisted's own transport as
well.  But Twisted's was made for an occasional descriptor, and a channel carries mostly
descriptors:

  - Twisted's transport sends one descriptor in a message.  This transport sends all
    that are due.
  - The kernel may lack resources for a moment (C{ENOMEM}, C{ETOOMANYREFS}), or one
    descriptor may be impossible to send.  Then Twisted's transport drops the connection
    and shuts it down, which the worker takes for the death of its listener.  This
    transport waits, or leaves that descriptor out.
  - Twisted's transport does not set close-on-exec on the descriptors that it receives,
    and receives them even if none are wanted.
  - If a write fails, Twisted's transport closes its socket before it tells the
    protocol, and the bytes that the peer had written are lost.  This transport closes
    the socket afterwards.
  - If a read fails, Twisted's transport always ends the connection.  This transport
    tries again.
  - Twisted's transport does not know how much its peer has read.
"""

from __future__ import annotations

import errno
import select
import socket
from contextlib import suppress
from typing import Any

from twisted.internet import main
from twisted.internet.abstract import FileDescriptor
from twisted.internet.address import UNIXAddress
from twisted.internet.error import ConnectionAborted
from twisted.internet.interfaces import IReactorTime, ISystemHandle, IUNIXTransport
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from portlisten import _kernel
from portlisten._channel.limits import (
    BYTES_PER_TURN,
    KERNEL_RETRY_SECONDS,
    PEER_GONE,
    READS_PER_TURN,
    TEMPORARY_WRITE_ERRORS,
    UNREADABLE,
)
from portlisten._channel.unread import Unread
from portlisten._reactor.log_limit import logLimit
from portlisten._reactor.pause import Pause


@implementer(IUNIXTransport, ISystemHandle)
class ChannelTransport(FileDescriptor):
    """
    Connects a protocol to one end of a channel.

    @param sock: the connected socket.  The transport owns it, and closes it once the
        protocol knows that the connection is lost.  Never shuts it down.
    @param protocol: also an L{IFileDescriptorReceiver}.
    @param descriptors: whether the peer may send descriptors.  If it may not and does,
        they stay in the socket, this calls C{protocol.descriptorsCame}, and reads
        nothing more: see L{_kernel.receiveBytes}.
    @param sent: notes each message that is written; L{None} if that is not needed.

    @ivar queued: how many bytes were passed to L{write}.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        sock: socket.socket,
        protocol: Any,
        descriptors: bool = True,
        sent: Unread | None = None,
    ) -> None:
        super().__init__(reactor)
        self._clock: IReactorTime = reactor
        sock.setblocking(False)
        # Otherwise urgent data would make the socket readable, and recv would not read
        # it.
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        self._socket = sock
        self._protocol = protocol
        self._receivesDescriptors = descriptors
        self._kernelRefuses = not descriptors and _kernel.refusesDescriptors(sock)
        self._readsNoMore = False
        self._descriptors: list[int] = []
        self._writePause = Pause(reactor, self.startWriting)
        self._readPause = Pause(reactor, self._readAgain)
        self._readFails = False
        # Whether the protocol wants to read on.
        self._reads = True
        self._aborted = False
        self._writing = False
        self.sent = sent
        self.queued = 0
        self._readPoll = select.poll()
        self._readPoll.register(sock, select.POLLIN)

    def start(self) -> None:
        """
        Connect the protocol, and read.  If that fails, this tells the protocol that the
        connection is lost.

        @raise Exception: the failure.
        """
        self.connected = 1
        try:
            self._protocol.makeConnection(self)
            if self.connected and not self._aborted and not self.disconnecting:
                self.startReading()
        except BaseException:
            failure = Failure()
            if self.connected:
                self.connectionLost(failure)
            raise

    def fileno(self) -> int:
        """
        See L{IFileDescriptor}.
        """
        return self._socket.fileno()

    def logPrefix(self) -> str:
        """
        See L{ILoggingContext}.
        """
        return "portlisten"

    def getHandle(self) -> socket.socket:
        """
        See L{ISystemHandle}.
        """
        return self._socket

    def getHost(self) -> UNIXAddress:
        """
        See L{ITransport}.
        """
        return UNIXAddress(self._socket.getsockname() or None)

    def getPeer(self) -> UNIXAddress:
        """
        See L{ITransport}.
        """
        return UNIXAddress(self._socket.getpeername() or None)

    def sendFileDescriptor(self, descriptor: int) -> None:
        """
        Send a descriptor with the next bytes that are written, or with earlier bytes.
        Leaves the descriptor open.  Its owner must leave it open until these bytes are
        sent.
        """
        self._descriptors.append(descriptor)

    def write(self, data: bytes) -> None:
        """
        See L{ITransport}.
        """
        self.queued += len(data)
        super().write(data)

    def writeNow(self, data: bytes) -> None:
        """
        Write without waiting for the next turn of the loop.  If the kernel takes all
        bytes, this calls the pull producer before it returns.
        """
        waits = self._writing or self._writePause.active
        if waits or self._aborted or self.disconnecting or not self.connected:
            self.write(data)
            return
        # So that write() does not ask the reactor yet.
        self._writing = True
        self.write(data)
        self._writing = False
        failure = self.doWrite()
        if failure is not None or self.dataBuffer or self._tempDataLen:
            # If the connection is lost, the reactor must find that out.
            self.startWriting()

    def writeSomeData(self, data: bytes) -> int | Exception:
        """
        See L{FileDescriptor}.
        """
        if not data:
            # If a message had no bytes, the kernel would drop its descriptors.
            return 0
        due = self._descriptors[: _kernel.MAXIMUM_DESCRIPTORS]
        if len(self._descriptors) > len(due):
            # The other descriptors go with the next bytes: still not after their
            # frames.
            data = data[:1]
        try:
            sent = _kernel.send(self._socket, data, due)
        except OSError as error:
            if due and error.errno not in TEMPORARY_WRITE_ERRORS | PEER_GONE:
                return self._writeSingly(data)
            return self._writeFailed(error)
        del self._descriptors[: len(due)]
        self._noteSent(sent, len(due))
        return sent

    def _noteSent(self, size: int, descriptors: int) -> None:
        if self.sent is None:
            return
        try:
            charge = _kernel.charge(size)
        except OSError:
            charge = BYTES_PER_TURN  # too high: more bytes count as read than are
        self.sent.add(size, charge, descriptors)

    def _writeSingly(self, data: bytes) -> int | Exception:
        """
        Send each descriptor with a byte of its own, not later than its frame.  This is
        for a group of descriptors of which one cannot be sent.  That descriptor is left
        out: its frame arrives without it, and is refused.

        @return: see L{writeSomeData}.
        """
        written = 0
        while self._descriptors and written < len(data):
            byte = data[written : written + 1]
            try:
                written += _kernel.send(self._socket, byte, self._descriptors[:1])
                self._noteSent(1, 1)
            except OSError as error:
                if error.errno in TEMPORARY_WRITE_ERRORS | PEER_GONE:
                    return written or self._writeFailed(error)
                logLimit(self._clock)(
                    self.log.error,
                    "descriptor {descriptor} cannot be handed off: {error}",
                    event="descriptor-unusable",
                    descriptor=self._descriptors[0],
                    error=error.strerror,
                )
            del self._descriptors[0]
        return written

    def _writeFailed(self, error: OSError) -> int | Exception:
        """
        Pause if a later write may succeed.

        @return: see L{writeSomeData}.
        """
        if error.errno not in TEMPORARY_WRITE_ERRORS:
            return main.CONNECTION_LOST
        if error.errno != errno.EAGAIN and not self._writePause.active:
            logLimit(self._clock)(
                self.log.warn,
                "handing off pauses for {pause:g} s: {error}",
                event="hand-off-paused",
                pause=KERNEL_RETRY_SECONDS,
                error=error.strerror,
            )
            self._writePause.begin(KERNEL_RETRY_SECONDS)
        if self._writePause.active:
            self.stopWriting()
        return 0

    def doRead(self) -> Exception | None:
        """
        See L{IReadDescriptor}.
        """
        left = BYTES_PER_TURN
        for _ in range(READS_PER_TURN):
            try:
                data, came = self._receive(left)
            except BlockingIOError:
                return None
            except OSError as error:
                return self._readFailed(error)
            self._readFails = False
            if came:
                self._readsNoMore = True
                self.stopReading()
                self._protocol.descriptorsCame()
            if not data:
                return main.CONNECTION_DONE
            self._protocol.dataReceived(data)
            left -= len(data)
            if not left or self._aborted or self.disconnecting or not self._reads:
                break
            if not self._hasMore():
                break
        return None

    def _receive(self, size: int) -> tuple[bytes, bool]:
        if not self._receivesDescriptors:
            return _kernel.receiveBytes(self._socket, size, self._kernelRefuses)
        data, descriptors = _kernel.receive(self._socket, size)
        for descriptor in descriptors:
            self._protocol.fileDescriptorReceived(descriptor)
        return data, False

    def _hasMore(self) -> bool:
        """
        Whether more bytes can be read.  Reading and catching an exception would take
        ten times as long.
        """
        try:
            return bool(self._readPoll.poll(0))
        except OSError:
            return False

    def _readFailed(self, error: OSError) -> Exception | None:
        """
        Read again later, if that may succeed.  The bytes stay in the socket.  Only a
        read that returns no bytes means that the other end is dead.

        @return: see L{doRead}.
        """
        if error.errno in UNREADABLE:
            return main.CONNECTION_LOST
        if error.errno == errno.ECONNRESET:
            return None  # the peer closed with bytes unread; the next read tells
        if not self._readFails:
            self._readFails = True
            logLimit(self._clock)(
                self.log.warn,
                "reading from a channel fails, and is tried again every {pause:g} s:"
                " {error}",
                event="channel-read-failed",
                pause=KERNEL_RETRY_SECONDS,
                error=error.strerror,
            )
        if not self._readPause.active:
            self.stopReading()
            self._readPause.begin(KERNEL_RETRY_SECONDS)
        return None

    def _readAgain(self) -> None:
        if self.connected and not self._aborted:
            self.startReading()

    def startReading(self) -> None:
        """
        See L{FileDescriptor}.
        """
        if not self._readsNoMore:
            self._reads = True
            super().startReading()

    def stopReading(self) -> None:
        """
        See L{FileDescriptor}.
        """
        self._reads = False
        super().stopReading()

    def abortConnection(self) -> None:
        """
        End the connection, and drop the unsent bytes.
        """
        if self.connected and not self._aborted:
            self._aborted = True
            self._descriptors.clear()
            self.stopReading()
            self.stopWriting()
            self._clock.callLater(0, self._abort)

    def _abort(self) -> None:
        if self.connected:
            self.connectionLost(Failure(ConnectionAborted()))

    def startWriting(self) -> None:
        """
        See L{FileDescriptor}.
        """
        idle = not self._writing and not self._writePause.active
        if idle and self.connected and not self._aborted:
            self._writing = True
            super().startWriting()

    def stopWriting(self) -> None:
        """
        See L{FileDescriptor}.
        """
        if self._writing:
            self._writing = False
            super().stopWriting()

    def connectionLost(self, reason: Failure) -> None:
        """
        See L{IFileDescriptor}.
        """
        super().connectionLost(reason)
        self._writePause.cancel()
        self._readPause.cancel()
        self._protocol.connectionLost(reason)
        self._socket.close()
