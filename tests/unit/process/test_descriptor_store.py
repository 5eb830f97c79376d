"""
Tests for L{portlisten._process.descriptor_store}, with a service manager that is a
socket.
"""

from __future__ import annotations

import os
import socket

from twisted.trial.unittest import SynchronousTestCase

from portlisten import _kernel
from portlisten._process import descriptor_store
from tests.support.descriptors import watchDescriptors


class StoreTests(SynchronousTestCase):
    """
    Tests for L{descriptor_store}.
    """

    def setUp(self) -> None:
        watchDescriptors(self)
        self.manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(self.manager.close)
        self.manager.bind("")  # in the abstract namespace
        self.manager.setblocking(False)
        self.name = "@" + self.manager.getsockname()[1:].decode()
        self.port = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(self.port.close)
        self.environment(NOTIFY_SOCKET=self.name, FDSTORE="8")

    def environment(self, **variables: str | None) -> None:
        """
        Set variables, or remove them.
        """
        for name, value in variables.items():
            before = os.environ.get(name)
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
            self.addCleanup(self.restore, name, before)

    def restore(self, name: str, value: str | None) -> None:
        """
        Set a variable as it was.
        """
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value

    def received(self) -> tuple[list[str], list[int]]:
        """
        Read a message.

        @return: its lines and its descriptors.
        """
        data, descriptors = _kernel.receive(self.manager)
        for each in descriptors:
            self.addCleanup(os.close, each)
        return data.decode().split("\n"), descriptors

    def test_keep(self) -> None:
        """
        Each socket is sent, with the same name each time.
        """
        descriptor_store.keep([self.port, self.port])
        first, (descriptor,) = self.received()
        self.assertEqual(first[:2], ["FDSTORE=1", "FDPOLL=0"])
        self.assertTrue(first[2].startswith("FDNAME=portlisten-"))
        with socket.socket(fileno=os.dup(descriptor)) as same:
            self.assertEqual(_kernel.cookie(same), _kernel.cookie(self.port))
        self.assertEqual(self.received()[0], first)
        descriptor_store.drop([self.port])
        self.assertEqual(self.received(), (["FDSTOREREMOVE=1", first[2]], []))
        self.assertRaises(BlockingIOError, self.received)

    def test_noStore(self) -> None:
        """
        Without a store, nothing is sent.
        """
        for name, value in [
            ("FDSTORE", None),
            ("FDSTORE", "0"),
            ("FDSTORE", "many"),
            ("NOTIFY_SOCKET", None),
        ]:
            self.environment(NOTIFY_SOCKET=self.name, FDSTORE="8")
            self.environment(**{name: value})
            self.assertFalse(descriptor_store.isThere())
            descriptor_store.keep([self.port])
            descriptor_store.drop([self.port])
        self.assertRaises(BlockingIOError, self.received)

    def test_noManager(self) -> None:
        """
        If the manager does not listen, that is logged, and the process goes on.
        """
        self.environment(NOTIFY_SOCKET="/does/not/exist")
        self.assertTrue(descriptor_store.isThere())
        descriptor_store.keep([self.port])

    def test_received(self) -> None:
        """
        The sockets of the store are found by the beginning of their names, and only by
        the process that they are for.
        """
        self.patch(descriptor_store, "FIRST_DESCRIPTOR", 900)
        os.dup2(self.port.fileno(), 901)
        passed = {
            "LISTEN_PID": str(os.getpid()),
            "LISTEN_FDNAMES": "http:portlisten-1f",
        }
        self.patch(_kernel, "initialEnvironment", lambda: passed)
        (sock,) = descriptor_store.received()
        self.assertEqual(sock.fileno(), 901)
        self.assertFalse(sock.get_inheritable())
        sock.close()
        self.assertEqual(descriptor_store.received(), [])
        passed["LISTEN_PID"] = "1"
        self.assertEqual(descriptor_store.received(), [])
        passed.clear()
        self.assertEqual(descriptor_store.received(), [])
