"""
The predecessor's end of a handover.

The predecessor serves until its successor is ready, and holds all its sockets until its
own end.  So if the successor fails or dies at any moment, the predecessor goes on::

    ASKED --> OFFERED --> COMMITTED --> RETIRING --> (the process ends)
                 |            |             |
                 +------------+-------------+--> the predecessor goes on as before

  - I{Offered}: the successor has copies of all sockets.  The predecessor serves.
  - I{Committed}: the predecessor accepts nothing.  The successor writes RUNNING before
    it accepts anything, as a worker writes CLAIM before it touches a connection.  If it
    takes too long, the predecessor shuts down the reading side of the connection, which
    is one step in the kernel: RUNNING was written before, and is read, or it can never
    be written.
  - I{Retiring}: the successor serves.  What waits at the predecessor goes to it.  If
    the connection ends now, the successor is dead.

L{portlisten._handover.takeover} has the successor's end.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any
from typing import Protocol as Contract

from twisted.internet.interfaces import IPullProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from portlisten import _kernel
from portlisten._channel.transport import ChannelTransport
from portlisten._control.convert import ControlError
from portlisten._control.messages import (
    HandedSocket,
    Manifest,
    encodeAnswer,
    encodeError,
)
from portlisten._handover.messages import (
    DENIED_VERSION,
    MAXIMUM_LINE_BYTES,
    Commit,
    Message,
    Ready,
    Running,
    Stopping,
    decode,
    encode,
)
from portlisten._reactor.deadline import Deadline

#: How long a successor may take until it is ready, in seconds: it may have to wait for
#: a port of its own.
READY_SECONDS = 60.0

#: How long it may take from COMMIT to RUNNING, in seconds.  Nobody accepts meanwhile.
RUNNING_SECONDS = 5.0

#: If reading cannot tell that the successor has ended, how often to look, in seconds.
LOOK_SECONDS = 0.5


@dataclass
class Handed:
    """
    A socket for the successor.

    @ivar socket: the socket, which stays its owner's.
    @ivar role: what it is: see L{HandedSocket}.
    """

    socket: socket.socket
    role: str


class IHost(Contract):
    """
    The listener that is replaced.
    """

    def suspend(self) -> Commit:
        """
        Accept nothing any more, neither clients nor workers nor operators.
        """

    def resume(self) -> None:
        """
        Undo L{suspend}.
        """

    def retire(self, ready: Ready, transfer: socket.socket) -> None:
        """
        Hand over what waits, let the workers go, and end.

        @param ready: what the successor has.
        @param transfer: is connected to the successor, and belongs to the host from
            now on.
        """

    def takeBack(self) -> None:
        """
        The successor is dead: undo L{retire}.
        """

    def stop(self) -> None:
        """
        Stop, since the successor was told to stop.
        """


class State(Enum):
    """
    How far a handover has come.
    """

    ASKED = "the successor has asked"
    OFFERED = "the successor has the sockets"
    COMMITTED = "nobody accepts"
    RETIRING = "the successor serves"
    ENDED = "it is over"


@implementer(IPullProducer)
class Handover(Protocol):
    """
    One handover.

    @param reactor: an L{IReactorFDSet} and L{IReactorTime}.
    @param sock: is connected to the successor; this owns it.
    @param host: the listener.
    @param ended: called when it is over, and another one may begin.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        sock: socket.socket,
        host: IHost,
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        self._reactor = reactor
        self._socket = sock
        self._host = host
        self._ended = ended
        self._received = b""
        self._ready: Ready | None = None
        self._transfer: tuple[socket.socket, socket.socket] | None = None
        self._deadline: Deadline | None = None
        self._pid = 0
        self._version = 0
        # Whether the successor serves, and has broken the rules.
        self._ignores = False
        self.state = State.ASKED

    @property
    def _transport(self) -> Any:
        # The transport provides several interfaces, and Python has no type for that.
        return self.transport

    def begin(self, version: int, pid: int, sockets: Sequence[Handed]) -> None:
        """
        Send the manifest, and the sockets.

        @param version: the version of the handover.
        @param pid: the number of the listener's process.
        @param sockets: they must stay open until the handover is over.
        @raise OSError: if no socket can be made.  The connection is closed then.
        """
        try:
            self._pid = _kernel.credentials(self._socket).pid
            ours, theirs = socket.socketpair()
        except OSError:
            self._socket.close()
            raise
        self._transfer = ours, theirs
        transport = ChannelTransport(
            self._reactor, self._socket, self, descriptors=False
        )
        transport.start()
        transport.registerProducer(self, False)
        self._version = version
        self.state = State.OFFERED
        self.log.info(
            "process {pid} is to take over from this listener",
            event="handover-asked",
            pid=self._pid,
        )
        roles = [*(each.role for each in sockets), "transfer"]
        manifest = Manifest(version, pid, tuple(map(HandedSocket, roles)))
        for sock in [*(each.socket for each in sockets), theirs]:
            transport.sendFileDescriptor(sock.fileno())
        self._wait(READY_SECONDS)
        transport.writeNow(encodeAnswer(manifest))

    # What the successor says

    def dataReceived(self, data: bytes) -> None:
        """
        See L{Protocol.dataReceived}.
        """
        if self._ignores:
            return
        self._received += data
        while self.state is not State.ENDED and not self._ignores:
            line, end, rest = self._received.partition(b"\n")
            if len(line) > MAXIMUM_LINE_BYTES:
                self._fail("it sends too long a line")
            elif not end:
                break
            else:
                self._received = rest
                try:
                    self._messageReceived(decode(line))
                except ControlError as error:
                    self._fail(str(error))
                except Exception:
                    self.log.failure("a bug in portlisten ends a handover", event="bug")
                    self._fail("an internal error: the log of the old one has it")

    def _messageReceived(self, message: Message) -> None:
        if isinstance(message, Ready) and self.state is State.OFFERED:
            self._ready = message
            self.state = State.COMMITTED
            commit = self._host.suspend()
            if self._version < DENIED_VERSION:
                commit = replace(commit, denied=())
            self._wait(RUNNING_SECONDS)
            self._transport.writeNow(encode(commit))
        elif isinstance(message, Running) and self.state is State.COMMITTED:
            self._stopWaiting()
            self._pid = message.pid
            assert self._ready is not None
            self.state = State.RETIRING
            self.log.info(
                "process {pid} has taken over; this listener hands over what waits, and"
                " ends",
                event="handover-begun",
                pid=self._pid,
            )
            transfer = self._takeTransfer()
            assert transfer is not None
            self._host.retire(self._ready, transfer)
        elif isinstance(message, Stopping) and self.state is State.RETIRING:
            self._stopWaiting()
            self.state = State.ENDED
            self._host.stop()
        else:
            self._fail(f"it sends the message {message.KIND} at a wrong time")

    def descriptorsCame(self) -> None:
        """
        The successor sent a descriptor, which stays in the socket, unread.
        """
        self._fail("it sent a descriptor")
        if self.state is State.RETIRING:
            self._look()

    def _wait(self, seconds: float) -> None:
        self._stopWaiting()
        self._deadline = Deadline(self._reactor, seconds, self._expired, seconds)

    def _stopWaiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _expired(self, seconds: float) -> None:
        self._deadline = None
        self._close(f"it does not go on within {seconds:g} s")

    # The end

    def cancel(self, reason: str) -> bool:
        """
        End the handover, unless the successor has said that it runs.

        @return: whether the successor runs.
        """
        if self.state in (State.OFFERED, State.COMMITTED):
            self._close(reason)
        return self.state is State.RETIRING

    def _close(self, reason: str) -> None:
        """
        Let the successor write nothing more.  If it has written RUNNING, that counts.
        """
        with suppress(OSError):  # the other end is closed
            self._socket.shutdown(socket.SHUT_RD)
        self._readRest()
        if self.state is State.RETIRING:
            # The end of what can be read tells nothing any more.
            self._transport.stopReading()
            self._look()
        elif self.state is not State.ENDED:
            self._fail(reason)

    def _readRest(self) -> None:
        with suppress(OSError):
            while self.state is not State.ENDED:
                data, came = _kernel.receiveBytes(self._socket)
                if came:
                    # These bytes stay in the socket.
                    self._fail("it sent a descriptor")
                    return
                if not data:
                    return
                self.dataReceived(data)

    def _look(self) -> None:
        """
        See whether the successor has ended, now and then: it has closed the connection,
        and not only its writing side.
        """
        poll = select.poll()
        poll.register(self._socket, 0)
        if poll.poll(0):
            self._over("it has ended")
        else:
            self._stopWaiting()
            self._deadline = Deadline(self._reactor, LOOK_SECONDS, self._look)

    def _fail(self, reason: str) -> None:
        """
        End the handover, and tell the successor why.
        """
        if self.state is State.RETIRING:
            # It serves, so the connection must only tell whether it lives.
            self._ignores = True
            self.log.error(
                "process {pid}, which has taken over, breaks the rules of the"
                " handover: {reason}",
                event="handover-failed",
                pid=self._pid,
                reason=reason,
            )
            return
        with suppress(OSError):
            _kernel.send(self._socket, encodeError(reason), [])
        self._over(reason)

    def _over(self, reason: str) -> None:
        """
        The handover is over, and the listener goes on.
        """
        state, self.state = self.state, State.ENDED
        if state is State.ENDED:
            return
        self._stopWaiting()
        transfer = self._takeTransfer()
        if transfer is not None:
            transfer.close()
        self.log.error(
            "process {pid} does not take over: {reason}; this listener goes on",
            event="handover-failed",
            pid=self._pid,
            reason=reason,
        )
        self._transport.abortConnection()
        if state is State.COMMITTED:
            self._host.resume()
        elif state is State.RETIRING:
            self._host.takeBack()
        self._ended()

    def _takeTransfer(self) -> socket.socket | None:
        """
        @return: this end of the transfer, which is the caller's; L{None} if it was
            taken.
        """
        transfer, self._transfer = self._transfer, None
        if transfer is None:
            return None
        ours, theirs = transfer
        theirs.close()
        return ours

    def retired(self) -> None:
        """
        All is handed over, and the process ends.
        """
        self._stopWaiting()
        self.state = State.ENDED
        self._transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """
        See L{Protocol.connectionLost}.
        """
        self._over("it has ended")

    # IPullProducer: the transport calls this when all bytes are in the kernel

    def resumeProducing(self) -> None:
        """
        The successor's end of the transfer is in the kernel.
        """
        if self._transfer is not None and self.state is not State.ASKED:
            self._transfer[1].close()

    def stopProducing(self) -> None:
        """
        See L{IPullProducer}.
        """
