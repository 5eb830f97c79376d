"""
Tests for L{portlisten._listener.own_sockets}.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from portlisten._config.settings import ListenerSettings
from portlisten._listener import own_sockets
from portlisten._listener.own_sockets import OwnSockets
from portlisten._ports.parsing import parse
from portlisten._process import signals
from portlisten.errors import CannotBind, ToldToStop
from tests.support.descriptors import watchDescriptors


class FullReactor(Clock):
    """
    A reactor that can watch nothing more.
    """

    def addReader(self, reader: Any) -> None:
        """
        Fail, as epoll_ctl(2) does.
        """
        raise OSError(errno.ENOSPC, "No space left on device")

    def removeReader(self, reader: Any) -> None:
        """
        Do nothing.
        """


class ControlTests(SynchronousTestCase):
    """
    The control socket.
    """

    def test_cannotStart(self) -> None:
        """
        If the reactor cannot watch it, neither its path nor a descriptor is left.
        """
        folder = self.mktemp()
        os.mkdir(folder)
        control = os.path.join(folder, "c")
        sockets = OwnSockets(
            ListenerSettings(path=os.path.join(folder, "s"), control=control), (), 5
        )
        before = len(os.listdir("/proc/self/fd"))
        sockets.bindControl()
        self.assertTrue(os.path.exists(control))
        self.assertRaises(OSError, sockets.startControl, FullReactor(), {})
        sockets.release()
        self.assertFalse(os.path.exists(control))
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)


class HandoverTests(SynchronousTestCase):
    """
    How long to wait for ports that are in use.
    """

    def setUp(self) -> None:
        watchDescriptors(self)
        self.path = os.path.join(os.path.dirname(self.mktemp()), "path")
        self.patch(own_sockets, "HANDOVER_SECONDS", 0.2)
        self.patch(own_sockets, "BIND_RETRY_MILLISECONDS", 10)
        self.taken = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(self.taken.close)

    def sockets(self, workersStop: float = 0.0) -> OwnSockets:
        """
        A listener's sockets, on a port that is in use.
        """
        port = f"tcp:{self.taken.getsockname()[1]}:interface=127.0.0.1"
        settings = ListenerSettings(path=self.path)
        return OwnSockets(settings, [parse(port, 5)], 5, workersStop=workersStop)

    def leaveStale(self) -> None:
        """
        Leave a path as if the last listener had been killed.
        """
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(self.path)
            sock.listen()
        self.addCleanup(os.unlink, self.path)

    def test_first(self) -> None:
        """
        If no listener was there, there is nothing to wait for.
        """
        self.assertEqual(self.sockets(9).waitForPredecessor(), 0)

    def test_stale(self) -> None:
        """
        If the last listener was killed, its workers have as much time as they may take
        to stop.
        """
        self.leaveStale()
        self.assertEqual(self.sockets().waitForPredecessor(), 0.2)
        self.assertEqual(self.sockets(9).waitForPredecessor(), 9)

    def test_waits(self) -> None:
        """
        A port that becomes free in time is bound.
        """
        sockets = self.sockets()
        self.patch(signals, "stopRequested", self.taken.close)
        [port] = sockets.bindPorts(time.monotonic() + 60)
        port.close()

    def test_late(self) -> None:
        """
        A port that stays in use is an error.
        """
        with self.assertRaises(CannotBind):
            self.sockets().bindPorts(time.monotonic() + 0.05)

    def test_toldToStop(self) -> None:
        """
        The wait ends if the process is told to stop.
        """
        self.patch(signals, "stopRequested", lambda: True)
        with self.assertRaises(ToldToStop):
            self.sockets().bindPorts(time.monotonic() + 60)
