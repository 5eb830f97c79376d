"""
Tests for L{portlisten._as_port.watch}.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from typing import Any, cast

from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from portlisten._as_port.mappings import parseAll
from portlisten._as_port.watch import Watch, children
from tests.support.channels import texts


class Reactor(Clock):
    """
    A reactor that runs and stops as told.
    """

    def __init__(self) -> None:
        super().__init__()
        self.running: list[Callable[[], object]] = []
        self.stopping: list[Callable[[], object]] = []

    def callWhenRunning(self, function: Any, *arguments: Any) -> None:
        self.running.append(lambda: function(*arguments))

    def addSystemEventTrigger(self, phase: str, event: str, function: Any) -> None:
        assert (phase, event) == ("before", "shutdown")
        self.stopping.append(function)

    def run(self) -> None:
        for each in self.running:
            each()

    def stop(self) -> None:
        for each in self.stopping:
            each()


class WatchTests(SynchronousTestCase):
    """
    Tests for L{Watch}.
    """

    def setUp(self) -> None:
        self.patch(os, "register_at_fork", self.registerAtFork)
        self.mappings = parseAll(["80=/a", "127.0.0.1:81=/b"])
        self.children: list[int] = []
        self.watch = Watch(self.mappings, 10.0, lambda: self.children)
        self.reactor = Reactor()

    def registerAtFork(self, after_in_parent: Callable[[], None]) -> None:
        self.noteFork = after_in_parent

    def warnings(self, act: Callable[[], object]) -> list[str]:
        """
        Return the warnings that something causes.
        """
        with capturedLogs() as logged:
            act()
        return texts(cast(list[dict[str, Any]], logged), "warn")

    def begin(self) -> None:
        self.watch.madeReactor(self.reactor)
        self.reactor.run()

    def test_late(self) -> None:
        """
        A port that is not listened on after a while is named once, with the others.
        """
        self.begin()
        self.watch.listensOn(self.mappings[0])
        self.watch.listensElsewhere("8080")
        self.watch.listensElsewhere("8080")
        self.watch.listensElsewhere("53 (UDP)")
        self.assertEqual(self.warnings(lambda: self.reactor.advance(9.9)), [])
        self.assertEqual(
            self.warnings(lambda: self.reactor.advance(0.2)),
            [
                "the program does not listen, 10 s after its reactor began to run, on"
                " port 127.0.0.1:81; it listened on 8080 and 53 (UDP)"
            ],
        )
        self.assertEqual(self.warnings(self.reactor.stop), [])
        self.assertEqual(self.watch.ended(), "")

    def test_inTime(self) -> None:
        """
        There is no warning if the program listens on all in time.
        """
        self.begin()
        for each in self.mappings:
            self.watch.listensOn(each)
        self.assertEqual(self.warnings(lambda: self.reactor.advance(11)), [])
        self.assertEqual(self.warnings(self.reactor.stop), [])
        self.assertEqual(self.watch.ended(), "")

    def test_stops(self) -> None:
        """
        A program that stops early is told when it stops, and the timer is gone.
        """
        self.begin()
        (warning,) = self.warnings(self.reactor.stop)
        self.assertEqual(
            warning,
            "the program stops, and has never listened on ports 80 and 127.0.0.1:81; it"
            " listened on no other port",
        )
        self.assertEqual(self.reactor.getDelayedCalls(), [])
        self.assertEqual(self.watch.ended(), "")

    def test_noReactor(self) -> None:
        """
        A program that is none of Twisted's is told so at its end.
        """
        self.assertIn("has made no reactor of Twisted's", self.watch.ended())
        self.assertEqual(self.watch.ended(), "")

    def test_reactorNotRun(self) -> None:
        """
        So is a program whose reactor did not run.
        """
        self.watch.madeReactor(self.reactor)
        self.assertIn("has ended, and never listened on ports", self.watch.ended())

    def test_forked(self) -> None:
        """
        A program that became a daemon leaves a process that ends well.
        """
        self.noteFork()
        self.assertEqual(self.watch.ended(), "")

    def test_many(self) -> None:
        """
        Of many other ports, only some are named.
        """
        for number in range(1, 14):
            self.watch.listensElsewhere(str(number))
        self.assertIn(
            "it listened on 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 3 more",
            self.watch.ended(),
        )

    def test_notKept(self) -> None:
        """
        Ports are remembered only as long as a warning may name them.
        """
        for each in self.mappings:
            self.watch.listensOn(each)
        self.watch.listensElsewhere("8080")
        self.assertEqual(self.watch._others, [])

    def test_children(self) -> None:
        """
        The processes that the program has started are named: they may listen.
        """
        self.children = [12, 34]
        self.assertIn(
            "; it has started processes (12 and 34), and as-port does not change",
            self.watch.ended(),
        )

    def test_findChildren(self) -> None:
        """
        A child of this process is found while it lives.
        """
        with subprocess.Popen(["sleep", "60"]) as child:
            self.assertIn(child.pid, children())
            child.kill()
        self.assertNotIn(child.pid, children())
