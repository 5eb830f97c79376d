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

from twisted.internet.defer import Deferred, fail
from twisted.python.failure import Failure

from portlisten import _kernel
from portlisten._children.launch import Launch, environmentFor
from portlisten._children.logs import lineLogger
from portlisten._children.process import CLEAN, Process
from portlisten._children.restarted import RestartedProcess
from portlisten._config.file import RunSettings
from portlisten._control.convert import ControlError
from portlisten._control.messages import Answer, Pause, Request, Resume, Stop
from portlisten._control.status import ProcessState
from portlisten._ports.binding import BoundPort
from portlisten._reactor import pause
from portlisten._supervisor.listener_link import ListenerLink
from portlisten._supervisor.logs import log
from portlisten._supervisor.shut_down import restore
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


class SupervisedListener(RestartedProcess):
    """
    The listener, as a process of the supervisor's.

    @param reactor: an L{IReactorTime} and L{IReactorFDSet}.
    @param view: is told when a listener is ready, and when it is gone.
    @param ports: the bound ports; they stay the caller's.
    @param channel: the socket of the channel's path; it stays the caller's.
    @param givenUp: called with the reason if the listener has failed too often.
    @param makeProcess: makes a process, as L{Process} does.
    """

    def __init__(
        self,
        reactor: Any,
        settings: RunSettings,
        view: View,
        ports: Sequence[BoundPort],
        channel: socket.socket,
        givenUp: Callable[[str], None],
        makeProcess: Callable[..., Process] = Process,
    ) -> None:
        super().__init__(reactor, LABEL, FAILURES)
        self._settings = settings
        self._view = view
        self._ports = ports
        self._channel = channel
        self._backlog = settings.listener.backlog or _kernel.longestBacklog()
        self._givenUp = givenUp
        self._makeProcess = makeProcess
        self._kill = pause.Pause(reactor, self._killNow)
        self._killed = False
        self._link: ListenerLink | None = None
        self._failure = ""
        self._paused = False

    # Its start

    def start(self) -> None:
        """
        See L{RestartedProcess.start}.
        """
        self._enter(ProcessState.STARTING)
        self._failure = ""
        self._killed = False
        lost = restore(self._ports, self._channel, self._backlog)
        if lost is not None:
            self._enter(ProcessState.GIVEN_UP)
            self._givenUp(lost)
            return
        try:
            ours, theirs = socket.socketpair()
            with theirs:
                self._link = link = ListenerLink(self._reactor, ours, self._broken)
                link.ready.addCallbacks(self._accepts, lambda failure: None)
                process = self._startProcess(theirs)
        except OSError as error:
            self._hasEnded(f"no link to it can be made: {error.strerror}", clean=False)
            return
        except CannotRun as error:
            self._hasEnded(str(error), clean=False)
            return
        self._process = process
        log.info("the listener is started as process {pid}", pid=process.pid)
        link.sendStart(self._settings.listener, self._ports, self._channel)

    def _startProcess(self, link: socket.socket) -> Process:
        """
        @param link: the listener's end of its link.  It stays the caller's.
        @raise CannotRun: if that is impossible.
        """
        user = self._settings.user
        launch = Launch(
            LABEL,
            [sys.executable, "-m", "portlisten", "supervised-listener"],
            environmentFor(os.environ, user, LABEL, {}),
            uid=user,
            descriptors=(link.fileno(),),
        )
        process = self._makeProcess(
            self._reactor, launch, lineLogger(LABEL), self._ended
        )
        process.start()
        return process

    def _accepts(self, pid: int) -> None:
        if self._final:
            return  # it was told to end while it started
        self._isReady()
        if self._paused:
            self._tellPaused()
        log.info("the listener is ready")
        self._view.begin(self.ask)

    def ask(self, request: Request) -> Deferred[Answer]:
        """
        Ask the listener.

        @return: fires with the answer, or fails with L{ControlError}.
        """
        if self._link is None or self._readySince is None:
            return fail(
                ControlError("the listener is not ready: its supervisor starts it")
            )
        return self._link.ask(request)

    def setPaused(self, paused: bool) -> None:
        """
        Tell the listener whether an operator has paused it, and each later one, too.
        """
        if paused is not self._paused:
            self._paused = paused
            if self._readySince is not None:
                self._tellPaused()

    def _tellPaused(self) -> None:
        def failed(failure: Failure) -> None:
            # The supervisor knows better, and tells the next listener.
            failure.trap(ControlError)

        request = Pause() if self._paused else Resume()
        self.ask(request).addErrback(failed)

    # Its end

    def _broken(self, reason: str) -> None:
        """
        The listener does not answer, answers nonsense, or has closed the link.
        """
        if self._process is not None and not self._final:
            self._view.end()
            self._failure = reason
            self._kill.begin(END_SECONDS)

    def _killNow(self) -> None:
        if self._process is not None:
            self._killed = True
            log.error("the listener is killed: {reason}", reason=self._failure)
            self._process.kill()

    def _ended(self, process: Process) -> None:
        """
        Its process has ended.
        """
        log.info("the listener {ending}", ending=process.ending)
        reason = self._failure if self._killed else f"it {process.ending}"
        self._hasEnded(reason, process.ending == CLEAN)

    def _hasEnded(self, reason: str, clean: bool) -> None:
        self._kill.cancel()
        self._view.end()
        if self._link is not None:
            self._link.close()
            self._link = None
        super()._hasEnded(reason, clean)

    def _startsAgain(self, pause: float) -> None:
        log.error(
            "the listener has ended, and is started again in {pause:g} s: {reason};"
            " clients wait meanwhile",
            pause=pause,
            reason=self.lastEnd,
        )

    def _isGivenUp(self) -> None:
        self._givenUp(
            f"the listener has failed {self._restarts.failures} times in a row:"
            f" {self.lastEnd}"
        )

    def _stopProcess(self, process: Process) -> None:
        """
        Tell it to hand off all that waits, and to end.
        """
        self._kill.cancel()
        seconds = self._settings.listener.grace + FAREWELL_SECONDS
        self.ask(Stop()).addCallbacks(
            lambda answer: process.killAfter(seconds),
            lambda failure: process.stop(seconds),
        )
