"""
The listener as a process: it is started with the supervisor's sockets, and again if
it ends.

The supervisor keeps all sockets.  So while no listener runs, clients wait in the
backlogs, and workers in that of the channel's path.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import Logger

from portlisten._config.file import RunSettings
from portlisten._control.convert import ControlError
from portlisten._control.messages import Answer, Request, Stop
from portlisten._control.status import ProcessState, ProcessStatus
from portlisten._policy.restarts import Restarts
from portlisten._ports.binding import BoundPort
from portlisten._reactor.pause import Pause
from portlisten._supervisor.launch import Launch, environmentFor
from portlisten._supervisor.listener_link import ListenerLink
from portlisten._supervisor.logs import lineLogger
from portlisten._supervisor.process import CLEAN, Process
from portlisten._supervisor.view import View
from portlisten.errors import CannotRun

#: The label of the listener, in the log.
LABEL = "listener"

#: How often in a row the listener may fail.
FAILURES = 8

#: After its grace, how long the listener may take to end, in seconds.
FAREWELL_SECONDS = 5.0

#: If the listener closes its link, how long it may take to end, in seconds.
END_SECONDS = 1.0


class SupervisedListener:
    """
    The listener, as a process of the supervisor's.

    @param view: is told when a listener is ready, and when it is gone.
    @param ports: the bound ports; they stay the caller's.
    @param channel: the socket of the channel's path; it stays the caller's.
    @param givenUp: called if the listener has failed too often.
    """

    log = Logger(namespace="supervisor")

    def __init__(
        self,
        reactor: Any,
        settings: RunSettings,
        view: View,
        ports: Sequence[BoundPort],
        channel: socket.socket,
        givenUp: Callable[[str], None],
    ) -> None:
        self._reactor = reactor
        self._settings = settings
        self._view = view
        self._ports = ports
        self._channel = channel
        self._givenUp = givenUp
        self._restarts = Restarts(FAILURES)
        self._pause = Pause(reactor, self.start)
        self._pauseSeconds = 0.0
        self._kill = Pause(reactor, self._killNow)
        self._killed = False
        self._process: Process | None = None
        self._link: ListenerLink | None = None
        self._readySince: float | None = None
        self._waiting: list[Deferred[None]] = []
        self._stopping = False
        self._failure = ""
        self._lastEnd = ""
        self._state = ProcessState.STARTING
        self._since = reactor.seconds()

    @property
    def ready(self) -> bool:
        """
        Whether it accepts.
        """
        return self._readySince is not None

    def _enter(self, state: ProcessState) -> None:
        self._state = state
        self._since = self._reactor.seconds()

    def start(self) -> None:
        """
        Start the process.
        """
        self._enter(ProcessState.STARTING)
        self._failure = ""
        self._killed = False
        user = self._settings.user
        ours, theirs = socket.socketpair()
        with theirs:
            launch = Launch(
                LABEL,
                [sys.executable, "-m", "portlisten", "supervised-listener"],
                environmentFor(os.environ, user, LABEL, {}),
                uid=user,
                descriptors=(theirs.fileno(),),
            )
            process = Process(self._reactor, launch, lineLogger(LABEL), self._ended)
            try:
                process.start()
            except CannotRun as error:
                ours.close()
                self._hasEnded(str(error), clean=False)
                return
        self._process = process
        self.log.info("the listener is started as process {pid}", pid=process.pid)
        self._link = link = ListenerLink(self._reactor, ours, self._broken)
        link.ready.addCallbacks(self._isReady, lambda failure: None)
        link.sendStart(self._settings.listener, self._ports, self._channel)

    def ask(self, request: Request) -> Deferred[Answer]:
        """
        Ask the listener.

        @return: fires with the answer, or fails with L{ControlError}.
        """
        if self._link is None or not self.ready:
            return fail(
                ControlError("the listener is not ready: its supervisor starts it")
            )
        return self._link.ask(request)

    def _isReady(self, result: object) -> None:
        self._enter(ProcessState.READY)
        self._readySince = self._since
        self.log.info("the listener is ready")
        self._view.begin(self.ask)

    def _broken(self, reason: str) -> None:
        """
        The listener does not answer, answers nonsense, or has closed the link.
        """
        if self._process is not None and not self._stopping:
            self._view.end()
            self._failure = reason
            self._kill.begin(END_SECONDS)

    def _killNow(self) -> None:
        if self._process is not None:
            self._killed = True
            self.log.error("the listener is killed: {reason}", reason=self._failure)
            self._process.kill()

    def _ended(self, process: Process) -> None:
        self._process = None
        self._kill.cancel()
        reason = self._failure if self._killed else f"it {process.ending}"
        self._hasEnded(reason, process.ending == CLEAN)

    def _hasEnded(self, reason: str, clean: bool) -> None:
        self._view.end()
        if self._link is not None:
            self._link.close()
            self._link = None
        since, self._readySince = self._readySince, None
        readySeconds = 0.0 if since is None else self._reactor.seconds() - since
        self._lastEnd = reason
        if self._stopping:
            self._enter(ProcessState.STOPPING)
            waiting, self._waiting = self._waiting, []
            for each in waiting:
                each.callback(None)
            return
        pause = self._restarts.ended(readySeconds, clean)
        if pause is None:
            self._enter(ProcessState.GIVEN_UP)
            self._givenUp(
                f"the listener has failed {self._restarts.failures} times in a row:"
                f" {reason}"
            )
            return
        self._enter(ProcessState.WAITING)
        self._pauseSeconds = pause
        self._pause.begin(pause)
        self.log.error(
            "the listener has ended, and is started again in {pause:g} s: {reason};"
            " clients wait meanwhile",
            pause=pause,
            reason=reason,
        )

    def stop(self) -> Deferred[None]:
        """
        Stop it for good: it hands off all that waits, and ends.

        @return: fires when its process has ended.
        """
        self._stopping = True
        self._pause.cancel()
        self._kill.cancel()
        if self._process is None:
            return succeed(None)
        seconds = self._settings.listener.grace + FAREWELL_SECONDS
        if self.ready and self._link is not None:
            process = self._process
            asked = self._link.ask(Stop())
            asked.addErrback(lambda failure: process.stop(seconds))
            asked.addCallback(lambda answer: self._killAfter(process, seconds))
        else:
            self._process.stop(seconds)
        self._enter(ProcessState.STOPPING)
        gone: Deferred[None] = Deferred()
        self._waiting.append(gone)
        return gone

    def _killAfter(self, process: Process, seconds: float) -> None:
        late = self._reactor.callLater(seconds, process.kill)

        def gone(result: object) -> None:
            if late.active():
                late.cancel()

        done: Deferred[None] = Deferred()
        done.addCallback(gone)
        self._waiting.append(done)

    def describe(self) -> ProcessStatus:
        """
        Describe it for an operator.
        """
        now = self._reactor.seconds()
        inState = now - self._since
        process = self._process
        waits = self._state is ProcessState.WAITING
        return ProcessStatus(
            label=LABEL,
            pid=0 if process is None else process.pid,
            state=self._state,
            seconds=round(inState, 3),
            uptime=0.0 if process is None else round(now - process.started, 3),
            memory=0 if process is None else process.memory(),
            failures=self._restarts.failures,
            restartsIn=max(0.0, round(self._pauseSeconds - inState, 3))
            if waits
            else 0.0,
            lastEnd=self._lastEnd,
        )
