"""
Tests for L{portlisten._compiled}.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import tempfile
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from portlisten import _compiled
from tests.support.batches import TWINS

SHOW = """
from portlisten import _compiled, _kernel
from portlisten._listener.connection import AcceptedConnection
from portlisten._policy import ledger
print(_compiled.describe())
print(AcceptedConnection.__base__.__module__, type(_kernel.acceptMany).__name__)
print(ledger.__file__.endswith(".py"))
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


class EnvironmentTestCase(SynchronousTestCase):
    """
    A test in which the operator has said nothing.
    """

    def setUp(self) -> None:
        environment = {k: v for k, v in os.environ.items() if k != _compiled.PURE}
        self.patch(os, "environ", environment)


class AcceptingTests(EnvironmentTestCase):
    """
    Whether the library in C is used.
    """

    def setUp(self) -> None:
        super().setUp()
        self.library = SimpleNamespace(INTERFACE=_compiled.INTERFACE)
        self.patch(_compiled, "import_module", lambda name: self.library)

    def test_there(self) -> None:
        """
        A library that is there is used.
        """
        self.assertIs(_compiled.accepting(), self.library)
        self.assertIn("accepting: compiled", _compiled.describe())

    def test_older(self) -> None:
        """
        A library that was built from other sources is not used.
        """
        self.library.INTERFACE += 1
        self.assertIs(_compiled.accepting(), None)

    def test_missing(self) -> None:
        """
        If it was not built, the code in Python is used.
        """

        def fail(name: str) -> None:
            raise ImportError(name)

        self.patch(_compiled, "import_module", fail)
        self.assertIs(_compiled.accepting(), None)
        self.assertIn("accepting: pure Python", _compiled.describe())

    def test_pure(self) -> None:
        """
        So it is if the operator says so.
        """
        os.environ[_compiled.PURE] = "1"
        self.assertIs(_compiled.accepting(), None)


class LedgerTests(EnvironmentTestCase):
    """
    Whether libraries are used that mypyc has made.
    """

    def setUp(self) -> None:
        super().setUp()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.patch(sys, "path", [folder.name, *sys.path])
        self.patch(sys, "meta_path", list(sys.meta_path))
        self.addCleanup(self.forget)
        self.package = Path(folder.name) / "compiled_package"
        self.package.mkdir()
        (self.package / "__init__.py").write_text("")
        (self.package / "part.py").write_text("source = True\n")
        (self.package / f"part{EXTENSION_SUFFIXES[0]}").write_bytes(b"no library")

    def forget(self) -> None:
        """
        Forget what was imported.
        """
        for name in [each for each in sys.modules if "compiled_package" in each]:
            del sys.modules[name]

    def load(self) -> Any:
        """
        Import the module that exists twice.
        """
        _compiled.preferSources("compiled_package", str(self.package))
        return importlib.import_module("compiled_package.part")

    def test_library(self) -> None:
        """
        Python prefers the library.
        """
        self.assertRaises(ImportError, self.load)

    def test_pure(self) -> None:
        """
        The source is used if the operator says so.  Other modules are found as before.
        """
        os.environ[_compiled.PURE] = "1"
        self.assertTrue(self.load().source)
        self.assertRaises(
            ImportError, importlib.import_module, "compiled_package.missing"
        )
        self.assertRaises(ImportError, importlib.import_module, "compiled_packages")

    def test_described(self) -> None:
        """
        The description tells a library from a source.
        """
        for origin, text in ((".py", "pure Python"), (".so", "compiled")):
            spec = SimpleNamespace(origin=f"/a/ledger{origin}")
            self.patch(_compiled, "find_spec", lambda name, spec=spec: spec)
            self.assertIn(f"ledger: {text}", _compiled.describe())


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
            [
                "accepting: pure Python, ledger: pure Python",
                "portlisten._kernel.batch function",
                "True",
            ],
        )

    def test_compiled(self) -> None:
        """
        Otherwise, a process uses the library.
        """
        if TWINS["C"] is None:
            raise SkipTest("it was not built: there was no compiler")
        first, second, _ = shown("")
        self.assertIn("accepting: compiled", first)
        self.assertEqual(second, "portlisten._kernel._batch builtin_function_or_method")
