"""
Tests for L{portlisten._listener.loads}.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from typing import Any
from unittest import mock

from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from portlisten import _kernel
from portlisten._listener import loads as _loads
from portlisten._listener.loads import Loads
from portlisten._model import InternetAddress, Kind, Port
from portlisten._policy.fairness import LoadTable
from tests.support.channels import texts
from tests.support.descriptors import watchDescriptors
from tests.support.dispatchers import RecordingChannel

WEB = Port(2, InternetAddress("TCP", "127.0.0.1", 80), "web", Kind.LISTENER)
MAIL = Port(3, InternetAddress("TCP", "127.0.0.1", 25), "mail", Kind.LISTENER)
GROUP = Port(4, InternetAddress("TCP", "127.0.0.1", 81), "group", Kind.GROUP)


class LoadsTests(SynchronousTestCase):
    """
    Tests for L{Loads}.
    """

    def setUp(self) -> None:
        """
        Make one for two ports.
        """
        watchDescriptors(self)
        self.loads = Loads(Clock(), [WEB.number, MAIL.number])
        self.addCleanup(self.loads.close)

    def worker(self, name: str, child: bool = False) -> RecordingChannel:
        """
        Make a worker, perhaps in a process of its own.
        """
        channel = RecordingChannel(name)
        if child:
            channel.child = subprocess.Popen(
                [sys.executable, "-c", "input()"], stdin=subprocess.PIPE
            )
            channel.pid = channel.child.pid
            self.addCleanup(self.end, channel)
        return channel

    def end(self, channel: RecordingChannel) -> None:
        """
        Let its process end.
        """
        assert channel.child is not None
        channel.child.communicate()
        channel.child.wait()

    def join(self, channel: RecordingChannel, *ports: Port) -> int | None:
        """
        Let a worker join.

        @return: its slot.
        """
        if not self.loads.join(channel, ports or [WEB]):
            return None
        return int(channel.calls[-1][1])

    def table(self, channel: RecordingChannel) -> LoadTable:
        """
        The table that a worker was sent.
        """
        _, _, ports, loads, members = channel.calls[-1]
        self.assertEqual(ports, MAIL.number + 1)
        return LoadTable(loads.view, members.view)

    def test_join(self) -> None:
        """
        Each worker gets a slot, and is a member of its ports.
        """
        first, second = self.worker("1"), self.worker("2")
        self.assertEqual(self.join(first, WEB, GROUP), 0)
        self.assertEqual(self.join(second, WEB, MAIL), 1)
        table = self.table(second)
        self.assertEqual(table.members(WEB.number), (0, 1))
        self.assertEqual(table.members(MAIL.number), (1,))
        self.loads.leave(first)
        self.loads.leave(first)
        self.assertEqual(table.members(WEB.number), (1,))

    def test_noPort(self) -> None:
        """
        A worker without such a port gets nothing, and no memory is made.
        """
        worker = self.worker("1")
        self.assertIsNone(self.join(worker, GROUP))
        self.assertEqual(worker.calls, [])
        self.loads.leave(worker)

    def test_slotOfTheLiving(self) -> None:
        """
        While a process lives, nobody else gets its slot, and the process gets it again.
        """
        stays = self.worker("0")
        self.join(stays)
        worker = self.worker("1", child=True)
        slot = self.join(worker)
        self.loads.leave(worker)
        self.loads.check()
        for _ in range(1022):
            self.assertNotEqual(self.join(self.worker("n")), slot)
        self.assertIsNone(self.join(self.worker("too many")))
        self.assertEqual(self.join(worker), slot)
        self.loads.leave(worker)
        self.end(worker)
        self.assertEqual(self.join(self.worker("next")), slot)

    def test_slotOfTheDead(self) -> None:
        """
        The slot of a process that had ended is free at once, after the others.
        """
        worker = self.worker("1")
        self.join(worker)
        with mock.patch.object(worker, "process", side_effect=ProcessLookupError):
            self.loads.leave(worker)
        self.assertEqual(list(self.loads._slots._free)[-1], 0)

    def test_manyLeft(self) -> None:
        """
        Only so many of the living are remembered, and no descriptor stays open for the
        others.
        """
        self.patch(_loads, "MAXIMUM_LEFT", 2)
        workers = [self.worker(str(number), child=True) for number in range(3)]
        for worker in workers:
            self.join(worker)
        before = len(os.listdir("/proc/self/fd"))
        for worker in workers:
            self.loads.leave(worker)
        self.assertEqual(len(os.listdir("/proc/self/fd")), before + 2)
        self.assertEqual(list(self.loads._slots._free)[-1], 0)

    def test_close(self) -> None:
        """
        The memory stays when no worker is left, since it may still be on its way to
        one, and is closed once.
        """
        worker = self.worker("1", child=True)
        self.join(worker)
        loads = worker.calls[-1][3]
        self.loads.leave(worker)
        self.assertGreaterEqual(loads.descriptor, 0)
        self.loads.close()
        self.loads.close()
        self.assertEqual(loads.descriptor, -1)

    def test_noMemory(self) -> None:
        """
        If there is no memory, that is logged, and workers do without.
        """
        make = _kernel.createMemory
        for fails in (0, 1):
            count = iter(range(9))

            def create(*arguments: Any, fails: int = fails, count: Any = count) -> Any:
                if next(count) == fails:
                    raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
                return make(*arguments)

            with (
                mock.patch.object(_kernel, "createMemory", create),
                capturedLogs() as logged,
            ):
                self.assertIsNone(self.join(self.worker("1")))
            self.assertIn("Cannot allocate memory", texts(logged, "warn")[0])
            self.loads._logLimited = type(self.loads._logLimited)(Clock())
        self.assertEqual(self.join(self.worker("2")), 0)
