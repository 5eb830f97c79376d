"""
Tests for L{portlisten._policy.fairness}, and a simulation of workers that share a
socket.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from portlisten._policy.fairness import (
    BATCH,
    BUSY_TOLERANCE,
    CLOSED,
    LOADS_BYTES,
    MOMENT,
    MOST_WAITING,
    MOST_WAITS,
    MUCH_MORE,
    SLOTS,
    TRIES,
    Fairness,
    LoadTable,
    Slots,
    membersBytes,
)
from portlisten._wire.frames import MAXIMUM_SLOTS

PORT = 3


def table(ports: int = PORT + 1) -> LoadTable:
    """
    Make an empty table.
    """
    return LoadTable(
        memoryview(bytearray(LOADS_BYTES)).cast("I"),
        memoryview(bytearray(membersBytes(ports))).cast("I"),
    )


class TableTests(SynchronousTestCase):
    """
    Tests for L{LoadTable}.
    """

    def test_slots(self) -> None:
        """
        The protocol says how many slots there are.
        """
        self.assertEqual(SLOTS, MAXIMUM_SLOTS)
        self.assertEqual(LOADS_BYTES, 4096)
        self.assertEqual(membersBytes(2), 260)

    def test_layout(self) -> None:
        """
        The bits are where the protocol says.
        """
        members = memoryview(bytearray(membersBytes(2))).cast("I")
        loads = memoryview(bytearray(LOADS_BYTES)).cast("I")
        made = LoadTable(loads, members)
        made.add(33, [1])
        made.write(33, 7, 258)
        self.assertEqual(
            {place: word for place, word in enumerate(members) if word},
            {0: 1, 1 + 32 + 1: 2},
        )
        self.assertEqual(
            {place: word for place, word in enumerate(loads) if word}, {33: 7 * 256 + 2}
        )

    @given(
        st.dictionaries(
            st.integers(0, SLOTS - 1), st.sets(st.integers(0, PORT)), max_size=20
        ),
        st.data(),
    )
    def test_members(self, workers: dict[int, set[int]], data: st.DataObject) -> None:
        """
        Each port has the workers that were added to it, until they are removed.
        """
        made = table()
        for slot, ports in workers.items():
            made.add(slot, ports)
        left = data.draw(st.sets(st.sampled_from(sorted(workers) or [0])))
        for port in range(PORT + 1):
            has = {slot for slot, ports in workers.items() if port in ports}
            self.assertEqual(made.members(port), tuple(sorted(has)))
        for slot in left:
            made.remove(slot)
        for port in range(PORT + 1):
            has = {slot for slot, ports in workers.items() if port in ports} - left
            self.assertEqual(made.members(port), tuple(sorted(has)))

    def test_closedAtFirst(self) -> None:
        """
        A worker that has written nothing accepts nothing, whatever its slot had before.
        """
        made = table()
        made.write(5, 17, 1)
        made.add(5, [PORT])
        self.assertEqual(made.entry(5), CLOSED << 8)

    def test_unknownPort(self) -> None:
        """
        A port that the table does not have has no workers.
        """
        self.assertEqual(table().members(PORT + 1), ())

    def test_large(self) -> None:
        """
        A number that does not fit is the largest.
        """
        made = table()
        made.write(0, 2**40, 0)
        self.assertEqual(made.entry(0), CLOSED << 8)

    def test_changeWraps(self) -> None:
        """
        The number of changes begins anew after the largest.
        """
        members = memoryview(bytearray(membersBytes(1))).cast("I")
        members[0] = 0xFFFFFFFF
        made = LoadTable(memoryview(bytearray(LOADS_BYTES)).cast("I"), members)
        made.add(0, [0])
        self.assertEqual(members[0], 0)
        self.assertEqual(made.members(0), (0,))


class SlotsTests(SynchronousTestCase):
    """
    Tests for L{Slots}.
    """

    def test_all(self) -> None:
        """
        Each slot is given once, and one that was given back comes after all others.
        """
        slots = Slots(3)
        self.assertEqual([slots.take(), slots.take()], [0, 1])
        slots.giveBack(0)
        self.assertEqual([slots.take(), slots.take(), slots.take()], [2, 0, None])


class FairnessTests(SynchronousTestCase):
    """
    Tests for L{Fairness}: one worker among others.
    """

    def setUp(self) -> None:
        """
        Make a worker with slot 0 and two others.
        """
        self.table = table()
        for slot in range(3):
            self.table.add(slot, [PORT])
        self.fairness = Fairness(self.table, 0, PORT)

    def others(self, *loads: int) -> None:
        """
        Write the loads of the others.
        """
        for slot, load in enumerate(loads, 1):
            self.table.write(slot, load, 0)

    def wait(self, waiting: bool = True) -> None:
        """
        Let a moment pass.
        """
        self.fairness.waited(waiting)

    def test_least(self) -> None:
        """
        A worker that has no more than any other accepts.
        """
        self.others(5, 6)
        for own, count in ((6, 1), (5, 2), (0, 2)):
            self.assertEqual(self.fairness.take(own, 2), count)

    def test_more(self) -> None:
        """
        One that has more leaves the client to others once, and then accepts one.
        """
        self.others(5, 9)
        self.assertEqual(self.fairness.take(7, 2), 0)
        self.wait()
        self.assertEqual(self.fairness.take(7, 2), 1)
        self.assertEqual(self.fairness.take(7, 2), 0)

    def test_othersCame(self) -> None:
        """
        If others took the clients meanwhile, the worker leaves the next as well.
        """
        self.others(5, 9)
        self.assertEqual(self.fairness.take(7, 1), 0)
        self.wait(False)
        self.assertEqual(self.fairness.take(7, 1), 0)

    def test_muchMore(self) -> None:
        """
        One that has many more waits again.
        """
        self.others(5, 9)
        for _ in range(MOST_WAITS):
            self.assertEqual(self.fairness.take(5 + MUCH_MORE, 1), 0)
            self.others(6, 9)
            self.wait()
            self.others(5, 9)
        self.assertEqual(self.fairness.take(5 + MUCH_MORE, 1), 1)

    def test_tolerance(self) -> None:
        """
        Loads that differ by one are equal, or by one and a 64th.
        """
        self.others(127, 200)
        self.assertEqual(self.fairness.take(130, 1), 1)
        self.assertEqual(self.fairness.take(131, 1), 0)

    def test_busy(self) -> None:
        """
        One that has just accepted some minds only that another has many fewer.
        """
        self.others(5, 9)
        busy = BUSY_TOLERANCE
        self.assertEqual(self.fairness.take(5 + busy, 1, busy=True), 1)
        self.assertEqual(self.fairness.take(6 + busy, 1, busy=True), 0)

    def test_aloneOrNot(self) -> None:
        """
        A worker is alone while no other one shares the port.
        """
        self.assertFalse(self.fairness.alone)
        self.table.remove(1)
        self.table.remove(2)
        self.assertTrue(self.fairness.alone)

    def test_manyWait(self) -> None:
        """
        What others will not need at once, the worker takes, whatever it has.
        """
        self.others(0, 0)
        for waiting in range(MOST_WAITING + 1):
            self.assertEqual(self.fairness.take(50, waiting), 0)
        self.assertEqual(self.fairness.take(50, MOST_WAITING + 5), 5)
        self.assertEqual(self.fairness.take(50, 9999), BATCH)

    def test_unknownQueue(self) -> None:
        """
        If nobody knows how many wait, the worker takes its share, or after it has
        waited, a batch.
        """
        self.others(5, 6)
        self.assertEqual(self.fairness.take(3, None), 4)
        self.assertEqual(self.fairness.take(7, None), 0)
        self.wait()
        self.assertEqual(self.fairness.take(7, None), BATCH)

    def test_alone(self) -> None:
        """
        If no other worker accepts, this one takes what is there.
        """
        self.others(CLOSED, CLOSED)
        self.assertEqual(self.fairness.take(50, 1), 1)
        self.assertEqual(self.fairness.take(50, None), BATCH)
        self.table.remove(1)
        self.others(0, CLOSED)
        self.assertEqual(self.fairness.take(50, 2), 2)

    def test_nothing(self) -> None:
        """
        If nobody waits, there is nothing to take, and nothing to wait for.
        """
        self.others(CLOSED, CLOSED)
        self.assertEqual(self.fairness.take(0, 0), 0)

    def test_vain(self) -> None:
        """
        A worker that does nothing is waited for a few times, and then no more, until
        its number changes.
        """
        self.others(0, 50)
        waits = 0
        for _ in range(20):
            if not self.fairness.take(20, 1):
                waits += 1
                self.wait()
        self.assertEqual(waits, TRIES)
        self.others(1, 50)
        self.assertEqual(self.fairness.take(20, 1), 0)

    def test_notVain(self) -> None:
        """
        One that does something counts as well as before.
        """
        self.others(0, 50)
        for load in range(1, 30):
            while self.fairness.take(60, 1):
                pass
            self.others(load, 50)
            self.wait()
        self.assertEqual(self.fairness.take(60, 1), 0)

    @given(
        st.lists(st.tuples(*[st.integers(0, 2**32 - 1)] * 4), max_size=50), st.data()
    )
    def test_liars(
        self, lies: list[tuple[int, int, int, int]], data: st.DataObject
    ) -> None:
        """
        Whatever the others write, and wherever, no client waits longer than
        C{MOST_WAITS} moments.
        """
        fairness = Fairness(self.table, 0, PORT)
        waits = 0
        for own, *numbers in lies:
            for slot, load in enumerate(numbers):
                self.table.write(slot, load // 256, load)
            waiting = data.draw(st.integers(1, 5) | st.none())
            count = fairness.take(own, waiting)
            self.assertLessEqual(count, BATCH if waiting is None else waiting)
            waits = 0 if count else waits + 1
            self.assertLessEqual(waits, MOST_WAITS)
            if not count:
                fairness.waited(True)


class _Worker:
    """
    A worker of the simulation.
    """

    def __init__(self, table: LoadTable, slot: int, awake: Callable[[], float]) -> None:
        table.add(slot, [PORT])
        table.write(slot, 0, 0)
        self.fairness = Fairness(table, slot, PORT)
        self.slot = slot
        self.awake = awake
        self.count = 0
        self.total = 0
        self.ticks = 0
        self.waitsUntil = 0.0


class Simulation:
    """
    Workers that share a socket.  Each step, a client may come, and all that are awake
    look, in an order that favours some, as the kernel's does.

    @param fair: whether they follow the rule.
    """

    STEP = 0.0002

    def __init__(self, workers: int, fair: bool = True, seed: int = 1) -> None:
        self.random = random.Random(seed)
        self.table = table()
        self.workers: list[_Worker] = []
        self.fair = fair
        self.waiting: list[float] = []
        self.now = 0.0
        self.slow: list[float] = []
        for _ in range(workers):
            self.add()

    def add(self) -> _Worker:
        """
        Add a worker.  It is awake nine times in ten.
        """
        awake = self.random.random
        self.workers.append(_Worker(self.table, len(self.workers), awake))
        return self.workers[-1]

    def run(self, clients: int, rate: float, stay: float | None = None) -> None:
        """
        Let clients come.

        @param rate: how many, in a second.
        @param stay: how long each stays, in seconds.  Otherwise for ever.
        """
        leaves: list[tuple[float, _Worker]] = []
        came = 0.0
        left = clients
        while left or self.waiting:
            self.now += self.STEP
            came += self.STEP * rate
            while came >= 1 and left:
                came -= 1
                left -= 1
                self.waiting.append(self.now)
            for worker in self._order():
                for _ in range(self._take(worker)):
                    self.slow.append(self.now - self.waiting.pop(0))
                    worker.count += 1
                    worker.total += 1
                    if stay is not None:
                        leaves.append((self.now + stay, worker))
                self.table.write(worker.slot, worker.count, worker.ticks)
            while leaves and leaves[0][0] <= self.now:
                worker = leaves.pop(0)[1]
                worker.count -= 1
                self.table.write(worker.slot, worker.count, worker.ticks)

    def _order(self) -> list[_Worker]:
        awake = [each for each in self.workers if each.awake() < 0.9]
        return sorted(awake, key=lambda each: self.random.random() * (each.slot + 1))

    def _take(self, worker: _Worker) -> int:
        if not self.fair:
            return min(1, len(self.waiting))
        if worker.waitsUntil > self.now:
            return 0
        if worker.waitsUntil:
            worker.waitsUntil = 0.0
            worker.fairness.waited(bool(self.waiting))
        worker.ticks += bool(self.waiting)
        count = worker.fairness.take(worker.count, len(self.waiting))
        if not count and self.waiting:
            worker.waitsUntil = self.now + MOMENT
        return count

    @property
    def counts(self) -> list[int]:
        """
        How many connections each has.
        """
        return [each.count for each in self.workers]


class SimulationTests(SynchronousTestCase):
    """
    The rule, with all workers at once.
    """

    def test_naive(self) -> None:
        """
        Without the rule, connections that stay pile up.
        """
        simulation = Simulation(4, fair=False)
        simulation.run(400, rate=200)
        self.assertGreater(max(simulation.counts), 3 * min(simulation.counts))

    def test_stay(self) -> None:
        """
        With it, they spread evenly.
        """
        for seed in range(5):
            simulation = Simulation(4, seed=seed)
            simulation.run(400, rate=200)
            self.assertLessEqual(
                max(simulation.counts), 1.05 * min(simulation.counts), seed
            )

    def test_replaced(self) -> None:
        """
        A worker that comes later gets what comes, until it has as much as the others.
        """
        simulation = Simulation(3)
        simulation.run(300, rate=200)
        worker = simulation.add()
        simulation.run(100, rate=200)
        self.assertGreaterEqual(worker.count, 91)
        self.assertLessEqual(max(simulation.counts), 1.1 * min(simulation.counts))

    def test_fast(self) -> None:
        """
        At a rate that keeps all busy, nobody waits for long, and the load is even.
        """
        simulation = Simulation(4)
        simulation.run(8000, rate=16000, stay=0.002)
        totals = [each.total for each in simulation.workers]
        self.assertLess(max(totals), 3 * min(totals))
        self.assertLess(sorted(simulation.slow)[-80], 2 * MOMENT)

    def test_hung(self) -> None:
        """
        A worker that hangs costs each of the others a few moments.
        """
        simulation = Simulation(4)
        simulation.workers[1].awake = lambda: 1.0
        simulation.run(400, rate=200)
        delayed = [each for each in simulation.slow if each > 0.9 * MOMENT]
        self.assertLessEqual(len(delayed), 40)
        self.assertLess(max(simulation.slow), (MOST_WAITS + 1) * MOMENT)
        del simulation.workers[1]
        self.assertLessEqual(max(simulation.counts), 1.05 * min(simulation.counts))

    def test_hostile(self) -> None:
        """
        A worker that writes noise everywhere delays nobody for longer than it may.
        """
        simulation = Simulation(4)
        hostile = simulation.workers[1]

        def write() -> float:
            for slot in range(SLOTS):
                noise = simulation.random.getrandbits(32)
                simulation.table.write(slot, noise // 256, noise)
            return 1.0

        hostile.awake = write
        simulation.run(400, rate=200)
        self.assertLess(max(simulation.slow), (MOST_WAITS + 1) * MOMENT)
        self.assertEqual(sum(simulation.counts), 400)
