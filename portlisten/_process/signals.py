"""
The signals that the commands handle, and the clock of their process.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IReactorCore
from twisted.logger import Logger

from portlisten._process.exits import stopReactor
from portlisten._process.memory import freeze
from portlisten._reactor.log_limit import logLimit
from portlisten._reactor.monotonic import makeMonotonic

log = Logger(namespace="portlisten")


def ownProcess(reactor: Any, retry: float) -> None:
    """
    Set up the process of a command.  Its time is monotonic, SIGTERM stops it in good
    order, and SIGHUP, SIGUSR1 and SIGUSR2 do not end it.  When the reactor runs,
    garbage collection skips all objects that were loaded before.

    @param retry: if a registration with the reactor failed, how long to wait before the
        next try, in seconds.
    """
    makeMonotonic(reactor, retry)
    exitCleanlyOnTerm(reactor)
    handleSignals(reactor)
    if IReactorCore.providedBy(reactor) and not reactor.running:
        reactor.callWhenRunning(freeze)


#: The SIGTERM signals that have come.
_termsReceived: list[int] = []


def stopRequested() -> bool:
    """
    Whether this process was told to stop.
    """
    return bool(_termsReceived)


def exitCleanlyOnTerm(reactor: Any) -> None:
    """
    Make SIGTERM stop the reactor, so that the process exits with 0.  With Twisted's
    handler, the process would end by the signal after the reactor has stopped.
    """

    def handle(number: int, frame: object) -> None:
        _termsReceived.append(number)
        reactor.callFromThread(stop, reactor, "received SIGTERM")

    signal.signal(signal.SIGTERM, handle)
    # Twisted installs its own handlers when the reactor starts, so install this again.
    reactor.callLater(0, signal.signal, signal.SIGTERM, handle)
    if IReactorCore.providedBy(reactor):
        reactor.addSystemEventTrigger("after", "shutdown", _clearExitSignal, reactor)


def _clearExitSignal(reactor: Any) -> None:
    """
    Make the process end with 0 even if Twisted's handler got SIGTERM.  That happens in
    the first moment of the reactor's run.
    """
    # Twisted has no public name for it.
    if getattr(reactor, "_exitSignal", None) == signal.SIGTERM:
        reactor._exitSignal = None


def stop(reactor: Any, reason: str) -> None:
    """
    Stop the reactor.  If it is stopping already, do nothing.

    @param reason: for the log.
    """
    log.info("{reason}, stopping", event="stopping", reason=reason)
    stopReactor(reactor)


class _Placeholder:
    """
    Handles SIGUSR1 until L{onReportSignal}.  It counts as false, so C{twistd} replaces
    it with its own handler, which rotates the log file.
    """

    def __bool__(self) -> bool:
        return False

    def __call__(self, number: int, frame: object) -> None:
        pass


def handleSignals(reactor: Any) -> None:
    """
    Handle SIGHUP, SIGUSR1 and SIGUSR2: without a handler, they end a process.
    """

    def handle(number: int, frame: object) -> None:
        reactor.callFromThread(_logIgnored, reactor, signal.Signals(number).name)

    for number in (signal.SIGHUP, signal.SIGUSR2):
        signal.signal(number, handle)
    if not callable(signal.getsignal(signal.SIGUSR1)):
        signal.signal(signal.SIGUSR1, _Placeholder())


def _logIgnored(reactor: Any, name: str) -> None:
    logLimit(reactor)(
        log.info,
        "received {name}, which means nothing to this command",
        event="signal-ignored",
        name=name,
    )


def onReloadSignal(reactor: Any, reload: Callable[[], None]) -> None:
    """
    Call a function at SIGHUP.
    """

    def handle(number: int, frame: object) -> None:
        reactor.callFromThread(reload)

    signal.signal(signal.SIGHUP, handle)


def onReportSignal(reactor: Any, report: Callable[[], None]) -> None:
    """
    Make SIGUSR1 log a report.  C{twistd} rotates its log file at that signal, and
    still does.
    """
    earlier = signal.getsignal(signal.SIGUSR1)

    def handle(number: int, frame: Any) -> None:
        if callable(earlier):
            earlier(number, frame)
        reactor.callFromThread(report)

    signal.signal(signal.SIGUSR1, handle)
