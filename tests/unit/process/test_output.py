"""
Tests for L{portlisten._process.output}, with real commands.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from portlisten._commands.progress import Lines

SHOWING: Sequence[Sequence[str]] = [
    ("portlisten", "--help"),
    ("portlisten", "--version"),
    ("portlisten", "exec", "--help"),
    ("portlisten", "each", "--help"),
    ("twistd", "portlisten", "--help"),
]


def _command(name: str) -> str:
    """
    The path of a command that is installed beside this Python.
    """
    return str(Path(sys.executable).with_name(name))


class OutputTests(SynchronousTestCase):
    """
    Tests for standard output and standard error that take nothing.
    """

    def run_(
        self, *arguments: str, stdout: int | None = None, stderr: int = subprocess.PIPE
    ) -> tuple[int, bytes]:
        """
        Run a command.

        @return: its exit code, and what it wrote to standard error.
        """
        name, *rest = arguments
        words = [_command(name), *rest]
        done = subprocess.run(words, check=False, stdout=stdout, stderr=stderr)
        return done.returncode, done.stderr or b""

    def test_nobodyReads(self) -> None:
        """
        If nobody reads the help, as after C{| head -1}, nothing is complained about.
        """
        for arguments in SHOWING:
            reader, writer = os.pipe()
            os.close(reader)
            try:
                self.assertEqual(self.run_(*arguments, stdout=writer), (141, b""))
            finally:
                os.close(writer)

    def test_full(self) -> None:
        """
        If the help cannot be written, one line says so.
        """
        with open("/dev/full", "wb") as full:
            for arguments in SHOWING:
                self.assertEqual(
                    self.run_(*arguments, stdout=full.fileno()),
                    (
                        1,
                        b"portlisten: cannot write to standard output: No space left on"
                        b" device\n",
                    ),
                )

    def test_complaintsLost(self) -> None:
        """
        If a complaint cannot be written, the exit code is the same.
        """
        with open("/dev/full", "wb") as full:
            for arguments, code in (
                (("exec", "./no.sock", "/no/such"), 127),
                (("each", "./no.sock", "/no/such"), 127),
                (("drain", "./no.sock", "all"), 2),
            ):
                for errors in (full.fileno(), subprocess.PIPE):
                    found, _ = self.run_("portlisten", *arguments, stderr=errors)
                    self.assertEqual(found, code)

    def test_closed(self) -> None:
        """
        If standard output and standard error are closed, the exit code is the same.
        """
        for arguments, code in (
            ("each --help", 0),
            ("each ./no.sock /no/such", 127),
            ("drain ./no.sock all", 2),
        ):
            script = f"exec {_command('portlisten')} {arguments} <&- >&- 2>&-"
            done = subprocess.run(["sh", "-c", script], check=False)
            self.assertEqual(done.returncode, code)

    def test_progress(self) -> None:
        """
        Without standard output, a drain shows no progress.
        """
        self.patch(sys, "stdout", None)
        progress = Lines(False)
        progress.show("a line")
        progress.say("a line")
