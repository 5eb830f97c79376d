"""
Tests for L{portlisten._compiled}.
"""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from portlisten import _compiled
from tests.support.batches import TWINS

NAME = "portlisten._kernel._batch"

SHOW = """
from portlisten import _compiled, _kernel
from portlisten._listener.connection import AcceptedConnection
print(_compiled.describe())
print(AcceptedConnection.__base__.__module__, type(_kernel.acceptMany).__name__)
"""


def shown(pure: str) -> list[str]:
    """
    Say what a new process uses.

    @param pure: the value of the environment variable.
    """
    environment = {**os.environ, _compiled.PURE: pure}
    output = subprocess.run(
        [sys.executable, "-c", SHOW],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    return output.splitlines()


class CompiledTests(SynchronousTestCase):
    """
    Which of the twins is used.
    """

    def setUp(self) -> None:
        self.library = SimpleNamespace(INTERFACE=_compiled.PARTS[NAME].interface)
        self.patch(_compiled, "import_module", lambda name: self.library)
        environment = {k: v for k, v in os.environ.items() if k != _compiled.PURE}
        self.patch(os, "environ", environment)

    def test_there(self) -> None:
        """
        A library that is there is used.
        """
        self.assertIs(_compiled.load(NAME), self.library)
        self.assertEqual(_compiled.describe(), "accepting: compiled")

    def test_older(self) -> None:
        """
        A library that was built from other sources is not used.
        """
        self.library.INTERFACE += 1
        self.assertIs(_compiled.load(NAME), None)

    def test_missing(self) -> None:
        """
        If it was not built, the code in Python is used.
        """

        def fail(name: str) -> None:
            raise ImportError(name)

        self.patch(_compiled, "import_module", fail)
        self.assertIs(_compiled.load(NAME), None)
        self.assertEqual(_compiled.describe(), "accepting: pure Python")

    def test_pure(self) -> None:
        """
        So it is if the operator says so.
        """
        os.environ[_compiled.PURE] = "1"
        self.assertIs(_compiled.load(NAME), None)


class ProcessTests(SynchronousTestCase):
    """
    What processes use.
    """

    def test_pure(self) -> None:
        """
        If the environment variable is set, a process uses no library.
        """
        self.assertEqual(
            shown("1"),
            ["accepting: pure Python", "portlisten._kernel.batch function"],
        )

    def test_compiled(self) -> None:
        """
        Otherwise, a process uses the library.
        """
        if TWINS["C"] is None:
            raise SkipTest("it was not built: there was no compiler")
        self.assertEqual(
            shown(""),
            [
                "accepting: compiled",
                "portlisten._kernel._batch builtin_function_or_method",
            ],
        )
