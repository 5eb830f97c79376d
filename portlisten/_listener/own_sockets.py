"""
The sockets of a listener that binds its ports and paths itself.
"""

from __future__ import annotations

import errno
import os
import select
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from zope.interface import implementer

from portlisten._channel import paths
from portlisten._config.ports import PortSettings
from portlisten._config.settings import ListenerSettings
from portlisten._control.messages import Request, Status
from portlisten._control.place import BACKLOG, MODE, SUFFIX, bindControl, controlPath
from portlisten._control.server import ControlServer, Handler
from portlisten._handover.handover import Handed
from portlisten._handover.messages import Commit
from portlisten._handover.takeover import Transfer
from portlisten._listener import successor
from portlisten._listener.heritage import Heritage
from portlisten._listener.interfaces import ISockets
from portlisten._ports.binding import BoundPort, bind
from portlisten._ports.kept import KeptSockets
from portlisten._process import signals
from portlisten._process.pid_file import PidFile
from portlisten.errors import CannotBind, ToldToStop

if TYPE_CHECKING:
    from portlisten._monitor.host import BoundPlace, MonitorHost
    from portlisten._monitor.place import Place

log = Logger()

#: After a listener has ended, how long its workers may take to close their shared
#: sockets, in seconds.
HANDOVER_SECONDS = 2.0

#: The pause between two tries to bind a port that is in use, in milliseconds.
BIND_RETRY_MILLISECONDS = 50


def bindUntil(
    wanted: PortSettings, end: float, kept: KeptSockets | None = None
) -> list[BoundPort]:
    """
    Bind a port.  If it is in use, try until a time of C{time.monotonic}.

    @param kept: sockets that are bound already, of which the port takes those that fit.
    @raise CannotBind: if it cannot be bound.
    @raise ToldToStop: if the process is told to stop meanwhile.
    """
    waits = False
    while True:
        try:
            return bind(wanted, kept)
        except CannotBind as error:
            left = end - time.monotonic()
            if error.errno != errno.EADDRINUSE or left <= 0:
                raise
            if not waits:
                waits = True
                log.info(
                    "{error}; waiting for up to {left:.0f} s, since workers of the"
                    " last listener may still have it",
                    event="port-awaited",
                    error=error,
                    left=left,
                )
        if signals.stopRequested():
            raise ToldToStop("told to stop while it waited for a port")
        select.poll().poll(BIND_RETRY_MILLISECONDS)


@implementer(ISockets)
class OwnSockets:
    """
    See L{ISockets}.

    @param ports: the settings of the ports.
    @param backlog: the length of the queue of the channels' path.
    @param user: the user that the listener becomes; L{None} if it becomes no other.
    @param workersStop: how long workers may take to stop, in seconds.  If the last
        listener is gone, its workers may keep shared sockets open for so long, and for
        L{HANDOVER_SECONDS} at the least.
    @param metrics: where the monitor listens; L{None} if none is to run.
    @param pidFile: the pid file, if the process may take over from another one.
    """

    def __init__(
        self,
        settings: ListenerSettings,
        ports: Sequence[PortSettings],
        backlog: int,
        user: int | None = None,
        workersStop: float = 0.0,
        metrics: Place | None = None,
        pidFile: PidFile | None = None,
    ) -> None:
        self._settings = settings
        self._ports = ports
        self._backlog = backlog
        self._user = user
        self._handover = max(HANDOVER_SECONDS, workersStop)
        self._startedBy = -1
        self._heritage = Heritage(settings, ports, user, pidFile)
        self._channelStored = False
        self._channelPath: paths.BoundPath | None = None
        self._server: ControlServer | None = None
        self._controlPath: paths.BoundPath | None = None
        self._wanted = metrics
        self._place: BoundPlace | None = None
        self._monitor: MonitorHost | None = None

    def waitForPredecessor(self) -> float:
        """
        See L{ISockets}.
        """
        path = self._settings.path
        if self._heritage.enter():
            return 0.0
        if not successor.isStopping(path):
            # If the last listener was killed, its workers may stop at this moment.
            return self._handover if successor.isStale(path) else 0.0
        log.info(
            "waiting for the listener at {path} to stop",
            event="listener-awaited",
            path=path,
        )
        if not successor.waitForEnd(path, signals.stopRequested):
            raise ToldToStop(f"told to stop while it waited for {path}")
        return self._handover

    def bindPorts(self, end: float) -> list[BoundPort]:
        """
        See L{ISockets}.
        """
        self._heritage.receive()
        if self._heritage.dropped:
            end = max(end, time.monotonic() + self._handover)
        bound: list[BoundPort] = []
        with ExitStack() as undo:
            for wanted in self._ports:
                for port in bindUntil(wanted, end, self._heritage.kept):
                    own = self._heritage.ownPort(port)
                    undo.callback(own.close)
                    bound.append(own)
            undo.pop_all()
        return bound

    def bindChannel(self) -> paths.BoundPath:
        """
        See L{ISockets}.
        """
        settings = self._settings
        path, mode, group = settings.path, settings.mode, settings.group
        bound = self._heritage.takePath(
            path, mode, self._backlog, group=-1 if group is None else group
        ) or paths.bind(path, mode, group, self._backlog)
        self._channelPath = bound
        self._channelStored = self._heritage.keepPath(bound)
        return bound

    def bindControl(self) -> None:
        """
        See L{ISockets}.
        """
        if self._wanted is not None:
            # Few listeners need it.
            from portlisten._monitor.host import bindPlace

            end = time.monotonic() + self._handover
            self._place = bindPlace(
                self._wanted, lambda port: bindUntil(port, end, self._heritage.kept)
            )
        self._heritage.openPidFile()
        path = self._settings.path
        control = controlPath(path, self._settings.control)
        if control:
            self._startedBy = os.geteuid()
            changes = self._user is not None and self._startedBy == 0
            owner = self._user if changes else None
            self._controlPath = self._heritage.takePath(
                control, MODE, BACKLOG, -1 if owner is None else owner
            ) or bindControl(path, control, owner)
            self._heritage.keepPath(self._controlPath)
        elif control is None:
            log.warn(
                "there is no control socket, since {path}{suffix} is too long for a"
                " socket: --control can name another path",
                event="control-limited",
                path=path,
                suffix=SUFFIX,
            )

    def startControl(
        self, reactor: Any, handlers: Mapping[type[Request], Handler]
    ) -> ControlServer | None:
        """
        See L{ISockets}.
        """
        server = self._startServer(reactor, handlers)
        self._startMonitor(reactor, handlers[Status])
        return server

    def _startServer(
        self, reactor: Any, handlers: Mapping[type[Request], Handler]
    ) -> ControlServer | None:
        if self._controlPath is None:
            return None
        # The last may be another user than the first: see `twistd --uid`.
        users = {0, self._startedBy, os.geteuid()}
        if self._user is not None:
            users.add(self._user)
        self._server = server = ControlServer(
            reactor, self._controlPath, handlers, users
        )
        self._controlPath = None
        try:
            server.start()
        except BaseException:
            server.close()
            raise
        return server

    def _startMonitor(self, reactor: Any, status: Handler) -> None:
        place, self._place = self._place, None
        if place is not None:
            from portlisten._monitor.host import MonitorHost

            self._monitor = MonitorHost(
                reactor, status, self._user, self._settings.logFormat
            )
            self._monitor.start(place)

    # A predecessor, and a successor

    def takeOver(self, ports: Sequence[BoundPort]) -> tuple[Commit, Transfer] | None:
        """
        See L{ISockets}.
        """
        place = self._place
        monitored = [] if place is None else place.ports
        return self._heritage.takeOver([*ports, *monitored])

    def settle(self) -> None:
        """
        See L{ISockets}.
        """
        self._heritage.settle()

    def handed(self, ports: Sequence[BoundPort]) -> list[Handed]:
        """
        See L{ISockets}.
        """
        handed = [Handed(each, "port") for port in ports for each in port.sockets]
        if self._monitor is not None:
            monitored = [each for port in self._monitor.ports for each in port.sockets]
            handed += [Handed(each, "port") for each in monitored]
        if self._channelPath is not None:
            handed.append(Handed(self._channelPath.socket, "channel"))
        if self._server is not None and self._server.bound is not None:
            handed.append(Handed(self._server.bound.socket, "control"))
        return handed

    def disown(self) -> None:
        """
        See L{ISockets}.
        """
        self._heritage.disown()

    def pauseMonitor(self) -> None:
        """
        See L{ISockets}.
        """
        if self._monitor is not None:
            self._monitor.pause()

    def resumeMonitor(self) -> None:
        """
        See L{ISockets}.
        """
        if self._monitor is not None:
            self._monitor.resume()

    def stopMonitor(self) -> Deferred[None]:
        """
        See L{ISockets}.
        """
        return succeed(None) if self._monitor is None else self._monitor.stop()

    def keepsPort(self, bound: BoundPort) -> bool:
        """
        See L{ISockets}.
        """
        return bound.inherited or self._heritage.isGuest

    def shutsPort(self, bound: BoundPort) -> bool:
        """
        See L{ISockets}.  When this process closes the sockets, clients are refused.
        """
        return False

    def keepsChannel(self) -> bool:
        """
        See L{ISockets}.
        """
        return self._heritage.isGuest or self._channelStored

    def expectsWorkers(self) -> bool:
        """
        See L{ISockets}.
        """
        return True

    def release(self) -> None:
        """
        See L{ISockets}.
        """
        self._heritage.close()
        if self._controlPath is not None:
            self._controlPath.remove()
            self._controlPath.socket.close()
            self._controlPath = None
        self._server = None
        place, self._place = self._place, None
        if place is not None:
            place.close()
        monitor, self._monitor = self._monitor, None
        if monitor is not None:
            monitor.release()
