"""
The ports of a worker that accepts connections on the sockets that a listener shares.
"""

from __future__ import annotations

import errno
import os
import resource
import socket
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.internet.protocol import Factory
from twisted.python import reflect

from portlisten import _kernel
from portlisten._model import Kind, socketName
from portlisten._policy.fairness import CLOSED
from portlisten._ports.accepting import BATCH_SIZE, Accepted, Acceptor
from portlisten._ports.turns import Turns, turnsAt
from portlisten._reactor.log_limit import logLimit
from portlisten._reactor.monotonic import makePersistent, posixReactor
from portlisten._reactor.pause import Pause
from portlisten._wire.worker_events import ShareLoads
from portlisten._worker.adoption import (
    AdoptedConnection,
    Adopter,
    isPlain,
    logPrefix,
)
from portlisten._worker.shared_ports import SharedPorts, makeNonBlocking

#: How many descriptors the ports leave free for the rest of the process.  If a Twisted
#: port is out of descriptors, it accepts connections in order to close them.  This
#: number is more than all ports take in a turn.
RESERVED_DESCRIPTORS = 128

#: The most batches that are accepted from a backlog after the listener has left.
MAXIMUM_LAST_BATCHES = 1000


class StreamPorts(SharedPorts):
    """
    The ports of a worker that serves connections.  A listener may hand connections off
    to the worker as well.

    All ports pause before the process runs out of descriptors, and while the worker has
    as many connections as it wants.

    @ivar accepted: how many connections the ports have accepted.
    @ivar acceptsPerTurn: how many connections each port may accept in a turn, so that
        all ports together leave enough descriptors.
    """

    takes = frozenset([Kind.CONNECTIONS, Kind.LISTENER, Kind.GROUP])
    balances = True

    def __init__(self, reactor: Any, adopter: Adopter, retry: float) -> None:
        super().__init__(reactor, adopter, retry)
        self._logLimited = logLimit(reactor)
        self._pause = Pause(reactor, self._resume)
        self._reading = True
        self._finishing = False
        self._turns: dict[Any, Turns] = {}
        self._direct = posixReactor(reactor)
        self._descriptorLimit = 0
        self.accepted = 0
        self.acceptsPerTurn = 1
        adopter.watch(self._loadChanged)

    def shareLoads(self, loads: ShareLoads) -> None:
        """
        See L{SharedPorts.shareLoads}.
        """
        super().shareLoads(loads)
        self._tell()

    def _loadChanged(self) -> None:
        if self._adopter.limit is not None:
            self._adjustReading()
        if self._board is not None:
            self._tell()

    def _tell(self) -> None:
        """
        Tell the other workers how many connections this one has.
        """
        if self._board is not None:
            accepts = self._reading and self._ports
            self._board.write(self._adopter.count if accepts else CLOSED)

    def _open(self, number: int, descriptor: int) -> Any:
        family = _kernel.family(descriptor)
        if family == socket.AF_UNIX:
            port = _UNIXPort(
                self._reactor, self._adopter, self._retry, descriptor, self._room
            )
            port.turns = self._takeTurns(number, port, port.socket, port.doRead)
            return port
        factory = _PortFactory(self, self._adopter)
        port = self._reactor.adoptStreamPort(descriptor, family, factory)
        makePersistent(port, self._reactor)
        room = None if self._adopter.limit is None else self._room
        sock = port.socket
        port.socket = _AcceptGuard(sock, self._exhausted, room)
        port.logPrefix = partial(reflect.qual, type(self._adopter.factory))
        read = port.doRead
        if self._direct is not None:
            read = partial(self._accept, port, sock, read)
        port.doRead = partial(self._read, port, read)
        self._takeTurns(number, port, port.socket, port.doRead)
        return port

    def _takeTurns(
        self, number: int, port: Any, sock: Any, read: Callable[[], object]
    ) -> Turns | None:
        """
        See L{turnsAt}.
        """
        watch = partial(self._watch, port)
        turns = turnsAt(self._board, number, self._reactor, sock, watch, read)
        if turns is not None:
            self._turns[port] = turns
        return turns

    def _accept(
        self, port: Any, sock: socket.socket, otherwise: Callable[[], object]
    ) -> None:
        """
        Do what C{doRead} of Twisted's port does, in less time.

        @param sock: the port's socket, which stays the port's.
        @param otherwise: C{doRead} itself, for a port that has an error.
        """
        most = min(port.numberAccepts, self._room())
        try:
            batch, number = _kernel.acceptSockets(sock, int(sock.family), most)
        except MemoryError:
            batch, number = [], errno.ENOMEM
        for accepted, peer in batch:
            self._serve(accepted, peer)
        if number in _kernel.EXHAUSTION_ERRORS:
            self._exhausted(OSError(number, os.strerror(number)))
        elif number:
            otherwise()
        elif len(batch) == port.numberAccepts:
            port.numberAccepts += 20
        else:
            port.numberAccepts = max(1, len(batch))

    def _serve(self, sock: socket.SocketType, peer: Any) -> None:
        """
        Serve a connection.

        @param sock: owned by this object from now on.
        """
        self.accepted += 1
        if not isPlain(peer) or self._adopter.believes(peer):
            descriptor = sock.detach()
            self._adopter.adopt(descriptor)
            self.onAccepted(descriptor)
            return
        connection = LocallyAccepted(self._adopter, self)
        try:
            taken = connection.serve(sock, peer, self._direct)
        except Exception:
            self.log.failure("a connection cannot be served", event="adoption-failed")
            taken = False
        if not taken:
            sock.close()

    def _watch(self, port: Any, watched: bool) -> bool:
        if watched and self._reading:
            port.startReading()
            return True
        port.stopReading()
        return False

    def _watchAll(self) -> None:
        for port in self._ports.values():
            turns = self._turns.get(port)
            self._watch(port, turns is None or not turns.waiting)

    def _read(self, port: Any, read: Callable[[], object]) -> None:
        # Twisted's port raises this number while many clients wait.
        most = port.numberAccepts
        if not self._finishing:
            most = _turn(self._turns.get(port), most)
        if most:
            port.numberAccepts = min(most, self.acceptsPerTurn)
            makeNonBlocking(port)
            read()

    def _stop(self, port: Any) -> None:
        turns = self._turns.pop(port, None)
        if turns is not None:
            turns.stop()
        super()._stop(port)

    def _opened(self) -> None:
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        reserved = min(RESERVED_DESCRIPTORS, limit // 4)
        self._descriptorLimit = limit - reserved
        self.acceptsPerTurn = max(1, reserved // 2 // max(1, len(self._ports)))
        self._adjustReading()
        if not self._reading:
            for port in self._ports.values():
                port.stopReading()
        self._tell()

    def _room(self) -> int:
        """
        How many more connections may be accepted.
        """
        return sys.maxsize if self._finishing else self._adopter.room

    def finish(self) -> None:
        """
        See L{SharedPorts.finish}.  Clients that would be left alone count for more than
        the worker's limit.
        """
        self._finishing = True
        super().finish()
        self._finishing = False

    def _takeBacklog(self, port: Any) -> None:
        if self._pause.active:
            return
        if isinstance(port, _UNIXPort):
            port.finish()
            return
        for _ in range(MAXIMUM_LAST_BATCHES):
            before = self.accepted
            port.doRead()
            if self.accepted == before or self._pause.active:
                break

    def closeAll(self) -> None:
        """
        See L{SharedPorts.closeAll}.
        """
        super().closeAll()
        self._pause.cancel()

    def onAccepted(self, descriptor: int) -> None:
        """
        Pause if too many descriptors are in use.

        @param descriptor: the descriptor of an accepted connection.  The kernel uses
            the lowest free number, so the number tells how many descriptors are in use.
        """
        if descriptor >= self._descriptorLimit:
            self._pauseAll(f"{descriptor} descriptors are in use")

    def _exhausted(self, error: OSError) -> None:
        self._pauseAll(str(error.strerror))

    def _pauseAll(self, why: str) -> None:
        if self._pause.active:
            return
        self._logLimited(
            self.log.error,
            "accepting pauses: {why}; clients wait in the backlog, or are served by"
            " others",
            event="accepting-paused",
            why=why,
        )
        self._pause.begin(self._retry)
        self._adjustReading()

    def _resume(self) -> None:
        if _kernel.descriptorsShort(self._descriptorLimit):
            self._pause.begin(self._retry)
        else:
            self._adjustReading()

    def _adjustReading(self) -> None:
        """
        Let the ports accept, or stop them.
        """
        reading = not self._pause.active and self._room() > 0
        if reading is self._reading:
            return
        self._reading = reading
        self._watchAll()
        self._tell()


def _turn(turns: Turns | None, otherwise: int) -> int:
    """
    How many connections a port may accept now.  Whatever happens here, the port goes
    on.

    @param otherwise: how many if the worker leaves none to others.
    """
    try:
        if turns is not None and not turns.alone:
            return turns.next()
    except Exception:
        StreamPorts.log.failure("a bug in portlisten delays clients", event="bug")
    return otherwise


class _AcceptGuard:
    """
    A listening socket for Twisted's port.  L{accept} says that no client waits if the
    worker wants no more connections, or the process is out of descriptors or memory.
    In the second case, the port would otherwise accept connections in order to close
    them.

    @param exhausted: called with the error if the process is out of descriptors or
        memory.
    @param room: returns how many more connections the worker wants; L{None} if it wants
        all.
    """

    def __init__(
        self,
        sock: socket.socket,
        exhausted: Callable[[OSError], None],
        room: Callable[[], int] | None,
    ) -> None:
        self._socket = sock
        self._accept: Callable[[], tuple[int, Any]] = sock._accept  # type: ignore[attr-defined]
        self._kind = int(sock.family), int(sock.type), sock.proto
        self._room = room
        self._exhausted = exhausted

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)

    def accept(self) -> tuple[socket.socket, Any]:
        """
        See C{socket.socket.accept}, which takes twice as long: it spends the other half
        on enumerations.
        """
        if self._room is not None and self._room() <= 0:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        try:
            descriptor, address = self._accept()
            return socket.socket(*self._kind, descriptor), address
        except OSError as error:
            if (
                error.errno not in _kernel.TEMPORARY_ERRORS
                or error.errno == errno.EAGAIN
            ):
                raise
            self._exhausted(error)
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from None


class _PortFactory(Factory):
    """
    Builds the protocols of the connections that a port accepts.
    """

    noisy = False

    def __init__(self, ports: StreamPorts, adopter: Adopter) -> None:
        self._ports = ports
        self._adopter = adopter

    def logPrefix(self) -> str:
        """
        Get the prefix of the server's factory.
        """
        return logPrefix(self._adopter.factory)

    def buildProtocol(self, addr: Any) -> Any:
        """
        See L{IProtocolFactory}.
        """
        self._ports.accepted += 1
        return LocallyAccepted(self._adopter, self._ports).buildProtocol(addr)


class LocallyAccepted(AdoptedConnection):
    """
    A connection that this process accepted itself.
    """

    __slots__ = ("_ports",)

    def __init__(self, adopter: Adopter, ports: StreamPorts) -> None:
        super().__init__(adopter, _reportNothing)
        self._ports = ports

    def makeConnection(self, transport: Any) -> None:
        """
        See L{AdoptedConnection.makeConnection}.
        """
        descriptor = transport.fileno()
        super().makeConnection(transport)
        self._ports.onAccepted(descriptor)


def _reportNothing() -> None:
    """
    Do nothing: the listener does not know of the connection.
    """


class _UNIXPort:
    """
    Accepts on a shared Unix socket, and never changes its path.

    @param descriptor: the socket's descriptor.  Leaves it open.
    @param room: returns how many more connections the worker wants.
    @raise OSError: if the process has no free descriptor.

    @ivar socket: the same socket; it stays this object's.
    @ivar turns: the worker's turns, if it leaves clients to others.
    """

    def __init__(
        self,
        reactor: Any,
        adopter: Adopter,
        retry: float,
        descriptor: int,
        room: Callable[[], int],
    ) -> None:
        self._adopter = adopter
        self._most = BATCH_SIZE
        self.turns: Turns | None = None
        self.socket = sock = socket.socket(fileno=os.dup(descriptor))
        sock.setblocking(False)
        self._acceptor = Acceptor(
            reactor,
            sock,
            f"unix:{socketName(sock.getsockname())}",
            lambda: min(room(), self._most),
            self._accepted,
            retry,
        )
        self._read = self._acceptor.doRead
        self._acceptor.doRead = self.doRead  # type: ignore[method-assign]
        self.startReading()

    def doRead(self) -> None:
        """
        Accept, if it is this worker's turn.
        """
        self._most = _turn(self.turns, BATCH_SIZE)
        if not self._most:
            self._most = BATCH_SIZE
            return
        makeNonBlocking(self._acceptor)
        self._read()
        self._most = BATCH_SIZE

    def _accepted(self, batch: list[Accepted]) -> None:
        for sock, _ in batch:
            self._adopter.adopt(sock.detach())

    def finish(self) -> None:
        """
        Accept all connections that wait, and no more.
        """
        makeNonBlocking(self._acceptor)
        self._acceptor.stop()

    def startReading(self) -> None:
        """
        Accept.
        """
        self._acceptor.resume()

    def stopReading(self) -> None:
        """
        Leave connections in the backlog.
        """
        self._acceptor.suspend()

    def stopListening(self) -> None:
        """
        Accept no more connections.
        """
        self._acceptor.close()
