"""
Tests for L{portlisten._process.memory}.
"""

from __future__ import annotations

import subprocess
import sys

from twisted.trial.unittest import SynchronousTestCase


class FreezeTests(SynchronousTestCase):
    """
    Tests for L{portlisten._process.memory.freeze}, in processes of their own.
    """

    def child(self, program: str) -> str:
        """
        Run a program.

        @return: what it prints.
        """
        command = [sys.executable, "-c", program]
        return subprocess.run(
            command, check=True, capture_output=True, text=True
        ).stdout

    def test_once(self) -> None:
        """
        Collections skip the objects that were loaded before the first call.  A second
        call changes nothing.
        """
        printed = self.child(
            """
import gc
from portlisten._process.memory import freeze
freeze()
before = gc.get_freeze_count()
objects = [[] for _ in range(100)]
freeze()
print(before > 1000, gc.get_freeze_count() == before)
"""
        )
        self.assertEqual(printed, "True True\n")

    def test_ownProcess(self) -> None:
        """
        A process that is ours alone calls it when its reactor begins to run, and not
        before.
        """
        printed = self.child(
            """
import gc
from twisted.internet import reactor
from portlisten._process.signals import ownProcess
ownProcess(reactor, 0.1)
print(gc.get_freeze_count())
reactor.callLater(0.01, reactor.stop)
reactor.run()
print(gc.get_freeze_count() > 1000)
"""
        )
        self.assertEqual(printed, "0\nTrue\n")
