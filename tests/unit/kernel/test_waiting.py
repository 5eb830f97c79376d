"""
Tests for L{portlisten._kernel.waiting}, with real sockets.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from typing import Any
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from portlisten._kernel import sock_diag, waiting
from tests.support.descriptors import watchDescriptors

IPV4 = ("127.0.0.1", 0)
IPV6 = ("::1", 0)


class WaitingTests(SynchronousTestCase):
    """
    Tests for L{waiting.clientsWaiting} and L{waiting.queueLength}.
    """

    def setUp(self) -> None:
        watchDescriptors(self)

    def keep(self, sock: socket.socket) -> socket.socket:
        """
        Close it at the end.
        """
        self.addCleanup(sock.close)
        return sock

    def listen(self, family: socket.AddressFamily, address: Any) -> socket.socket:
        """
        Listen.
        """
        sock = self.keep(socket.socket(family))
        sock.setblocking(False)
        sock.bind(address)
        sock.listen(20)
        return sock

    def connect(self, sock: socket.socket) -> socket.socket:
        """
        Connect a client.
        """
        address = sock.getsockname()
        if sock.family != socket.AF_UNIX:
            host = {socket.AF_INET: "127.0.0.1"}.get(sock.family, "::1")
            address = (host, address[1])
        client = self.keep(socket.socket(sock.family))
        client.connect(address)
        return client

    def listeners(self) -> list[socket.socket]:
        """
        Listen at addresses of all kinds.
        """
        return [
            self.listen(socket.AF_INET, IPV4),
            self.listen(socket.AF_INET, ("0.0.0.0", 0)),
            self.listen(socket.AF_INET6, IPV6),
            self.listen(socket.AF_INET6, ("::", 0)),
            self.listen(socket.AF_UNIX, os.path.relpath(self.mktemp())),
        ]

    def test_empty(self) -> None:
        """
        Nobody waits, though others are connected.
        """
        for sock in self.listeners():
            self.connect(sock)
            self.keep(sock.accept()[0])
            self.assertEqual(waiting.queueLength(sock), 0)
            self.assertEqual(waiting.clientsWaiting(sock), frozenset())

    def test_waiting(self) -> None:
        """
        Those are found that wait, always by the same numbers, until they are accepted:
        the first first.
        """
        for sock in self.listeners():
            self.connect(sock)
            first = waiting.clientsWaiting(sock)
            self.assertEqual(len(first), 1)
            for _ in range(3):
                self.connect(sock)
            everybody = waiting.clientsWaiting(sock)
            self.assertEqual(len(everybody), 4)
            self.assertLess(first, everybody)
            count = 1 if sock.family == socket.AF_UNIX else 4
            self.assertEqual(waiting.queueLength(sock), count)
            self.keep(sock.accept()[0])
            self.assertEqual(waiting.clientsWaiting(sock), everybody - first)

    def test_finished(self) -> None:
        """
        A client that has sent all that it has to say waits as well.
        """
        for sock in self.listeners():
            self.connect(sock).shutdown(socket.SHUT_WR)
            self.assertEqual(len(waiting.clientsWaiting(sock)), 1)

    def test_others(self) -> None:
        """
        The clients of a socket with the same port, at another address, are not found.
        """
        sock = self.listen(socket.AF_INET, IPV4)
        other = self.listen(socket.AF_INET, ("127.0.0.2", sock.getsockname()[1]))
        client = self.keep(socket.socket(socket.AF_INET))
        client.connect(other.getsockname())
        self.assertEqual(waiting.clientsWaiting(sock), frozenset())
        self.assertEqual(len(waiting.clientsWaiting(other)), 1)

    def test_many(self) -> None:
        """
        Not more are looked through than the limit says.
        """
        sock = self.listen(socket.AF_INET, IPV4)
        for _ in range(3):
            self.connect(sock)
        self.patch(waiting, "MAXIMUM_CONNECTIONS", 2)
        self.assertEqual(waiting.clientsWaiting(sock), frozenset())
        self.patch(waiting, "MAXIMUM_CONNECTIONS", 3)
        self.assertEqual(len(waiting.clientsWaiting(sock)), 3)

    def test_severalMessages(self) -> None:
        """
        The kernel answers in several messages, of 32 KiB at the most.
        """
        sock = self.listen(socket.AF_INET, IPV4)
        sock.listen(600)
        for _ in range(500):
            self.connect(sock)
        self.assertEqual(len(waiting.clientsWaiting(sock)), 500)

    def test_malformed(self) -> None:
        """
        An answer that is too short, or not whole, is an error like others.
        """
        whole = struct.pack("=IHHII", 20, 20, 2, 1, 0) + b"abcd"
        for data in (
            whole[:19],
            whole[:10],
            struct.pack("=IHHII", 0, 20, 2, 1, 0),
            struct.pack("=IHHII", 15, 20, 2, 1, 0),
            struct.pack("=IHHII", 1 << 31, 20, 2, 1, 0),
            struct.pack("=IHHIIH", 18, 2, 2, 1, 0, 0),
            whole,
        ):
            sock = self.listen(socket.AF_INET, IPV4)
            with mock.patch.object(socket, "socket") as kernel:
                answers = kernel.return_value.__enter__.return_value
                answers.recv.side_effect = [data, BlockingIOError()]
                error = self.assertRaises(OSError, waiting.clientsWaiting, sock)
            self.assertEqual(error.errno, errno.EBADMSG)

    def test_error(self) -> None:
        """
        If the kernel refuses, that is an error, and nothing stays open.
        """
        self.patch(sock_diag, "_SOCK_DIAG_BY_FAMILY", 4711)
        for sock in self.listeners():
            self.assertRaises(OSError, waiting.clientsWaiting, sock)

    def test_noListener(self) -> None:
        """
        Of a socket that does not listen any more, nothing waits.
        """
        sock = self.listen(socket.AF_INET, IPV4)
        self.connect(sock)
        sock.shutdown(socket.SHUT_RDWR)
        self.assertEqual(waiting.queueLength(sock), 0)
        self.assertEqual(waiting.clientsWaiting(sock), frozenset())


class PathTests(SynchronousTestCase):
    """
    Tests for L{waiting.isAtPath}.
    """

    def setUp(self) -> None:
        watchDescriptors(self)
        self.path = os.path.relpath(self.mktemp())

    def bound(self) -> socket.socket:
        """
        Bind a socket to the path.
        """
        sock = socket.socket(socket.AF_UNIX)
        self.addCleanup(sock.close)
        sock.bind(self.path)
        return sock

    def test_there(self) -> None:
        """
        The path leads to the socket that was bound to it, also by another name.
        """
        sock = self.bound()
        self.assertTrue(waiting.isAtPath(sock, self.path))
        os.rename(self.path, f"{self.path}2")
        self.assertTrue(waiting.isAtPath(sock, f"{self.path}2"))

    def test_gone(self) -> None:
        """
        The path is gone.
        """
        sock = self.bound()
        os.remove(self.path)
        self.assertFalse(waiting.isAtPath(sock, self.path))

    def test_another(self) -> None:
        """
        Another file, or another socket, is at the path.
        """
        sock = self.bound()
        os.rename(self.path, f"{self.path}2")
        self.bound()
        self.assertFalse(waiting.isAtPath(sock, self.path))
        os.remove(self.path)
        with open(self.path, "w"):
            self.assertFalse(waiting.isAtPath(sock, self.path))

    def test_unknown(self) -> None:
        """
        If the kernel does not tell, a socket at the path is taken for the right one.
        """
        sock = self.bound()
        refused = OSError(errno.ENOENT, "No such file or directory")
        for answer in ({"side_effect": refused}, {"return_value": b""}):
            with mock.patch.object(waiting, "_ofUnixSocket", **answer):
                self.assertTrue(waiting.isAtPath(sock, self.path))
