"""
The ports of a worker that accepts connections on the sockets that a listener shares.

Other workers use these sockets as well.  So a port never shuts a socket down, which
would end it for all workers.
"""

from __future__ import annotations

import os
import resource
import socket
from dataclasses import dataclass

from portlisten import _kernel
from portlisten._anyloop import log
from portlisten._anyloop.clock import Clock
from portlisten._anyloop.interfaces import Adopting
from portlisten._anyloop.poller import READ, Poller
from portlisten._model import Kind
from portlisten._policy.fairness import CLOSED
from portlisten._ports.turns import Board, Turns, turnsAt
from portlisten._reactor.log_limit import LogLimit
from portlisten._reactor.pause import Pause
from portlisten._wire.worker_events import ShareLoads

#: The most connections that a port accepts in one turn of the loop.
BATCH_SIZE = 64

#: How many descriptors the ports leave free for the rest of the process.
RESERVED_DESCRIPTORS = 128

#: The most connections that are accepted from a backlog after the listener has left.
MAXIMUM_LAST = 65536


@dataclass
class Port:
    """
    A shared socket, and whether it can be used.

    @ivar turns: the worker's turns, if it leaves clients to others.
    """

    socket: socket.socket
    family: int
    usable: bool = True
    turns: Turns | None = None

    @property
    def watched(self) -> bool:
        """
        Whether to look for clients.
        """
        return self.usable and not (self.turns is not None and self.turns.waiting)


class SharedPorts:
    """
    The ports that accept on shared sockets.

    @param adopter: serves the connections.
    @param limit: the most connections that the worker wants, or L{None}.
    @param retry: how long to wait before trying again if the process is out of
        descriptors or memory, in seconds.
    @param logLimited: limits the lines of the log.

    @cvar balances: whether the ports have use for L{Board}.
    """

    balances = True
    TAKES = frozenset([Kind.CONNECTIONS, Kind.LISTENER, Kind.GROUP])

    def __init__(
        self,
        clock: Clock,
        poller: Poller,
        adopter: Adopting,
        limit: int | None,
        retry: float,
        logLimited: LogLimit,
    ) -> None:
        self._clock = clock
        self._poller = poller
        self._adopter = adopter
        self._limit = limit
        self._retry = retry
        self._logLimited = logLimited
        self._pause = Pause(clock, self._resume)
        self._ports: dict[int, Port] = {}
        self._board: Board | None = None
        self._watching = True
        most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._descriptorLimit = most - min(RESERVED_DESCRIPTORS, most // 4)

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
            self._logLimited(
                log.warning,
                "this worker accepts whatever the others have: {error}",
                event="loads-not-shared",
                error=error,
            )
        self._tell()

    def _closeBoard(self) -> None:
        if self._board is not None:
            self._board.close()
            self._board = None

    def _tell(self) -> None:
        """
        Tell the other workers how many connections this one has.
        """
        if self._board is not None:
            accepts = self._watching and self._ports
            self._board.write(len(self._adopter.connections) if accepts else CLOSED)

    def open(self, number: int, cookie: int, descriptor: int) -> None:
        """
        Use a socket.

        @param number: the number of the socket's port.
        @param cookie: C{SO_COOKIE} of the socket.
        @param descriptor: owned by this object from now on.
        """
        self.close(cookie)
        family = _kernel.family(descriptor)
        sock = socket.socket(family, socket.SOCK_STREAM, 0, descriptor)
        self._ports[cookie] = port = Port(sock, family)
        port.turns = turnsAt(
            self._board,
            number,
            self._clock,
            sock,
            lambda watched: self._watch(port),
            lambda: self._ready(port),
        )
        self._watch(port)
        self._tell()

    def close(self, cookie: int) -> None:
        """
        Stop using a socket, if it is used.
        """
        port = self._ports.pop(cookie, None)
        if port is not None:
            if port.turns is not None:
                port.turns.stop()
            self._poller.forget(port.socket.fileno())
            port.socket.close()

    def closeAll(self) -> None:
        """
        Stop using all sockets.  Other workers go on using them.
        """
        for cookie in list(self._ports):
            self.close(cookie)
        self._closeBoard()
        self._pause.cancel()

    def finish(self) -> None:
        """
        Accept the connections that wait in the backlogs, and stop using all sockets.
        No other worker may be left to accept them.
        """
        for port in self._ports.values():
            left = MAXIMUM_LAST
            while left > 0 and port.usable and not self._pause.active:
                taken = self._accept(port, min(left, BATCH_SIZE))
                left -= taken
                if not taken:
                    break
        self.closeAll()

    def adjust(self) -> None:
        """
        Pause at the limit, and go on below it.
        """
        should = self._shouldWatch()
        if should != self._watching:
            self._watching = should
            for port in self._ports.values():
                self._watch(port)
        self._tell()

    def _shouldWatch(self) -> bool:
        return not self._pause.active and self._room() > 0

    def _room(self) -> int:
        if self._limit is None:
            return BATCH_SIZE
        return self._limit - len(self._adopter.connections)

    def _watch(self, port: Port) -> bool:
        watched = self._watching and port.watched
        descriptor = port.socket.fileno()
        try:
            self._poller.watch(
                descriptor, READ if watched else 0, lambda events: self._ready(port)
            )
        except OSError as error:
            self._pauseAll(str(error.strerror))
        return watched

    def _ready(self, port: Port) -> None:
        most = min(BATCH_SIZE, self._room())
        if port.turns is not None and not port.turns.alone:
            most = min(most, port.turns.next())
        self._accept(port, most)

    def _accept(self, port: Port, most: int) -> int:
        """
        Accept connections, and have them served.

        @param most: how many.
        @return: how many were accepted.
        """
        taken = 0
        # All holders share the flag, and one of them may have changed it.
        os.set_blocking(port.socket.fileno(), False)
        while taken < most and not self._pause.active:
            try:
                sock, _ = _kernel.accept(port.socket, port.family)
            except BlockingIOError:
                break
            except OSError as error:
                self._acceptFailed(port, error)
                if not port.usable:
                    break
                taken += 1  # the error is the connection's
                continue
            taken += 1
            descriptor = sock.detach()
            self._adopter.adopt(descriptor)
            if descriptor >= self._descriptorLimit:
                self._pauseAll(f"{descriptor} descriptors are in use")
        return taken

    def _acceptFailed(self, port: Port, error: OSError) -> None:
        if error.errno in _kernel.EXHAUSTION_ERRORS:
            self._pauseAll(str(error.strerror))
        elif not _kernel.listens(port.socket):
            # Another holder has shut the socket down.
            port.usable = False
            self._watch(port)

    def _pauseAll(self, why: str) -> None:
        if self._pause.active:
            return
        self._logLimited(
            log.error,
            "accepting pauses: {why}; clients wait in the backlog, or are served by"
            " others",
            event="accepting-paused",
            why=why,
        )
        self._pause.begin(self._retry)
        self.adjust()

    def _resume(self) -> None:
        if _kernel.descriptorsShort(self._descriptorLimit):
            self._pause.begin(self._retry)
        else:
            self.adjust()
