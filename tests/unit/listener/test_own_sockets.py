"""
Tests for L{portlisten._listener.own_sockets}.
"""

from __future__ import annotations

import errno
import os
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from portlisten._config.settings import ListenerSettings
from portlisten._listener.own_sockets import OwnSockets


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
