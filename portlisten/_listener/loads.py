"""
The memory in which the workers that share ports tell each other how many connections
they have: L{portlisten._policy.fairness} says what for.

A worker writes in its slot as long as its process has the memory, whether it has left
its channel or not.  So the listener gives a slot to another process only when that one
has ended.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from portlisten import _kernel
from portlisten._listener.interfaces import IChannel
from portlisten._model import Port
from portlisten._policy.fairness import LOADS_BYTES, LoadTable, Slots, membersBytes
from portlisten._reactor.log_limit import logLimit

#: How many descriptors a worker is sent.
MEMORIES = 2

#: How many workers that have left and live are remembered.  Each costs a descriptor.
#: The slot of an older one is used again after all others.
MAXIMUM_LEFT = 64


@dataclass(frozen=True)
class _Left:
    """
    A worker that has left, and may still write.

    @ivar process: a pidfd of its process, which this object's holder closes.
    """

    slot: int
    user: int
    pid: int
    process: int


class Loads:
    """
    The memory, which is made for the first worker that can use it.

    @param ports: the numbers of the ports whose workers leave clients to others.
    """

    log = Logger()

    def __init__(self, reactor: IReactorTime, ports: Collection[int]) -> None:
        self._ports = frozenset(ports)
        self._logLimited = logLimit(reactor)
        self._slots = Slots()
        self._used: dict[IChannel, int] = {}
        self._left: list[_Left] = []
        self._memories: list[_kernel.SharedMemory] = []
        self._table: LoadTable | None = None

    def join(self, channel: IChannel, ports: Iterable[Port]) -> bool:
        """
        Let a worker tell the others how many connections it has, if it gets a port
        where that is wanted.

        @return: whether it was sent the memory.
        """
        numbers = [port.number for port in ports if port.number in self._ports]
        table = self._makeTable() if numbers else None
        slot = None if table is None else self._slotFor(channel)
        if table is None or slot is None:
            return False
        self._used[channel] = slot
        table.add(slot, numbers)
        loads, members = self._memories
        channel.shareLoads(slot, max(self._ports) + 1, loads, members)
        return True

    def _makeTable(self) -> LoadTable | None:
        if self._table is None:
            size = membersBytes(max(self._ports) + 1)
            make = _kernel.createMemory
            try:
                self._memories.append(make("portlisten-loads", LOADS_BYTES, True))
                self._memories.append(make("portlisten-members", size, False))
            except OSError as error:
                self.close()
                self._logLimited(
                    self.log.warn,
                    "workers accept whatever the others have: no memory to share:"
                    " {error}",
                    event="loads-not-shared",
                    error=error.strerror,
                )
                return None
            loads, members = self._memories
            self._table = LoadTable(loads.view, members.view)
        return self._table

    def _slotFor(self, channel: IChannel) -> int | None:
        self.check()
        for each in self._left:
            if channel.pid and (each.pid, each.user) == (channel.pid, channel.user):
                self._left.remove(each)
                os.close(each.process)
                return each.slot
        return self._slots.take()

    def leave(self, channel: IChannel) -> None:
        """
        Note that a worker accepts nothing more.  May be called again.
        """
        slot = self._used.pop(channel, None)
        if slot is None or self._table is None:
            return
        self._table.remove(slot)
        try:
            process = channel.process()
        except ProcessLookupError:
            process = None
        if process is None:
            self._slots.giveBack(slot)
            return
        self._left.append(_Left(slot, channel.user, channel.pid, process))
        if len(self._left) > MAXIMUM_LEFT:
            self._giveBack(self._left[0])

    def _giveBack(self, left: _Left) -> None:
        self._left.remove(left)
        os.close(left.process)
        self._slots.giveBack(left.slot)

    def check(self) -> None:
        """
        Find the workers that have left and ended.
        """
        for each in list(self._left):
            if _kernel.hasEnded(each.process):
                self._giveBack(each)

    def close(self) -> None:
        """
        Unmap the memory, and let go of what else this holds: no channel is left that
        may still have to send the memory.  May be called again.
        """
        self._table = None
        for memory in self._memories:
            memory.close()
        self._memories.clear()
        for each in self._left:
            os.close(each.process)
        self._left.clear()
        self._used.clear()
