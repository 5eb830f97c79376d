"""
The process of C{portlisten each}: its worker, its signals, and its end.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from enum import Enum

from portlisten._anyloop import log
from portlisten._anyloop.clock import Clock
from portlisten._anyloop.worker import Worker
from portlisten._config.settings import EachSettings, WorkerSettings
from portlisten._each.children import Children
from portlisten._each.starting import Program
from portlisten._reactor.deadline import Deadline

#: How long processes may take to end after SIGTERM, in seconds.
KILL_SECONDS = 5.0

#: The worker never ends connections by itself.
_NEVER = 1e9


class Stage(Enum):
    """
    The stages of the service, in order.
    """

    #: Connections come.
    SERVING = 0
    #: No more connections come, and the processes finish.
    FINISHING = 1
    #: The processes were sent SIGTERM.
    TERMINATING = 2
    #: The processes were sent SIGKILL.
    KILLING = 3


class Service:
    """
    Starts a program for each connection of a listener.

    @param loop: a loop of asyncio, in the main thread.
    @param label: the worker's name for the operator, or nothing.

    @ivar done: has a result when the service has ended.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        settings: EachSettings,
        program: Program,
        label: str,
    ) -> None:
        self._loop = loop
        self._settings = settings
        self._clock = Clock(loop)
        self._timer: Deadline | None = None
        self._stage = Stage.SERVING
        self._left = False
        self.done: asyncio.Future[None] = loop.create_future()
        self.worker: Worker[Children] = Worker(
            loop,
            WorkerSettings(
                path=settings.path,
                names=settings.names,
                grace=_NEVER,
                listenerUsers=settings.listenerUsers,
                limit=settings.limit,
                first=settings.first,
                retry=settings.retry,
            ),
            settings.first or 0.0,
            label,
            lambda clock, changed: Children(
                clock,
                program,
                settings.limit,
                self._after(changed),
                settings.proxies or (),
            ),
            self._finished,
        )
        self._children = self.worker.adopter

    def start(self) -> None:
        """
        Join the listener.

        @raise OSError: if the process has no free descriptor.
        """
        # If SIGCHLD were ignored, as the parent may have left it, the kernel would not
        # tell how a process ends.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._loop.add_signal_handler(signal.SIGCHLD, self._children.reap)
        for number in (signal.SIGTERM, signal.SIGINT):
            self._handle(number, self.stop)
        for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            self._handle(number, self._ignore)
        self.worker.start()

    def _handle(
        self, number: signal.Signals, act: Callable[[signal.Signals], None]
    ) -> None:
        """
        Handle a signal, unless this process was started with the signal ignored, as by
        nohup(1).
        """
        if signal.getsignal(number) is not signal.SIG_IGN:
            self._loop.add_signal_handler(number, act, number)

    def _ignore(self, number: signal.Signals) -> None:
        log.info(
            "received {name}, which means nothing to this command",
            event="signal-ignored",
            name=number.name,
        )

    def stop(self, number: signal.Signals) -> None:
        """
        Take no more connections, and wait for the processes.  The second time, wait no
        longer.  The third time, kill them.
        """
        running = len(self._children.running)
        if self._stage is Stage.SERVING:
            log.info(
                "received {name}, stopping, with {count} processes",
                event="stopping",
                name=number.name,
                count=running,
            )
            self._stage = Stage.FINISHING
            self.worker.stop()
            self._wait(self._settings.grace, self._terminate)
            self._check()
        elif self._stage is Stage.FINISHING:
            self._terminate()
        elif self._stage is Stage.TERMINATING:
            self._kill()

    def _terminate(self) -> None:
        self._enter(Stage.TERMINATING, signal.SIGTERM)
        self._wait(KILL_SECONDS, self._kill)

    def _kill(self) -> None:
        self._enter(Stage.KILLING, signal.SIGKILL)

    def _enter(self, stage: Stage, number: signal.Signals) -> None:
        self._stage = stage
        self._stopWaiting()
        if self._children.running:
            log.warning(
                "{count} processes have not ended, and get {name}",
                event="program-not-ended",
                count=len(self._children.running),
                name=number.name,
            )
        self._children.end(number)
        self._check()

    def _after(self, changed: Callable[[], None]) -> Callable[[], None]:
        def both() -> None:
            changed()
            self._check()

        return both

    def _check(self) -> None:
        """
        If the service is stopping, and no process is left, end.  The listener hands
        what waits here to other workers when this process has ended.
        """
        stopping = self._stage is not Stage.SERVING and not self._left
        if stopping and not self._children.running:
            self._left = True
            self._stopWaiting()
            self._children.startNoMore()
            self.worker.leave()

    def _wait(self, seconds: float, then: Callable[[], None]) -> None:
        self._timer = Deadline(self._clock, seconds, then)

    def _stopWaiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _finished(self) -> None:
        self._stopWaiting()
        if not self.done.done():
            self.done.set_result(None)


def run(settings: EachSettings, program: Program, label: str) -> None:
    """
    Start a program for each connection, until this process is told to stop.

    @raise OSError: if the process has no free descriptor.
    """
    loop = asyncio.SelectorEventLoop()
    try:
        service = Service(loop, settings, program, label)
        service.start()
        loop.run_until_complete(service.done)
        # A further signal must not change the exit code.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        service.worker.abandon()
    finally:
        loop.close()
