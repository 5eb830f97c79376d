"""
The slots of a group of workers.

Each worker has a slot.  Its label is the name of its group and the number of its slot,
such as C{web-1}.  A group has one more slot than it has workers, so that a worker can
run beside the one that it replaces.
"""

from __future__ import annotations

from collections.abc import Collection


def freeSlot(used: Collection[int]) -> int:
    """
    Find the lowest number of a slot that is free.
    """
    return next(each for each in range(1, len(used) + 2) if each not in used)


def labelOf(name: str, slot: int) -> str:
    """
    Make the label of a worker.

    @param name: the name of its group.
    """
    return f"{name}-{slot}"
