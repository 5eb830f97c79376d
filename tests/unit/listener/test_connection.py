"""
Tests for L{portlisten._listener.connection}.
"""

from __future__ import annotations

import socket
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from portlisten import _kernel
from portlisten._listener.connection import AcceptedConnection
from tests.support.channels import tcpPair
from tests.support.descriptors import watchDescriptors


class AcceptedConnectionTests(SynchronousTestCase):
    """
    A connection as the listener holds it.
    """

    def setUp(self) -> None:
        watchDescriptors(self)
        self.client, self.accepted = tcpPair()
        self.addCleanup(self.client.close)
        self.addCleanup(self.accepted.close)
        self.connection = self.connectionFrom(self.client.getsockname())

    def connectionFrom(self, address: Any) -> AcceptedConnection:
        """
        Make one of a client at an address.
        """
        return AcceptedConnection(self.accepted, address)

    def test_peer(self) -> None:
        """
        The peer is written as people write addresses.
        """
        for address, text in [
            (("192.0.2.1", 80), "192.0.2.1:80"),
            (("2001:db8::1", 80, 0, 0), "[2001:db8::1]:80"),
            ("/run/client", "/run/client"),
            (b"\0abstract", "@abstract"),
            (b"\0forged\nline", "@forged\\nline"),
            ("", "a client on a Unix socket"),
            (None, "a client that has left"),
        ]:
            self.assertEqual(self.connectionFrom(address).peer, text)

    def test_sameSocket(self) -> None:
        """
        Its descriptor and its cookie are the socket's.
        """
        self.assertEqual(self.connection.fileno(), self.accepted.fileno())
        self.assertEqual(self.connection.cookie, _kernel.cookie(self.accepted))

    def test_untouched(self) -> None:
        """
        A connection is untouched until a process reads from it or writes to it.  The
        client's own reads and writes do not count.
        """
        self.client.sendall(b"hello?")
        self.assertIs(self.connection.untouched(), True)
        self.accepted.sendall(b"hello!")
        self.assertIs(self.connection.untouched(), False)

    def test_canCheck(self) -> None:
        """
        The kernel can tell of TCP alone.
        """
        self.assertTrue(self.connection.canCheck)
        with socket.socket(socket.AF_UNIX) as sock:
            connection = AcceptedConnection(sock, "")
            self.assertFalse(connection.canCheck)
            self.assertIs(connection.untouched(), False)

    def test_closeCopy(self) -> None:
        """
        To close the copy closes this descriptor, and does not end the connection while
        another descriptor of it is open.
        """
        with self.accepted.dup() as other:
            self.connection.closeCopy()
            self.assertEqual(self.accepted.fileno(), -1)
            other.sendall(b"still here")
            self.assertEqual(self.client.recv(100), b"still here")
