"""
Tests for L{benchmarks.planning}, for what L{benchmarks.capacity} reads and writes, and
for the page that has both.
"""

from __future__ import annotations

import os
import socket
from unittest import skipUnless

from twisted.trial.unittest import SynchronousTestCase

from benchmarks import capacity, planning
from benchmarks.capacity import Case, Found, Usage
from benchmarks.contestants import Contestant
from benchmarks.planning import Demand
from benchmarks.running import Running
from portlisten._config.settings import ListenerSettings
from portlisten._listener.service import MAXIMUM_CHANNELS
from portlisten._policy.places import Places
from portlisten._policy.source_limits import MAXIMUM_SOURCES
from tests.support.descriptors import watchDescriptors


def found(lines: list[planning.Line]) -> dict[str, str]:
    """
    What comes of each line of a plan.
    """
    return {what: result for what, _, result in lines}


class PlanningTests(SynchronousTestCase):
    """
    Tests for L{planning}.
    """

    def test_one(self) -> None:
        """
        The plan of a machine is what the constants say.
        """
        lines = found(planning.one(Demand(1000, 20_000, tls=False, work=870, cores=4)))
        self.assertEqual(lines["workers"], "3")
        self.assertEqual(lines["listener, processors"], "0.01 to 0.11")
        self.assertEqual(lines["workers, processors"], "1.00")
        self.assertEqual(lines["processors to have"], "2 of 4")
        self.assertEqual(lines["in flight at the most"], "96")
        self.assertEqual(lines["`open-files` of a worker"], "16,384")
        self.assertEqual(lines["`ulimit -n` of the listener"], "8,192")

    def test_listener(self) -> None:
        """
        A listener uses one processor at the most, until connections that come together
        need more.
        """
        rates = {500: 0.055, 20_000: 1.0, 100_000: 1.5}
        for rate, processors in rates.items():
            self.assertAlmostEqual(Demand(rate, 1).listener, processors)

    def test_memory(self) -> None:
        """
        A connection of TLS takes more memory, and a worker more is counted than there
        are: it is there while one is replaced.
        """
        common = planning.LISTENER_KIB + planning.SOCKET_KIB + planning.BUFFERED_KIB
        for tls, own, worker in (
            (False, planning.WORKER_KIB, planning.WORKER_MIB),
            (True, planning.TLS_KIB, planning.TLS_MIB),
        ):
            empty = Demand(1, 0, tls).mib
            self.assertAlmostEqual(empty, planning.LISTENER_MIB + 16 * worker)
            self.assertAlmostEqual(Demand(1, 1024, tls).mib - empty, common + own)

    def test_machines(self) -> None:
        """
        Processors or memory decide how many machines there are.
        """
        for demand, count in (
            (Demand(10, 10), 1),
            (Demand(11_000, 10), 1),
            (Demand(12_000, 10), 2),
            (Demand(10, 1_000_000, memory=16), 5),
            (Demand(1000, 10, cores=1), 2),
        ):
            self.assertEqual(planning.machinesFor(demand), count)
            self.assertTrue(planning.part(demand, count).fits)

    def test_noMachine(self) -> None:
        """
        A machine that has no memory for its processes is never enough.
        """
        with self.assertRaisesRegex(ValueError, "too little memory"):
            planning.machinesFor(Demand(1, 1, cores=64, memory=1))

    def test_power(self) -> None:
        """
        A limit is the next power of two.
        """
        self.assertEqual([*map(planning.power, (4, 5, 4.5, 1024))], [4, 8, 8, 1024])

    def test_defaults(self) -> None:
        """
        The defaults are those of the listener.
        """
        settings = ListenerSettings(path="")
        self.assertEqual(
            (settings.window, settings.queue), (planning.WINDOW, planning.QUEUE)
        )
        self.assertEqual(settings.window, capacity.WINDOW)


class PageTests(SynchronousTestCase):
    """
    Tests for C{docs/capacity.md}.
    """

    page = planning.PAGE.read_text("utf-8")

    def test_examples(self) -> None:
        """
        The page has all examples, with the figures of today's constants.
        C{python -m benchmarks.planning --write} mends it.
        """
        for name in planning.EXAMPLES:
            self.assertIn(f"<!-- example: {name} -->\n", self.page)
        self.assertEqual(planning.fill(self.page), self.page)

    def test_fill(self) -> None:
        """
        Only what is between an example's comments is replaced.
        """
        page = "a\n<!-- example: small -->\n{}<!-- end of example -->\nb\n"
        table = planning.write(planning.EXAMPLES["small"])
        for old in ("", "\n\n", "| old |\n"):
            self.assertEqual(
                planning.fill(page.format(old) * 2), page.format(f"\n{table}\n") * 2
            )

    def test_limits(self) -> None:
        """
        The page has the limits that the code has.
        """
        places = Places(MAXIMUM_CHANNELS)
        mine = 0
        while places.take(1000):
            mine += 1
        for number in (MAXIMUM_CHANNELS, mine, MAXIMUM_SOURCES, planning.QUEUE):
            self.assertRegex(self.page, rf"\b{number:,}\b")


class ReportTests(SynchronousTestCase):
    """
    Tests for what L{capacity} prints.
    """

    def result(self) -> Found:
        """
        A result, as if it had been measured.
        """

        def start(running: Running) -> None:
            """
            Never called.
            """

        case = Case(Contestant("some", start), 10, sockets=4)
        before, after = Usage(1024, 5, 1.0), Usage(1124, 105, 1.005)
        return Found(case, 50, (800, 200), {"in front": (before, after)}, 7)

    def test_rows(self) -> None:
        """
        Memory, descriptors and time are divided by the number of connections.
        """
        (row,) = self.result().rows()
        self.assertEqual(row, ["some", "in front", "50", "1.0", "2.00", "2.00", "100"])

    def test_kernel(self) -> None:
        """
        The kernel's memory is given for a connection, and for each of its sockets.
        """
        self.assertEqual(
            self.result().kernelRow(), ["some", "50", "4", "16.00", "4.00", "5.00"]
        )


@skipUnless(os.path.exists("/proc/self/fdinfo"), "there is no /proc")
class KernelTests(SynchronousTestCase):
    """
    Tests for what L{capacity} asks the kernel.
    """

    def setUp(self) -> None:
        """
        Notice descriptors that are left open.
        """
        watchDescriptors(self)

    def test_inFlight(self) -> None:
        """
        A descriptor is in flight from when it was sent until it is received, and counts
        once if two processes, or two descriptors, have the socket.
        """
        one, other = socket.socketpair()
        with one, other, other.dup():
            mine = [os.getpid()]
            before = capacity.inFlight(mine)
            socket.send_fds(one, [b"x"], [0, 1, 2])
            self.assertEqual(capacity.inFlight(mine) - before, 3)
            for descriptor in socket.recv_fds(other, 1, 3)[1]:
                os.close(descriptor)
            self.assertEqual(capacity.inFlight(mine), before)

    def test_usage(self) -> None:
        """
        A process's memory, descriptors and time are what the kernel says.
        """
        before = Usage.of([os.getpid()])
        with open(os.devnull) as _:
            now = Usage.of([os.getpid()])
        self.assertEqual(now.descriptors - before.descriptors, 1)
        self.assertGreater(before.memory, 1024)
        self.assertGreaterEqual(now.seconds, before.seconds)

    def test_kernelMemory(self) -> None:
        """
        The kernel has objects, and may have buffers.
        """
        objects, buffers = capacity.kernelMemory()
        self.assertGreater(objects, 0)
        self.assertGreaterEqual(buffers, 0)
