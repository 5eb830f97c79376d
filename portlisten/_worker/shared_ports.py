"""
The ports of a worker, on the sockets that a listener shares.

Other workers use these sockets as well.  So a port must not shut a socket down, which
would end it for all workers.  A port must not remove the path of a Unix socket or
change the path's mode, as Twisted's own port does if it adopts a Unix socket.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.internet.protocol import DatagramProtocol
from twisted.logger import Logger

from portlisten import _kernel
from portlisten._model import Kind
from portlisten._ports.turns import Board
from portlisten._reactor.log_limit import logLimit
from portlisten._reactor.monotonic import makePersistent
from portlisten._reactor.pause import Pause
from portlisten._wire.worker_events import ShareLoads
from portlisten._worker.adoption import Adopter


class SharedPorts(ABC):
    """
    The ports that serve shared sockets.

    @param reactor: an L{IReactorTime} and what subclasses need.
    @param adopter: has the spare descriptor.
    @param retry: how long to wait before trying again if the process is out of
        descriptors or memory, in seconds.

    @cvar takes: the kinds of sockets that a worker with such ports takes.
    @cvar balances: whether the ports have use for L{Board}.
    """

    takes: frozenset[Kind]
    balances = False
    log = Logger()

    def __init__(self, reactor: Any, adopter: Adopter, retry: float) -> None:
        self._reactor = reactor
        self._adopter = adopter
        self._retry = retry
        self._ports: dict[int, Any] = {}
        self._waiting: dict[int, tuple[int, Pause]] = {}
        self._board: Board | None = None

    def shareLoads(self, loads: ShareLoads) -> None:
        """
        Tell the other workers of each port that is opened from now on how many
        connections this worker has, and leave clients to those that have fewer.  If
        that cannot be done, accept without it.

        @param loads: its descriptors are owned by this object from now on.
        """
        self._closeBoard()
        try:
            self._board = Board(loads.slot, loads.ports, loads.loads, loads.members)
        except (OSError, _kernel.WrongMemory) as error:
            logLimit(self._reactor)(
                self.log.warn,
                "this worker accepts whatever the others have: {error}",
                event="loads-not-shared",
                error=error,
            )

    def _closeBoard(self) -> None:
        if self._board is not None:
            self._board.close()
            self._board = None

    def open(self, number: int, cookie: int, descriptor: int) -> None:
        """
        Use a socket.

        @param number: the number of the socket's port.
        @param cookie: C{SO_COOKIE} of the socket.
        @param descriptor: owned by this object from now on.
        """
        self.close(cookie)
        try:
            # Opening needs a second descriptor for a moment.
            port = self._adopter.spare.use(partial(self._open, number, descriptor))
            self._ports[cookie] = port
        except OSError as error:
            self._openLater(number, cookie, descriptor, error)
            return
        except Exception:
            self.log.failure(
                "a shared socket cannot be served", event="adoption-failed"
            )
        os.close(descriptor)
        self._adopter.spare.reserve()
        self._opened()

    def _opened(self) -> None:  # noqa: B027
        """
        Adjust to the number of ports, after a port may have been added.
        """

    def close(self, cookie: int) -> None:
        """
        Stop using a socket, if it is used.
        """
        port = self._ports.pop(cookie, None)
        if port is not None:
            self._stop(port)
        if cookie in self._waiting:
            descriptor, pause = self._waiting.pop(cookie)
            pause.cancel()
            os.close(descriptor)

    def _stop(self, port: Any) -> None:
        port.stopListening()

    def closeAll(self) -> None:
        """
        Stop using all sockets.  Other workers go on using them.
        """
        for cookie in [*self._ports, *self._waiting]:
            self.close(cookie)
        self._closeBoard()

    def finish(self) -> None:
        """
        Accept the connections that wait in the backlogs, and stop using all sockets.
        No other worker may be left to accept them.
        """
        for port in self._ports.values():
            self._takeBacklog(port)
        self.closeAll()

    def _takeBacklog(self, port: Any) -> None:  # noqa: B027
        """
        Accept the connections that wait in the backlog of a port.
        """

    def _openLater(
        self, number: int, cookie: int, descriptor: int, error: OSError
    ) -> None:
        logLimit(self._reactor)(
            self.log.error,
            "a shared socket cannot be used yet: {error}; trying again in {retry:g} s",
            event="accepting-paused",
            error=error.strerror,
            retry=self._retry,
        )

        def again() -> None:
            del self._waiting[cookie]
            self.open(number, cookie, descriptor)

        pause = Pause(self._reactor, again)
        pause.begin(self._retry)
        self._waiting[cookie] = (descriptor, pause)

    @abstractmethod
    def _open(self, number: int, descriptor: int) -> Any:
        """
        Make a port that uses a socket.  Leaves the descriptor open.

        @param number: the port's number.
        @return: the port, which has C{stopListening}.
        @raise OSError: if that fails for now.
        """


class DatagramPorts(SharedPorts):
    """
    The ports of a worker that serves datagrams.

    @param makeProtocol: makes the protocol of each socket.
    @param maxPacketSize: the most bytes that are read of a datagram.
    """

    takes = frozenset([Kind.DATAGRAMS])

    def __init__(
        self,
        reactor: Any,
        adopter: Adopter,
        retry: float,
        makeProtocol: Callable[[], DatagramProtocol],
        maxPacketSize: int,
    ) -> None:
        super().__init__(reactor, adopter, retry)
        self._makeProtocol = makeProtocol
        self._maxPacketSize = maxPacketSize

    def _open(self, number: int, descriptor: int) -> Any:
        protocol = self._makeProtocol()
        try:
            port = self._reactor.adoptDatagramPort(
                descriptor, _kernel.family(descriptor), protocol, self._maxPacketSize
            )
        except Exception:
            # If the protocol failed, it has a port that does not read yet.  The port
            # has not quite started, and so cannot be stopped.
            unstarted: Any = protocol.transport
            if unstarted is not None:
                unstarted.socket.close()
            raise
        makePersistent(port, self._reactor)
        beforeReading(port, partial(makeNonBlocking, port))
        return port


def beforeReading(port: Any, prepare: Callable[[], None]) -> None:
    """
    Call a function each time before a port reads.
    """
    read = port.doRead

    def doRead() -> Any:
        prepare()
        return read()

    port.doRead = doRead


def makeNonBlocking(port: Any) -> None:
    """
    Make a socket non-blocking.  All holders share the flag, and one of them may have
    changed it.
    """
    os.set_blocking(port.fileno(), False)
