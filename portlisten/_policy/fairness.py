"""
Which of several workers accepts from a socket that they share.

The kernel wakes all of them when a client comes, and the first one gets it.  That is
often the same one: connections that stay pile up in one worker, while another has none.
So each worker writes down how many connections it has, where the others can read it, in
a L{LoadTable}.  A worker that has more than another leaves the next client to the
others for a moment, and then takes what is still there.

How long a worker waits does not depend on how much more it has.  What waits decides:
if more than L{MOST_WAITING} clients wait, the others have enough, and the worker
accepts at once.  And while clients come so fast that a worker has just accepted some,
it only minds that others have many fewer.  So at a high rate nobody waits, and the
workers are as fast as without this.

Nothing depends on the truth of what the others write.  A worker that is stopped, hung
or lying lets the others wait in vain.  After a few times, they ignore its entry until
the entry changes.  So it costs each of the others a few moments, and if its entry
changes all the time, one or two moments for each client.

One that only waits for somebody else must not be taken for one that hangs, or a single
hung worker would make the others ignore each other.  So each entry also has a I{tick},
which changes each time that its worker looks for clients.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

#: The most workers that a table has room for.
SLOTS = 1024

#: The load of a worker that accepts nothing.
CLOSED = 0xFFFFFF

#: The sizes of a table's two parts, in bytes: the loads, and for one port the members.
LOADS_BYTES = 4 * SLOTS
ROW_BYTES = SLOTS // 8

#: While so many clients wait, a worker leaves them to those with fewer connections.
MOST_WAITING = 2

#: How long it leaves them, in seconds.
MOMENT = 0.001

#: A worker that has so many connections more than another waits so often in a row.
MUCH_MORE = 8
MOST_WAITS = 2

#: How often a worker waits in vain for one that does nothing.
TRIES = 3

#: Loads count as equal if they differ by one, and one in so many.
TOLERANCE = 64

#: The most clients that a worker accepts in a turn.
BATCH = 16

#: A worker that has accepted clients so lately, in seconds, is I{busy}.  Its load then
#: counts as equal to others even if it has so many connections more.
LATELY = 0.002
BUSY_TOLERANCE = 16

_ROW_WORDS = ROW_BYTES // 4


def membersBytes(ports: int) -> int:
    """
    The size of the table's part that says who shares what, in bytes.

    @param ports: one more than the largest number of a port.
    """
    return 4 + ROW_BYTES * ports


class LoadTable:
    """
    Who shares which port, and how many connections each has.

    Each worker has a I{slot}, which is a number.  The loads are L{SLOTS} entries of 32
    bits, and each worker writes its own: its load in the upper 24, and its tick in the
    lower 8.  The members are written by the listener
    alone: first a number that changes with every change, and then for each port a row
    of L{SLOTS} bits.

    @param loads: the loads, as numbers of 32 bits: C{LOADS_BYTES}.
    @param members: the members, as numbers of 32 bits: C{membersBytes}.
    """

    def __init__(self, loads: memoryview[int], members: memoryview[int]) -> None:
        self._loads = loads
        self._members = members
        self._change = -1
        self._rows: dict[int, tuple[int, ...]] = {}

    # What the listener writes

    def add(self, slot: int, ports: Iterable[int]) -> None:
        """
        Let a worker share ports.  It accepts nothing until it writes its load.
        """
        self.write(slot, CLOSED, 0)
        for port in ports:
            self._members[self._word(slot, port)] |= 1 << slot % 32
        self._changed()

    def remove(self, slot: int) -> None:
        """
        Let a worker share nothing more.
        """
        for port in range((len(self._members) - 1) // _ROW_WORDS):
            self._members[self._word(slot, port)] &= ~(1 << slot % 32)
        self._changed()

    def _changed(self) -> None:
        self._members[0] = (self._members[0] + 1) & 0xFFFFFFFF

    @staticmethod
    def _word(slot: int, port: int) -> int:
        return 1 + port * _ROW_WORDS + slot // 32

    # What workers read and write

    def write(self, slot: int, load: int, tick: int) -> None:
        """
        Write a worker's entry.

        @param load: how many connections it has, or L{CLOSED}.
        @param tick: how often it has looked for clients.
        """
        self._loads[slot] = (load if load < CLOSED else CLOSED) << 8 | tick & 255

    def members(self, port: int) -> tuple[int, ...]:
        """
        The slots of the workers that share a port.
        """
        change = self._members[0]
        if change != self._change:
            self._change = change
            self._rows.clear()
        row = self._rows.get(port)
        if row is None:
            row = self._rows[port] = self._read(port)
        return row

    def _read(self, port: int) -> tuple[int, ...]:
        start = self._word(0, port)
        if len(self._members) < start + _ROW_WORDS:
            return ()
        words = self._members[start : start + _ROW_WORDS].tolist()
        return tuple(
            32 * place + bit
            for place, word in enumerate(words)
            if word
            for bit in range(32)
            if word >> bit & 1
        )

    def entry(self, slot: int) -> int:
        """
        What a worker has written: its load in the upper 24 bits, and its tick in the
        lower 8.
        """
        return self._loads[slot]

    @property
    def entries(self) -> memoryview[int]:
        """
        What all have written, by their slots.
        """
        return self._loads


class Fairness:
    """
    Decides for one worker and one port how many clients to accept now.

    @param slot: the worker's.
    @param port: the port's number.
    """

    def __init__(self, table: LoadTable, slot: int, port: int) -> None:
        self._table = table
        self._entries = table.entries
        self._slot = slot
        self._port = port
        # The slots that this worker waits for, with their entries at the beginning.
        self._awaited: dict[int, int] = {}
        # Those that it has waited for in vain: the entry meanwhile, and how often.
        self._vain: dict[int, tuple[int, int]] = {}
        self._waits = 0

    @property
    def alone(self) -> bool:
        """
        Whether no other worker shares the port.
        """
        return len(self._table.members(self._port)) == 1

    def take(self, own: int, waiting: int | None, busy: bool = False) -> int:
        """
        Decide how many clients to accept now.

        @param own: how many connections the worker has.
        @param waiting: how many clients wait; L{None} if the kernel does not tell.
        @param busy: whether the worker has accepted clients within L{LATELY}.
        @return: if none although some wait, the worker leaves them to others for
            L{MOMENT}, and then calls L{waited}.
        """
        most = BATCH if waiting is None or waiting > BATCH else waiting
        least = self._least()
        if least == CLOSED or not most:
            return most
        plenty = 0 if waiting is None else waiting - MOST_WAITING
        more = own - least
        if self._waits and self._waits >= (1 if more < MUCH_MORE else MOST_WAITS):
            self._waits = 0
            return most if waiting is None else min(most, max(1, plenty))
        spare = own // TOLERANCE + (BUSY_TOLERANCE if busy else 1)
        count = min(most, max(1 + spare - more, plenty))
        if count > 0:
            self._waits = 0
            return count
        bound = own - spare
        self._awaited = {
            slot: entry
            for slot in self._table.members(self._port)
            if (entry := self._entries[slot]) >> 8 < bound and self._counts(slot, entry)
        }
        return 0

    def waited(self, waiting: bool) -> None:
        """
        Note that the worker has waited for L{MOMENT}.

        @param waiting: whether clients are still there.  Then the next L{take} takes
            them.
        """
        self._waits = self._waits + 1 if waiting else 0
        awaited, self._awaited = self._awaited, {}
        if not waiting:
            return
        for slot, entry in awaited.items():
            if self._entries[slot] == entry:
                before, times = self._vain.get(slot, (entry, 0))
                self._vain[slot] = (entry, times + 1 if before == entry else 1)

    def _least(self) -> int:
        """
        The smallest load among the workers that are worth waiting for.
        """
        entries, vain = self._entries, self._vain
        least = CLOSED << 8
        for slot in self._table.members(self._port):
            entry = entries[slot]
            if entry < least and slot != self._slot:
                if vain and not self._counts(slot, entry):
                    continue
                least = entry
        return least >> 8

    def _counts(self, slot: int, entry: int) -> bool:
        """
        Whether a worker with this entry is worth waiting for.
        """
        before, times = self._vain.get(slot, (entry, 0))
        if before != entry:
            del self._vain[slot]
            return True
        return times < TRIES


class Slots:
    """
    Which slot each worker gets.  A slot is used again by the same process, or when its
    process is dead.  If nobody knows, it is used again after all others.
    """

    def __init__(self, count: int = SLOTS) -> None:
        self._free = deque(range(count))

    def take(self) -> int | None:
        """
        Take a slot.

        @return: L{None} if all are taken.
        """
        return self._free.popleft() if self._free else None

    def giveBack(self, slot: int) -> None:
        """
        Give a slot back.
        """
        self._free.append(slot)
