"""
Tests for L{portlisten._process.pid_file}.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from portlisten._process.pid_file import PidFile, leave
from tests.support.descriptors import watchDescriptors

#: No process has this number: it is above the kernel's largest.
NOBODY = 2**22 + 1


class PidFileTests(SynchronousTestCase):
    """
    Tests for L{PidFile} and L{leave}.
    """

    def setUp(self) -> None:
        """
        Make a folder.
        """
        watchDescriptors(self)
        folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder)
        self.path = Path(folder, "twistd.pid")
        self.twistd: dict[str, Any] = {"pidfile": str(self.path)}

    def make(self) -> PidFile:
        """
        Take the pid file out of the options of twistd.
        """
        made = PidFile(self.twistd)
        self.addCleanup(made.close)
        return made

    def test_setAside(self) -> None:
        """
        twistd looks at no pid file.
        """
        self.make()
        self.assertEqual(self.twistd, {"pidfile": ""})

    def test_otherFolder(self) -> None:
        """
        The file is where the process was started, also if twistd changes the folder.
        """
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(self.path.parent)
        self.twistd["pidfile"] = self.path.name
        made = self.make()
        os.chdir("/")
        made.open(False)
        made.write()
        self.assertEqual(self.path.read_text(), str(os.getpid()))
        self.assertEqual(self.twistd, {"pidfile": str(self.path)})

    def test_none(self) -> None:
        """
        Without a pid file, nothing happens.
        """
        for twistd in ({}, {"pidfile": None}, {"pidfile": ""}):
            before = dict(twistd)
            made = PidFile(twistd)
            made.open(True)
            made.write()
            made.close()
            self.assertEqual(twistd, before)

    def test_takesOver(self) -> None:
        """
        The file stays as it is until this process serves, though the other one lives.
        """
        other = str(os.getppid())
        self.path.write_text(other)
        made = self.make()
        made.open(True)
        self.assertEqual(self.path.read_text(), other)
        made.write()
        self.assertEqual(self.path.read_text(), str(os.getpid()))
        self.assertEqual(self.twistd, {"pidfile": str(self.path)})

    def test_longerNumber(self) -> None:
        """
        Nothing of a longer number stays.
        """
        self.path.write_text(f"{NOBODY}00000")
        made = self.make()
        made.open(True)
        made.write()
        self.assertEqual(self.path.read_text(), str(os.getpid()))

    def test_fails(self) -> None:
        """
        If this process does not take over, the file stays.
        """
        self.path.write_text("1")
        made = self.make()
        made.open(True)
        made.close()
        made.close()
        made.write()
        self.assertEqual(self.path.read_text(), "1")
        self.assertEqual(self.twistd, {"pidfile": ""})

    def test_lives(self) -> None:
        """
        If there is none to take over from, the process in the file must not live.
        """
        self.path.write_text(f"{os.getppid()}\n")
        error = self.assertRaises(OSError, self.make().open, False)
        self.assertEqual(
            str(error),
            f"process {os.getppid()} has the pid file {self.path}: end it, or name"
            " another file with --pidfile",
        )

    def test_mayNotSignal(self) -> None:
        """
        A process that may not be signalled lives.
        """

        def kill(pid: int, number: int) -> None:
            raise PermissionError

        self.patch(os, "kill", kill)
        self.path.write_text("1")
        self.assertRaises(OSError, self.make().open, False)

    def test_dead(self) -> None:
        """
        A file that a dead process has left is taken.
        """
        self.path.write_text(str(NOBODY))
        made = self.make()
        made.open(False)
        made.write()
        self.assertEqual(self.path.read_text(), str(os.getpid()))

    def test_noNumber(self) -> None:
        """
        So is a file that has no number.
        """
        for content in (b"", b"x", b"\xff"):
            self.path.write_bytes(content)
            made = self.make()
            made.open(False)
            made.write()
            self.assertEqual(self.path.read_text(), str(os.getpid()))

    def test_new(self) -> None:
        """
        If there is no file, one is made.
        """
        made = self.make()
        made.open(False)
        self.assertEqual(self.path.read_bytes(), b"")
        made.write()
        self.assertEqual(self.path.read_text(), str(os.getpid()))

    def test_cannotOpen(self) -> None:
        """
        If the file cannot be opened, the caller knows.
        """
        self.twistd["pidfile"] = f"{self.path}/x"
        self.path.write_text("1")
        self.assertRaises(NotADirectoryError, self.make().open, True)

    def test_closeOnExec(self) -> None:
        """
        No program that this process starts gets the file.
        """
        made = self.make()
        made.open(False)
        assert made._descriptor is not None
        self.assertIs(os.get_inheritable(made._descriptor), False)

    def test_cannotWrite(self) -> None:
        """
        If the number cannot be written, the file is closed.
        """
        made = self.make()
        made.open(False)

        def fail(descriptor: int, size: int) -> None:
            raise OSError

        self.patch(os, "ftruncate", fail)
        self.assertRaises(OSError, made.write)

    def test_leave(self) -> None:
        """
        The file of a process that has taken over is not removed.
        """
        self.path.write_text(str(os.getppid()))
        leave(self.twistd)
        self.assertEqual(self.twistd, {"pidfile": ""})

    def test_leaveOther(self) -> None:
        """
        This process's own file is removed, if the other one has another.
        """
        self.path.write_text(str(os.getpid()))
        leave(self.twistd)
        self.assertEqual(self.twistd, {"pidfile": str(self.path)})
        nothing: dict[str, Any] = {}
        leave(nothing)
        self.assertEqual(nothing, {})

    def test_leaveGone(self) -> None:
        """
        A file that is gone need not be removed.
        """
        leave(self.twistd)
        self.assertEqual(self.twistd, {"pidfile": ""})
