"""
Tests for L{portlisten._as_port.log}.
"""

from __future__ import annotations

import io
import sys
from typing import Any

from twisted.logger import Logger, LogPublisher
from twisted.trial.unittest import SynchronousTestCase

from portlisten._as_port.log import say, showWarnings


class Beginner:
    """
    Stands for Twisted's beginner of logs.
    """

    def __init__(self, publisher: LogPublisher) -> None:
        self.publisher = publisher

    def beginLoggingTo(self, observers: Any) -> None:
        for each in observers:
            self.publisher.addObserver(each)


class ShowWarningsTests(SynchronousTestCase):
    """
    Tests for L{showWarnings}.
    """

    def setUp(self) -> None:
        self.stderr = io.StringIO()
        self.patch(sys, "stderr", self.stderr)
        self.publisher = LogPublisher()
        self.beginner: Any = Beginner(self.publisher)
        showWarnings(self.beginner, self.publisher)

    def warn(self, namespace: str = "portlisten.some.Thing") -> None:
        Logger(namespace=namespace, observer=self.publisher).warn("{x}", x="a warning")

    def test_shown(self) -> None:
        """
        A warning is shown while the program has no log.
        """
        self.warn()
        self.assertEqual(self.stderr.getvalue(), "portlisten as-port: a warning\n")

    def test_others(self) -> None:
        """
        Other lines are not: those of others, and those that are no warnings.
        """
        self.warn("portlistener")
        self.warn("twisted.web")
        Logger(namespace="portlisten", observer=self.publisher).info("joined")
        self.assertEqual(self.stderr.getvalue(), "")

    def test_programLogs(self) -> None:
        """
        When the program begins a log, the warnings go there, and nowhere else.
        """
        logged: list[Any] = []
        self.beginner.beginLoggingTo([logged.append])
        self.warn()
        self.assertEqual(len(logged), 1)
        self.assertEqual(self.stderr.getvalue(), "")

    def test_closed(self) -> None:
        """
        A program that has closed its standard error loses only the line.
        """
        self.stderr.close()
        self.warn()
        say("more")

    def test_none(self) -> None:
        """
        Without a standard error, nothing gets into standard output.
        """
        stdout = io.StringIO()
        self.patch(sys, "stdout", stdout)
        self.patch(sys, "stderr", None)
        say("more")
        self.assertEqual(stdout.getvalue(), "")
