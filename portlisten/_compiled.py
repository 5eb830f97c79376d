"""
Which parts of the package are compiled.

A part exists twice: in C, and in Python.  The two do the same, and have the same tests.
The library in C is built if there is a compiler when portlisten is installed.  If there
is none, or if the environment variable C{PORTLISTEN_PURE} is set when a process starts,
the process uses the code in Python.

This is the only place that chooses.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any, NamedTuple

#: If this environment variable is not empty, no compiled code is used.
PURE = "PORTLISTEN_PURE"


class Part(NamedTuple):
    """
    A part of the package that may be compiled.

    @ivar does: what it does.
    @ivar interface: what C{INTERFACE} of its library must be.  A library may have been
        built from older sources, as in a checkout that has moved on.
    """

    does: str
    interface: int


#: All parts, by the names of their libraries.
PARTS = {"portlisten._kernel._batch": Part("accepting", 1)}


def load(name: str) -> Any:
    """
    Import the library of a part.

    @param name: one of L{PARTS}.
    @return: the library; L{None} if the code in Python is to be used.
    """
    if os.environ.get(PURE):
        return None
    try:
        library = import_module(name)
    except ImportError:
        return None
    return library if PARTS[name].interface == library.INTERFACE else None


def describe() -> str:
    """
    Say of each part whether it is compiled.
    """
    return ", ".join(
        f"{part.does}: {'pure Python' if load(name) is None else 'compiled'}"
        for name, part in PARTS.items()
    )
