"""
The wire of 2002, for programs that were written for it: the worker's side.  The
listener's side is in L{portlisten._listener.datagram}.

Nothing tells a listener what became of a connection, so what has reached a worker
dies with the worker.  But a worker that is told to stop serves it.  It shuts down the
reading side of its datagram socket, which is one step in the kernel.  After that step,
sending to the socket fails (C{EPIPE}).  What was sent before can still be read
(C{unix_dgram_sendmsg} in net/unix/af_unix.c).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import (
    IDelayedCall,
    IProtocolFactory,
    IReadDescriptor,
)
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from portlisten import _kernel
from portlisten._channel import paths
from portlisten._model import Port
from portlisten._process import systemd_notify
from portlisten._reactor.deadline import Deadline
from portlisten._reactor.log_limit import logLimit
from portlisten._worker.adoption import Adoptions
from portlisten._worker.interfaces import IWorker
from portlisten._worker.shutdown import Stop
from portlisten.errors import WrongSocket

#: The most datagrams that are taken in one turn of the loop.
BATCH = 64


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
        self._retry = retry
        self._grace = grace
        self._mode = mode
        self._group = group
        self._replace = replace
        self._bound: paths.BoundPath | None = None
        self._paused: IDelayedCall | None = None
        self._timer: Deadline | None = None
        self._quiet = logLimit(reactor)
        self._stop = Stop(self._stopOnce)
        self._adoptions = Adoptions(reactor, factory, retry, self._settle)
        self._state = systemd_notify.manager().begin()

    def bind(self) -> None:
        """
        See L{IWorker}.
        """
        self._bound = paths.bind(
            self._path, self._mode, self._group, replace=self._replace
        )
        try:
            self._adoptions.begin()
        except BaseException:
            self._close()
            raise

    def start(self) -> Deferred[None]:
        """
        See L{IWorker}.
        """
        self._adoptions.reserve()
        self._reactor.addReader(self)
        self.log.info(
            "receiving at {path} (mode {mode:04o})", path=self._path, mode=self._mode
        )
        self._state.ready(f"receiving at {self._path}")
        return succeed(None)

    def report(self) -> None:
        """
        See L{IWorker}.
        """
        self.log.info(
            "{count} connections in service; receiving at {path}",
            count=len(self._adoptions.serving),
            path=self._path,
        )

    def stop(self) -> Deferred[None]:
        """
        See L{IWorker}.
        """
        return self._stop.ask()

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
            _, descriptors = _kernel.receive(self._bound.socket)
        except BlockingIOError:
            return False
        except OSError as error:
            self._quiet(
                self.log.error, "nothing was received: {why}", why=error.strerror
            )
            return False
        finally:
            self._adoptions.reserve()
        if not descriptors:
            self._quiet(self.log.warn, "a datagram without a descriptor came")
        for descriptor in descriptors:
            try:
                _kernel.identify(descriptor)
            except (OSError, WrongSocket) as error:
                self._quiet(
                    self.log.warn, "a descriptor of no use came: {error}", error=error
                )
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
        if self._stop.asked:
            self._leave()
            self._settle()
        else:
            self._reactor.addReader(self)

    def _stopOnce(self) -> None:
        self._state.ended()
        self._adoptions.drain()
        self._timer = Deadline(self._reactor, self._grace, self._graceOver)
        self._leave()
        self._settle()

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
        if self._stop.asked and self._bound is None and not self._adoptions.busy:
            self._finish()

    def _graceOver(self) -> None:
        self._adoptions.graceOver(self._grace)
        self._finish()

    def _finish(self) -> None:
        self._close()
        for call in (self._timer, self._paused):
            if call is not None and call.active():
                call.cancel()
        if not self._stop.over:
            self._adoptions.end()
            self._stop.finish()
