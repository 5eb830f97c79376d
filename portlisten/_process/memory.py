"""
Short pauses for garbage collection.

A full collection looks at all objects of the process, most of which are modules that
stay for ever.  That takes about 15 ms, in which the process does nothing else.  Such a
collection comes when many objects became garbage, as when many channels close together.
"""

from __future__ import annotations

import gc


def freeze() -> None:
    """
    Keep collections from looking at what was loaded so far, as L{gc.freeze} does.  If
    that was done before, do nothing.
    """
    if not gc.get_freeze_count():
        gc.collect()
        gc.freeze()
