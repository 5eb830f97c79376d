"""
The wire of 2002, for programs that were written for it.

The worker binds a datagram socket to a path, and the listener sends a datagram
to that path for each connection: a byte that means nothing, and the descriptor.
Nothing comes back.  When it was sent, the listener closes its own descriptor, so
what a worker had received and not served when it dies is lost; that is what the
other wire is for.

Two things are not lost here that were in 2002.  The listener goes on accepting
while nobody is at the path, in the order of arrival.  And a worker that stops
serves what has reached it: for the kernel, shutting the reading side of a
datagram socket down is one step after which sending to it fails (C{EPIPE}), and
before which what was sent can still be read (C{unix_dgram_sendmsg} in
net/unix/af_unix.c).
"""

from __future__ import annotations

import errno
import os
import socket
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import (
    IDelayedCall,
    IProtocolFactory,
    IReadDescriptor,
    IWriteDescriptor,
)
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from portlisten import _linux, _path
from portlisten._accept import Accepted
from portlisten._adoption import Adoptions
from portlisten._dispatcher import AcceptedConnection
from portlisten._frames import Port
from portlisten._ledger import Reason
from portlisten.interfaces import IWire, IWorker

#: The most datagrams that a worker takes in one turn of the loop.
BATCH = 64

#: What sendmsg(2) says when the worker is there and its queue is full, which
#: holds net.unix.max_dgram_qlen datagrams.
_FULL = frozenset([errno.EAGAIN, errno.ENOBUFS])


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
        self._socket = _linux.datagramSocket()
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
        self._counts = {"accepted": 0, "sent": 0, "timedOut": 0, "stopped": 0}
        self._timer: IDelayedCall | None = None
        self._full: _Room | None = None
        self._failure = 0
        self._complaint = ""
        self._stopped: Deferred[None] | None = None
        self._deadline = 0.0
        self.roomChanged: Callable[[], None] = lambda: None

    def __str__(self) -> str:
        return f"workers bind {self._path}, for datagrams as in 2002"

    def bind(self, ports: Sequence[Port]) -> None:
        """
        See L{IWire}.
        """
        _path.check(self._path)

    def start(self, connections: int, channels: int) -> None:
        """
        See L{IWire}.
        """
        self._limit = min(max(1, self._queue), connections)
        self._socket = _linux.datagramSocket()

    def room(self, name: str) -> int:
        """
        See L{IWire}.
        """
        return max(0, self._limit - len(self._waiting))

    def accepted(self, port: Port, batch: Sequence[Accepted]) -> None:
        """
        See L{IWire}.
        """
        now = self._reactor.seconds()
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

    def stop(self, grace: float) -> Deferred[None]:
        """
        See L{IWire}.
        """
        stopped: Deferred[None] = Deferred()
        self._stopped = stopped
        self._deadline = self._reactor.seconds() + grace
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
                _linux.sendTo(self._socket, self._path, connection.fileno())
            except OSError as error:
                self._failed(error)
                break
            self._waiting.popleft()
            connection.forget()
            self._counts["sent"] += 1
            self._served()
        self.roomChanged()
        if self._stopped is not None:
            self._proceed()

    def _served(self) -> None:
        self._failure = 0
        if self._complaint:
            self._complaint = ""
            self.log.info("a worker is at {path}", path=self._path)

    def _failed(self, error: OSError) -> None:
        lasting = self._failure == error.errno
        self._failure = error.errno or 0
        self._timer = self._reactor.callLater(self._retry, self._tryAgain)
        if error.errno in _FULL:
            try:
                self._full = _Room(self._reactor, self._path, self._send)
            except OSError:
                pass  # it has gone meanwhile, as the next try will find
            if lasting:
                self._complain("the worker there takes no more for now")
        else:
            self._complain(_explain(error))

    def _complain(self, why: str) -> None:
        if why != self._complaint:
            self._complaint = why
            self.log.warn(
                "waiting for a worker at {path}, trying every {retry:g} s: {why}",
                path=self._path,
                retry=self._retry,
                why=why,
            )

    def _tryAgain(self) -> None:
        self._timer = None
        due = self._reactor.seconds() - self._patience
        timedOut = False
        while self._waiting and self._waiting[0][0] <= due:
            timedOut = True
            self._giveUp("timedOut", Reason.TIMED_OUT)
        if timedOut:
            self._timedOut()
        self._send()

    def _giveUp(self, count: str, reason: Reason) -> None:
        connection = self._waiting.popleft()[1]
        self._counts[count] += 1
        self.log.warn(
            "the connection of {peer} is closed: {reason}",
            peer=connection.peer,
            reason=reason.value,
        )
        connection.forget()

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._full is not None:
            self._full.close()
            self._full = None

    def _proceed(self) -> None:
        """
        Finish, unless a worker is there that may yet take what waits.
        """
        hopeful = self._failure in _FULL and self._reactor.seconds() < self._deadline
        if self._waiting and hopeful:
            return
        self._cancel()
        while self._waiting:
            self._giveUp("stopped", Reason.STOPPED)
        self._socket.close()
        stopped, self._stopped = self._stopped, None
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


@implementer(IWorker, IReadDescriptor)
class DatagramWorker:
    """
    The worker's side.  See L{IWorker}.

    @param reactor: an L{IReactorFDSet}, L{IReactorSocket} and L{IReactorTime}.
    @param path: where to receive.
    @param factory: what a port would be given.
    @param retry: how long to wait before going on when there is no room for a
        connection, in seconds.
    @param grace: how long L{stop} waits for connections to end, in seconds.
    @param mode: the permissions of the path: who may write to it may send.
    @param group: the group that it belongs to, or L{None} for the process's.
    @param replace: whether to take the path over from a worker that lives there.
    """

    log = Logger()
    ports: Sequence[Port] = ()

    def __init__(
        self,
        reactor: Any,
        path: str,
        factory: IProtocolFactory,
        retry: float = 0.1,
        grace: float = 10.0,
        mode: int = 0o660,
        group: int | None = None,
        replace: bool = False,
    ) -> None:
        self._reactor = reactor
        self._path = path
        self._factory = factory
        self._retry = retry
        self._grace = grace
        self._mode = mode
        self._group = group
        self._replace = replace
        self._bound: _path.BoundPath | None = None
        self._started = False
        self._paused: IDelayedCall | None = None
        self._timer: IDelayedCall | None = None
        self._stopping = False
        self._finished = False
        self._stopped: list[Deferred[None]] = []
        self._adoptions = Adoptions(reactor, factory, retry, self._settle)

    def bind(self) -> None:
        """
        See L{IWorker}.
        """
        self._bound = _path.bind(
            self._path, self._mode, self._group, replace=self._replace
        )

    def start(self) -> Deferred[None]:
        """
        See L{IWorker}.
        """
        self._started = True
        self._factory.doStart()
        self._reactor.addReader(self)
        self.log.info(
            "receiving at {path} (mode {mode:04o})", path=self._path, mode=self._mode
        )
        return succeed(None)

    def stop(self) -> Deferred[None]:
        """
        See L{IWorker}.
        """
        stopped: Deferred[None] = Deferred()
        self._stopped.append(stopped)
        if self._finished:
            self._finish()
        elif not self._stopping:
            self._stopping = True
            self._adoptions.drain()
            self._timer = self._reactor.callLater(self._grace, self._graceOver)
            self._leave()
            self._settle()
        return stopped

    # IReadDescriptor

    def fileno(self) -> int:
        """
        See L{IReadDescriptor}.
        """
        return -1 if self._bound is None else self._bound.socket.fileno()

    def logPrefix(self) -> str:
        """
        See L{ILoggingContext}.
        """
        return "portlisten"

    def doRead(self) -> None:
        """
        Take some datagrams.
        """
        for _ in range(BATCH):
            if not self._take():
                break

    def connectionLost(self, reason: Failure) -> None:
        """
        The reactor found the socket in a state that it cannot poll.
        """
        self.log.critical(
            "nothing can be received at {path} any more: {why}; restart the worker",
            path=self._path,
            why=reason.getErrorMessage(),
        )
        self._close()

    # The inside

    def _take(self) -> bool:
        """
        Take a datagram, and adopt what came with it.

        @return: whether to go on.
        """
        assert self._bound is not None
        if not self._adoptions.reserve():
            # The kernel would drop what there is no room for.
            self._pause()
            return False
        self._adoptions.release()
        try:
            _, descriptors = _linux.receive(self._bound.socket)
        except BlockingIOError:
            return False
        except OSError as error:
            self.log.error("nothing was received: {why}", why=error.strerror)
            return False
        finally:
            self._adoptions.reserve()
        if not descriptors:
            self.log.warn("a datagram without a descriptor came")
        for descriptor in descriptors:
            try:
                _linux.identify(descriptor)
            except (OSError, _linux.NotAConnection) as error:
                self.log.warn("a descriptor of no use came: {error}", error=error)
                os.close(descriptor)
            else:
                self._adoptions.adopt(descriptor)
        return True

    def _pause(self) -> None:
        if self._paused is None:
            self._reactor.removeReader(self)
            self._paused = self._reactor.callLater(self._retry, self._goOn)

    def _goOn(self) -> None:
        self._paused = None
        if self._bound is None:
            return
        if self._stopping:
            self._leave()
            self._settle()
        else:
            self._reactor.addReader(self)

    def _leave(self) -> None:
        """
        Have nothing more sent here, and take what was.
        """
        if self._bound is None:
            return
        self._bound.remove()
        try:
            self._bound.socket.shutdown(socket.SHUT_RD)
        except OSError:
            pass  # it was done before
        while self._take():
            pass
        if self._paused is None:
            self._close()

    def _close(self) -> None:
        if self._bound is not None:
            self._reactor.removeReader(self)
            self._bound.remove()
            self._bound.socket.close()
            self._bound = None

    def _settle(self) -> None:
        """
        Finish if the worker is stopping and has done its work.
        """
        if self._stopping and self._bound is None and not self._adoptions.busy:
            self._finish()

    def _graceOver(self) -> None:
        if self._adoptions.serving:
            self.log.warn(
                "{count} connections are still in service after {grace:g} s",
                count=len(self._adoptions.serving),
                grace=self._grace,
            )
        self._finish()

    def _finish(self) -> None:
        self._close()
        for call in (self._timer, self._paused):
            if call is not None and call.active():
                call.cancel()
        if not self._finished:
            self._finished = True
            self._adoptions.release()
            if self._started:
                self._factory.doStop()
        stopped, self._stopped = self._stopped, []
        for each in stopped:
            each.callback(None)
