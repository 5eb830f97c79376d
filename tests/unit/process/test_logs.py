"""
Tests for L{portlisten._process.logs}.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import syslog
from pathlib import Path
from typing import Any, cast

from twisted.application.service import Application
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import ILogObserver, Logger, LogPublisher
from twisted.trial.unittest import SynchronousTestCase

from portlisten._events import NEVER_SUMMED_UP
from portlisten._log import writer as writing
from portlisten._process import logs
from portlisten._reactor import log_limit


class InstallTests(SynchronousTestCase):
    """
    Tests for L{logs.install}.
    """

    def setUp(self) -> None:
        self.patch(writing, "_writers", [])
        self.patch(log_limit, "neverLimited", frozenset())
        self.application = cast(Any, Application("a"))
        self.reactor = cast(Any, MemoryReactorClock())
        self.reactor.callFromThread = lambda call, *arguments: call(*arguments)
        handler = signal.getsignal(signal.SIGUSR1)
        self.addCleanup(signal.signal, signal.SIGUSR1, handler)
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)

    def install(self, format: str = "json", **twistd: Any) -> Any:
        """
        @return: the observer of the application.
        """
        logs.install(self.reactor, twistd, format, self.application)
        return self.application.getComponent(ILogObserver, None)

    def log(self, observer: Any) -> None:
        """
        Log a line, and end the process as the reactor does.
        """
        log = Logger("there", observer=LogPublisher(observer))
        log.warn("it {why}", event="worker-lost", why="died")
        for function, arguments, named in self.reactor.whenRunningHooks:
            function(*arguments, **named)
        for function, arguments, named in self.reactor.triggers["after"]["shutdown"]:
            function(*arguments, **named)

    def test_standardOutput(self) -> None:
        """
        In the foreground, the log goes to standard output, in either format.
        """
        for format in ("json", "text"):
            self.setUp()
            reader, writer = os.pipe()
            self.addCleanup(os.close, reader)
            with open(writer, "w") as output:
                self.patch(sys, "stdout", output)
                self.log(self.install(format, nodaemon=True))
            line = os.read(reader, 1000).decode()
            self.assertIn("it died", line)
            self.assertEqual(line.startswith("{"), format == "json")

    def test_file(self) -> None:
        """
        SIGUSR1 rotates the log file, unless something else handles the signal.
        """
        path = self.mktemp()
        observer = self.install(logfile=path)
        os.kill(os.getpid(), signal.SIGUSR1)
        self.log(observer)
        self.log(observer)
        os.kill(os.getpid(), signal.SIGUSR1)
        self.log(observer)
        self.assertEqual(len(Path(path).read_text().splitlines()), 1)
        self.assertEqual(len(Path(f"{path}.1").read_text().splitlines()), 2)
        mine = signal.getsignal(signal.SIGUSR1)
        self.application = cast(Any, Application("b"))
        self.install(logfile=path)
        self.assertIs(signal.getsignal(signal.SIGUSR1), mine)
        with self.assertRaises(OSError):
            self.application = cast(Any, Application("c"))
            self.install(logfile=f"{path}/x")

    def test_syslog(self) -> None:
        """
        The system's log gets the priority of each event, and the prefix.
        """
        calls: list[tuple[Any, ...]] = []
        for name in ("openlog", "syslog"):
            self.patch(
                syslog, name, lambda *given, name=name: calls.append((name, *given))
            )
        self.log(self.install(syslog=True, prefix="web"))
        (opened, prefix, *_), (_, priority, text) = calls
        self.assertEqual((opened, prefix), ("openlog", "web"))
        self.assertEqual(priority, syslog.LOG_WARNING)
        self.assertEqual(json.loads(text)["event"], "worker-lost")
        calls.clear()
        self.application = cast(Any, Application("b"))
        self.log(self.install("text", syslog=True, prefix="web"))
        self.assertIn("it died", calls[-1][-1])

    def test_left(self) -> None:
        """
        A log that C{twistd} cannot be asked about, or that something else writes, is
        left alone.
        """
        self.assertIsNone(self.install())
        self.assertIsNone(self.install(logger="a.b", nodaemon=True))
        self.assertIsNone(self.install(logfile="-", nodaemon=False))
        self.patch(sys, "stdout", None)
        self.assertIsNone(self.install(nodaemon=True))
        self.assertEqual(writing._writers, [])
        self.application.setComponent(ILogObserver, mine := cast(Any, object()))
        self.assertIs(self.install(syslog=True), mine)

    def test_summedUp(self) -> None:
        """
        In JSON, lost clients are not summed up.
        """
        logs.setFormat("json")
        self.assertEqual(log_limit.neverLimited, NEVER_SUMMED_UP)
        logs.setFormat("text")
        self.assertEqual(log_limit.neverLimited, frozenset())
