"""
The listener as its successor sees it.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from portlisten import _kernel
from portlisten._control.connection import Detached
from portlisten._control.convert import ControlError
from portlisten._control.messages import Replace
from portlisten._handover.handover import Handover
from portlisten._handover.messages import TOLD_TO_STOP, VERSIONS, Commit, Ready, agreed
from portlisten._listener.interfaces import ISockets, ISucceededWire
from portlisten._model import Kind
from portlisten._ports.accepting import Acceptor
from portlisten._ports.binding import BoundPort


class Succession:
    """
    Hands the listener over when another one asks for it.

    @param reactor: an L{IReactorFDSet} and L{IReactorTime}.
    @param sockets: where the sockets come from.
    @param wire: has the workers.
    @param grace: how long the end may take, in seconds.
    @param retired: called when all is handed over: the process must end.
    @param told: called when the successor was told to stop, and this listener must stop
        as well.
    @param backlog: the length of the queue of a Unix port that must listen again.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        sockets: ISockets,
        wire: ISucceededWire,
        grace: float,
        retired: Callable[[], object],
        told: Callable[[], object],
        backlog: int = socket.SOMAXCONN,
    ) -> None:
        self._reactor = reactor
        self._sockets = sockets
        self._wire = wire
        self._grace = grace
        self._retired = retired
        self._told = told
        self._backlog = backlog
        self._handover: Handover | None = None
        self._acceptors: Sequence[tuple[BoundPort, Acceptor]] = ()
        self._bound: Sequence[BoundPort] = ()
        # The ports that the successor does not have, while this listener retires.
        self._unwanted: list[BoundPort] = []
        # What undoes that they take no new clients.
        self._refused: list[Callable[[], object]] = []
        self._waiting: list[Deferred[None]] = []
        self._closed = False
        self.isOver = False

    def begin(
        self,
        bound: Sequence[BoundPort],
        acceptors: Sequence[tuple[BoundPort, Acceptor]],
    ) -> None:
        """
        Note what there is to hand over.
        """
        self._bound = bound
        self._acceptors = acceptors

    def asked(self, request: Replace, client: _kernel.Credentials) -> Detached:
        """
        Answer a successor.

        @raise ControlError: if this listener cannot be replaced by it.
        """
        version = agreed(request.versions)
        if version is None:
            raise ControlError(
                "this listener speaks other versions of the handover"
                f" ({', '.join(map(str, VERSIONS))}) than the new one"
                f" ({', '.join(request.versions)[:60]}): restart it"
            )
        if self._closed:
            raise ControlError("this listener stops: wait until it has ended")
        if any(port.stored for port in self._bound):
            raise ControlError(
                "the service manager keeps the sockets of this listener: restart its"
                " unit, as by 'systemctl restart'"
            )
        if self._handover is not None:
            raise ControlError("another listener is about to take over from this one")

        def then(sock: socket.socket) -> None:
            handover = Handover(self._reactor, sock, self, self._ended)
            self._handover = handover
            try:
                handover.begin(version, os.getpid(), self._sockets.handed(self._bound))
            except OSError as error:
                sock.close()
                self._handover = None
                self.log.error(
                    "this listener cannot be handed over now: {error}",
                    event="handover-failed",
                    error=error.strerror,
                )

        return Detached(then)

    def _ended(self) -> None:
        self._handover = None
        for port in self._bound:
            port.takeBack()

    def cancel(self) -> bool:
        """
        This listener was told to stop: end a handover, unless the successor has taken
        over.

        @return: whether it has.
        """
        self._closed = True
        handover = self._handover
        return handover is not None and handover.cancel(TOLD_TO_STOP)

    def wait(self) -> Deferred[None]:
        """
        Wait until all is handed over, or the successor is dead.

        @return: fires then.
        """
        waiting: Deferred[None] = Deferred()
        self._waiting.append(waiting)
        return waiting

    def _tell(self) -> None:
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.callback(None)

    # IHost

    def suspend(self) -> Commit:
        """
        See L{IHost}.
        """
        for _, acceptor in self._acceptors:
            acceptor.park()
        return self._wire.suspend()

    def resume(self) -> None:
        """
        See L{IHost}.
        """
        for _, acceptor in self._acceptors:
            acceptor.unpark()
        self._wire.resume()

    def retire(self, ready: Ready, transfer: socket.socket) -> None:
        """
        See L{IHost}.
        """
        # A load balancer must not hear that this listener ends.
        self._sockets.pauseMonitor()
        cookies = frozenset(ready.cookies)
        self._unwanted = [
            port
            for port in self._bound
            if not all(_kernel.cookie(each) in cookies for each in port.sockets)
        ]
        for port in self._unwanted:
            for sock in port.sockets:
                if _kernel.cookie(sock) not in cookies and port.kind is not (
                    Kind.DATAGRAMS
                ):
                    self._refuse(sock)
        for bound, acceptor in self._acceptors:
            if bound in self._unwanted and acceptor.waits:
                acceptor.unpark()
        done = self._wire.retire(self._grace, ready.names, transfer, self._waits)
        done.addCallback(lambda _: self._finish())

    def _refuse(self, sock: socket.socket) -> None:
        """
        Let no new client connect.
        """
        if _kernel.refuseClients(sock):
            self._refused.append(partial(_kernel.admitClients, sock))
            return
        _, backlog = _kernel.queued(sock) or (0, self._backlog)
        self._refused.append(partial(sock.listen, backlog))
        sock.listen(0)

    def _waits(self) -> Collection[str]:
        """
        The names of the ports that the successor does not have, and where clients wait.
        """
        return {
            port.name
            for port in self._unwanted
            if port.kind is not Kind.DATAGRAMS
            and any(map(_kernel.queueLength, port.sockets))
        }

    def _finish(self) -> None:
        self.isOver = True
        self._sockets.disown()
        if self._handover is not None:
            self._handover.retired()
        if self._waiting:
            self._tell()
        else:
            self._retired()

    def takeBack(self) -> None:
        """
        See L{IHost}.
        """
        self._sockets.resumeMonitor()
        for undo in self._refused:
            undo()
        self._refused.clear()
        self._unwanted.clear()
        self._wire.takeBack()
        self.resume()
        self._tell()

    def stop(self) -> None:
        """
        See L{IHost}.
        """
        self._handover = None
        self._told()
