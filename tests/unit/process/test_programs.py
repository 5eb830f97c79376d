"""
Tests for L{portlisten._process.programs}.
"""

import errno
import os
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from portlisten._process import programs
from tests.support.children import inChild

NOBODY = 65534


def explainedTo(uid: int, path: str, number: int) -> str:
    """
    Let another user explain an error, in a process of its own.
    """

    def explain() -> str:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        return programs.explain(path, OSError(number, os.strerror(number)))

    return inChild(explain)


class ExplainTests(SynchronousTestCase):
    """
    Tests for L{programs.explain}.
    """

    def setUp(self) -> None:
        # Its parents are open to all users, which those of mktemp need not be.
        self.folder = Path(os.path.realpath("/tmp"), f"explain-{os.getpid()}")
        self.folder.mkdir(mode=0o755)
        self.closed = self.folder / "closed"
        self.closed.mkdir(mode=0o700)
        self.interpreter = self.closed / "python"
        self.write(self.interpreter, "")
        self.script = self.folder / "server"
        self.write(self.script, f"#! {self.interpreter} -I\n")

    def tearDown(self) -> None:
        for each in (self.interpreter, self.script):
            each.unlink()
        self.closed.rmdir()
        self.folder.rmdir()

    def write(self, path: Path, text: str) -> None:
        """
        Write a program.
        """
        path.write_text(text)
        path.chmod(0o755)

    def explained(self, path: Path) -> str:
        """
        Let a user without privilege explain that it may not execute a program.
        """
        if os.getuid() != 0:
            self.skipTest("needs root")
        return explainedTo(NOBODY, str(path), errno.EACCES)

    def test_interpreter(self) -> None:
        """
        The folder is named that keeps a user from an interpreter.
        """
        self.assertEqual(
            self.explained(self.script),
            f"this user may not execute its interpreter: {self.interpreter} is in"
            f" {self.closed}, which is closed to it; use a program that all users may"
            " execute",
        )

    def test_folder(self) -> None:
        """
        The folder is named that keeps a user from a program.
        """
        self.assertEqual(
            self.explained(self.interpreter),
            f"this user may not execute it: {self.interpreter} is in {self.closed},"
            " which is closed to it; use a program that all users may execute",
        )

    def test_mode(self) -> None:
        """
        So is a file that not all users may execute.
        """
        self.script.chmod(0o744)
        self.assertEqual(
            self.explained(self.script),
            f"this user may not execute it: {self.script} is not executable for it",
        )

    def test_others(self) -> None:
        """
        Other errors, and those whose cause is not found, are told as they are.
        """
        for number, expected in (
            (errno.ENOENT, "the interpreter that its first line names is missing"),
            (errno.ENOEXEC, "Exec format error"),
        ):
            error = OSError(number, os.strerror(number))
            self.assertEqual(programs.explain(str(self.script), error), expected)
        error = PermissionError(errno.EACCES, "Permission denied")
        self.assertEqual(programs.explain("/bin/sh", error), "Permission denied")

    def test_missing(self) -> None:
        """
        A script may name an interpreter that does not exist.
        """
        self.write(self.script, f"#!{self.folder}/none\n")
        self.assertEqual(
            programs.obstacle(str(self.script)),
            f"this user may not execute its interpreter: {self.folder}/none does not"
            " exist",
        )

    def test_noObstacle(self) -> None:
        """
        If nothing is in the way, nothing is said.
        """
        for path in (str(self.script), sys.executable):
            self.assertEqual(programs.obstacle(path), "")


class SearchPathTests(SynchronousTestCase):
    """
    Tests for L{programs.searchPath}.
    """

    def test_first(self) -> None:
        """
        The folder of this Python comes first, and then those of PATH.
        """
        folder = os.path.dirname(sys.executable)
        self.assertEqual(programs.searchPath({"PATH": "/a:/b"}), f"{folder}:/a:/b")
        path = f"{folder}:/a"
        self.assertEqual(programs.searchPath({"PATH": path}), path)
        for environment in ({}, {"PATH": ""}):
            self.assertEqual(programs.searchPath(environment), f"{folder}:{os.defpath}")
