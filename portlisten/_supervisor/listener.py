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
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.python.failure import Failure

from portlisten import _kernel
from portlisten._children.launch import Launch, environmentFor
from portlisten._children.logs import LineLogger
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
from portlisten._supervisor.worker import NotReady
from portlisten.errors import CannotRun

#: The label of the listener, in the log.
LABEL = "listener"

#: How often in a row the listener may fail.
FAILURES = 8

#: After its grace, how long the listener may take to end, in seconds.
FAREWELL_SECONDS = 5.0

#: How long a process may load that is to replace the listener, in seconds.
LOADING_SECONDS = 30.0

#: If the listener closes its link, how long it may take to end, in seconds.
END_SECONDS = 1.0


@dataclass
class _Change:
    """
    A change of the settings and ports, which needs a new process.

    @ivar settings: the new ones, until the new process starts; then the old ones.
    @ivar ports: likewise.
    @ivar started: whether the new process is started.
    @ivar done: fires when the new process is ready.
    """

    settings: RunSettings
    ports: Sequence[BoundPort]
    started: bool = False
    done: Deferred[None] = field(default_factory=Deferred)


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
        self._loading = pause.Pause(reactor, self._loadsTooLong)
        self._link: ListenerLink | None = None
        self._failure = ""
        self._tail: tuple[str, ...] = ()
        self._change: _Change | None = None
        # A process that has no start message yet: it loads what it needs, while the
        # listener before it ends.
        self._heir: tuple[Process, ListenerLink] | None = None
        self._heirFailure = ""
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
        if self._heirFailure:
            self._endHeir()
        try:
            heir, self._heir = self._heir or self._launch(), None
        except CannotRun as error:
            self._hasEnded(str(error), clean=False)
            return
        self._process, self._link = process, link = heir
        log.info(
            "the listener is started as process {pid}",
            event="listener-started",
            pid=process.pid,
        )
        link.sendStart(self._settings.listener, self._ports, self._channel)

    def _launch(self) -> tuple[Process, ListenerLink]:
        """
        Start a process, which waits for its start message.

        @raise CannotRun: if that is impossible.
        """
        try:
            ours, theirs = socket.socketpair()
        except OSError as error:
            raise CannotRun(f"no link to it can be made: {error.strerror}") from None
        with theirs:
            try:
                link = ListenerLink(self._reactor, ours)
            except OSError as error:
                ours.close()
                raise CannotRun(
                    f"no link to it can be made: {error.strerror}"
                ) from None
            link.onBroken = partial(self._broken, link)
            link.ready.addCallbacks(self._accepts, lambda failure: None)
            try:
                return self._startProcess(theirs), link
            except CannotRun:
                link.close()
                raise

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
            self._reactor, launch, LineLogger(LABEL), self._ended
        )
        process.start()
        return process

    def _accepts(self, pid: int) -> None:
        if self._final:
            return  # it was told to end while it started
        self._isReady()
        if self._paused:
            self._tellPaused()
        log.info("the listener is ready", event="listener-ready")
        self._view.begin(self.ask)
        change, self._change = self._change, None
        if change is not None:
            change.done.callback(None)

    def replace(
        self, settings: RunSettings, ports: Sequence[BoundPort]
    ) -> Deferred[None]:
        """
        Replace the process by one with other settings and ports.  The old process hands
        off what it has accepted, and leaves what waits in the backlogs to the new one.

        @param ports: the bound ports; they stay the caller's.
        @return: fires when the new process is ready.  Fails with L{NotReady} if it does
            not get ready.  If it cannot even load, the old process goes on.  Otherwise
            a process with the old settings and ports is started.
        """
        assert self._change is None
        if self._final:
            return fail(NotReady(LABEL, "the supervisor stops"))
        self._change = change = _Change(settings, ports)
        self._pause.cancel()
        if self._process is None:
            self._startChanged(change)
            return change.done
        # Loading takes the longest, so the old one serves meanwhile.
        self._loading.begin(LOADING_SECONDS)
        self._heirFailure = ""
        try:
            self._heir = self._launch()
        except CannotRun as error:
            self._abandon(str(error))
        else:
            self._heir[1].loaded.addCallback(lambda _: self._retire())
        return change.done

    def _retire(self) -> None:
        """
        Let the old process hand off what it has, and end.
        """
        self._loading.cancel()
        if not self._mayAbandon:
            return
        assert self._process is not None
        self._enter(ProcessState.DRAINING)
        self._kill.cancel()
        self._process.stop(self._settings.listener.grace + FAREWELL_SECONDS)

    @property
    def _mayAbandon(self) -> bool:
        """
        Whether a change is under way, and the old process was not told to end yet.
        """
        change = self._change
        if change is None or change.started or self._final:
            return False
        return self._process is not None and self.state is not ProcessState.DRAINING

    def _loadsTooLong(self) -> None:
        self._endHeir()
        self._abandon(f"it does not load within {LOADING_SECONDS:g} s")

    def _abandon(self, reason: str, tail: tuple[str, ...] = ()) -> None:
        """
        The process that is to be the next one cannot load.  If the old one was not told
        to end, it goes on.  Otherwise another one is tried when it has ended.

        @param tail: the end of the log.
        """
        if not self._mayAbandon:
            return
        self._loading.cancel()
        change, self._change = self._change, None
        log.error(
            "the next listener does not get ready: {reason}; the old one goes on",
            event="listener-not-ready",
            reason=reason,
        )
        assert change is not None
        change.done.errback(NotReady(LABEL, reason, tail))

    def _startChanged(self, change: _Change) -> None:
        self._swap(change)
        change.started = True
        self.start()

    def _swap(self, change: _Change) -> None:
        """
        Exchange the settings and ports with those of a change.
        """
        self._settings, change.settings = change.settings, self._settings
        self._ports, change.ports = change.ports, self._ports
        self._backlog = self._settings.listener.backlog or _kernel.longestBacklog()

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

    def _broken(self, link: ListenerLink, reason: str) -> None:
        """
        The listener does not answer, answers nonsense, or has closed the link.
        """
        if self._heir is not None and link is self._heir[1]:
            # It may be about to say why it ends.
            self._heirFailure = reason
            self._heir[0].killAfter(END_SECONDS)
        elif link is not self._link:
            pass  # its process has ended
        elif self.state is ProcessState.DRAINING:
            self._view.end()
        elif self._process is not None and not self._final:
            self._view.end()
            self._failure = reason
            self._kill.begin(END_SECONDS)

    def _killNow(self) -> None:
        if self._process is not None:
            self._killed = True
            log.error(
                "the listener is killed: {reason}",
                event="listener-killed",
                reason=self._failure,
            )
            self._process.kill()

    def _endHeir(self) -> None:
        """
        End the process that waits for its start message, if any.
        """
        heir, self._heir = self._heir, None
        if heir is not None:
            process, link = heir
            link.close()
            process.kill()

    def _ended(self, process: Process) -> None:
        """
        Its process has ended.
        """
        if process is not self._process:
            if self._heir is not None and process is self._heir[0]:
                reason = f"it {process.ending}"
                if self._heirFailure and process.ending == "was killed by SIGKILL":
                    reason = self._heirFailure
                self._endHeir()
                self._abandon(reason, process.tail)
            return
        self._tail = process.tail
        log.info("the listener {ending}", event="listener-ended", ending=process.ending)
        reason = self._failure if self._killed else f"it {process.ending}"
        self._hasEnded(reason, process.ending == CLEAN)

    def _hasEnded(self, reason: str, clean: bool) -> None:
        self._kill.cancel()
        self._loading.cancel()
        self._view.end()
        if self._link is not None:
            self._link.close()
            self._link = None
        change = self._change
        if change is None or self._final:
            self._endHeir()
            super()._hasEnded(reason, clean)
            if change is not None:
                self._change = None
                change.done.errback(NotReady(LABEL, "the supervisor stops"))
            return
        self._process = self._readySince = None
        if not change.started:
            self._startChanged(change)
            return
        self._change = None
        self._swap(change)
        log.error(
            "the listener does not get ready with the new settings: {reason}; it is"
            " started with the old ones",
            event="listener-not-ready",
            reason=reason,
        )
        tail, self._tail = self._tail, ()
        self.start()
        change.done.errback(NotReady(LABEL, reason, tail))

    def _startsAgain(self, pause: float) -> None:
        log.error(
            "the listener has ended, and is started again in {pause:g} s: {reason};"
            " clients wait meanwhile",
            event="listener-restarted",
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
