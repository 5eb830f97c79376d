"""
A process that is started again if it ends: the listener, or a worker.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, succeed

from portlisten._children.process import Process
from portlisten._control.status import ProcessState, ProcessStatus
from portlisten._policy.restarts import Restarts
from portlisten._reactor.pause import Pause


class RestartedProcess:
    """
    A process that is started again after a pause if it ends though nobody told it to.

    @param reactor: an L{IReactorTime}.
    @param label: its label.
    @param failures: how many failures in a row are too many; 0 if never.

    @ivar label: its label.
    @ivar state: how far it has come.
    @ivar restarts: how often it was started again, since it had ended though nobody
        told it to.
    @ivar lastEnd: how it ended last, or why it could not be started; empty if neither
        has happened.
    """

    def __init__(self, reactor: Any, label: str, failures: int) -> None:
        self._reactor = reactor
        self._restarts = Restarts(failures)
        self._pause = Pause(reactor, self._startAgain)
        self._pauseSeconds = 0.0
        self._process: Process | None = None
        self._readySince: float | None = None
        # Whether it is not to be started again, and what waits for its end.
        self._final = False
        self._waiting: list[Deferred[None]] = []
        self.label = label
        self.restarts = 0
        self.lastEnd = ""
        self._enter(ProcessState.STARTING)

    # Subclasses implement these

    def start(self) -> None:
        """
        Start it.  If that is impossible, call L{_hasEnded}.
        """
        raise NotImplementedError

    def _stopProcess(self, process: Process) -> None:
        """
        Tell it to end, and make sure that it does.
        """
        raise NotImplementedError

    def _startsAgain(self, pause: float) -> None:
        """
        It is started again after a pause.

        @param pause: the pause, in seconds.
        """
        raise NotImplementedError

    def _isGivenUp(self) -> None:
        """
        It has failed too often, and is not started again.
        """
        raise NotImplementedError

    # How far it has come

    def _now(self) -> float:
        return float(self._reactor.seconds())

    def _enter(self, state: ProcessState) -> None:
        self.state = state
        self._since = self._now()

    def _isReady(self) -> None:
        """
        Note that it is ready.
        """
        self._enter(ProcessState.READY)
        self._readySince = self._since

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
    def gone(self) -> bool:
        """
        Whether no process of it runs.
        """
        return self._process is None

    # Its end

    def _hasEnded(self, reason: str, clean: bool) -> None:
        """
        It has ended, or could not be started.

        @param reason: how it ended, or why it could not be started.
        @param clean: whether it exited with 0.
        """
        readySeconds = self.age
        self._process = self._readySince = None
        self.lastEnd = reason
        if self._final:
            self._enter(ProcessState.STOPPING)
            waiting, self._waiting = self._waiting, []
            for each in waiting:
                each.callback(None)
            return
        pause = self._restarts.ended(readySeconds, clean)
        if pause is None:
            self._enter(ProcessState.GIVEN_UP)
            self._isGivenUp()
            return
        self._enter(ProcessState.WAITING)
        self._pauseSeconds = pause
        self._pause.begin(pause)
        self._startsAgain(pause)

    def _startAgain(self) -> None:
        self.restarts += 1
        self.start()

    def _startNoMore(self) -> None:
        self._final = True
        self._pause.cancel()

    def stop(self) -> Deferred[None]:
        """
        Stop it for good.  May be called again.

        @return: fires when it has ended.
        """
        self._startNoMore()
        if self._process is None:
            return succeed(None)
        gone: Deferred[None] = Deferred()
        self._waiting.append(gone)
        if self.state is not ProcessState.STOPPING:
            self._enter(ProcessState.STOPPING)
            self._stopProcess(self._process)
        return gone

    def describe(self) -> ProcessStatus:
        """
        Describe it for an operator.
        """
        now = self._now()
        inState = now - self._since
        left = 0.0
        if self.state is ProcessState.WAITING:
            left = max(0.0, self._pauseSeconds - inState)
        process = self._process
        return ProcessStatus(
            label=self.label,
            pid=0 if process is None else process.pid,
            state=self.state,
            seconds=round(inState, 3),
            uptime=0.0 if process is None else round(now - process.started, 3),
            memory=self.memory,
            failures=self._restarts.failures,
            restartsIn=round(left, 3),
            lastEnd=self.lastEnd,
        )
