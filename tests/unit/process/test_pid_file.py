"""
Tests for L{portlisten._process.pid_file}.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from portlisten._process import pid_file
from portlisten._process.pid_file import PidFile
from tests.support.descriptors import watchDescriptors


class PidFileTests(SynchronousTestCase):
    """
    Tests for L{PidFile} and L{pid_file.leave}.
    """

    def setUp(self) -> None:
        watchDescriptors(self)
        self.path = Path(self.mktemp()).absolute()
        self.twistd: dict[str, Any] = {"pidfile": str(self.path)}

    def make(self) -> PidFile:
        """
        Set the pid file aside.
        """
        file = PidFile(self.twistd)
        self.addCleanup(file.close)
        self.assertEqual(self.twistd["pidfile"], "")
        return file

    def test_takesOver(self) -> None:
        """
        The number in the file stays until the new process serves.
        """
        self.path.write_text("1")
        file = self.make()
        file.open(True)
        self.assertEqual(self.path.read_text(), "1")
        file.write()
        self.assertEqual(self.path.read_text(), str(os.getpid()))
        self.assertEqual(self.twistd["pidfile"], str(self.path))

    def test_fails(self) -> None:
        """
        If it never serves, the file stays as it was.
        """
        self.path.write_text("1")
        file = self.make()
        file.open(True)
        file.close()
        file.write()
        self.assertEqual(self.path.read_text(), "1")
        self.assertEqual(self.twistd["pidfile"], "")

    def test_startsAlone(self) -> None:
        """
        Without a process to take over from, no process in the file may live.
        """
        self.path.write_text("1")
        error = self.assertRaises(OSError, self.make().open, False)
        self.assertIn("process 1 has the pid file", str(error))

    def test_stale(self) -> None:
        """
        A process in it that has ended does not count.
        """
        ended = subprocess.Popen([sys.executable, "-c", ""])
        ended.wait()
        for text in (str(ended.pid), "nonsense", ""):
            self.path.write_text(text)
            self.twistd["pidfile"] = str(self.path)
            file = self.make()
            file.open(False)
            file.write()
            self.assertEqual(self.path.read_text(), str(os.getpid()))

    def test_new(self) -> None:
        """
        The file need not be there.
        """
        file = self.make()
        file.open(False)
        file.write()
        self.assertEqual(self.path.read_text(), str(os.getpid()))

    def test_none(self) -> None:
        """
        There may be no pid file.
        """
        self.twistd = {}
        file = PidFile(self.twistd)
        file.open(True)
        file.write()
        self.assertEqual(self.twistd, {})

    def test_leave(self) -> None:
        """
        The file of another process is left to it, and the own one is not.
        """
        self.path.write_text(str(os.getpid()))
        pid_file.leave(self.twistd)
        self.assertEqual(self.twistd["pidfile"], str(self.path))
        self.path.write_text("1")
        pid_file.leave(self.twistd)
        self.assertEqual(self.twistd["pidfile"], "")
        pid_file.leave({})
