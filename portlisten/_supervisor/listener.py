"""
The listener as a process: it is started with the supervisor's sockets, and again if
it ends.

The supervisor keeps all sockets.  So while no listener runs, clients wait in the
backlogs, and workers in that of the channel's path.

A listener is replaced while it serves: the next one loads, gets the same sockets, and
takes over from it, as L{portlisten._handover.handover} says.  Until then the old one
serves, and it goes on if the next one fails.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from twisted.internet.defer import Deferred, DeferredList, fail
from twisted.python.failure import Failure

from portlisten import _kernel
from portlisten._children.process import CLEAN, Process
from portlisten._children.restarted import RestartedProcess
from portlisten._config.file import RunSettings
from portlisten._control.convert import ControlError
from portlisten._control.messages import Answer, Pause, Request, Resume, Stop
from portlisten._control.status import ProcessState
from portlisten._ports.binding import BoundPort
from portlisten._reactor import pause
from portlisten._supervisor.listener_process import LABEL, ListenerProcess
from portlisten._supervisor.logs import log
from portlisten._supervisor.shut_down import restore
from portlisten._supervisor.view import View
from portlisten._supervisor.worker import NotReady
from portlisten.errors import CannotRun

#: How often in a row the listener may fail.
FAILURES = 8

#: After its grace, how long the listener may take to end, in seconds.
FAREWELL_SECONDS = 5.0

#: How long a process may load that is to replace the listener, in seconds.
LOADING_SECONDS = 30.0

#: Why a process is killed that was about to start with old settings.
CHANGED = "it is started with other settings"

#: If the listener closes its link, how long it may take to end, in seconds.
END_SECONDS = 1.0


@dataclass
class _Change:
    """
    The replacement of the listener, while it is under way.

    @ivar settings: the new settings.
    @ivar ports: the new ports.
    @ivar heir: the process that is to take over; L{None} if there was none to take over
        from, and an ordinary start is under way.
    @ivar failure: why the heir is killed; empty if it is not.
    @ivar done: fires when the heir is ready.
    """

    settings: RunSettings
    ports: Sequence[BoundPort]
    heir: ListenerProcess | None = None
    failure: str = ""
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
        self._givenUp = givenUp
        self._makeProcess = makeProcess
        self._kill = pause.Pause(reactor, self._killNow)
        self._killed = False
        self._loading = pause.Pause(reactor, self._loadsTooLong)
        self._current: ListenerProcess | None = None
        # Those whose successors have taken over, and what waits for their end.
        self._retiring: dict[ListenerProcess, Deferred[None]] = {}
        self._failure = ""
        self._tail: tuple[str, ...] = ()
        self._change: _Change | None = None
        self._paused = False

    # Its start

    def start(self) -> None:
        """
        See L{RestartedProcess.start}.
        """
        self._enter(ProcessState.STARTING)
        self._failure = ""
        self._killed = False
        backlog = self._settings.listener.backlog or _kernel.longestBacklog()
        lost = restore(self._ports, self._channel, backlog)
        if lost is not None:
            self._enter(ProcessState.GIVEN_UP)
            self._givenUp(lost)
            return
        try:
            self._current = current = self._launch(self._settings)
        except CannotRun as error:
            self._hasEnded(str(error), clean=False)
            return
        self._process = current.process
        current.sendStart(self._settings.listener, self._ports, self._channel)

    def _launch(self, settings: RunSettings) -> ListenerProcess:
        """
        Start a process, which waits for its start message.

        @raise CannotRun: if that is impossible.
        """
        made = ListenerProcess(
            self._reactor,
            settings.user,
            self._accepts,
            self._ended,
            self._broken,
            self._makeProcess,
        )
        log.info(
            "the listener is started as process {pid}",
            event="listener-started",
            pid=made.process.pid,
        )
        return made

    def _accepts(self, ready: ListenerProcess) -> None:
        if self._final:
            return  # it was told to end while it started
        change = self._change
        if change is not None and ready is change.heir:
            self._hasTakenOver(change, ready)
        elif ready is not self._current:
            return
        self._isReady()
        if self._paused:
            self._tellPaused()
        log.info("the listener is ready", event="listener-ready")
        self._view.begin(self.ask)
        self._change = None
        if change is not None:
            change.done.callback(None)

    # Its replacement

    def replace(
        self, settings: RunSettings, ports: Sequence[BoundPort]
    ) -> Deferred[None]:
        """
        Replace the process by one with other settings and ports, or the same.  The old
        process serves until the new one takes over, and then hands over what waits.

        @param ports: the bound ports; they stay the caller's.
        @return: fires when the new process has taken over.  Fails with L{NotReady} if
            it does not.  Then the old one goes on.
        """
        assert self._change is None
        if self._final:
            return fail(NotReady(LABEL, "the supervisor stops"))
        self._change = change = _Change(settings, ports)
        if self._current is None or self._readySince is None:
            # Nobody serves.  If this fails, the old settings are tried again.
            self._startChanged(change)
            return change.done
        try:
            change.heir = heir = self._launch(settings)
        except CannotRun as error:
            self._abandon(str(error))
        else:
            self._loading.begin(LOADING_SECONDS)
            heir.link.loaded.addCallback(lambda _: self._handOver(change, heir))
        return change.done

    def _startChanged(self, change: _Change) -> None:
        self._pause.cancel()
        self._swap(change)
        if self._current is None:
            self.start()
        else:
            # It is about to start with the old settings.
            self._killed = True
            self._failure = CHANGED
            self._current.process.kill()

    def _swap(self, change: _Change) -> None:
        """
        Exchange the settings and ports with those of a change.
        """
        self._settings, change.settings = change.settings, self._settings
        self._ports, change.ports = change.ports, self._ports

    def _handOver(self, change: _Change, heir: ListenerProcess) -> None:
        """
        The next process has loaded: let it take over.
        """
        self._loading.cancel()
        if change is not self._change or self._final:
            return
        try:
            heir.sendStart(
                change.settings.listener, change.ports, self._channel, self._current
            )
        except OSError as error:
            reason = f"the old one cannot be told of it: {error.strerror}"
            self._endHeir(change, reason)

    def _hasTakenOver(self, change: _Change, heir: ListenerProcess) -> None:
        old = self._current
        self._swap(change)
        self._current = heir
        self._process = heir.process
        self._kill.cancel()
        self._failure = ""
        self._killed = False
        if old is not None:
            self._retiring[old] = Deferred()
            old.process.killAfter(change.settings.listener.grace + FAREWELL_SECONDS)

    def _loadsTooLong(self) -> None:
        if self._change is not None:
            reason = f"it does not load within {LOADING_SECONDS:g} s"
            self._endHeir(self._change, reason)

    def _endHeir(self, change: _Change, reason: str) -> None:
        """
        End the process that is to take over.
        """
        change.failure = reason
        if change.heir is not None:
            change.heir.process.kill()

    def _abandon(self, reason: str, tail: tuple[str, ...] = ()) -> None:
        """
        The next process does not take over: the old one goes on.

        @param tail: the end of the log.
        """
        self._loading.cancel()
        change, self._change = self._change, None
        if change is None:
            return
        lives = self._current is not None
        log.error(
            "the next listener does not get ready: {reason}; {old}",
            event="listener-not-ready",
            reason=reason,
            old="the old one goes on"
            if lives
            else "it is started with the old settings",
        )
        if not lives and not self._final:
            self.start()
        change.done.errback(NotReady(LABEL, reason, tail))

    def ask(self, request: Request) -> Deferred[Answer]:
        """
        Ask the listener.

        @return: fires with the answer, or fails with L{ControlError}.
        """
        if self._current is None or self._readySince is None:
            return fail(
                ControlError("the listener is not ready: its supervisor starts it")
            )
        return self._current.link.ask(request)

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

    def _broken(self, broken: ListenerProcess, reason: str) -> None:
        """
        The listener does not answer, answers nonsense, or has closed the link.
        """
        change = self._change
        if change is not None and broken is change.heir:
            # It may be about to say why it ends.
            change.failure = reason
            broken.process.killAfter(END_SECONDS)
        elif broken is self._current and not self._final:
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

    def _ended(self, ended: ListenerProcess) -> None:
        """
        A process has ended.
        """
        process = ended.process
        ended.close()
        change = self._change
        if change is not None and ended is change.heir:
            reason = f"it {process.ending}"
            if change.failure and process.ending == "was killed by SIGKILL":
                reason = change.failure
            self._abandon(reason, process.tail)
            return
        log.info("the listener {ending}", event="listener-ended", ending=process.ending)
        if ended in self._retiring:
            self._retiring.pop(ended).callback(None)
        elif ended is self._current:
            self._tail = process.tail
            reason = self._failure if self._killed else f"it {process.ending}"
            self._hasEnded(reason, process.ending == CLEAN)

    def _hasEnded(self, reason: str, clean: bool) -> None:
        self._kill.cancel()
        self._view.end()
        if self._current is not None:
            self._current.close()
            self._current = None
        change = self._change
        if change is None or self._final:
            super()._hasEnded(reason, clean)
            return
        self._process = self._readySince = None
        self._enter(ProcessState.STARTING)
        if change.heir is not None:
            return  # it finds that the old one is gone, and serves
        if self._killed and self._failure == CHANGED:
            self.start()
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

    def stop(self) -> Deferred[None]:
        """
        See L{RestartedProcess.stop}.
        """
        self._loading.cancel()
        gone = super().stop()
        change, self._change = self._change, None
        if change is not None:
            if change.heir is not None:
                self._retiring[change.heir] = Deferred()
                change.heir.process.kill()
            change.done.errback(NotReady(LABEL, "the supervisor stops"))
        for each in self._retiring:
            each.process.stop(END_SECONDS)
        waiting = [gone, *self._retiring.values()]
        return DeferredList(waiting).addCallback(lambda _: None)

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
