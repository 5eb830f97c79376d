"""
Accepting on a raw socket.

A Twisted port makes a transport of each connection.  The listener could not hand such
a connection off: C{loseConnection} ends it in every process, and C{abortConnection}
makes the worker's own close a reset.  A Twisted port that is out of descriptors accepts
connections in order to close them.  An L{Acceptor} accepts only the connections that
fit.  The rest waits in the kernel's backlog.
"""

from __future__ import annotations

import errno
import os
import select
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeAlias

from twisted.internet.interfaces import IReadDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from portlisten import _kernel
from portlisten._reactor.log_limit import logLimit
from portlisten._reactor.pause import Pause

#: The most connections that are accepted in one turn of the loop.
BATCH_SIZE = 256

#: The shortest backlog, in connections, in which clients wait while all workers are
#: busy.
SUFFICIENT_BACKLOG = 1024

Accepted: TypeAlias = "tuple[socket.SocketType, Any]"

#: Takes a listening socket, its address family, and how many attempts to make.  Returns
#: what was accepted, and the number of the port's error, or 0.
Accept: TypeAlias = "Callable[[socket.socket, int, int], tuple[list[Any], int]]"


@implementer(IReadDescriptor)
class Acceptor:
    """
    Accepts from one listening socket while connections fit.

    @param reactor: an L{IReactorFDSet} and L{IReactorTime}.
    @param sock: the bound, listening, non-blocking socket.  The acceptor owns it, and
        closes it in L{stop} or L{close}.
    @param label: the port, for the log.
    @param capacity: returns how many connections may be accepted now.
    @param accepted: takes each batch, and owns the connections in it.
    @param retry: how long to pause if the process or the machine is out of descriptors
        or memory, in seconds.
    @param busy: returns whether to wait for the next L{resume}, although connections
        fit.
    @param accept: accepts from the socket.  By default, C{accepted} gets a list of
        L{Accepted}.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        sock: socket.socket,
        label: str,
        capacity: Callable[[], int],
        accepted: Callable[[list[Any]], None],
        retry: float,
        busy: Callable[[], bool] = lambda: False,
        accept: Accept = _kernel.acceptSockets,
    ) -> None:
        self._reactor = reactor
        self._socket = sock
        self._family = int(sock.family)
        self._label = label
        self._capacity = capacity
        self._accepted = accepted
        self._accept = accept
        self._retry = retry
        self._busy = busy
        self._pause = Pause(reactor, self.resume)
        self._waitsForResume = False
        self._lone = False
        self._taking = False
        self._reading = False
        self._exhausted = False
        self._usable = True
        self._parked = False
        self._leftToTake: int | None = None

    def fileno(self) -> int:
        """
        Return the listening socket's descriptor.
        """
        return self._socket.fileno()

    def logPrefix(self) -> str:
        """
        See L{ILoggingContext}.
        """
        return "portlisten"

    def resume(self) -> None:
        """
        Accept, if connections fit.  Does nothing if the acceptor accepts already, or
        pauses because descriptors or memory ran out.
        """
        if self._reading or self._taking or not self._canAccept:
            return
        if self._waitsForResume:
            # While all workers are busy, accept when a claim arrives.  The reactor
            # would wake up for every connection.
            self._waitsForResume = self._busy()
            if not self._waitsForResume:
                self._take(0)
        if self._canAccept and not self._waitsForResume and self._capacity() > 0:
            self._reactor.addReader(self)
            self._reading = True

    @property
    def _canAccept(self) -> bool:
        """
        Whether the acceptor can accept now.
        """
        return self._usable and not self._pause.active and not self._parked

    def park(self) -> None:
        """
        Leave connections in the backlog until L{stop} or L{unpark}.
        """
        self._parked = True
        self.suspend()

    def unpark(self) -> None:
        """
        Undo L{park}.
        """
        self._parked = False
        self.resume()

    def suspend(self) -> None:
        """
        Leave connections in the backlog.
        """
        if self._reading:
            self._reading = False
            self._reactor.removeReader(self)

    @property
    def waits(self) -> bool:
        """
        Whether a connection waits to be accepted.
        """
        if not self._usable:
            return False
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(0))

    def stop(self, leave: bool = True, shutDown: bool = False) -> None:
        """
        Take the connections of the backlog that fit, and close the socket.  May be
        called again.

        @param leave: whether to leave the other connections to other holders.  If not,
            the socket stays open until all connections are taken that waited at the
            first call.  Call again when more connections fit.
        @param shutDown: whether to shut the socket down before it is closed.  Clients
            are refused then, even if other processes hold the socket.
        """
        if self._taking:
            return
        if self._leftToTake is None:
            self._leftToTake = 0 if leave else self._waiting()
        while self._usable and self._capacity() > 0:
            taken, exhausted = self._take()
            self._leftToTake -= taken
            if taken:
                continue
            if not self._waiting():
                self._leftToTake = 0
                break
            if exhausted:
                break
        if self._usable and not leave and _kernel.queued(self._socket) is None:
            # The kernel does not count the backlog of a Unix socket.
            self._leftToTake = int(self.waits)
        if self._leftToTake <= 0:
            if shutDown and self._usable:
                with suppress(OSError):  # it was shut down already
                    self._socket.shutdown(socket.SHUT_RDWR)
            self.close()

    def _waiting(self) -> int:
        """
        Return how many connections are known to wait.
        """
        queued = _kernel.queued(self._socket)
        return 0 if queued is None else queued[0]

    def close(self) -> None:
        """
        Close the socket, and leave the backlog to its other holders, if any.
        """
        self.suspend()
        self._usable = False
        self._pause.cancel()
        self._socket.close()

    def doRead(self) -> None:
        """
        Accept a batch.
        """
        if self._lone and self._busy():
            self._waitsForResume = True
            self.suspend()
        else:
            self._take()

    def _take(self, least: int = 1) -> tuple[int, bool]:
        """
        Accept a batch, and pass it on.

        @param least: how many attempts to make even if no connection is known to wait.
            Some errors of the socket show only in accept(2).
        @return: how many connections were taken, and whether descriptors or memory ran
            out.
        """
        capacity = self._capacity()
        most = min(capacity, BATCH_SIZE)
        count, backlog = _kernel.queued(self._socket) or (most, 0)
        # An accept that finds nothing costs as much as any other.
        try:
            batch, number = self._accept(
                self._socket, self._family, min(most, max(least, count))
            )
        except MemoryError:
            batch, number = [], errno.ENOMEM
        exhausted = number in _kernel.EXHAUSTION_ERRORS
        if exhausted:
            self._pauseFor(number)
        elif number:
            self._failed(os.strerror(number))
        if batch:
            self._exhausted = False
            self._taking = True
            try:
                self._accepted(batch)
            except Exception:
                # The bug must not end the port.
                self.log.failure("a bug in portlisten loses connections", event="bug")
            finally:
                self._taking = False
        sufficient = backlog >= SUFFICIENT_BACKLOG
        # Often a claim comes before the next client, and then not to rest costs less.
        self._lone = sufficient and count == 1
        self._waitsForResume = sufficient and not self._lone and self._busy()
        if self._waitsForResume or (capacity <= len(batch) and self._capacity() <= 0):
            self.suspend()
        return len(batch), exhausted

    def connectionLost(self, reason: Failure) -> None:
        """
        The reactor cannot poll the socket any more.
        """
        self._failed(reason.getErrorMessage())

    def _pauseFor(self, number: int) -> None:
        """
        Leave clients in the backlog for a while.  Log the first pause after each
        accepted connection.
        """
        if not self._exhausted:
            logLimit(self._reactor)(
                self.log.error,
                "accepting on {port} pauses: {error}; clients wait in the backlog,"
                " and it tries again every {retry:g} s",
                event="accepting-paused",
                port=self._label,
                retry=self._retry,
                error=os.strerror(number),
            )
        self._exhausted = True
        self.suspend()
        self._pause.begin(self._retry)

    def _failed(self, why: str) -> None:
        self.log.critical(
            "nothing can be accepted on {port} any more: {why}; restart the listener",
            event="port-lost",
            port=self._label,
            why=why,
        )
        self.close()
