"""
Both ways to accept many connections: in Python and, if it was built, in C.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from portlisten import _compiled
from portlisten._kernel import batch


def library() -> Any:
    """
    The library in C, even if the process uses the code in Python.  L{None} if it was
    not built, or was built from other sources.
    """
    try:
        found = import_module(_compiled.ACCEPTING)
    except ImportError:
        return None
    return found if _compiled.INTERFACE == found.INTERFACE else None


#: By name, for the classes of tests.
TWINS: dict[str, Any] = {"Python": batch, "C": library()}
