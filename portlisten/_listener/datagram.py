"""
The wire of 2002, for programs that were written for it: the listener's side.  The
worker's side is in L{portlisten._worker.datagram}.

The worker binds a datagram socket to a path, and the listener sends a datagram
to that path for each connection: a byte that means nothing, and the descriptor.
The worker sends nothing back.  When a descriptor was sent, the listener closes its own.
So if a worker dies, what it had received and not served is lost.  The other wire is for
that.

Unlike the listener of 2002, this listener goes on accepting while no worker is at the
path, and keeps the order of arrival.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from socket import socket
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IWriteDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from portlisten import _kernel
from portlisten._channel import paths
from portlisten._listener.connection import AcceptedConnection
from portlisten._listener.departed_clients import DepartedClients
from portlisten._listener.dispatcher import LONGEST_TICK
from portlisten._listener.interfaces import IWire
from portlisten._model import Port
from portlisten._policy.decisions import Reason
from portlisten._ports.accepting import Accepted
from portlisten._reactor.monotonic import RunningTime
from portlisten._reactor.quiet import quiet

#: What sendmsg(2) says when the worker is there and its queue is full, which
#: holds net.unix.max_dgram_qlen datagrams; or when our socket's own buffer is,
#: which is charged for each datagram until that is read, and holds some 280.
_FULL = frozenset([errno.EAGAIN, errno.ENOBUFS])


#: How long a client may wait that has ended its side with nothing sent, in seconds.
SILENCE = 5.0


@implementer(IWriteDescriptor)
class _Room:
    """
    Waits until there is room in the queue of the socket at a path.

    Only of a socket that is connected does the kernel tell when its peer has
    room (C{unix_dgram_poll} in net/unix/af_unix.c), so this connects one of its
    own, which sends nothing.

    @raise OSError: if nobody is there.
    """

    def __init__(self, reactor: Any, path: str, then: Callable[[], None]) -> None:
        self._reactor = reactor
        self._then = then
        self._socket = _kernel.datagramSocket()
        try:
            self._socket.connect(path)
        except OSError:
            self._socket.close()
            raise
        reactor.addWriter(self)

    def fileno(self) -> int:
        return self._socket.fileno()

    def logPrefix(self) -> str:
        return "portlisten"

    def doWrite(self) -> None:
        self.close()
        self._then()

    def connectionLost(self, reason: Failure) -> None:
        self.doWrite()

    def close(self) -> None:
        if self._socket.fileno() != -1:
            self._reactor.removeWriter(self)
            self._socket.close()


@implementer(IWire)
class DatagramWire:
    """
    The listener's side.  See L{IWire}.

    @param options: those of C{twistd portlisten}.
    @param timedOut: called when the patience of connections ran out.
    """

    log = Logger()

    def __init__(
        self, reactor: Any, options: Mapping[str, Any], timedOut: Callable[[], None]
    ) -> None:
        self._reactor = reactor
        self._path: str = options["path"]
        self._queue: int = options["queue"]
        self._patience: float = options["patience"]
        self._retry: float = options["retry"]
        self._timedOut = timedOut
        self._waiting: deque[tuple[float, AcceptedConnection]] = deque()
        self._counts = dict.fromkeys(
            ("accepted", "sent", "timedOut", "stopped", "gone"), 0
        )
        self._timer: IDelayedCall | None = None
        self._full: _Room | None = None
        self._failure = 0
        self._complaint = ""
        self._stopped: Deferred[None] | None = None
        self._deadline = 0.0
        self._departedClients = DepartedClients()
        self._ended: dict[AcceptedConnection, float] = {}
        self._now = RunningTime(reactor.seconds, self._retry + LONGEST_TICK)
        self._quiet = quiet(reactor)
        self.roomChanged: Callable[[], None] = lambda: None

    def __str__(self) -> str:
        return f"workers bind {self._path}, for datagrams as in 2002"

    def succeed(self) -> float:
        """
        See L{IWire}.  The path is the worker's, so there is nobody to wait for.
        """
        return 0.0

    def bind(
        self, ports: Sequence[Port], shared: Mapping[Port, Sequence[socket]]
    ) -> None:
        """
        See L{IWire}.  On this wire nothing can be shared.
        """
        paths.check(self._path)

    def start(self, connections: int, channels: int) -> None:
        """
        See L{IWire}.
        """
        self._limit = min(max(1, self._queue), connections)
        self._most = connections
        self._socket = _kernel.datagramSocket()

    def room(self, name: str) -> int:
        """
        See L{IWire}.
        """
        placeless = min(len(self._ended), self._limit // 2)
        most = min(self._limit + placeless, self._most)
        return max(0, most - len(self._waiting))

    def busy(self, name: str) -> bool:
        """
        See L{IWire}.  Nothing is known of the worker.
        """
        return False

    def accepted(self, port: Port, batch: Sequence[Accepted]) -> None:
        """
        See L{IWire}.
        """
        now = self._now()
        self._counts["accepted"] += len(batch)
        self._waiting.extend((now, AcceptedConnection(*each)) for each in batch)
        if self._timer is None:
            self._send()

    def report(self) -> None:
        """
        See L{IWire}.
        """
        self.log.info(
            "{waiting} connections waiting; since the start: {counts}",
            waiting=len(self._waiting),
            counts=", ".join(f"{name} {n}" for name, n in self._counts.items()),
        )

    def serves(self, name: str) -> bool:
        """
        See L{IWire}.  Nothing is known of the worker, and nothing of ours keeps a
        successor from binding the ports.
        """
        return True

    def stop(
        self, grace: float, waitsElsewhere: Callable[[], bool] = lambda: False
    ) -> Deferred[None]:
        """
        See L{IWire}.
        """
        stopped: Deferred[None] = Deferred()
        self._stopped = stopped
        self._deadline = self._now() + grace
        self._send()
        return stopped

    def release(self) -> None:
        """
        See L{IWire}.
        """

    # The inside

    def _send(self) -> None:
        """
        Send what waits, the oldest first, until that fails; then try again later.
        """
        self._cancel()
        while self._waiting:
            connection = self._waiting[0][1]
            try:
                _kernel.sendTo(self._socket, self._path, connection.fileno())
            except OSError as error:
                self._failed(error)
                break
            self._waiting.popleft()
            self._ended.pop(connection, None)
            connection.closeCopy()
            self._counts["sent"] += 1
            self._served()
        self.roomChanged()
        if self._stopped is not None:
            self._proceed()

    def _served(self) -> None:
        self._failure = 0
        if self._complaint:
            self._complaint = ""
            self._quiet(self.log.info, "a worker is at {path}", path=self._path)

    def _failed(self, error: OSError) -> None:
        lasting = self._failure == error.errno
        self._failure = error.errno or 0
        self._timer = self._reactor.callLater(self._retry, self._tryAgain)
        if error.errno in _FULL:
            try:
                self._renew()
                self._full = _Room(self._reactor, self._path, self._send)
            except OSError:
                pass  # it has gone meanwhile, as the next try will find
            if lasting:
                self._complain("the worker there takes no more for now")
        else:
            self._complain(_explain(error))

    def _renew(self) -> None:
        """
        Take a socket whose buffer is empty.  That of the other may be what is full,
        which L{_Room} cannot see, and a worker that hangs may keep it so for its
        successors; what was sent stays sent.

        @raise OSError: if there is none to be had.
        """
        fresh = _kernel.datagramSocket()
        self._socket.close()
        self._socket = fresh

    def _complain(self, why: str) -> None:
        if why != self._complaint:
            self._complaint = why
            self._quiet(
                self.log.warn,
                "waiting for a worker at {path}, trying every {retry:g} s: {why}",
                path=self._path,
                retry=self._retry,
                why=why,
            )

    def _tryAgain(self) -> None:
        self._timer = None
        self._dropDeparted()
        # Before it is judged who has waited for too long.
        self._send()
        due = self._now() - self._patience
        timedOut = False
        while self._waiting and self._waiting[0][0] <= due:
            timedOut = True
            self._giveUp(self._waiting.popleft()[1], "timedOut", Reason.TIMED_OUT)
        if timedOut:
            self._timedOut()
            self.roomChanged()

    def _dropDeparted(self) -> None:
        """
        Drop the connections whose clients have left.
        """
        now = self._now()
        reset, ended = self._departedClients.look(
            lambda: [connection for _, connection in self._waiting], now
        )
        for connection in ended:
            self._ended.setdefault(connection, now)
        gone = set(reset)
        gone |= {each for each, since in self._ended.items() if now - since >= SILENCE}
        if gone:
            self._waiting = deque(each for each in self._waiting if each[1] not in gone)
        for connection in gone:
            self._giveUp(connection, "gone", Reason.GONE)

    def _giveUp(
        self, connection: AcceptedConnection, count: str, reason: Reason
    ) -> None:
        self._counts[count] += 1
        self._ended.pop(connection, None)
        self._quiet(
            self.log.info if reason is Reason.GONE else self.log.warn,
            "the connection of {peer} is closed: {reason}",
            peer=connection.peer,
            reason=reason.value,
        )
        connection.closeCopy()

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._full is not None:
            self._full.close()
            self._full = None

    def _proceed(self) -> None:
        """
        Finish, unless something waits and there is time for a worker to take it.
        """
        if self._waiting and self._now() < self._deadline:
            return
        self._cancel()
        while self._waiting:
            self._giveUp(self._waiting.popleft()[1], "stopped", Reason.STOPPED)
        self._socket.close()
        stopped, self._stopped = self._stopped, None
        self._quiet.flush()
        self.report()
        assert stopped is not None
        stopped.callback(None)


def _explain(error: OSError) -> str:
    """
    Say why nobody can be sent to at a path, and what to do where that helps.
    """
    if error.errno == errno.EACCES:
        return "Permission denied; the worker's --mode and --group say who may send"
    if error.errno == errno.EPROTOTYPE:
        return "a socket of another kind is there"
    return os.strerror(error.errno or 0)
