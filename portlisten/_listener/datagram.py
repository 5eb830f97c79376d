"""
The wire of 2002, for programs that were written for it: the listener's side.  The
worker's side is in L{portlisten._worker.datagram}.

The worker binds a datagram socket to a path.  For each connection, the listener sends a
datagram to that path: a byte that means nothing, and the descriptor.  The worker sends
nothing back.  When a descriptor was sent, the listener closes its own.  So if a worker
dies, it loses the connections that it had received and not served.  The C{stream} wire
does not lose them.

Unlike the listener of 2002, this listener goes on accepting while no worker is at the
path, and keeps the order of arrival.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from socket import socket
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IWriteDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from portlisten import _kernel
from portlisten._channel import paths
from portlisten._config.settings import ListenerSettings
from portlisten._listener.connection import AcceptedConnection
from portlisten._listener.departed_clients import DepartedClients
from portlisten._listener.dispatcher import LONGEST_TICK_SECONDS
from portlisten._listener.interfaces import IWire
from portlisten._listener.limits import Limiter
from portlisten._model import Port
from portlisten._policy.complaints import Complaint
from portlisten._policy.decisions import Reason
from portlisten._policy.source_limits import Limits
from portlisten._reactor.deadline import RunningTime
from portlisten._reactor.log_limit import logLimit
from portlisten._reactor.pause import Pause

# The errors of sendmsg(2) if a worker is there and a queue is full.  The worker's queue
# holds net.unix.max_dgram_qlen datagrams.  Our own socket's buffer holds some 280: a
# datagram is charged to it until the worker reads it.
_FULL = frozenset([errno.EAGAIN, errno.ENOBUFS])

#: If a client ended its side and sent nothing, how long it may wait, in seconds.
HALF_CLOSED_SECONDS = 5.0

_PERMISSION_RULE = "the worker's --mode and --group say who may send"


@implementer(IWriteDescriptor)
class _WritableWaiter:
    """
    Waits until the queue of the socket at a path has space.

    Only a connected socket becomes writable at that moment (C{unix_dgram_poll} in
    net/unix/af_unix.c).  So this connects a socket of its own, which sends nothing.

    @param then: called once, when the queue has space.
    @raise OSError: if no worker is at the path.
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

    @param timedOut: called when the patience of connections ran out.
    """

    log = Logger()

    def __init__(
        self, reactor: Any, settings: ListenerSettings, timedOut: Callable[[], None]
    ) -> None:
        self._reactor = reactor
        self._path = settings.path
        self._queue = settings.queue
        self._patience = settings.patience
        self._retry = settings.retry
        self._timedOut = timedOut
        self._waiting: deque[tuple[float, AcceptedConnection]] = deque()
        self._counts = dict.fromkeys(
            ("accepted", "sent", "timedOut", "stopped", "gone"), 0
        )
        self._pause = Pause(reactor, self._tryAgain)
        self._waiter: _WritableWaiter | None = None
        self._lastError = 0
        self._complaint = Complaint()
        self._stopped: Deferred[None] | None = None
        self._deadline = 0.0
        self._departedClients = DepartedClients()
        self._halfClosed: dict[AcceptedConnection, float] = {}
        self._now = RunningTime(reactor.seconds, self._retry + LONGEST_TICK_SECONDS)
        self._logLimited = logLimit(reactor)
        self.capacityChanged: Callable[[], None] = lambda: None
        self.backlogOf: Callable[[int], int] = lambda number: 0

    def __str__(self) -> str:
        return f"workers bind {self._path}, for datagrams as in 2002"

    def waitForPredecessor(self) -> float:
        """
        See L{IWire}.  The path is the worker's, so this waits for no other listener.
        """
        return 0.0

    def bind(
        self,
        ports: Sequence[Port],
        shared: Mapping[int, Sequence[socket]],
        balanced: Collection[int] = (),
        limits: Mapping[int, Limits] = {},
    ) -> None:
        """
        See L{IWire}.  This wire has no shared ports.
        """
        paths.check(self._path)
        self._limiter = Limiter(self._reactor, ports, limits, counts=False)

    def start(self, connections: int, channels: int) -> None:
        """
        See L{IWire}.
        """
        self._limit = min(max(1, self._queue), connections)
        self._connectionLimit = connections
        self._socket = _kernel.datagramSocket()

    def capacity(self, name: str) -> int:
        """
        See L{IWire}.
        """
        extra = min(len(self._halfClosed), self._limit // 2)
        most = min(self._limit + extra, self._connectionLimit)
        return max(0, most - len(self._waiting))

    def busy(self, name: str) -> bool:
        """
        See L{IWire}.  The listener knows nothing of the worker.
        """
        return False

    def accepted(self, port: Port, batch: Sequence[AcceptedConnection]) -> None:
        """
        See L{IWire}.
        """
        if self._limiter.concerns(port.number):
            taken, addresses = self._limiter.arrived(port, batch)
            batch = self._limiter.judge(port, taken, addresses).connections
        now = self._now()
        self._counts["accepted"] += len(batch)
        self._waiting.extend((now, each) for each in batch)
        if not self._pause.active:
            self._send()

    def report(self) -> None:
        """
        See L{IWire}.
        """
        self.log.info(
            "{waiting} connections waiting; since the start: {counts}",
            event="report",
            waiting=len(self._waiting),
            counts=", ".join(f"{name} {n}" for name, n in self._counts.items()),
        )

    def serves(self, name: str) -> bool:
        """
        See L{IWire}.  The listener knows nothing of the worker.  It does not keep a
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
        Send the connections that wait, the oldest first.  If sending fails, try again
        later.
        """
        self._cancel()
        while self._waiting:
            connection = self._waiting[0][1]
            try:
                _kernel.sendTo(self._socket, self._path, connection.fileno())
            except OSError as error:
                self._onFailure(error)
                break
            self._waiting.popleft()
            self._halfClosed.pop(connection, None)
            connection.closeCopy()
            self._counts["sent"] += 1
            self._onSent()
        self.capacityChanged()
        if self._stopped is not None:
            self._finishIfDone()

    def _onSent(self) -> None:
        self._lastError = 0
        if self._complaint.clear():
            self._logLimited(
                self.log.info,
                "a worker is at {path}",
                event="worker-joined",
                path=self._path,
            )

    def _onFailure(self, error: OSError) -> None:
        again = self._lastError == error.errno
        self._lastError = error.errno or 0
        self._pause.begin(self._retry)
        if error.errno in _FULL:
            try:
                self._replaceSocket()
                self._waiter = _WritableWaiter(self._reactor, self._path, self._send)
            except OSError:
                pass  # the worker has left meanwhile, as the next try will find
            if again:
                self._complain("the worker there takes no more for now")
        else:
            self._complain(paths.explain(error, _PERMISSION_RULE))

    def _replaceSocket(self) -> None:
        """
        Take a new socket, whose buffer is empty.  The old socket's buffer may be full.
        If the worker hangs, it stays full for the next worker, which
        L{_WritableWaiter} cannot see.  Datagrams that were sent stay sent.

        @raise OSError: if the process has no free descriptor.
        """
        fresh = _kernel.datagramSocket()
        self._socket.close()
        self._socket = fresh

    def _complain(self, why: str) -> None:
        if self._complaint.isNew(why):
            self._logLimited(
                self.log.warn,
                "waiting for a worker at {path}, trying every {retry:g} s: {why}",
                event="worker-awaited",
                path=self._path,
                retry=self._retry,
                why=why,
            )

    def _tryAgain(self) -> None:
        self._dropDeparted()
        # If a connection can be sent now, it has not waited too long.
        self._send()
        due = self._now() - self._patience
        timedOut = False
        while self._waiting and self._waiting[0][0] <= due:
            timedOut = True
            self._giveUp(self._waiting.popleft()[1], "timedOut", Reason.TIMED_OUT)
        if timedOut:
            self._timedOut()
            self.capacityChanged()

    def _dropDeparted(self) -> None:
        """
        Drop the connections whose clients have left.
        """
        now = self._now()
        reset, ended = self._departedClients.check(
            lambda: [connection for _, connection in self._waiting], now
        )
        for connection in ended:
            self._halfClosed.setdefault(connection, now)
        gone = set(reset)
        gone |= {
            each
            for each, since in self._halfClosed.items()
            if now - since >= HALF_CLOSED_SECONDS
        }
        if gone:
            self._waiting = deque(each for each in self._waiting if each[1] not in gone)
        for connection in gone:
            self._giveUp(connection, "gone", Reason.GONE)

    def _giveUp(
        self, connection: AcceptedConnection, count: str, reason: Reason
    ) -> None:
        self._counts[count] += 1
        self._halfClosed.pop(connection, None)
        self._logLimited(
            self.log.info if reason is Reason.GONE else self.log.warn,
            "the connection of {peer} is closed: {reason}",
            event="client-gone" if reason is Reason.GONE else "client-lost",
            peer=connection.peer,
            reason=reason.value,
            cause=count,
        )
        connection.closeCopy()

    def _cancel(self) -> None:
        self._pause.cancel()
        if self._waiter is not None:
            self._waiter.close()
            self._waiter = None

    def _finishIfDone(self) -> None:
        """
        Finish, unless connections wait and the grace has not run out.
        """
        if self._waiting and self._now() < self._deadline:
            return
        self._cancel()
        self._limiter.stop()
        while self._waiting:
            self._giveUp(self._waiting.popleft()[1], "stopped", Reason.STOPPED)
        self._socket.close()
        stopped, self._stopped = self._stopped, None
        self._logLimited.flush()
        self.report()
        assert stopped is not None
        stopped.callback(None)
