"""
The signals that our commands handle, and the clock of their process.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

from twisted.internet.error import ReactorNotRunning
from twisted.internet.interfaces import IReactorCore
from twisted.logger import Logger

from portlisten._process.memory import freeze
from portlisten._reactor.log_limit import logLimit
from portlisten._reactor.monotonic import makeMonotonic

log = Logger(namespace="portlisten")


def ownProcess(reactor: Any, retry: float) -> None:
    """
    Set up the process of a command: its time is monotonic, SIGTERM stops it in good
    order, and SIGHUP, SIGUSR1 and SIGUSR2 do not end it.  Once it runs,
    garbage collection does not look at what was loaded before.

    @param retry: how long to wait before a registration with the reactor that failed
        is tried again, in seconds.
    """
    makeMonotonic(reactor, retry)
    exitCleanlyOnTerm(reactor)
    mindSignals(reactor)
    if IReactorCore.providedBy(reactor) and not reactor.running:
        reactor.callWhenRunning(freeze)


#: The SIGTERMs that have come.
_terms: list[int] = []


def toldToStop() -> bool:
    """
    Whether this process was told to stop.
    """
    return bool(_terms)


def exitCleanlyOnTerm(reactor: Any) -> None:
    """
    Make SIGTERM stop the reactor, and the process exit with 0 then.  With Twisted's
    handler, the process would end by the signal once the reactor has stopped.
    """

    def stop(number: int, frame: object) -> None:
        _terms.append(number)
        reactor.callFromThread(_stop, reactor)

    signal.signal(signal.SIGTERM, stop)
    # Twisted installs its own handlers when the reactor starts running.
    reactor.callLater(0, signal.signal, signal.SIGTERM, stop)
    if IReactorCore.providedBy(reactor):
        reactor.addSystemEventTrigger("after", "shutdown", _forgetTerm, reactor)


def _forgetTerm(reactor: Any) -> None:
    """
    Make the process end with 0 even if Twisted's handler got SIGTERM, which happens in
    the first moment of the reactor's run.
    """
    # Twisted has no public name for it.
    if getattr(reactor, "_exitSignal", None) == signal.SIGTERM:
        reactor._exitSignal = None


def _stop(reactor: Any) -> None:
    log.info("received SIGTERM, stopping")
    try:
        reactor.stop()
    except ReactorNotRunning:
        pass  # it is stopping already


class _Placeholder:
    """
    Handles SIGUSR1 until L{onReportSignal}.  C{twistd} installs a handler of its own,
    which rotates the log file, if the present one counts as false.
    """

    def __bool__(self) -> bool:
        return False

    def __call__(self, number: int, frame: object) -> None:
        pass


def mindSignals(reactor: Any) -> None:
    """
    Handle SIGHUP, SIGUSR1 and SIGUSR2: without a handler, they end a process.
    """

    def handle(number: int, frame: object) -> None:
        reactor.callFromThread(_note, reactor, signal.Signals(number).name)

    for number in (signal.SIGHUP, signal.SIGUSR2):
        signal.signal(number, handle)
    if not callable(signal.getsignal(signal.SIGUSR1)):
        signal.signal(signal.SIGUSR1, _Placeholder())


def _note(reactor: Any, name: str) -> None:
    logLimit(reactor)(
        log.info, "received {name}, which means nothing to this command", name=name
    )


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
