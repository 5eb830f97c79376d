"""
Which parts of the package are compiled.

Two parts exist twice, and both do the same, and have the same tests:

  - To accept connections.  The library in C is built if there is a compiler when
    portlisten is installed.  The code in Python is its twin.
  - The ledger, and the modules that it needs.  mypyc makes libraries of these modules
    if C{PORTLISTEN_MYPYC} is set when portlisten is installed.

If the environment variable C{PORTLISTEN_PURE} is set when a process starts, the process
uses no library.

This is the only place that chooses.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import (
    SOURCE_SUFFIXES,
    FileFinder,
    ModuleSpec,
    SourceFileLoader,
)
from importlib.util import find_spec
from types import ModuleType
from typing import Any

#: If this environment variable is not empty, no compiled code is used.
PURE = "PORTLISTEN_PURE"

#: The library in C.
ACCEPTING = "portlisten._kernel._batch"

#: What C{INTERFACE} of L{ACCEPTING} must be.  The library may have been built from
#: older sources, as in a checkout that has moved on.
INTERFACE = 2

#: The module that stands for all that mypyc compiles.
LEDGER = "portlisten._policy.ledger"


def accepting() -> Any:
    """
    Import the library in C.

    @return: L{None} if the code in Python is to be used.
    """
    if os.environ.get(PURE):
        return None
    try:
        library = import_module(ACCEPTING)
    except ImportError:
        return None
    return library if getattr(library, "INTERFACE", 0) == INTERFACE else None


class _Sources(MetaPathFinder):
    """
    Finds the sources of a package's modules, even if there are libraries.
    """

    def __init__(self, package: str, folder: str) -> None:
        self._prefix = f"{package}."
        self._finder = FileFinder(folder, (SourceFileLoader, SOURCE_SUFFIXES))

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        """
        See L{MetaPathFinder}.
        """
        if not fullname.startswith(self._prefix):
            return None
        return self._finder.find_spec(fullname)


def preferSources(package: str, folder: str) -> None:
    """
    If no compiled code is to be used, import the modules of a package from their
    sources from now on.

    @param folder: the package's.
    """
    if os.environ.get(PURE):
        sys.meta_path.insert(0, _Sources(package, folder))


def describe() -> str:
    """
    Say of each part whether it is compiled.
    """
    ledger = find_spec(LEDGER)
    assert ledger is not None
    isSource = str(ledger.origin).endswith(tuple(SOURCE_SUFFIXES))
    parts = {"accepting": accepting() is not None, "ledger": not isSource}
    return ", ".join(
        f"{part}: {'compiled' if compiled else 'pure Python'}"
        for part, compiled in parts.items()
    )
