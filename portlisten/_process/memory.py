"""
Short pauses for garbage collection.

A full collection visits all objects of the process.  Most of them belong to modules,
and are never freed.  A collection takes about 15 ms, in which the process does nothing
else.  It comes when many objects became garbage, as when many channels close together.
"""

from __future__ import annotations

import gc


def freeze() -> None:
    """
    Exclude all present objects from later collections, as L{gc.freeze} does.  If this
    was done before, do nothing.
    """
    if not gc.get_freeze_count():
        gc.collect()
        gc.freeze()
