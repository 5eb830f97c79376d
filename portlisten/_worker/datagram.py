"""
The worker's side of the wire of 2002, for programs that were written for it.  The
listener's side is in L{portlisten._listener.datagram}.

The listener never learns what became of a connection.  So if a worker dies, the
connections that it had received are lost.  If a worker is told to stop, it still serves
them.  It shuts down the reading side of its datagram socket, which is one step in the
kernel.  After that step, sending to the socket fails (C{EPIPE}).  Datagrams that were
sent before can still be read (C{unix_dgram_sendmsg} in net/unix/af_unix.c).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IProtocolFactory, IReadDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from portlisten import _kernel
from portlisten._channel import paths
from portlisten._model import Port
from portlisten._process import systemd_notify
from portlisten._reactor.log_limit import logLimit
from portlisten._reactor.pause import Pause
from portlisten._worker.adoption import Adopter
from portlisten._worker.interfaces import IWorker
from portlisten._worker.shutdown import IConnectionSource, Shutdown
from portlisten.errors import WrongSocket

#: The most datagrams that are read in one turn of the loop.
BATCH_SIZE = 64


@implementer(IWorker, IConnectionSource, IReadDescriptor)
class DatagramWorker:
    """
    The worker's side.  See L{IWorker}.

    @param reactor: an L{IReactorFDSet}, L{IReactorSocket} and L{IReactorTime}.
    @param path: the path of the socket that receives.
    @param factory: builds the protocols, as for a port.
    @param retry: how long to pause if the process is out of descriptors, in seconds.
    @param grace: how long L{stop} waits for connections to end, in seconds.
    @param mode: the permissions of the path: users that may write to it may send.
    @param group: the group of the path, or L{None} for the process's.
    @param replace: whether to take the path over from a living worker.
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
        self._mode = mode
        self._group = group
        self._replace = replace
        self._bound: paths.BoundPath | None = None
        self._pause = Pause(reactor, self._resume)
        self._logLimited = logLimit(reactor)
        self._adopter = Adopter(reactor, factory, retry, self._settle)
        self._shutdown = Shutdown(reactor, grace, self, self._adopter)
        self._systemd = systemd_notify.manager().begin()

    def bind(self) -> None:
        """
        See L{IWorker}.
        """
        self._bound = paths.bind(
            self._path, self._mode, self._group, replace=self._replace
        )
        try:
            self._adopter.begin()
        except BaseException:
            self._close()
            raise

    def start(self) -> Deferred[None]:
        """
        See L{IWorker}.
        """
        self._adopter.spare.reserve()
        self._reactor.addReader(self)
        self.log.info(
            "receiving at {path} (mode {mode:04o})",
            event="receiving",
            path=self._path,
            mode=self._mode,
        )
        self._systemd.ready(f"receiving at {self._path}")
        return succeed(None)

    def report(self) -> None:
        """
        See L{IWorker}.
        """
        self.log.info(
            "{count} connections in service; receiving at {path}",
            event="report",
            count=len(self._adopter.serving),
            path=self._path,
        )

    def stop(self) -> Deferred[None]:
        """
        See L{IWorker}.
        """
        return self._shutdown.request()

    def lastTaken(self) -> Deferred[None]:
        """
        See L{IWorker}.
        """
        return self._shutdown.lastTaken()

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
        Read up to L{BATCH_SIZE} datagrams.
        """
        for _ in range(BATCH_SIZE):
            if not self._take():
                break

    def connectionLost(self, reason: Failure) -> None:
        """
        The reactor cannot poll the socket any more.
        """
        self.log.critical(
            "nothing can be received at {path} any more: {why}; restart the worker",
            event="path-lost",
            path=self._path,
            why=reason.getErrorMessage(),
        )
        self._close()

    # IConnectionSource

    def stopTaking(self) -> None:
        """
        See L{IConnectionSource}.
        """
        self._systemd.ended()
        self._takeRemaining()

    def hasStoppedTaking(self) -> bool:
        """
        See L{IConnectionSource}.
        """
        return self._bound is None

    def disconnect(self) -> None:
        """
        See L{IConnectionSource}.
        """
        self._close()

    def isDisconnected(self) -> bool:
        """
        See L{IConnectionSource}.
        """
        return self._bound is None

    # Internal methods

    def _settle(self) -> None:
        self._shutdown.settle()

    def _take(self) -> bool:
        """
        Read a datagram, and adopt the connections that came with it.

        @return: whether another datagram may wait.
        """
        assert self._bound is not None
        spare = self._adopter.spare
        if not spare.reserve():
            # If the process has no free descriptor, the kernel would drop the
            # connection's.
            if not self._pause.active:
                self._reactor.removeReader(self)
                self._pause.begin(self._retry)
            return False
        spare.release()
        try:
            _, descriptors = _kernel.receive(self._bound.socket)
        except BlockingIOError:
            return False
        except OSError as error:
            self._logLimited(
                self.log.error,
                "nothing was received: {why}",
                event="receiving-failed",
                why=error.strerror,
            )
            return False
        finally:
            spare.reserve()
        if not descriptors:
            self._logLimited(
                self.log.warn,
                "a datagram without a descriptor came",
                event="descriptor-unusable",
            )
        for descriptor in descriptors:
            self._adopt(descriptor)
        return True

    def _adopt(self, descriptor: int) -> None:
        """
        Adopt a connection.  If the descriptor leads to no connection, close it.

        @param descriptor: owned by this object from now on.
        """
        try:
            _kernel.identify(descriptor)
        except (OSError, WrongSocket) as error:
            self._logLimited(
                self.log.warn,
                "a descriptor came that cannot be used: {error}",
                event="descriptor-unusable",
                error=error,
            )
            os.close(descriptor)
        else:
            self._adopter.adopt(descriptor)

    def _resume(self) -> None:
        if self._shutdown.requested:
            self._takeRemaining()
            self._settle()
        else:
            self._reactor.addReader(self)

    def _takeRemaining(self) -> None:
        """
        Refuse further datagrams, and read the datagrams that were sent before.  Then
        close the socket.  If the process is out of descriptors, L{_resume} goes on
        later.
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
        if not self._pause.active:
            self._close()

    def _close(self) -> None:
        self._pause.cancel()
        if self._bound is not None:
            self._reactor.removeReader(self)
            self._bound.remove()
            self._bound.socket.close()
            self._bound = None
