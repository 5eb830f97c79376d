"""
Signals that a process of ours understands, and its clock.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

from twisted.internet.error import ReactorNotRunning
from twisted.internet.interfaces import IReactorCore
from twisted.logger import Logger

from portlisten._process.memory import freeze
from portlisten._reactor.monotonic import own
from portlisten._reactor.quiet import quiet

log = Logger(namespace="portlisten")


def ownProcess(reactor: Any, retry: float) -> None:
    """
    Make a process that is ours alone what a command's should be: its time is
    monotonic, SIGTERM stops it in good order, and no other signal that is meant to
    tell it something ends it.  Once it runs, garbage collection does not look at what
    was loaded before.

    @param retry: how long to wait before what the reactor cannot register is tried
        again, in seconds.
    """
    own(reactor, retry)
    exitCleanlyOnTerm(reactor)
    mindSignals(reactor)
    if IReactorCore.providedBy(reactor) and not reactor.running:
        reactor.callWhenRunning(freeze)


#: Whether SIGTERM has come.
_terms: list[int] = []


def toldToStop() -> bool:
    """
    Whether this process was told to stop.
    """
    return bool(_terms)


def exitCleanlyOnTerm(reactor: Any) -> None:
    """
    Have SIGTERM stop the reactor, and the process then exit with 0.  Twisted's
    handler would end it by the signal, once it has stopped.
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
    Have the process end with 0 though it was Twisted's handler that SIGTERM met, in
    the first moment of the reactor's run.
    """
    # There is no public name for it.
    if getattr(reactor, "_exitSignal", None) == signal.SIGTERM:
        reactor._exitSignal = None


def _stop(reactor: Any) -> None:
    log.info("received SIGTERM, stopping")
    try:
        reactor.stop()
    except ReactorNotRunning:
        pass  # it is stopping already


class _NotYet:
    """
    Handles SIGUSR1 until L{onReportSignal}.  C{twistd} installs a handler of its own,
    which rotates the log file, unless there is one already; that is to say, if what
    there is counts as false.
    """

    def __bool__(self) -> bool:
        return False

    def __call__(self, number: int, frame: object) -> None:
        pass


def mindSignals(reactor: Any) -> None:
    """
    Have SIGHUP, SIGUSR1 and SIGUSR2 do no harm: without a handler, they end a process.
    """

    def handle(number: int, frame: object) -> None:
        reactor.callFromThread(_note, reactor, signal.Signals(number).name)

    for number in (signal.SIGHUP, signal.SIGUSR2):
        signal.signal(number, handle)
    if not callable(signal.getsignal(signal.SIGUSR1)):
        signal.signal(signal.SIGUSR1, _NotYet())


def _note(reactor: Any, name: str) -> None:
    quiet(reactor)(
        log.info, "received {name}, which means nothing to this command", name=name
    )


def onReportSignal(reactor: Any, report: Callable[[], None]) -> None:
    """
    Have SIGUSR1 log a report.  C{twistd} rotates its log file at that signal,
    and goes on to.
    """
    earlier = signal.getsignal(signal.SIGUSR1)

    def handle(number: int, frame: Any) -> None:
        if callable(earlier):
            earlier(number, frame)
        reactor.callFromThread(report)

    signal.signal(signal.SIGUSR1, handle)
