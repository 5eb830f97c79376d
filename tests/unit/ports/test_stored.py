"""
Tests for L{portlisten._ports.stored}.
"""

from __future__ import annotations

import os
from dataclasses import replace

from twisted.trial.unittest import SynchronousTestCase

from portlisten._ports.binding import BoundPort, bind
from portlisten._ports.parsing import parse
from portlisten._ports.stored import stored, unstored
from tests.support.descriptors import watchDescriptors
from tests.support.service_manager import managed


class StoredTests(SynchronousTestCase):
    """
    Tests for L{stored} and L{unstored}, with a Unix port.
    """

    def setUp(self) -> None:
        watchDescriptors(self)
        self.path = os.path.relpath(self.mktemp())

    def bind(self) -> BoundPort:
        """
        Bind a port.
        """
        [port] = bind(parse(f"unix:{self.path}", 5))
        return port

    def left(self) -> list[str]:
        """
        The names that are in the folder of the path.
        """
        return sorted(os.listdir(os.path.dirname(self.path)))

    def test_stored(self) -> None:
        """
        The store has its socket.  Its path and its lock stay when it is closed.
        """
        manager = managed(self)
        port = stored(self.bind())
        self.assertEqual((port.inherited, port.stored), (True, True))
        self.assertEqual(len(manager.read()), 1)
        name = os.path.basename(self.path)
        port.close()
        self.assertEqual(self.left(), [name, f"{name}.lock"])
        os.remove(self.path)
        os.remove(f"{self.path}.lock")

    def test_unstored(self) -> None:
        """
        The store has its socket no more.  Its path and its lock go with it.
        """
        manager = managed(self)
        port = unstored(stored(self.bind()))
        self.assertEqual((port.inherited, port.stored), (False, False))
        self.assertEqual(manager.read(), {})
        port.close()
        self.assertEqual(self.left(), [])

    def test_noStore(self) -> None:
        """
        Without a store, nothing changes.
        """
        port = self.bind()
        self.assertIs(stored(port), port)
        self.assertIs(unstored(port), port)
        port.close()
        self.assertEqual(self.left(), [])

    def test_full(self) -> None:
        """
        If the store is full, nothing changes.
        """
        manager = managed(self, most=1)
        first = stored(self.bind())
        self.path += "2"
        port = self.bind()
        self.assertIs(stored(port), port)
        self.assertEqual(len(manager.read()), 1)
        port.close()
        unstored(first).close()
        self.assertEqual(self.left(), [])

    def test_inherited(self) -> None:
        """
        A socket that another process keeps is not stored, and does not leave the store.
        """
        manager = managed(self)
        port = replace(self.bind(), inherited=True)
        self.assertIs(stored(port), port)
        self.assertIs(unstored(port), port)
        self.assertEqual(manager.read(), {})
        port.close()
