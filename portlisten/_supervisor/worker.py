"""
One worker of a group: it is started, gets ready, is drained, and ends.

A worker that ends though nobody told it to is started again after a pause.  A worker on
trial is not: it is to replace another one, which serves on if the new one fails.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import Deferred

from portlisten._children.launch import Launch, environmentFor
from portlisten._children.logs import LineLogger
from portlisten._children.process import CLEAN, Process
from portlisten._children.restarted import RestartedProcess
from portlisten._config.compare import takeOver
from portlisten._config.file import WorkersSettings
from portlisten._control.status import ProcessState, WorkerStatus
from portlisten._supervisor.logs import log
from portlisten._supervisor.slots import labelOf
from portlisten._supervisor.view import Mark, View
from portlisten.errors import CannotRun

#: For how long a worker must have joined before it counts as ready, in seconds.
SETTLED_SECONDS = 1.0


#: How a process ends that was told to, and did so in good order.
_STOPPED = (CLEAN, "was killed by SIGTERM")


class NotReady(Exception):
    """
    A worker on trial did not get ready.

    @ivar reason: why.
    @ivar log: the end of its log.
    """

    def __init__(self, label: str, reason: str, log: tuple[str, ...] = ()) -> None:
        super().__init__(f"{label} is not ready: {reason}")
        self.reason = reason
        self.log = log


@dataclass(frozen=True)
class Surroundings:
    """
    What all workers of a supervisor have in common.

    @ivar reactor: an L{IReactorTime} and L{IReactorFDSet}.
    @ivar path: the path of the channel.
    @ivar view: what the listener says.
    @ivar makeProcess: makes a process, as L{Process} does.
    """

    reactor: Any
    path: str
    view: View
    makeProcess: Callable[..., Process] = Process


class Worker(RestartedProcess):
    """
    The worker in one slot.

    @param slot: the number of the slot.
    @param trial: whether the worker is on trial.

    @ivar settings: its settings.
    @ivar ready: if it is on trial, fires when it is ready, or fails with L{NotReady}.
    """

    def __init__(
        self,
        surroundings: Surroundings,
        settings: WorkersSettings,
        slot: int,
        trial: bool = False,
    ) -> None:
        label = labelOf(settings.name, slot)
        super().__init__(surroundings.reactor, label, settings.failures)
        self._around = surroundings
        self.settings = settings
        self.slot = slot
        self.uid = os.getuid() if settings.user is None else settings.user
        self._trial = trial
        self.ready: Deferred[None] = Deferred()
        self._mark = Mark()
        self._joined: float | None = None
        self._failure = ""
        self._tail: tuple[str, ...] = ()

    def takeOver(self, wanted: WorkersSettings) -> None:
        """
        Take the settings over that hold for processes that run already.
        """
        self.settings = takeOver(self.settings, wanted)
        self._restarts.most = wanted.failures

    @property
    def awaited(self) -> bool:
        """
        Whether what the listener says next decides how far it has come.
        """
        return self.state is ProcessState.STARTING

    @property
    def serves(self) -> bool:
        """
        Whether it is ready.
        """
        return self.state is ProcessState.READY

    @property
    def joined(self) -> WorkerStatus | None:
        """
        What the listener says of it; L{None} if it has not joined.
        """
        return self._around.view.find(self.label, self.uid, self._mark)

    # Its start

    def start(self) -> None:
        """
        See L{RestartedProcess.start}.
        """
        self._enter(ProcessState.STARTING)
        self._joined = None
        self._failure = ""
        self._tail = ()
        self._mark = self._around.view.mark()
        try:
            process = self._startProcess()
        except CannotRun as error:
            self._hasEnded(str(error), clean=False)
            return
        self._process = process
        log.info(
            "{worker} is started as process {pid}",
            event="worker-started",
            worker=self.label,
            pid=process.pid,
        )
        self._around.view.hurry()

    def _startProcess(self) -> Process:
        """
        @raise CannotRun: if that is impossible.
        """
        settings, around = self.settings, self._around
        launch = Launch(
            self.label,
            settings.commandFor(around.path, self.label),
            environmentFor(os.environ, settings.user, self.label, settings.environment),
            uid=settings.user,
            gid=settings.group,
            folder=settings.folder,
            umask=settings.umask,
            openFiles=settings.openFiles,
        )
        lines = LineLogger(self.label, settings.name, self.slot)
        process = around.makeProcess(around.reactor, launch, lines, self._ended)
        process.start()
        lines.pid = process.pid
        return process

    def look(self) -> None:
        """
        See what the listener says of it, and whether its time to get ready is over.
        """
        if self.state is not ProcessState.STARTING or self._failure:
            return
        now = self._now()
        view = self._around.view
        if self.joined is None:
            self._joined = None
            # While no listener is ready, its time does not pass.
            began = max(self._since, view.since)
            if view.ready and now - began >= self.settings.ready:
                self._fail(
                    f"it did not join the listener within {self.settings.ready:g} s"
                )
        elif self._joined is None:
            self._joined = now
        elif now - self._joined >= SETTLED_SECONDS:
            self._isReady()
            log.info("{worker} is ready", event="worker-ready", worker=self.label)
            if self._trial:
                self._trial = False
                self.ready.callback(None)

    def _fail(self, reason: str) -> None:
        """
        End its process, since it does not get ready.
        """
        log.warn(
            "{worker}: {reason}",
            event="worker-not-ready",
            worker=self.label,
            reason=reason,
        )
        self._failure = reason
        assert self._process is not None
        self._process.stop(self.settings.stop)

    # Its end

    def _ended(self, process: Process) -> None:
        """
        Its process has ended.
        """
        self._tail = process.tail
        ending = process.ending
        if self.state is ProcessState.STOPPING and ending in _STOPPED:
            log.info("{worker} has stopped", event="worker-stopped", worker=self.label)
        else:
            log.info(
                "{worker} {ending}",
                event="worker-ended",
                worker=self.label,
                ending=ending,
            )
        self._hasEnded(self._failure or f"it {ending}", ending == CLEAN)

    def _hasEnded(self, reason: str, clean: bool) -> None:
        failed, self._trial = self._trial, False
        if failed:
            self._startNoMore()
        super()._hasEnded(reason, clean)
        if failed:
            self.ready.errback(NotReady(self.label, reason, self._tail))

    def _startsAgain(self, pause: float) -> None:
        if not self._restarts.failures:
            # A server may end with 0 to be started anew, as after many requests.
            log.info(
                "{worker} is started again in {pause:g} s: {reason}",
                event="worker-restarted",
                worker=self.label,
                pause=pause,
                reason=self.lastEnd,
            )
            return
        log.warn(
            "{worker} is started again in {pause:g} s, after failure {count}: {reason}",
            event="worker-restarted",
            worker=self.label,
            pause=pause,
            count=self._restarts.failures,
            reason=self.lastEnd,
        )

    def _isGivenUp(self) -> None:
        log.critical(
            "{worker} is given up after {count} failures in a row: {reason}; the"
            " others go on; 'portlisten restart' starts it again",
            event="worker-given-up",
            worker=self.label,
            count=self._restarts.failures,
            reason=self.lastEnd,
        )

    def retire(self) -> None:
        """
        Note that it is not to be started again, since another one has its place.
        """
        self._startNoMore()
        if self._process is not None:
            self._enter(ProcessState.DRAINING)

    def stop(self) -> Deferred[None]:
        """
        See L{RestartedProcess.stop}.
        """
        stopped = super().stop()
        if self._trial:
            self._trial = False
            self.ready.errback(NotReady(self.label, "it is told to stop"))
        return stopped

    def _stopProcess(self, process: Process) -> None:
        process.stop(self.settings.stop)
