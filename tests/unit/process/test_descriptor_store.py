"""
Tests for L{portlisten._process.descriptor_store}.
"""

from __future__ import annotations

import os
import socket
from typing import Any

from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from portlisten import _kernel
from portlisten._process import descriptor_store
from tests.support.descriptors import watchDescriptors
from tests.support.service_manager import ServiceManager, managed, restarted


class StoreCase(SynchronousTestCase):
    """
    A process with sockets.
    """

    def setUp(self) -> None:
        watchDescriptors(self)

    def sockets(self, count: int) -> list[socket.socket]:
        """
        Bind sockets.
        """
        made = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
        for each in made:
            self.addCleanup(each.close)
        return made

    def cookies(self, manager: ServiceManager) -> list[int]:
        """
        The sockets of the store.
        """
        return [_kernel.cookie(each) for each in manager.read().values()]


class KeepTests(StoreCase):
    """
    Tests for L{descriptor_store.keep} and L{descriptor_store.drop}.
    """

    def test_keep(self) -> None:
        """
        The store gets the sockets, each with a name of its own, and the process keeps
        them.
        """
        manager = managed(self)
        sockets = self.sockets(3)
        self.assertTrue(descriptor_store.keep(sockets))
        self.assertEqual(self.cookies(manager), [_kernel.cookie(s) for s in sockets])
        self.assertTrue(all(name.startswith("portlisten-") for name in manager.store))
        self.assertTrue(all(each.fileno() != -1 for each in sockets))

    def test_again(self) -> None:
        """
        What is there already stays, and takes no second place.
        """
        manager = managed(self, most=2)
        sockets = self.sockets(2)
        self.assertTrue(descriptor_store.keep(sockets[:1]))
        self.assertTrue(descriptor_store.keep(sockets))
        self.assertTrue(descriptor_store.keep(sockets))
        self.assertEqual(self.cookies(manager), [_kernel.cookie(s) for s in sockets])

    def test_drop(self) -> None:
        """
        A socket leaves the store, and the others stay.
        """
        manager = managed(self)
        sockets = self.sockets(3)
        descriptor_store.keep(sockets)
        descriptor_store.drop(sockets[1:2])
        left = [_kernel.cookie(each) for each in (sockets[0], sockets[2])]
        self.assertEqual(self.cookies(manager), left)

    def test_dropUnknown(self) -> None:
        """
        If the store does not have a socket, nothing is sent.
        """
        manager = managed(self)
        descriptor_store.drop(self.sockets(1))
        manager.read()
        self.assertEqual(manager.texts, [])

    def test_noManager(self) -> None:
        """
        Without a service manager, or without a store, no socket is stored.
        """
        sockets = self.sockets(1)
        manager = managed(self)
        for name, value in (
            ("FDSTORE", ""),
            ("FDSTORE", "0"),
            ("FDSTORE", "x"),
            ("NOTIFY_SOCKET", ""),
        ):
            environment: Any = {**manager.environment, name: value}
            self.patch(os, "environ", environment)
            self.assertEqual(descriptor_store.capacity(), 0)
            self.assertFalse(descriptor_store.keep(sockets))
        self.patch(os, "environ", {})
        self.assertFalse(descriptor_store.keep(sockets))
        descriptor_store.drop(sockets)
        manager.read()
        self.assertEqual(manager.texts, [])

    def test_managerGone(self) -> None:
        """
        If the process has no service manager any more, nothing can leave the store.
        """
        manager = managed(self)
        sockets = self.sockets(1)
        descriptor_store.keep(sockets)
        del os.environ["NOTIFY_SOCKET"]
        descriptor_store.drop(sockets)
        self.assertEqual(len(manager.read()), 1)

    def test_full(self) -> None:
        """
        If the store is too small for all sockets of a port, it gets none of them, and
        the log says so.  When others have left, it gets them.
        """
        manager = managed(self, most=3)
        sockets = self.sockets(4)
        self.assertTrue(descriptor_store.keep(sockets[:2]))
        with capturedLogs() as events:
            self.assertFalse(descriptor_store.keep(sockets[2:]))
        self.assertIn("keeps 3 sockets, and more are bound", formatEvent(events[0]))
        self.assertEqual(len(manager.read()), 2)
        descriptor_store.drop(sockets[:1])
        self.assertTrue(descriptor_store.keep(sockets[2:]))
        self.assertEqual(len(manager.read()), 3)

    def test_noAnswer(self) -> None:
        """
        If the service manager is gone, the log says so, and the process goes on.
        """
        sockets = self.sockets(2)
        manager = managed(self)
        self.assertTrue(descriptor_store.keep(sockets[:1]))
        manager.close()
        with capturedLogs() as events:
            self.assertFalse(descriptor_store.keep(sockets[1:]))
        self.assertIn("cannot be told of a socket", formatEvent(events[0]))
        descriptor_store.drop(sockets)

    def test_path(self) -> None:
        """
        The service manager may have a path.
        """
        path = os.path.relpath(self.mktemp())
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.bind(path)
            managed(self)
            os.environ["NOTIFY_SOCKET"] = path
            self.assertTrue(descriptor_store.keep(self.sockets(1)))
            _, descriptors, _, _ = socket.recv_fds(manager, 4096, 10)
            for each in descriptors:
                os.close(each)
            self.assertEqual(len(descriptors), 1)


class ReceivedTests(StoreCase):
    """
    Tests for L{descriptor_store.received}.
    """

    def received(self) -> list[socket.socket]:
        """
        Take what came back.
        """
        found = descriptor_store.received()
        for each in found:
            self.addCleanup(each.close)
        return found

    def test_sockets(self) -> None:
        """
        The next process gets the sockets.  Its programs do not inherit them.
        """
        manager = managed(self)
        sockets = self.sockets(3)
        descriptor_store.keep(sockets)
        restarted(self, manager)
        found = self.received()
        self.assertEqual(
            [_kernel.cookie(each) for each in found],
            [_kernel.cookie(each) for each in sockets],
        )
        self.assertFalse(any(each.get_inheritable() for each in found))

    def test_dropped(self) -> None:
        """
        The next process can take them out of the store.
        """
        manager = managed(self)
        descriptor_store.keep(self.sockets(2))
        restarted(self, manager)
        first, second = self.received()
        descriptor_store.drop([first])
        self.assertEqual(self.cookies(manager), [_kernel.cookie(second)])

    def test_full(self) -> None:
        """
        They count.
        """
        manager = managed(self, most=2)
        descriptor_store.keep(self.sockets(2))
        restarted(self, manager)
        found = self.received()
        self.assertTrue(descriptor_store.keep(found))
        self.assertFalse(descriptor_store.keep(self.sockets(1)))

    def test_socketUnits(self) -> None:
        """
        Sockets of socket units, which come first, are left alone.
        """
        manager = managed(self)
        unit, *own = self.sockets(3)
        manager.store["http"] = unit.dup()
        descriptor_store.keep(own)
        restarted(self, manager)
        found = self.received()
        self.assertEqual(
            [_kernel.cookie(each) for each in found],
            [_kernel.cookie(each) for each in own],
        )
        os.close(300)

    def test_otherProcess(self) -> None:
        """
        The sockets are another process's.
        """
        manager = managed(self)
        passed = manager.passed(os.getpid() + 1)
        self.patch(_kernel, "initialEnvironment", lambda: passed)
        self.assertEqual(self.received(), [])
        self.patch(_kernel, "initialEnvironment", dict)
        self.assertEqual(self.received(), [])

    def test_noSocket(self) -> None:
        """
        A descriptor that is no socket's any more is left out.
        """
        manager = managed(self)
        descriptor_store.keep(self.sockets(2))
        restarted(self, manager)
        os.close(300)
        self.assertEqual(len(self.received()), 1)
