"""
A listener's memory for the workers of shared ports, made by hand.
"""

from __future__ import annotations

from unittest import TestCase

from portlisten import _kernel
from portlisten._policy.fairness import LOADS_BYTES, LoadTable, membersBytes
from portlisten._wire.frames import Loads


class SharedLoads:
    """
    The memory, for one port with the number 0.  The worker under test has slot 0, and
    another one slot 1.

    @ivar table: what is in it.
    @ivar frame: tells a worker of it.
    @ivar descriptors: go with the frame.
    """

    def __init__(self, test: TestCase, size: int = LOADS_BYTES) -> None:
        loads = _kernel.createMemory("loads", size, True)
        test.addCleanup(loads.close)
        members = _kernel.createMemory("members", membersBytes(1), False)
        test.addCleanup(members.close)
        self.table = LoadTable(loads.view, members.view)
        for slot in (0, 1):
            self.table.add(slot, [0])
        self.frame = Loads(0, 1, loads.number, members.number)
        self.descriptors = [loads.descriptor, members.descriptor]

    def other(self, load: int) -> None:
        """
        Write the load of the other worker.
        """
        self.table.write(1, load, 0)

    @property
    def own(self) -> int:
        """
        The load that the worker under test has written.
        """
        return self.table.entry(0) >> 8
