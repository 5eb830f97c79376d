"""
The listener's service: its ports, their acceptors, and the wire that takes the
connections.
"""

from __future__ import annotations

import atexit
import os
import resource
import socket
import time
from collections import deque
from contextlib import ExitStack
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from portlisten import _kernel
from portlisten._config.settings import ListenerSettings
from portlisten._control.messages import Replace
from portlisten._control.place import controlPath
from portlisten._handover.messages import Commit
from portlisten._handover.takeover import Transfer
from portlisten._listener.connection import acceptConnections
from portlisten._listener.interfaces import ISockets, ISucceededWire, IWire
from portlisten._listener.succession import Succession
from portlisten._model import Kind, Port
from portlisten._ports.accepting import Acceptor
from portlisten._ports.binding import BoundPort
from portlisten._process import exits, pid_file, signals, systemd_notify
from portlisten._process.service import CommandService
from portlisten.errors import PathError

#: How many processes may be connected to the channels' path at a time.  Others wait in
#: its backlog.  Each takes two descriptors.
MAXIMUM_CHANNELS = 256

#: Descriptors kept free for log files and the like.
RESERVED_DESCRIPTORS = 16


class ListenerService(CommandService):
    """
    Listens on ports, and gives the connections to a wire.

    @param sockets: where the ports come from.
    @param wire: takes the connections.
    @param backlog: the length of the queue of Unix ports that must listen again.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        command: exits.Command,
        settings: ListenerSettings,
        sockets: ISockets,
        wire: IWire,
        backlog: int = socket.SOMAXCONN,
    ) -> None:
        super().__init__(reactor, command)
        self._settings = settings
        self._sockets = sockets
        self._wire = wire
        self._bound: list[BoundPort] = []
        self._acceptors: deque[tuple[BoundPort, Acceptor]] = deque()
        self._stopping = False
        self._succession: Succession | None = None
        if ISucceededWire.providedBy(wire):
            self._succession = Succession(
                reactor,
                sockets,
                wire,
                settings.grace,
                lambda: signals.stop(reactor, "the next listener has taken over"),
                lambda: signals.stop(reactor, "the next listener was told to stop"),
                backlog,
            )
            wire.handlers = {Replace: self._succession.asked}
        self._state = systemd_notify.manager().begin()

    def bind(self) -> None:
        """
        Bind the ports, and what the wire needs.  See L{CommandService.bind}.
        """
        with ExitStack() as undo:
            undo.callback(self.release)
            end = time.monotonic() + self._wire.waitForPredecessor()
            self._bound = self._sockets.bindPorts(end)
            for bound in self._bound:
                checkPathsDiffer(bound.path, self._settings)
            ports = self._describePorts()
            self._wire.bind(
                ports,
                {
                    port.number: bound.sockets
                    for port, bound in zip(ports, self._bound, strict=True)
                    if port.kind is not Kind.CONNECTIONS
                },
                {
                    port.number
                    for port, bound in zip(ports, self._bound, strict=True)
                    if port.kind is Kind.LISTENER and bound.balanced
                },
                {
                    port.number: bound.limits
                    for port, bound in zip(ports, self._bound, strict=True)
                    if bound.limits is not None
                },
            )
            undo.pop_all()
        # If privileges cannot be dropped, the service is never started.
        atexit.register(self.release)

    def _describePorts(self) -> list[Port]:
        return [
            Port(number, port.address, port.name, port.kind)
            for number, port in enumerate(self._bound)
        ]

    def serve(self) -> None:
        """
        Accept and hand off.  See L{CommandService.serve}.
        """
        atexit.unregister(self.release)
        self._stopping = False
        inherited = self._sockets.takeOver(self._bound)
        with ExitStack() as undo:
            if inherited is not None:
                # If this fails, the predecessor goes on.
                undo.callback(inherited[1].close)
            self._begin(inherited)
            undo.pop_all()

    def _begin(self, inherited: tuple[Commit, Transfer] | None) -> None:
        """
        Accept and hand off.

        @param inherited: what the listener before this one says, and what goes on.
        @raise OSError: if that fails.
        """
        self._wire.capacityChanged = self._resume
        self._wire.backlogOf = self._backlogOf
        self._wire.start(*descriptorBudget())
        for bound, port in zip(self._bound, self._describePorts(), strict=True):
            if port.kind is not Kind.CONNECTIONS:
                continue
            acceptor = Acceptor(
                self._reactor,
                bound.socket,
                bound.label,
                partial(self._wire.capacity, port.name),
                partial(self._wire.accepted, port),
                self._settings.retry,
                partial(self._wire.busy, port.name),
                acceptConnections,
            )
            self._acceptors.append((bound, acceptor))
        if inherited is not None and ISucceededWire.providedBy(self._wire):
            self._wire.inherit(*inherited)
        self._sockets.settle()
        if self._succession is not None:
            self._succession.begin(self._bound, list(self._acceptors))
        self._resume()
        ports = ", ".join(port.label for port in self._bound)
        self.log.info(
            "listening on {ports}, as uid {uid}; {workers}",
            event="listening",
            ports=ports,
            uid=os.geteuid(),
            workers=str(self._wire),
        )
        self._state.ready(f"listening on {ports}; {self._wire}")

    def report(self) -> None:
        """
        See L{CommandService.report}.
        """
        self._wire.report()

    def finish(self) -> Deferred[None]:
        """
        Hand off the connections that are held and those that wait in the backlogs.
        While no worker serves a port, leave its backlog as it is: a worker may come.
        """
        succession = self._succession
        if succession is not None and succession.cancel():
            return succession.wait().addBoth(lambda _: self.finish())
        if succession is not None and succession.isOver:
            pid_file.leave(self._command.twistd)
            for _, acceptor in self._acceptors:
                acceptor.close()
            self._acceptors.clear()
            return self._finish(0.0)
        return self._finish(self._settings.grace)

    def _finish(self, grace: float) -> Deferred[None]:
        self._stopping = True
        for _, acceptor in self._acceptors:
            acceptor.park()
        self._resume()
        stopped = self._wire.stop(grace, self._backlogsWait)
        # Until then, a load balancer hears that this listener stops.
        stopped.addBoth(lambda result: self._sockets.stopMonitor())
        return stopped.addBoth(lambda result: self.release())

    def release(self) -> None:
        """
        See L{CommandService.release}.
        """
        self._ready = self._stopping = False
        for _, acceptor in self._acceptors:
            acceptor.close()
        self._acceptors.clear()
        atexit.unregister(self.release)
        for port in self._bound:
            port.close()
        self._bound = []
        self._wire.release()

    def _backlogOf(self, number: int) -> int:
        """
        Say how many connections wait in the kernel for a port.

        @param number: the number of the port.
        """
        sock = self._bound[number].socket
        return 0 if sock.fileno() == -1 else _kernel.queueLength(sock)

    def _backlogsWait(self) -> bool:
        """
        Whether connections wait in backlogs that would be reset with their ports.
        """
        return any(
            acceptor.waits
            for bound, acceptor in self._acceptors
            if not self._sockets.keepsPort(bound)
        )

    def _resume(self) -> None:
        if self._stopping:
            # A successor of the other wire does not wait for the ports.
            datagram = self._settings.wire == "datagram"
            for bound, acceptor in self._acceptors:
                if self._wire.serves(bound.name):
                    acceptor.stop(
                        self._sockets.keepsPort(bound) or datagram,
                        self._sockets.shutsPort(bound),
                    )
            return
        # The first acceptor may use up the capacity for the others.
        self._acceptors.rotate()
        for _, acceptor in list(self._acceptors):
            acceptor.resume()


def descriptorBudget() -> tuple[int, int]:
    """
    Raise the limit of open descriptors as far as possible, and divide it.

    @return: how many descriptors connections may take, and how many channels may be
        open at a time.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    free = hard - _kernel.openDescriptors() - RESERVED_DESCRIPTORS
    channels = max(1, min(MAXIMUM_CHANNELS, free // 8))
    return max(1, free - 2 * channels), channels


def checkPathsDiffer(port: str | None, settings: ListenerSettings) -> None:
    """
    Check that a port has another path than the channels and the control socket.

    @param port: the path of the port, or L{None} if it has none.
    @raise PathError: if it has not.
    """
    if port is None:
        return
    control = controlPath(settings.path, settings.control)
    for path, role in (
        (settings.path, "PATH, where workers connect"),
        (control if settings.wire == "stream" else None, "the control socket"),
    ):
        if path and os.path.realpath(port) == os.path.realpath(path):
            raise PathError(
                f"{path} is both a port and {role}: give one of them another path"
            )
