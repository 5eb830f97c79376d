"""
Accepting on a raw socket.

A Twisted port would make a transport of each connection, which cannot be let
go of again: C{loseConnection} ends the connection in every process, and
C{abortConnection} makes the worker's own close a reset.  If a Twisted port is out of
descriptors, it accepts connections in order to close them.  An L{Acceptor} accepts
only the connections that fit.  The rest waits in the kernel's backlog.
"""

from __future__ import annotations

import errno
import os
import select
import socket
from collections.abc import Callable
from typing import Any, TypeAlias

from twisted.internet.interfaces import IDelayedCall, IReadDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from portlisten import _kernel
from portlisten._reactor.log_limit import logLimit

#: The most connections taken in one turn of the loop.
BATCH = 256

#: How many connections must fit in the backlog of a port that is left alone for a
#: moment.
ENOUGH = 1024

# What accept(2) says when the port itself is of no use any more, as after
# somebody else who holds it called shutdown(2).
_UNUSABLE = frozenset([errno.EBADF, errno.EINVAL, errno.ENOTSOCK])

Accepted: TypeAlias = "tuple[socket.SocketType, Any]"


@implementer(IReadDescriptor)
class Acceptor:
    """
    Accepts from one listening socket while there is room.

    @param reactor: an L{IReactorFDSet} and L{IReactorTime}.
    @param sock: the bound, listening, non-blocking socket.  Keeps it, and
        closes it in L{stop}.
    @param label: what it listens on, for the log.
    @param room: says how many connections may be accepted now.
    @param accepted: takes each batch, and the sockets in it.
    @param retry: how long to pause when the process or the machine is out of
        descriptors or memory, in seconds.
    @param busy: says whether to wait for the next L{resume}, though there is room.
    """

    def __init__(
        self,
        reactor: Any,
        sock: socket.socket,
        label: str,
        room: Callable[[], int],
        accepted: Callable[[list[Accepted]], None],
        retry: float,
        busy: Callable[[], bool] = lambda: False,
    ) -> None:
        self._reactor = reactor
        self._socket = sock
        self._family = int(sock.family)
        self._label = label
        self._room = room
        self._accepted = accepted
        self._retry = retry
        self._busy = busy
        self._rests = False
        self._taking = False
        self._pause: IDelayedCall | None = None
        self._reading = False
        self._short = False
        self._usable = True
        self._parked = False
        self._owed: int | None = None

    log = Logger()

    def fileno(self) -> int:
        """
        The listening socket's.
        """
        return self._socket.fileno()

    def logPrefix(self) -> str:
        """
        See L{ILoggingContext}.
        """
        return "portlisten"

    def resume(self) -> None:
        """
        Accept, if there is room.  Nothing happens if it does already, or if it
        pauses because something ran out.
        """
        if self._reading or self._taking or not self._able:
            return
        if self._rests:
            # While all are busy, it is their claims that it goes by, and not the
            # reactor, which would wake for each connection.
            self._rests = self._busy()
            if not self._rests:
                self._take(0)
        if self._able and not self._rests and self._room() > 0:
            self._reactor.addReader(self)
            self._reading = True

    @property
    def _able(self) -> bool:
        """
        Whether anything can be accepted now.
        """
        return self._usable and self._pause is None and not self._parked

    def park(self) -> None:
        """
        Leave connections in the backlog until L{stop}.
        """
        self._parked = True
        self.suspend()

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

    def stop(self, leave: bool = True) -> None:
        """
        Take what the backlog holds and there is room for, and close the socket.
        Does not shut it down: it may have other holders.  May be called again.

        @param leave: whether connections that do not fit are left to other holders.  If
            not, the socket stays open until the connections are taken that wait at the
            first of these calls.  Call again when there is room.
        """
        if self._taking:
            return
        if self._owed is None:
            self._owed = 0 if leave else self._waiting()
        while self._usable and self._room() > 0:
            pause = self._pause
            taken = self._take()
            self._owed -= taken
            if not taken and not self._waiting():
                self._owed = 0
                break
            if not taken and self._pause is not pause:
                break
        if self._usable and not leave and _kernel.queued(self._socket) is None:
            # Nobody knows how many wait on a Unix socket.
            self._owed = int(self.waits)
        if self._owed <= 0:
            self.close()

    def _waiting(self) -> int:
        """
        How many are known to wait.
        """
        queued = _kernel.queued(self._socket)
        return 0 if queued is None else queued[0]

    def close(self) -> None:
        """
        Close the socket, and leave the backlog to its other holders, if any.
        """
        self.suspend()
        self._usable = False
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        self._socket.close()

    def doRead(self) -> None:
        """
        Take a batch.
        """
        self._take()

    def _take(self, least: int = 1) -> int:
        """
        @param least: how often to try, though nobody is known to wait: there is what
            only accepting can tell.
        """
        batch: list[Accepted] = []
        most = min(self._room(), BATCH)
        count, backlog = _kernel.queued(self._socket) or (most, 0)
        # An accept too many costs as much as one that finds something.
        for _ in range(min(most, max(least, count))):
            try:
                batch.append(_kernel.accept(self._socket, self._family))
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno in _kernel.EXHAUSTED:
                    self._exhausted(error)
                    break
                if error.errno in _UNUSABLE:
                    self._failed(os.strerror(error.errno))
                    break
                # Any other error is the connection's, not the port's: see
                # "Error handling" in accept(2).
        if batch:
            self._short = False
            self._taking = True
            try:
                self._accepted(batch)
            except Exception:
                # It must not end the port.
                self.log.failure("a bug in portlisten loses connections")
            finally:
                self._taking = False
        self._rests = backlog >= ENOUGH and self._busy()
        if self._rests or self._room() <= 0:
            self.suspend()
        return len(batch)

    def connectionLost(self, reason: Failure) -> None:
        """
        The reactor found the socket in a state that it cannot poll.
        """
        self._failed(reason.getErrorMessage())

    def _exhausted(self, error: OSError) -> None:
        if not self._short:
            logLimit(self._reactor)(
                self.log.error,
                "accepting on {label} pauses: {error}; clients wait in the backlog,"
                " and it tries again every {retry:g} s",
                label=self._label,
                retry=self._retry,
                error=error.strerror,
            )
        self._short = True
        self.suspend()
        if self._pause is not None:
            self._pause.cancel()
        self._pause = self._reactor.callLater(self._retry, self._goOn)

    def _goOn(self) -> None:
        self._pause = None
        self.resume()

    def _failed(self, why: str) -> None:
        self.log.critical(
            "nothing can be accepted on {label} any more: {why}; restart the listener",
            label=self._label,
            why=why,
        )
        self.close()
