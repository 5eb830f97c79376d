"""
Using the sockets that a listener lends: the ports of a worker.

Other workers use these sockets as well.  So nothing here shuts a socket down, which
would end it for all.  Nor does anything remove the path of a Unix socket, or change the
path's mode, as Twisted's own port does with a Unix socket that it adopts.
"""

from __future__ import annotations

import errno
import os
import resource
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import DatagramProtocol, Factory
from twisted.logger import Logger
from twisted.python import reflect

from portlisten import _kernel
from portlisten._model import Kind, socketName
from portlisten._ports.accepting import BATCH, Accepted, Acceptor
from portlisten._reactor.log_limit import logLimit
from portlisten._reactor.monotonic import makePersistent
from portlisten._worker.adoption import Adoptions, Served, logPrefix

#: How many descriptors ports leave to the rest of the process: a Twisted port that is
#: out of them accepts connections in order to close them.  It is more than they take
#: in a turn.
MARGIN = 128

#: How many turns what waits in a queue may take, when there is nobody else for it.
TURNS = 1000


class LentPorts(ABC):
    """
    The ports that serve what was lent.

    @param reactor: an L{IReactorTime}, among others.
    @param adoptions: keeps a descriptor in reserve.
    @param retry: how long to wait before trying again when there is no room for
        a socket, in seconds.

    @cvar takes: what a worker with such ports takes of a listener's.
    """

    takes: frozenset[Kind]
    log = Logger()

    def __init__(self, reactor: Any, adoptions: Adoptions, retry: float) -> None:
        self._reactor = reactor
        self._adoptions = adoptions
        self._retry = retry
        self._ports: dict[int, Any] = {}
        self._waiting: dict[int, tuple[int, IDelayedCall]] = {}

    def open(self, cookie: int, descriptor: int) -> None:
        """
        Use a socket.  Takes the descriptor.

        @param cookie: the socket's.
        """
        self.close(cookie)
        try:
            try:
                self._ports[cookie] = self._open(descriptor)
            except OSError:
                # It takes a second descriptor for a moment.
                self._adoptions.release()
                self._ports[cookie] = self._open(descriptor)
        except OSError as error:
            self._later(cookie, descriptor, error)
            return
        except Exception:
            self.log.failure("a shared socket cannot be served")
        os.close(descriptor)
        self._adoptions.reserve()
        self._opened()

    def _opened(self) -> None:  # noqa: B027
        """
        There may be one more port.
        """

    def close(self, cookie: int) -> None:
        """
        Use a socket no more, if it is used at all.
        """
        port = self._ports.pop(cookie, None)
        if port is not None:
            port.stopListening()
        descriptor, timer = self._waiting.pop(cookie, (None, None))
        if descriptor is not None and timer is not None:
            timer.cancel()
            os.close(descriptor)

    def closeAll(self) -> None:
        """
        Use none any more: there are others who do.
        """
        for cookie in [*self._ports, *self._waiting]:
            self.close(cookie)

    def finish(self) -> None:
        """
        Take what waits, and use none any more: there may be nobody else.
        """
        for port in self._ports.values():
            self._empty(port)
        self.closeAll()

    def _empty(self, port: Any) -> None:  # noqa: B027
        """
        Take what waits at a port.
        """

    def _later(self, cookie: int, descriptor: int, error: OSError) -> None:
        logLimit(self._reactor)(
            self.log.error,
            "a shared socket cannot be used yet: {error}; trying again in {retry:g} s",
            error=error.strerror,
            retry=self._retry,
        )

        def again() -> None:
            del self._waiting[cookie]
            self.open(cookie, descriptor)

        timer = self._reactor.callLater(self._retry, again)
        self._waiting[cookie] = (descriptor, timer)

    @abstractmethod
    def _open(self, descriptor: int) -> Any:
        """
        Make a port of a socket.  Leaves the descriptor open.

        @return: what has C{stopListening}.
        @raise OSError: if that is impossible for now.
        """


class StreamPorts(LentPorts):
    """
    Those of a worker that serves connections, which may be handed off to it as
    well.

    Before the process is out of descriptors, all pause.

    @ivar accepted: how many connections they have accepted.
    @ivar atOnce: how many each may accept in a turn: all together, no more than
        there is room for.
    """

    takes = frozenset([Kind.CONNECTIONS, Kind.LISTENER, Kind.GROUP])

    def __init__(self, reactor: Any, adoptions: Adoptions, retry: float) -> None:
        super().__init__(reactor, adoptions, retry)
        self._quiet = logLimit(reactor)
        self._pause: IDelayedCall | None = None
        self._enough = 0
        self.accepted = 0
        self.atOnce = 1

    def _open(self, descriptor: int) -> Any:
        family = _kernel.family(descriptor)
        if family == socket.AF_UNIX:
            return _UNIXPort(self._reactor, self._adoptions, self._retry, descriptor)
        factory = _Accepting(self, self._adoptions)
        port = self._reactor.adoptStreamPort(descriptor, family, factory)
        makePersistent(port, self._reactor)
        port.socket = _PatientSocket(port.socket, self._exhausted)
        port.logPrefix = partial(reflect.qual, type(self._adoptions.factory))
        _beforeReading(port, partial(self._prepare, port))
        return port

    def _prepare(self, port: Any) -> None:
        # A port takes the more at a time the more there is to take.
        port.numberAccepts = min(port.numberAccepts, self.atOnce)
        _dontBlock(port)

    def _opened(self) -> None:
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        margin = min(MARGIN, limit // 4)
        self._enough = limit - margin
        self.atOnce = max(1, margin // 2 // max(1, len(self._ports)))
        if self._pause is not None:
            for port in self._ports.values():
                port.stopReading()

    def _empty(self, port: Any) -> None:
        if self._pause is not None:
            return
        if isinstance(port, _UNIXPort):
            port.finish()
            return
        for _ in range(TURNS):
            before = self.accepted
            port.doRead()
            if self.accepted == before or self._pause is not None:
                break

    def closeAll(self) -> None:
        """
        See L{LentPorts.closeAll}.
        """
        super().closeAll()
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None

    def taken(self, descriptor: int) -> None:
        """
        A connection has this descriptor: the kernel gives out the lowest that is
        free, so it says how many there are.
        """
        if descriptor >= self._enough:
            self._pauseAll(f"{descriptor} descriptors are in use")

    def _exhausted(self, error: OSError) -> None:
        self._pauseAll(str(error.strerror))

    def _pauseAll(self, why: str) -> None:
        if self._pause is not None:
            return
        self._quiet(
            self.log.error,
            "accepting pauses: {why}; clients wait in the backlog, or are served by"
            " others",
            why=why,
        )
        for port in self._ports.values():
            port.stopReading()
        self._pause = self._reactor.callLater(self._retry, self._goOn)

    def _goOn(self) -> None:
        if self._crowded():
            self._pause = self._reactor.callLater(self._retry, self._goOn)
            return
        self._pause = None
        for port in self._ports.values():
            port.startReading()

    def _crowded(self) -> bool:
        try:
            descriptor = os.eventfd(0, os.EFD_CLOEXEC)
        except OSError:
            return True
        os.close(descriptor)
        return descriptor >= self._enough


class DatagramPorts(LentPorts):
    """
    Those of a worker that serves datagrams.

    @param makeProtocol: makes what each of the sockets is given.
    """

    takes = frozenset([Kind.DATAGRAMS])

    def __init__(
        self,
        reactor: Any,
        adoptions: Adoptions,
        retry: float,
        makeProtocol: Callable[[], DatagramProtocol],
        maxPacketSize: int,
    ) -> None:
        super().__init__(reactor, adoptions, retry)
        self._makeProtocol = makeProtocol
        self._maxPacketSize = maxPacketSize

    def _open(self, descriptor: int) -> Any:
        protocol = self._makeProtocol()
        try:
            port = self._reactor.adoptDatagramPort(
                descriptor, _kernel.family(descriptor), protocol, self._maxPacketSize
            )
        except Exception:
            # If it was the protocol that failed there is a port, which does not
            # read yet, and cannot be stopped, since it has not quite started.
            unstarted: Any = protocol.transport
            if unstarted is not None:
                unstarted.socket.close()
            raise
        makePersistent(port, self._reactor)
        _beforeReading(port, partial(_dontBlock, port))
        return port


class _PatientSocket:
    """
    A listening socket of which Twisted's port hears that nobody waits if the process
    is out of something: it would accept clients in order to close them.

    @param exhausted: told what the process is out of.
    """

    def __init__(
        self, sock: socket.socket, exhausted: Callable[[OSError], None]
    ) -> None:
        self._socket = sock
        self._exhausted = exhausted

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)

    def accept(self) -> tuple[socket.socket, Any]:
        """
        See C{socket.socket.accept}.
        """
        try:
            return self._socket.accept()
        except OSError as error:
            if error.errno not in _kernel.PASSING or error.errno == errno.EAGAIN:
                raise
            self._exhausted(error)
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from None


class _Accepting(Factory):
    """
    Builds the protocols of what one port accepts.
    """

    noisy = False

    def __init__(self, ports: StreamPorts, adoptions: Adoptions) -> None:
        self._ports = ports
        self._adoptions = adoptions

    def logPrefix(self) -> str:
        """
        That of the factory that is served.
        """
        return logPrefix(self._adoptions.factory)

    def buildProtocol(self, addr: Any) -> Any:
        """
        See L{IProtocolFactory}.
        """
        self._ports.accepted += 1
        return _Taken(self._adoptions, self._ports).buildProtocol(addr)


class _Taken(Served):
    """
    A connection that this process accepted itself.
    """

    __slots__ = ("_ports",)

    def __init__(self, adoptions: Adoptions, ports: StreamPorts) -> None:
        super().__init__(adoptions, _nothing)
        self._ports = ports

    def makeConnection(self, transport: Any) -> None:
        """
        See L{Served.makeConnection}.
        """
        descriptor = transport.fileno()
        super().makeConnection(transport)
        self._ports.taken(descriptor)


def _nothing() -> None:
    """
    Nobody is to hear of the end.
    """


class _UNIXPort:
    """
    Accepts on a shared Unix socket, with no interest in its path.

    @param descriptor: leaves it open.
    @raise OSError: if there is no room for another.
    """

    def __init__(
        self, reactor: Any, adoptions: Adoptions, retry: float, descriptor: int
    ) -> None:
        self._adoptions = adoptions
        sock = socket.socket(fileno=os.dup(descriptor))
        sock.setblocking(False)
        self._acceptor = Acceptor(
            reactor,
            sock,
            f"unix:{socketName(sock.getsockname())}",
            lambda: BATCH,
            self._accepted,
            retry,
        )
        _beforeReading(self._acceptor, partial(_dontBlock, self._acceptor))
        self.startReading()

    def _accepted(self, batch: list[Accepted]) -> None:
        for sock, _ in batch:
            self._adoptions.adopt(sock.detach())

    def finish(self) -> None:
        """
        Take all that waits, and accept nothing more.
        """
        _dontBlock(self._acceptor)
        self._acceptor.stop()

    def startReading(self) -> None:
        """
        Accept.
        """
        self._acceptor.resume()

    def stopReading(self) -> None:
        """
        Leave clients in the queue.
        """
        self._acceptor.suspend()

    def stopListening(self) -> None:
        """
        Accept nothing more.
        """
        self._acceptor.close()


def _beforeReading(port: Any, prepare: Callable[[], None]) -> None:
    """
    Have something done each time before a port reads.
    """
    read = port.doRead

    def doRead() -> Any:
        prepare()
        return read()

    port.doRead = doRead


def _dontBlock(port: Any) -> None:
    """
    See that a socket does not block: the flag is shared by all who hold it, and one
    of them may have changed it.
    """
    os.set_blocking(port.fileno(), False)
