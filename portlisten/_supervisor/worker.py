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

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger

from portlisten._config.file import WorkersSettings
from portlisten._control.status import ProcessState, ProcessStatus, WorkerStatus
from portlisten._policy.restarts import Restarts
from portlisten._reactor.pause import Pause
from portlisten._supervisor.launch import Launch, environmentFor
from portlisten._supervisor.logs import lineLogger
from portlisten._supervisor.process import CLEAN, Process
from portlisten._supervisor.slots import labelOf
from portlisten._supervisor.view import Mark, View
from portlisten.errors import CannotRun

#: For how long a worker must have joined before it counts as ready, in seconds.
SETTLED_SECONDS = 1.0


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


class Worker:
    """
    The worker in one slot.

    @param slot: the number of the slot.
    @param trial: whether the worker is on trial.

    @ivar label: its label.
    @ivar state: how far it has come.
    @ivar ready: if it is on trial, fires when it is ready, or fails with L{NotReady}.
    """

    log = Logger(namespace="supervisor")

    def __init__(
        self,
        surroundings: Surroundings,
        settings: WorkersSettings,
        slot: int,
        trial: bool = False,
    ) -> None:
        self._around = surroundings
        self._settings = settings
        self.slot = slot
        self.label = labelOf(settings.name, slot)
        self.uid = os.getuid() if settings.user is None else settings.user
        self._trial = trial
        self.ready: Deferred[None] = Deferred()
        self._restarts = Restarts(settings.failures)
        self._pause = Pause(surroundings.reactor, self.start)
        self._pauseSeconds = 0.0
        self._process: Process | None = None
        self._mark = Mark()
        self._joined: float | None = None
        self._readySince: float | None = None
        self._retired = False
        self._waiting: list[Deferred[None]] = []
        self._failure = ""
        self._tail: tuple[str, ...] = ()
        self.lastEnd = ""
        self.state = ProcessState.STARTING
        self._since = self._now()

    def _now(self) -> float:
        return float(self._around.reactor.seconds())

    def _enter(self, state: ProcessState) -> None:
        self.state = state
        self._since = self._now()

    @property
    def awaited(self) -> bool:
        """
        Whether what the listener says next matters.
        """
        return self.state in (ProcessState.STARTING, ProcessState.DRAINING)

    @property
    def serves(self) -> bool:
        """
        Whether it is ready.
        """
        return self.state is ProcessState.READY

    @property
    def age(self) -> float:
        """
        For how long it has been ready, in seconds.
        """
        return 0.0 if self._readySince is None else self._now() - self._readySince

    @property
    def memory(self) -> int:
        """
        The resident memory of its processes, in bytes.
        """
        return self._process.memory() if self._process is not None else 0

    @property
    def tail(self) -> tuple[str, ...]:
        """
        The end of its log.
        """
        return self._tail if self._process is None else self._process.tail

    # Its life

    def start(self) -> None:
        """
        Start its process.
        """
        settings = self._settings
        self._enter(ProcessState.STARTING)
        self._joined = self._readySince = None
        self._failure = ""
        self._mark = self._around.view.mark()
        try:
            launch = Launch(
                self.label,
                settings.commandFor(self._around.path, self.label),
                environmentFor(
                    os.environ, settings.user, self.label, settings.environment
                ),
                uid=settings.user,
                gid=settings.group,
                folder=settings.folder,
                umask=settings.umask,
                openFiles=settings.openFiles,
            )
            process = self._around.makeProcess(
                self._around.reactor, launch, lineLogger(self.label), self._ended
            )
            process.start()
        except CannotRun as error:
            self._hasEnded(str(error), clean=False)
            return
        self._process = process
        self.log.info(
            "{label} is started as process {pid}", label=self.label, pid=process.pid
        )
        self._around.view.hurry()

    def look(self) -> None:
        """
        See what the listener says of it, and whether its time to get ready is over.
        """
        if self.state is not ProcessState.STARTING or self._failure:
            return
        now = self._now()
        if self.joined is None:
            self._joined = None
            view = self._around.view
            # Before a listener is ready, nobody can join.
            since = max(self._since, view.since)
            if view.ready and now - since >= self._settings.ready:
                self._fail(
                    f"it did not join the listener within {self._settings.ready:g} s"
                )
        elif self._joined is None:
            self._joined = now
        elif now - self._joined >= SETTLED_SECONDS:
            self._enter(ProcessState.READY)
            self._readySince = now
            self.log.info("{label} is ready", label=self.label)
            if self._trial:
                self._trial = False
                self.ready.callback(None)

    @property
    def joined(self) -> WorkerStatus | None:
        """
        What the listener says of it; L{None} if it has not joined.
        """
        return self._around.view.find(self.label, self.uid, self._mark)

    def _fail(self, reason: str) -> None:
        """
        End its process, since it does not get ready.
        """
        self.log.warn("{label}: {reason}", label=self.label, reason=reason)
        self._failure = reason
        assert self._process is not None
        self._process.stop(self._settings.stop)

    def _ended(self, process: Process) -> None:
        """
        Its process has ended.
        """
        self._tail = process.tail
        self._process = None
        ending = process.ending
        self.log.info("{label} {ending}", label=self.label, ending=ending)
        self._hasEnded(self._failure or f"it {ending}", process.ending == CLEAN)

    def _hasEnded(self, reason: str, clean: bool) -> None:
        """
        It has ended, or could not be started.

        @param clean: whether it exited with 0.
        """
        readySeconds = self.age
        self._readySince = self._joined = None
        self.lastEnd = reason
        if self._retired:
            self._enter(ProcessState.STOPPING)
            waiting, self._waiting = self._waiting, []
            for each in waiting:
                each.callback(None)
        elif self._trial:
            self._retired = True
            self._enter(ProcessState.STOPPING)
            self.ready.errback(NotReady(self.label, reason, self._tail))
        else:
            self._startAgain(self._restarts.ended(readySeconds, clean))

    def _startAgain(self, pause: float | None) -> None:
        """
        @param pause: the pause before that, in seconds; L{None} if the worker is given
            up.
        """
        if pause is None:
            self._enter(ProcessState.GIVEN_UP)
            self.log.critical(
                "{label} is given up after {count} failures in a row: {reason}; the"
                " others go on; 'portlisten restart' starts it again",
                label=self.label,
                count=self._restarts.failures,
                reason=self.lastEnd,
            )
            return
        self._enter(ProcessState.WAITING)
        self._pauseSeconds = pause
        self._pause.begin(pause)
        self.log.warn(
            "{label} is started again in {pause:g} s, after failure {count}: {reason}",
            label=self.label,
            pause=pause,
            count=self._restarts.failures,
            reason=self.lastEnd,
        )

    # Its end

    def retire(self) -> None:
        """
        Note that it is not to be started again, since another one has its place.
        """
        self._retired = True
        self._pause.cancel()
        if self._process is not None:
            self._enter(ProcessState.DRAINING)

    def stop(self) -> Deferred[None]:
        """
        Stop it for good.  May be called again.

        @return: fires when its process has ended.
        """
        self._retired = True
        self._pause.cancel()
        if self._trial and not self.ready.called:
            self._trial = False
            self.ready.errback(NotReady(self.label, "it is told to stop"))
        if self._process is None:
            return succeed(None)
        if self.state is not ProcessState.STOPPING:
            self._enter(ProcessState.STOPPING)
            self._process.stop(self._settings.stop)
        gone: Deferred[None] = Deferred()
        self._waiting.append(gone)
        return gone

    @property
    def gone(self) -> bool:
        """
        Whether no process of it runs.
        """
        return self._process is None

    def describe(self) -> ProcessStatus:
        """
        Describe it for an operator.
        """
        now = self._now()
        inState = now - self._since
        waits = self.state is ProcessState.WAITING
        process = self._process
        return ProcessStatus(
            label=self.label,
            pid=process.pid if process is not None else 0,
            state=self.state,
            seconds=round(inState, 3),
            uptime=round(now - process.started, 3) if process is not None else 0.0,
            memory=self.memory,
            failures=self._restarts.failures,
            restartsIn=max(0.0, round(self._pauseSeconds - inState, 3))
            if waits
            else 0.0,
            lastEnd=self.lastEnd,
        )
