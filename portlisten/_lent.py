"""
Using the sockets that a listener lends: the ports of a worker.

They are others' as well.  So nothing here shuts one down, which would end it for
everybody; and of one with a path, nothing removes that or changes its mode, as
Twisted's own port does with a Unix socket that it adopts.
"""

from __future__ import annotations

import os
import resource
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IDelayedCall, ILoggingContext
from twisted.internet.protocol import DatagramProtocol, Factory
from twisted.logger import Logger

from portlisten import _linux
from portlisten._accept import BATCH, Accepted, Acceptor
from portlisten._adoption import Adoptions, Served
from portlisten._frames import Kind

#: How many descriptors a port leaves to the rest of the process: a Twisted port
#: that is out of them accepts connections in order to close them.  It is more
#: than such a port takes at a time.
MARGIN = 128


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
            self._ports[cookie] = self._open(descriptor)
        except OSError as error:
            # It takes a second descriptor for a moment.
            self._adoptions.release()
            try:
                self._ports[cookie] = self._open(descriptor)
            except OSError:
                self._later(cookie, descriptor, error)
                return
        os.close(descriptor)
        self._adoptions.reserve()

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
        Use none any more.
        """
        for cookie in [*self._ports, *self._waiting]:
            self.close(cookie)

    def _later(self, cookie: int, descriptor: int, error: OSError) -> None:
        self.log.error(
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
    """

    takes = frozenset([Kind.CONNECTIONS, Kind.LISTENER, Kind.GROUP])

    def _open(self, descriptor: int) -> Any:
        family = _linux.family(descriptor)
        if family == socket.AF_UNIX:
            return _UNIXPort(self._reactor, self._adoptions, self._retry, descriptor)
        factory = _Accepting(self._reactor, self._adoptions, self._retry)
        port = self._reactor.adoptStreamPort(descriptor, family, factory)
        factory.watch(port)
        return port


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
        return self._reactor.adoptDatagramPort(
            descriptor,
            _linux.family(descriptor),
            self._makeProtocol(),
            self._maxPacketSize,
        )


class _Accepting(Factory):
    """
    Builds the protocols of what one port accepts, and has the port pause before
    the process is out of descriptors.
    """

    noisy = False
    log = Logger()

    def __init__(self, reactor: Any, adoptions: Adoptions, retry: float) -> None:
        self._reactor = reactor
        self._adoptions = adoptions
        self._retry = retry
        self._timer: IDelayedCall | None = None
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        margin = min(MARGIN, limit // 4)
        self._enough = limit - margin
        self._atOnce = max(1, margin // 2)

    def watch(self, port: Any) -> None:
        """
        Get to know the port, before it accepts anything.
        """
        self._port = port
        self._bound()

    def _bound(self) -> None:
        """
        A port takes the more at a time the more there is to take.
        """
        self._port.numberAccepts = min(self._port.numberAccepts, self._atOnce)

    def logPrefix(self) -> str:
        """
        That of the factory that is served.
        """
        factory = self._adoptions.factory
        context = ILoggingContext(factory, None)
        return type(factory).__name__ if context is None else context.logPrefix()

    def buildProtocol(self, addr: Any) -> Any:
        """
        See L{IProtocolFactory}.
        """
        self._bound()
        protocol = self._adoptions.buildProtocol(addr)
        return None if protocol is None else _Taken(self._adoptions, protocol, self)

    def doStop(self) -> None:
        """
        The port is closed.
        """
        super().doStop()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def taken(self, descriptor: int) -> None:
        """
        A connection has this descriptor: the kernel gives out the lowest that is
        free, so it says how many there are.
        """
        if descriptor < self._enough or self._timer is not None:
            return
        self.log.error(
            "accepting pauses: {count} descriptors are in use; clients wait in the"
            " backlog, or are served by others",
            count=descriptor,
        )
        self._port.stopReading()
        self._timer = self._reactor.callLater(self._retry, self._goOn)

    def _goOn(self) -> None:
        if self._crowded():
            self._timer = self._reactor.callLater(self._retry, self._goOn)
        else:
            self._timer = None
            self._port.startReading()

    def _crowded(self) -> bool:
        try:
            descriptor = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return True
        os.close(descriptor)
        return descriptor >= self._enough


class _Taken(Served):
    """
    A connection that this process accepted itself.
    """

    def __init__(
        self, adoptions: Adoptions, protocol: Any, accepting: _Accepting
    ) -> None:
        super().__init__(adoptions, protocol, lambda: None)
        self._accepting = accepting

    def makeConnection(self, transport: Any) -> None:
        """
        See L{Served.makeConnection}.
        """
        descriptor = transport.fileno()
        super().makeConnection(transport)
        self._accepting.taken(descriptor)


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
        self._acceptor = Acceptor(
            reactor,
            sock,
            f"unix:{os.fsdecode(sock.getsockname())}",
            lambda: BATCH,
            self._accepted,
            retry,
        )
        self._acceptor.resume()

    def _accepted(self, batch: list[Accepted]) -> None:
        for sock, _ in batch:
            sock.setblocking(False)
            self._adoptions.adopt(sock.detach())

    def stopListening(self) -> None:
        """
        Accept nothing more.
        """
        self._acceptor.close()
