"""
The monitor as a process of its parent: the supervisor, or a listener that runs alone.

The parent binds the sockets and keeps them, so clients wait in their backlogs while the
monitor is started again.  The monitor talks to the network, so what it says is taken as
hostile input: only C{status} is answered, one request at a time, and not too often.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from portlisten import _kernel
from portlisten._children.launch import Launch, environmentFor
from portlisten._children.logs import LineLogger
from portlisten._children.process import CLEAN, Process
from portlisten._children.restarted import RestartedProcess
from portlisten._control.convert import ControlError
from portlisten._control.messages import Answer, Status
from portlisten._control.server import ControlServer, Handler
from portlisten._control.status import ProcessState
from portlisten._monitor.place import BACKLOG
from portlisten._monitor.start import MonitorStart, encodeStart
from portlisten._reactor.deadline import Deadline
from portlisten.errors import CannotRun

#: The label of the monitor, in the log.
LABEL = "monitor"

#: How long the monitor may take from its start to its first request, in seconds.
READY_SECONDS = 60.0

#: How long a monitor may be silent that asks every second, in seconds.
SILENCE_SECONDS = 10.0

#: The least time between two answers, in seconds.
PACE_SECONDS = 0.1

#: How long the monitor may take to end, in seconds.
END_SECONDS = 2.0


class _StatusServer(ControlServer):
    """
    The parent's end of the link.

    @param status: answers the request for the status.
    @param wrong: called with the reason if the monitor asks for anything else.  It
        could ask for that all the time.
    """

    def __init__(
        self, reactor: Any, status: Handler, wrong: Callable[[str], object]
    ) -> None:
        super().__init__(reactor, None, {Status: status}, ())
        self._wrong = wrong

    def answer(
        self, line: bytes, credentials: _kernel.Credentials
    ) -> Answer | Deferred[Any]:
        """
        See L{ControlServer.answer}.
        """
        try:
            return super().answer(line, credentials)
        except ControlError:
            self._wrong("it asks for more than the status")
            raise


class Monitor(RestartedProcess):
    """
    The monitor.  It is started again however often it fails: without it, load balancers
    would take the machine for dead.

    @param reactor: an L{IReactorTime} and L{IReactorFDSet}.
    @param sockets: the listening sockets, which stay the caller's.
    @param description: the endpoint that the monitor listens on itself; empty if it
        gets sockets.
    @param status: answers the request for the status.
    @param user: the user of the monitor; L{None} for this process's own.
    @param makeProcess: makes a process, as L{Process} does.
    @param logFormat: the format of its log.

    @ivar begun: fires when its first process is ready, with nothing, or has ended, with
        the reason and the end of its log, in lines.
    """

    log = Logger(namespace="monitor")

    def __init__(
        self,
        reactor: Any,
        sockets: Sequence[socket.socket],
        description: str,
        status: Handler,
        user: int | None,
        makeProcess: Callable[..., Process] = Process,
        logFormat: str = "text",
    ) -> None:
        super().__init__(reactor, LABEL, 0)
        self._sockets = sockets
        self._description = description
        self._status = status
        self._user = user
        self._makeProcess = makeProcess
        self._logFormat = logFormat
        self._server: ControlServer | None = None
        self._silence: Deadline | None = None
        self._answeredAt = -PACE_SECONDS
        self._failure = ""
        self._closedAt: float | None = None
        self.begun: Deferred[tuple[str, ...]] = Deferred()

    # Its start

    def start(self) -> None:
        """
        See L{RestartedProcess.start}.
        """
        self._enter(ProcessState.STARTING)
        self._failure, self._closedAt = "", None
        try:
            self._listenAgain()
            self._begin()
        except OSError as error:
            self._hasEnded(f"it cannot be started: {error.strerror}", clean=False)
        except CannotRun as error:
            self._hasEnded(str(error), clean=False)

    def _listenAgain(self) -> None:
        """
        Each holder of a listening socket can shut it down: let it listen again.

        @raise OSError: if that is impossible.
        """
        for sock in self._sockets:
            if _kernel.isShutDown(sock):
                sock.listen(BACKLOG)

    def _begin(self) -> None:
        """
        Start the process, and send the start message.

        @raise OSError: if the link cannot be made.
        @raise CannotRun: if the process cannot be started.
        """
        with ExitStack() as undo:
            ours, theirs = socket.socketpair()
            undo.enter_context(ours)
            with theirs:
                self._process = self._startProcess(theirs)
            self._wait(READY_SECONDS)
            try:
                self._sendStart(ours)
                self._server = server = _StatusServer(
                    self._reactor, self._answer, self._fail
                )
                undo.pop_all()
                server.serve(ours, self._closed)
            except OSError as error:
                self._fail(f"its link cannot be used: {error.strerror}")

    def _sendStart(self, link: socket.socket) -> None:
        """
        Send the start message.  It fits into the socket's buffer.

        @raise OSError: if that is impossible.
        """
        link.setblocking(False)
        line = encodeStart(self._startMessage())
        _kernel.send(link, line, [each.fileno() for each in self._sockets])

    def _startMessage(self) -> MonitorStart:
        return MonitorStart(self._description, len(self._sockets), self._logFormat)

    def _startProcess(self, link: socket.socket) -> Process:
        launch = Launch(
            LABEL,
            [sys.executable, "-m", "portlisten", "supervised-monitor"],
            environmentFor(os.environ, self._user, LABEL, {}),
            uid=self._user,
            descriptors=(link.fileno(),),
        )
        process = self._makeProcess(
            self._reactor, launch, LineLogger(LABEL), self._ended
        )
        process.start()
        return process

    # What it asks

    def _answer(self, request: Status, client: _kernel.Credentials) -> Any:
        """
        Answer a request, but not sooner than L{PACE_SECONDS} after the last.
        """
        self._stopWaiting()
        if self.state is ProcessState.STARTING:
            self._isReady()
            self.log.info("the monitor is ready", event="monitor-ready")
            self._hasBegun()
        server = self._server

        def answer(_: None) -> Any:
            if server is not self._server:
                raise ControlError("the monitor has ended")
            return self._status(request, client)

        def answered(result: Any) -> Any:
            if server is self._server and not self._final:
                self._answeredAt = self._now()
                self._wait(SILENCE_SECONDS)
            return result

        asked: Deferred[None] = Deferred()
        pause = self._answeredAt + PACE_SECONDS - self._now()
        self._reactor.callLater(max(0.0, pause), asked.callback, None)
        return asked.addCallback(answer).addBoth(answered)

    def _wait(self, seconds: float) -> None:
        self._stopWaiting()
        self._silence = Deadline(
            self._reactor, seconds, self._fail, f"it asks nothing for {seconds:g} s"
        )

    def _stopWaiting(self) -> None:
        if self._silence is not None:
            self._silence.cancel()
            self._silence = None

    # Its end

    def _closed(self) -> None:
        """
        It has closed the link.
        """
        if self._process is not None and not self._final:
            # Mostly, it is about to end, and to say why.
            self._closedAt = self._now()
            self._process.killAfter(END_SECONDS)

    def _fail(self, reason: str) -> None:
        """
        It is of no use: kill it.
        """
        self._failure = reason
        if self._process is not None:
            self.log.error(
                "the monitor is killed: {reason}", event="monitor-killed", reason=reason
            )
            self._process.kill()

    def _ended(self, process: Process) -> None:
        """
        Its process has ended.
        """
        closedAt = self._closedAt
        if closedAt is not None and self._now() - closedAt >= END_SECONDS:
            self._failure = self._failure or "it closed its link, and did not end"
        reason = f"it {process.ending}"
        if self._failure:
            reason = f"{self._failure} ({process.ending})"
        self._hasEnded(reason, process.ending == CLEAN, process.tail)

    def _hasEnded(self, reason: str, clean: bool, tail: tuple[str, ...] = ()) -> None:
        self._stopWaiting()
        server, self._server = self._server, None
        if server is not None:
            server.close()
        super()._hasEnded(reason, clean)
        self._hasBegun(reason, *tail)

    def _hasBegun(self, *lines: str) -> None:
        if not self.begun.called:
            self.begun.callback(lines)

    def _startsAgain(self, pause: float) -> None:
        self.log.error(
            "the monitor has ended, and is started again in {pause:g} s: {reason}",
            event="monitor-lost",
            pause=pause,
            reason=self.lastEnd,
        )

    def _stopProcess(self, process: Process) -> None:
        """
        Tell it to end.
        """
        self._stopWaiting()
        process.stop(END_SECONDS)
