"""
Tests for the names that programs may rely on: docs/api-policy.md lists them.
"""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path
from types import ModuleType

from twisted.trial.unittest import SynchronousTestCase

import portlisten

PAGE = Path(__file__).parents[2] / "docs" / "api-policy.md"

#: All of them.  A program breaks if one is removed or renamed: see the page.
PUBLIC = {
    "portlisten": ["__version__"],
    "portlisten.endpoints": [
        "PortlistenServerEndpoint",
        "DatagramServerEndpoint",
        "PortlistenUDPEndpoint",
        "EndpointError",
    ],
    "portlisten.aiohttp": ["app"],
    "portlisten.gunicorn": [],
    "portlisten.hypercorn": ["workers"],
    "portlisten.asyncio": [
        "EndpointError",
        "Server",
        "asyncioLoop",
        "create_server",
        "extend",
        "loop",
        "start_server",
        "uvloopLoop",
    ],
    "portlisten.blocking": ["EndpointError", "ListeningSocket", "attach"],
    "portlisten.interfaces": ["IDrainable"],
    "portlisten.errors": [
        "ProtocolError",
        "MalformedFrame",
        "UnknownFrame",
        "OversizedFrame",
        "VersionMismatch",
        "UnknownName",
        "WrongKind",
        "WrongSocket",
        "ToldToStop",
        "PathError",
        "BadDescription",
        "CannotBind",
        "CannotTakeOver",
        "CannotRun",
        "StartFailure",
        "EndpointError",
    ],
}

#: These only give what private modules have, with a warning.
DEPRECATED = {"portlisten.hello", "portlisten.listener"}


def modules() -> set[str]:
    """
    The modules whose names have no underscore.
    """
    folder = Path(portlisten.__file__).parent
    names = {path.stem for path in folder.glob("*.py")}
    names |= {path.parent.name for path in folder.glob("*/__init__.py")}
    return {f"portlisten.{each}" for each in names if not each.startswith("_")}


def defined(module: ModuleType) -> set[str]:
    """
    The classes that a module defines under names without an underscore.
    """
    return {
        each.name
        for each in ast.parse(inspect.getsource(module)).body
        if isinstance(each, ast.ClassDef) and not each.name.startswith("_")
    }


class PublicNamesTests(SynchronousTestCase):
    """
    Tests for L{PUBLIC}.
    """

    def test_modules(self) -> None:
        """
        Every module without an underscore is public, or was once.
        """
        public = {*PUBLIC} - {"portlisten"}
        self.assertEqual(modules() - DEPRECATED, public)

    def test_names(self) -> None:
        """
        Each public module has its names, and says that they are public.
        """
        for name, names in PUBLIC.items():
            module = importlib.import_module(name)
            self.assertEqual(sorted(module.__all__), sorted(names), name)
            for each in names:
                self.assertTrue(hasattr(module, each), f"{name}.{each}")

    def test_classes(self) -> None:
        """
        A public module defines no class whose name looks public and is not.
        """
        for name, names in PUBLIC.items():
            module = importlib.import_module(name)
            self.assertEqual(defined(module) - {*names}, set(), name)

    def test_page(self) -> None:
        """
        The page lists every public name.
        """
        page = PAGE.read_text("utf-8")
        for name, names in PUBLIC.items():
            for each in names:
                self.assertIn(f"`{each}`", page, name)
