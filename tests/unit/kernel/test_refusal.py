"""
Tests for L{portlisten._kernel.refusal}.
"""

from __future__ import annotations

import socket

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from portlisten import _kernel
from tests.support.descriptors import watchDescriptors

#: asm-generic/socket.h; Python has no name for it.
SO_LOCK_FILTER = 44


class RefusalTests(SynchronousTestCase):
    """
    Tests for L{_kernel.refuseClients} and L{_kernel.admitClients}.
    """

    def setUp(self) -> None:
        """
        Watch over descriptors.
        """
        watchDescriptors(self)

    def test_clients(self) -> None:
        """
        The clients that wait are served, and no others come, until they may again.
        """
        for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            with socket.socket(family) as port:
                try:
                    port.bind((host, 0))
                except OSError:
                    continue  # the host has no IPv6
                port.listen()
                address = port.getsockname()
                first = socket.create_connection(address[:2])
                if not _kernel.refuseClients(port):
                    first.close()
                    raise SkipTest("this kernel lets only root set filters")
                with self.assertRaises(TimeoutError):
                    socket.create_connection(address[:2], 0.3)
                taken, _ = port.accept()
                for _ in range(3):
                    first.sendall(b"ping")
                    self.assertEqual(taken.recv(10), b"ping")
                    taken.sendall(b"pong")
                    self.assertEqual(first.recv(10), b"pong")
                _kernel.admitClients(port)
                socket.create_connection(address[:2], 5).close()
                taken.close()
                self.assertEqual(first.recv(1), b"")
                first.close()

    def test_others(self) -> None:
        """
        Other sockets are left alone.
        """
        for family, kind in (
            (socket.AF_UNIX, socket.SOCK_STREAM),
            (socket.AF_INET, socket.SOCK_DGRAM),
        ):
            with socket.socket(family, kind) as sock:
                self.assertFalse(_kernel.refuseClients(sock))
                self.assertTrue(_kernel.admitClients(sock))

    def test_locked(self) -> None:
        """
        It is known if a process has locked a filter.
        """
        with socket.create_server(("127.0.0.1", 0)) as sock:
            if not _kernel.refuseClients(sock):
                raise SkipTest("this kernel lets only root set filters")
            sock.setsockopt(socket.SOL_SOCKET, SO_LOCK_FILTER, 1)
            self.assertFalse(_kernel.admitClients(sock))
