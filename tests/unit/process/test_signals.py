"""
Tests for L{portlisten._process.signals}.
"""

from __future__ import annotations

import signal
from typing import Any

from twisted.internet.interfaces import IReactorCore
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import directlyProvides

from portlisten._process import signals
from portlisten._reactor.log_limit import MAXIMUM_LINES
from tests.support.children import Child, StandInReactor
from tests.support.descriptors import watchDescriptors


class ExitCleanlyOnTermTests(SynchronousTestCase):
    """
    Tests for L{signals.exitCleanlyOnTerm}.
    """

    def test_exits(self) -> None:
        """
        SIGTERM stops the reactor, what has to be done then is done, and the
        process exits with 0.
        """
        watchDescriptors(self)
        child = Child(
            self,
            """
from twisted.internet import reactor
from portlisten._process.signals import exitCleanlyOnTerm
exitCleanlyOnTerm(reactor)
reactor.addSystemEventTrigger("before", "shutdown", print, "stopping")
reactor.callLater(0.01, print, "ready", flush=True)
reactor.run()
print("done")
""",
        )
        self.assertEqual(child.readLine(), "ready\n")
        child.terminate()
        self.assertEqual(child.wait(), (0, "stopping\ndone\n", ""))

    def test_installed(self) -> None:
        """
        The handler is installed once the reactor runs, and has it stop from
        its own thread.
        """
        calls: list[Any] = []

        class Reactor(StandInReactor):
            def callLater(self, delay: float, *call: Any) -> None:
                calls.append((delay, *call))

            def callFromThread(self, *call: Any) -> None:
                calls.append(call)

            def addSystemEventTrigger(self, *trigger: Any) -> None:
                triggers.append(trigger)

        triggers: list[Any] = []
        before = signal.getsignal(signal.SIGTERM)
        self.addCleanup(signal.signal, signal.SIGTERM, before)
        self.patch(signals, "_termsReceived", [])
        reactor: Any = Reactor(running=True)
        directlyProvides(reactor, IReactorCore)
        signals.exitCleanlyOnTerm(reactor)
        ((delay, install, number, handler),) = calls
        self.assertEqual((delay, install, number), (0, signal.signal, signal.SIGTERM))
        self.assertIs(signal.getsignal(signal.SIGTERM), handler)
        ((phase, event, *forget),) = triggers
        self.assertEqual((phase, event), ("after", "shutdown"))
        self.assertEqual(forget, [signals._clearExitSignal, reactor])
        self.assertFalse(signals.stopRequested())
        handler(signal.SIGTERM, None)
        self.assertTrue(signals.stopRequested())
        self.assertEqual(reactor.stops, 0)
        stop, *args = calls[1]
        with capturedLogs() as events:
            stop(*args)
        self.assertEqual(reactor.stops, 1)
        self.assertEqual(
            [formatEvent(event) for event in events], ["received SIGTERM, stopping"]
        )

    def test_notRunning(self) -> None:
        """
        A reactor that has stopped is not stopped once more.
        """
        reactor = StandInReactor(running=False)
        signals.stop(reactor, "told")
        self.assertEqual(reactor.stops, 0)


class ForgetTermTests(SynchronousTestCase):
    """
    Tests for L{signals._clearExitSignal} and L{signals.stopRequested}.
    """

    def after(self, number: int | None) -> int | None:
        """
        The exit code of a reactor after a signal, if it is told to forget the signal.
        """

        class Reactor:
            _exitSignal = number

        signals._clearExitSignal(Reactor)
        return Reactor._exitSignal

    def test_term(self) -> None:
        """
        SIGTERM that met Twisted's own handler is no reason to end by a signal; any
        other is.
        """
        self.assertIsNone(self.after(signal.SIGTERM))
        self.assertEqual(self.after(signal.SIGINT), signal.SIGINT)
        self.assertIsNone(self.after(None))

    def test_otherReactor(self) -> None:
        """
        A reactor that knows nothing of that is left alone.
        """
        signals._clearExitSignal(object())

    def test_firstMoment(self) -> None:
        """
        The process ends with 0, though SIGTERM came before the reactor's first turn.
        """
        watchDescriptors(self)
        child = Child(
            self,
            """
import os, signal
from twisted.internet import reactor
from portlisten._process.signals import exitCleanlyOnTerm
exitCleanlyOnTerm(reactor)
reactor.addSystemEventTrigger("after", "startup", os.kill, os.getpid(), signal.SIGTERM)
reactor.run()
signal.signal(signal.SIGTERM, signal.SIG_DFL)
# What the reactor's last act is, and twistd's.
if reactor._exitSignal is not None:
    os.kill(os.getpid(), reactor._exitSignal)
""",
        )
        self.assertEqual(child.wait(), (0, "", ""))

    def test_told(self) -> None:
        """
        It is known that SIGTERM came, from that moment on and before the reactor runs.
        """
        watchDescriptors(self)
        child = Child(
            self,
            """
import os, signal
from twisted.internet import reactor
from portlisten._process.signals import exitCleanlyOnTerm, stopRequested
exitCleanlyOnTerm(reactor)
print(stopRequested())
os.kill(os.getpid(), signal.SIGTERM)
print(stopRequested())
""",
        )
        self.assertEqual(child.wait(), (0, "False\nTrue\n", ""))


class MindSignalsTests(SynchronousTestCase):
    """
    Tests for L{signals.handleSignals}.
    """

    NUMBERS = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)

    def setUp(self) -> None:
        """
        Give the signals their default effects, and make a reactor that calls at once.
        """
        for number in self.NUMBERS:
            before = signal.signal(number, signal.SIG_DFL)
            self.addCleanup(signal.signal, number, before)
        self.calls: list[tuple[Any, ...]] = []
        reactor: Any = Clock()
        reactor.callFromThread = lambda *call: self.calls.append(call)
        self.reactor = reactor

    def test_logged(self) -> None:
        """
        SIGHUP and SIGUSR2 are noted in the log by the reactor, and do nothing else.
        """
        signals.handleSignals(self.reactor)
        for number in (signal.SIGHUP, signal.SIGUSR2):
            signal.raise_signal(number)
        with capturedLogs() as events:
            for call, *arguments in self.calls:
                call(*arguments)
        self.assertEqual(
            [formatEvent(event) for event in events],
            [
                "received SIGHUP, which means nothing to this command",
                "received SIGUSR2, which means nothing to this command",
            ],
        )

    def test_reload(self) -> None:
        """
        If a command reloads, SIGHUP makes the reactor do that.
        """
        signals.handleSignals(self.reactor)

        def reload() -> None:
            pass

        signals.onReloadSignal(self.reactor, reload)
        signal.raise_signal(signal.SIGHUP)
        self.assertEqual(self.calls, [(reload,)])

    def test_bounded(self) -> None:
        """
        However many come, the log does not fill with them.
        """
        signals.handleSignals(self.reactor)
        for _ in range(100):
            signal.raise_signal(signal.SIGHUP)
        with capturedLogs() as events:
            for call, *arguments in self.calls:
                call(*arguments)
        self.assertEqual(len(events), MAXIMUM_LINES)

    def test_report(self) -> None:
        """
        SIGUSR1 does nothing at first.  C{twistd} finds no handler, so it installs its
        own.
        """
        signals.handleSignals(self.reactor)
        signal.raise_signal(signal.SIGUSR1)
        self.assertEqual(self.calls, [])
        handler = signal.getsignal(signal.SIGUSR1)
        self.assertTrue(callable(handler))
        self.assertFalse(handler)

    def test_reportThere(self) -> None:
        """
        An existing handler of SIGUSR1 stays.
        """

        def handle(number: int, frame: object) -> None:
            """
            Do something else.
            """

        signal.signal(signal.SIGUSR1, handle)
        signals.handleSignals(self.reactor)
        self.assertIs(signal.getsignal(signal.SIGUSR1), handle)

    def test_thenReport(self) -> None:
        """
        SIGUSR1 makes the service report.
        """

        def report() -> None:
            raise AssertionError("made in a handler")

        signals.handleSignals(self.reactor)
        signals.onReportSignal(self.reactor, report)
        signal.raise_signal(signal.SIGUSR1)
        self.assertEqual(self.calls, [(report,)])
        self.assertTrue(signal.getsignal(signal.SIGUSR1))


class OwnProcessTests(SynchronousTestCase):
    """
    Tests for L{signals.ownProcess}.
    """

    def test_all(self) -> None:
        """
        The process gets monotonic time, and handlers of all signals that are meant to
        tell it something.
        """
        watchDescriptors(self)
        child = Child(
            self,
            """
import os, signal, time
from twisted.internet import reactor
from portlisten._process.signals import ownProcess
ownProcess(reactor, 0.1)
print(reactor.seconds is time.monotonic)

def signals():
    for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM):
        os.kill(os.getpid(), number)

reactor.callWhenRunning(reactor.callLater, 0.01, signals)
reactor.run()
print("over")
""",
        )
        self.assertEqual(child.wait(), (0, "True\nover\n", ""))


class OnReportSignalTests(SynchronousTestCase):
    """
    Tests for L{signals.onReportSignal}.
    """

    def signalled(self, earlier: Any) -> list[object]:
        """
        Send SIGUSR1 to a process that handled it in this way before.

        @return: what was given to the reactor.
        """
        before = signal.signal(signal.SIGUSR1, earlier)
        self.addCleanup(signal.signal, signal.SIGUSR1, before)
        calls: list[object] = []

        class Reactor:
            callFromThread = calls.append

        signals.onReportSignal(Reactor, self.report)
        self.assertEqual(calls, [])
        signal.raise_signal(signal.SIGUSR1)
        return calls

    def report(self) -> None:
        """
        The report, which belongs to the reactor's thread.
        """
        raise AssertionError("called in the signal's handler")

    def test_reports(self) -> None:
        """
        The signal has the report made by the reactor, even where it would have
        ended the process before.
        """
        for earlier in (signal.SIG_DFL, signal.SIG_IGN):
            self.assertEqual(self.signalled(earlier), [self.report])

    def test_earlier(self) -> None:
        """
        The earlier handler of the signal is called as well.
        """
        seen = []
        calls = self.signalled(lambda *args: seen.append(args))
        self.assertEqual(calls, [self.report])
        ((number, _),) = seen
        self.assertEqual(number, signal.SIGUSR1)
