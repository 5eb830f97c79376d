"""
The supervisor's service: it binds, starts the listener and the workers, answers
operators, and stops everything in good order.
"""

from __future__ import annotations

import atexit
import os
import time
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from twisted.internet.defer import Deferred, DeferredList, TimeoutError
from twisted.python.failure import Failure

from portlisten import _kernel
from portlisten._config.file import RunSettings
from portlisten._control.convert import ControlError
from portlisten._control.messages import (
    Allow,
    Answer,
    Compare,
    Deny,
    Drain,
    ListDenials,
    Pause,
    ProgressAnswer,
    Reload,
    Replace,
    Request,
    Restart,
    Resume,
    Status,
    Stop,
    StopAnswer,
    Undrain,
    Upgrade,
    Watch,
    Workers,
)
from portlisten._control.pausing import Pausing
from portlisten._control.problems import diagnosed
from portlisten._control.server import ControlServer
from portlisten._control.status import ListenerStatus, SupervisorStatus
from portlisten._listener.interfaces import ChannelPath, ISockets
from portlisten._listener.own_sockets import bindUntil
from portlisten._model import Kind
from portlisten._monitor.host import BoundPlace, MonitorHost, bindPlace
from portlisten._monitor.place import parsePlace
from portlisten._ports.binding import BoundPort
from portlisten._process import exits, signals, systemd_notify
from portlisten._process.service import CommandService
from portlisten._reactor import pause
from portlisten._supervisor.group import Group
from portlisten._supervisor.limits import Limits
from portlisten._supervisor.listener import SupervisedListener
from portlisten._supervisor.logs import log
from portlisten._supervisor.reload import Load, Reloads
from portlisten._supervisor.reload_ports import Running
from portlisten._supervisor.replacement import Replacements
from portlisten._supervisor.shut_down import shutDown
from portlisten._supervisor.view import View
from portlisten._supervisor.worker import Surroundings

#: How long the answer to C{status} waits for that of the listener, in seconds.  The
#: operator's command waits for longer: see L{portlisten._control.client}.
LISTENER_SECONDS = 3.0


class SupervisorService(CommandService):
    """
    Runs what a file says.

    @param file: the path of the file.
    @param sockets: binds the sockets.
    @param load: reads and checks the file of a path, as at the start.
    """

    def __init__(
        self,
        reactor: Any,
        command: exits.Command,
        file: str,
        settings: RunSettings,
        sockets: ISockets,
        load: Load,
    ) -> None:
        super().__init__(reactor, command)
        self._file = os.path.abspath(file)
        self._settings = settings
        self._sockets = sockets
        self._load = load
        self._ports: list[BoundPort] = []
        self._channel: ChannelPath | None = None
        self._view = View(reactor, self._look, self._isBusy)
        self._around = around = Surroundings(
            reactor, settings.listener.path, self._view
        )
        self._groups = [Group(around, each) for each in settings.workers]
        self._replacements = Replacements(reactor, self._view, self._ask)
        self._limits = Limits(reactor, self._groups, self._replacements.replace)
        self._pausing = Pausing(self._metrics)
        self._listener: SupervisedListener | None = None
        self._reloads: Reloads | None = None
        self._control: ControlServer | None = None
        self._place: BoundPlace | None = None
        self._monitor = MonitorHost(
            reactor, self._answerStatus, settings.user, settings.listener.logFormat
        )
        self._state = systemd_notify.manager().begin()
        self._isReady = False
        self._watchdog = pause.Pause(reactor, self._keepAlive)
        self._started = 0.0
        self._code = 0

    # CommandService calls these

    def bind(self) -> None:
        """
        See L{CommandService.bind}.
        """
        with ExitStack() as undo:
            undo.callback(self.release)
            end = time.monotonic() + self._sockets.waitForPredecessor()
            self._ports[:] = self._sockets.bindPorts(end)
            self._channel = self._sockets.bindChannel()
            # Workers may connect before the listener runs, and what the kernel refuses
            # is settled then.
            _kernel.refuseDescriptors(self._channel.socket)
            self._sockets.bindControl()
            metrics = self._settings.listener.metrics
            if metrics is not None:
                self._place = bindPlace(
                    parsePlace(metrics), lambda port: bindUntil(port, end)
                )
            undo.pop_all()
        # If the process ends before it serves, no path stays behind.
        atexit.register(self.release)

    def release(self) -> None:
        """
        See L{CommandService.release}.
        """
        atexit.unregister(self.release)
        if self._channel is not None:
            # Before its socket is closed: a successor's might get the same inode.
            self._channel.remove()
            self._channel.socket.close()
            self._channel = None
        control, self._control = self._control, None
        if control is not None:
            control.close()
        for port in self._ports:
            port.close()
        self._ports.clear()
        place, self._place = self._place, None
        if place is not None:
            place.close()
        self._monitor.release()
        self._sockets.release()

    def serve(self) -> None:
        """
        See L{CommandService.serve}.
        """
        self._started = self._reactor.seconds()
        assert self._channel is not None
        place, self._place = self._place, None
        if place is not None:
            self._monitor.start(place)
        self._control = self._sockets.startControl(
            self._reactor,
            {
                Status: self._answerStatus,
                Restart: self._answerRestart,
                Reload: self._answerReload,
                Compare: self._answerCompare,
                Upgrade: self._answerUpgrade,
                Replace: self._answerReplace,
                Watch: self._answerWatch,
                Stop: self._answerStop,
                Workers: self._forward,
                Drain: self._forward,
                Undrain: self._forward,
                Deny: self._forward,
                Allow: self._forward,
                ListDenials: self._forward,
                Pause: self._answerPause,
                Resume: self._answerResume,
            },
        )
        self._listener = SupervisedListener(
            self._reactor,
            self._settings,
            self._view,
            self._ports,
            self._channel.socket,
            self._listenerGivenUp,
        )
        self._reloads = Reloads(
            self._reactor,
            self._file,
            self._load,
            self._replacements,
            self._around,
            Running(
                self._settings,
                self._ports,
                self._channel,
                self._groups,
                self._listener,
                self._monitor,
            ),
        )
        signals.onReloadSignal(self._reactor, self._reloads.signalled)
        self._listener.start()
        for group in self._groups:
            group.start()
        self._limits.start()
        self._keepAlive()
        self._look()

    def report(self) -> None:
        """
        See L{CommandService.report}.
        """
        log.info("{text}", event="report", text=self._describe())

    def finish(self) -> Deferred[None]:
        """
        Stop everything: first the listener, which hands off all that waits, then the
        workers.
        """
        return Deferred.fromCoroutine(self._finish())

    async def _finish(self) -> None:
        self._limits.stop()
        self._replacements.stop()
        self._watchdog.cancel()
        assert self._listener is not None
        await self._listener.stop()
        # Nobody accepts there any more, and the workers may take a while to end.
        shutDown([each for each in self._ports if each.kind is Kind.CONNECTIONS])
        await DeferredList([each.stop() for each in self._groups])
        await self._monitor.stop()
        shutDown(self._ports)
        self.release()
        log.info("all processes have ended", event="stopped")
        if self._code or any(each.givenUp for each in self._groups):
            exits.endWith(self._code or 1)

    # The listener

    def _ask(self, request: Request) -> Deferred[Answer]:
        assert self._listener is not None
        return self._listener.ask(request)

    def _listenerGivenUp(self, reason: str) -> None:
        log.critical(
            "{reason}; nothing can be served without it, so all workers are stopped",
            event="listener-given-up",
            reason=reason,
        )
        self._code = 1
        signals.stop(self._reactor, "the listener is given up")

    def _isBusy(self) -> bool:
        return any(each.awaited for group in self._groups for each in group.workers)

    def _look(self) -> None:
        for group in self._groups:
            group.look()
        self._tell()

    # systemd

    def _describe(self) -> str:
        """
        Describe the state in one line.
        """
        ports = ", ".join(port.label for port in self._ports)
        parts = [f"listening on {ports}" if self._view.ready else "no listener runs"]
        parts += [
            f"{each.ready} of {each.settings.count} workers of {each.name} are ready"
            for each in self._groups
        ]
        if self._replacements.running:
            parts.append(self._replacements.running)
        return "; ".join(parts)

    def _tell(self) -> None:
        """
        Tell the service manager.
        """
        text = self._describe()
        self._state.status(text)
        if self._isReady or not self._view.ready:
            return
        if all(each.settled for each in self._groups):
            self._isReady = True
            self._state.ready(text)
            log.info("{text}", event="ready", text=text)

    def _keepAlive(self) -> None:
        """
        Tell the service manager's watchdog that the supervisor is alive.
        """
        interval = systemd_notify.manager().keepAlive()
        if interval:
            self._watchdog.begin(interval)

    # Operators

    def _answerStatus(
        self, request: Status, client: _kernel.Credentials
    ) -> Deferred[Answer]:
        def silent(failure: Failure) -> Answer:
            failure.trap(TimeoutError)
            return self._status(None)

        asked = self._view.refresh().addTimeout(LISTENER_SECONDS, self._reactor)
        return asked.addCallbacks(self._status, silent)

    def _status(self, listener: ListenerStatus | None) -> Answer:
        """
        @param listener: what the listener says; L{None} if it does not answer.
        """
        assert self._listener is not None
        if listener is not None:
            # The supervisor knows better, also while it tells the listener.
            listener = replace(listener, paused=self._pausing.paused)
        return diagnosed(
            listener,
            SupervisorStatus(
                file=self._file,
                pid=os.getpid(),
                uptime=round(self._reactor.seconds() - self._started, 3),
                listener=self._listener.describe(),
                groups=tuple(each.describe() for each in self._groups),
                operation=self._replacements.running,
                restarts=self._listener.restarts,
            ),
        )

    def _answerRestart(self, request: Restart, client: _kernel.Credentials) -> Answer:
        self._check(client)
        known = {each.name: each for each in self._groups}
        if not known:
            raise ControlError(f"{self._file} has no workers to restart")
        for name in request.groups:
            if name not in known:
                raise ControlError(
                    f"no group of workers is named {name}: {self._file} has"
                    f" {', '.join(known)}"
                )
        names = dict.fromkeys(request.groups or known)
        self._logRequest("a restart", client)
        return ProgressAnswer(
            self._replacements.restart([known[each] for each in names])
        )

    def _answerReload(self, request: Reload, client: _kernel.Credentials) -> Answer:
        self._check(client)
        assert self._reloads is not None
        self._logRequest("a reload", client)
        return self._reloads.reload("".join(request.file[:1]))

    def _answerCompare(self, request: Compare, client: _kernel.Credentials) -> Answer:
        self._check(client)
        assert self._reloads is not None
        return self._reloads.compare("".join(request.file[:1]))

    def _answerUpgrade(self, request: Upgrade, client: _kernel.Credentials) -> Answer:
        self._check(client)
        assert self._reloads is not None
        progress = self._reloads.upgrade()
        self._logRequest("another listener", client)
        return ProgressAnswer(progress)

    def _answerReplace(self, request: Replace, client: _kernel.Credentials) -> Answer:
        raise ControlError(
            f"a supervisor runs this listener: 'portlisten upgrade {self._file}'"
            " replaces it"
        )

    def _answerWatch(self, request: Watch, client: _kernel.Credentials) -> Answer:
        return ProgressAnswer(self._replacements.progress(request.operation[0]))

    def _answerStop(self, request: Stop, client: _kernel.Credentials) -> Answer:
        self._check(client)
        self._logRequest("the stop", client)
        self._reactor.callLater(0, signals.stop, self._reactor, "told to stop")
        return StopAnswer(os.getpid())

    def _answerPause(self, request: Pause, client: _kernel.Credentials) -> Answer:
        answer = self._pausing.pause(request, client)
        self._tellPaused()
        return answer

    def _answerResume(self, request: Resume, client: _kernel.Credentials) -> Answer:
        answer = self._pausing.resume(request, client)
        self._tellPaused()
        return answer

    def _metrics(self) -> str:
        """
        Say where the monitor serves.
        """
        reloads = self._reloads
        settings = self._settings if reloads is None else reloads.settings
        return settings.listener.metrics or ""

    def _tellPaused(self) -> None:
        """
        Tell the listener.  If none is ready, the next one is told.
        """
        assert self._listener is not None
        self._listener.setPaused(self._pausing.paused)

    def _forward(
        self, request: Request, client: _kernel.Credentials
    ) -> Deferred[Answer]:
        return self._ask(request)

    def _check(self, client: _kernel.Credentials) -> None:
        """
        Check that a client may command the supervisor.  The listener's user may not: it
        has less privilege than the supervisor.

        @raise ControlError: if it may not.
        """
        if client.uid not in (0, os.getuid()):
            raise ControlError("only root, and the user of the supervisor, may do that")

    def _logRequest(self, what: str, client: _kernel.Credentials) -> None:
        log.info(
            "pid {askerPid} of uid {askerUid} asks for {what}",
            event="operation-asked",
            askerPid=client.pid,
            askerUid=client.uid,
            what=what,
        )
