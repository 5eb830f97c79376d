"""
A transport for channels.

Twisted's own transport would do, and the Protocols of
L{portlisten._channel.protocol} work over either.  But it was made for an occasional
descriptor, and a channel carries little else:

  - It sends one descriptor in a message.  This sends all that are due in one.
  - If the kernel is short of something for a moment (C{ENOMEM},
    C{ETOOMANYREFS}), or one descriptor is of no use, it drops the connection
    and shuts it down.  To the worker, that looks like the death of its listener.
    This waits, or leaves that descriptor out.
  - It does not receive descriptors with close-on-exec set, and receives them where
    none are wanted.
  - If a write fails, it closes its socket before the protocol hears of the failure,
    and what the peer had written is lost.  This closes the socket afterwards.
  - It takes any failure of a read for the end of the connection.  This tries again.
  - It does not know what its peer has read.
"""

from __future__ import annotations

import errno
import select
import socket
from collections import deque
from contextlib import suppress
from typing import Any

from twisted.internet import main
from twisted.internet.abstract import FileDescriptor
from twisted.internet.address import UNIXAddress
from twisted.internet.error import ConnectionAborted
from twisted.internet.interfaces import (
    IDelayedCall,
    IReactorTime,
    ISystemHandle,
    IUNIXTransport,
)
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from portlisten import _kernel
from portlisten._reactor.log_limit import logLimit

#: How many messages, and how many bytes, one turn of the loop reads at the most.
READS = 16
BYTES = 16384

#: How long to wait when the kernel is short of something, in seconds.
PAUSE = 0.1

# What sendmsg(2) says when a later try may do.  ETOOMANYREFS is from unix(7):
# the user has too many descriptors in flight.
_LATER = _kernel.PASSING | {errno.ETOOMANYREFS}

#: What a write says if the other end is closed, or the way to it.
GONE = frozenset([errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN])

# What recvmsg(2) says if it never will do anything else.
_DEAD = frozenset([errno.EBADF, errno.ENOTSOCK, errno.ENOTCONN, errno.EINVAL])


class Unread:
    """
    What was written to a channel and not read at its other end, as the kernel
    charges for it.

    It knows each message as it was written, with the kernel's charge.  The kernel
    says what all that is unread is charged with, and messages are read in order.  So
    the oldest have been read that the rest of the charge does not cover; the first
    of the rest may have been read in part.

    @ivar written: how many bytes were written.
    @ivar descriptors: how many of the descriptors that went with them may be unread.
    """

    def __init__(self) -> None:
        self._messages: deque[tuple[int, int, int]] = deque()
        self._charge = 0
        self.written = 0
        self.descriptors = 0

    def __bool__(self) -> bool:
        return bool(self._messages)

    def add(self, size: int, charge: int, descriptors: int) -> None:
        """
        A message was written.
        """
        self.written += size
        self._charge += charge
        self.descriptors += descriptors
        self._messages.append((self.written, charge, descriptors))

    def settle(self, charge: int) -> int:
        """
        The kernel charges so much for what is unread.

        @return: how many of the bytes that were written may have been read.
        """
        messages = self._messages
        while messages and (not charge or self._charge - messages[0][1] >= charge):
            _, size, descriptors = messages.popleft()
            self._charge -= size
            self.descriptors -= descriptors
        return messages[0][0] if messages else self.written


@implementer(IUNIXTransport, ISystemHandle)
class ChannelTransport(FileDescriptor):
    """
    Connects a protocol to one end of a channel.

    @param sock: the connected socket.  Keeps it, and closes it once the
        protocol has heard that the connection is lost; never shuts it down.
    @param protocol: also an L{IFileDescriptorReceiver}.
    @param descriptors: whether descriptors may come.  If not, those that do stay in
        the socket, C{protocol.descriptorsCame} is called, and nothing is read any
        more: see L{_kernel.receiveBytes}.
    @param sent: notes what is written, if anybody wants to know.

    @ivar queued: how many bytes were given to it to write.
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
        # Urgent data would be readable and not read otherwise.
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        self._socket = sock
        self._protocol = protocol
        self._receives = descriptors
        self._refuses = not descriptors and _kernel.refusesDescriptors(sock)
        self._poisoned = False
        self._descriptors: list[int] = []
        self._pause: IDelayedCall | None = None
        self._rest: IDelayedCall | None = None
        self._failing = False
        self._aborted = False
        self._writing = False
        self.sent = sent
        self.queued = 0
        self._more = select.poll()
        self._more.register(sock, select.POLLIN)

    def start(self) -> None:
        """
        Make the connection known to the protocol, and read.  If that fails, the
        connection is lost, and the protocol has heard so.

        @raise Exception: what failed.
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
        Send a descriptor with the next bytes that go out, or earlier ones.
        Leaves it open: its owner must, too, until these bytes are sent.
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
        Write, and do not wait for the next turn of the loop.  Where all of it goes
        to the kernel, the pull producer hears of it before this returns.
        """
        waits = self._writing or self._pause is not None
        if waits or self._aborted or self.disconnecting or not self.connected:
            self.write(data)
            return
        # So that nobody asks the reactor yet.
        self._writing = True
        self.write(data)
        self._writing = False
        failure = self.doWrite()
        if failure is not None or self.dataBuffer or self._tempDataLen:
            # It has to be the reactor that finds the connection lost.
            self.startWriting()

    def writeSomeData(self, data: bytes) -> int | Exception:
        """
        See L{FileDescriptor}.
        """
        if not data:
            # The kernel would take descriptors with no bytes, and drop them.
            return 0
        due = self._descriptors[: _kernel.MAXIMUM_DESCRIPTORS]
        if len(self._descriptors) > len(due):
            # The others go with the next bytes, which are still not later than
            # their frames.
            data = data[:1]
        try:
            sent = _kernel.send(self._socket, data, due)
        except OSError as error:
            if due and error.errno not in _LATER | GONE:
                return self._writeSingly(data)
            return self._failed(error)
        del self._descriptors[: len(due)]
        self._note(sent, len(due))
        return sent

    def _note(self, size: int, descriptors: int) -> None:
        if self.sent is None:
            return
        try:
            charge = _kernel.charge(size)
        except OSError:
            charge = BYTES  # too much, so that more counts as read than is
        self.sent.add(size, charge, descriptors)

    def _writeSingly(self, data: bytes) -> int | Exception:
        """
        One of several descriptors cannot be sent.  Send each with a byte of its
        own, none later than its frame, and leave out the one that fails: its
        frame arrives without it, and is refused.
        """
        written = 0
        while self._descriptors and written < len(data):
            byte = data[written : written + 1]
            try:
                written += _kernel.send(self._socket, byte, self._descriptors[:1])
                self._note(1, 1)
            except OSError as error:
                if error.errno in _LATER | GONE:
                    return written or self._failed(error)
                logLimit(self._clock)(
                    self.log.error,
                    "descriptor {descriptor} cannot be handed off: {error}",
                    descriptor=self._descriptors[0],
                    error=error.strerror,
                )
            del self._descriptors[0]
        return written

    def _failed(self, error: OSError) -> int | Exception:
        if error.errno not in _LATER:
            return main.CONNECTION_LOST
        if error.errno != errno.EAGAIN and self._pause is None:
            logLimit(self._clock)(
                self.log.warn,
                "handing off pauses for {pause:g} s: {error}",
                pause=PAUSE,
                error=error.strerror,
            )
            self._pause = self._clock.callLater(PAUSE, self._goOn)
        if self._pause is not None:
            self.stopWriting()
        return 0

    def _goOn(self) -> None:
        self._pause = None
        self.startWriting()

    def doRead(self) -> Exception | None:
        """
        See L{IReadDescriptor}.
        """
        left = BYTES
        for _ in range(READS):
            try:
                data, came = self._receive(left)
            except BlockingIOError:
                return None
            except OSError as error:
                return self._readFailed(error)
            self._failing = False
            if came:
                self._poisoned = True
                self.stopReading()
                self._protocol.descriptorsCame()
            if not data:
                return main.CONNECTION_DONE
            self._protocol.dataReceived(data)
            left -= len(data)
            if not left or self._aborted or self.disconnecting or self._poisoned:
                break
            if not self._hasMore():
                break
        return None

    def _receive(self, size: int) -> tuple[bytes, bool]:
        if not self._receives:
            return _kernel.receiveBytes(self._socket, size, self._refuses)
        data, descriptors = _kernel.receive(self._socket, size)
        for descriptor in descriptors:
            self._protocol.fileDescriptorReceived(descriptor)
        return data, False

    def _hasMore(self) -> bool:
        """
        Whether there is more to read: an exception that says that there is none
        would take ten times as long.
        """
        try:
            return bool(self._more.poll(0))
        except OSError:
            return False

    def _readFailed(self, error: OSError) -> Exception | None:
        """
        Only a read of no bytes is the other end's death.  After any other failure,
        try again: what is there stays there.
        """
        if error.errno in _DEAD:
            return main.CONNECTION_LOST
        if error.errno == errno.ECONNRESET:
            return None  # it went with something unread; the next read says so
        if not self._failing:
            self._failing = True
            logLimit(self._clock)(
                self.log.warn,
                "reading from a channel fails, and is tried again every {pause:g} s:"
                " {error}",
                pause=PAUSE,
                error=error.strerror,
            )
        if self._rest is None:
            self.stopReading()
            self._rest = self._clock.callLater(PAUSE, self._readAgain)
        return None

    def _readAgain(self) -> None:
        self._rest = None
        if self.connected and not self._aborted:
            self.startReading()

    def startReading(self) -> None:
        """
        See L{FileDescriptor}.
        """
        if not self._poisoned:
            super().startReading()

    def abortConnection(self) -> None:
        """
        End the connection without sending what is unsent.
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
        idle = not self._writing and self._pause is None
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
        for call in (self._pause, self._rest):
            if call is not None and call.active():
                call.cancel()
        self._protocol.connectionLost(reason)
        self._socket.close()
