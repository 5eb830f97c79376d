"""
Tests for L{portlisten._ports.proxies}, with real sockets.
"""

from __future__ import annotations

import socket
import struct
from ipaddress import ip_network

from twisted.trial.unittest import SynchronousTestCase

from portlisten._ports.proxies import (
    MAXIMUM_HEADER_BYTES,
    TIMEOUT_SECONDS,
    Proxies,
    addressOf,
    lookAtHeader,
    pauses,
    takeHeader,
)
from portlisten._wire.proxy_header import Header, ProxyHeader
from tests.support.channels import tcpPair
from tests.support.descriptors import watchDescriptors

LINE = b"PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\n"
CLIENT = ("192.0.2.1", 56324)


def appended(size: int) -> bytes:
    """
    Make a header of version 2, to which the proxy has appended so many bytes.
    """
    addresses = bytes([192, 0, 2, 1, 198, 51, 100, 7]) + struct.pack("!HH", 56324, 443)
    start = b"\r\n\r\n\0\r\nQUIT\n\x21\x11" + struct.pack("!H", 12 + size)
    return start + addresses + bytes(size)


class BelievesTests(SynchronousTestCase):
    """
    Tests for L{Proxies}.
    """

    def test_networks(self) -> None:
        """
        Only an address of the networks is believed, whatever family the socket has.
        """
        proxies = Proxies(map(ip_network, ["10.0.0.0/8", "2001:db8::1"]))
        for peer in (
            ("10.1.2.3", 80),
            ("::ffff:10.1.2.3", 80, 0, 0),
            ("2001:db8::1", 80, 0, 0),
        ):
            self.assertTrue(proxies.believes(peer), peer)
        for peer in (
            ("11.1.2.3", 80),
            ("::ffff:11.1.2.3", 80, 0, 0),
            ("2001:db8::2", 80, 0, 0),
            ("::10.1.2.3", 80, 0, 0),
        ):
            self.assertFalse(proxies.believes(peer), peer)
        for other in ("", b"", None, "/run/socket"):
            self.assertFalse(proxies.believes(other), other)

    def test_none(self) -> None:
        """
        Without networks, nobody is.
        """
        self.assertFalse(Proxies())
        self.assertFalse(Proxies().believes(("10.1.2.3", 80)))


class TakeTests(SynchronousTestCase):
    """
    Tests for L{takeHeader}.
    """

    def setUp(self) -> None:
        watchDescriptors(self)
        self.client, self.accepted = tcpPair()
        self.addCleanup(self.client.close)
        self.addCleanup(self.accepted.close)

    def take(self) -> Header | ProxyHeader:
        """
        Take the header from a blocking socket.  That may not wait.
        """
        self.accepted.settimeout(None)
        return takeHeader(self.accepted.fileno())

    def test_onlyTheHeader(self) -> None:
        """
        What comes behind the header stays.
        """
        for header in (LINE, appended(0), appended(900)):
            self.client.sendall(header + b"hello")
            self.assertEqual(self.take(), ProxyHeader(len(header), CLIENT))
            self.assertEqual(self.accepted.recv(100), b"hello")

    def test_look(self) -> None:
        """
        To look at it reads nothing.
        """
        self.client.sendall(LINE)
        for _ in range(2):
            found = lookAtHeader(self.accepted.fileno())
            self.assertEqual(found, ProxyHeader(len(LINE), CLIENT))

    def test_incomplete(self) -> None:
        """
        As long as bytes of the header are missing, nothing is read.
        """
        header = appended(100)
        for start, end in ((0, 0), (0, 1), (1, 20), (20, 40), (40, len(header) - 1)):
            self.client.sendall(header[start:end])
            self.assertIs(self.take(), Header.INCOMPLETE)
        self.client.sendall(header[-1:])
        self.assertEqual(self.take(), ProxyHeader(len(header), CLIENT))
        self.assertIs(self.take(), Header.INCOMPLETE)

    def test_wrong(self) -> None:
        """
        What is no header is not read.
        """
        self.client.sendall(b"GET / HTTP/1.1\r\n")
        self.assertIs(self.take(), Header.WRONG)
        self.assertEqual(self.accepted.recv(3), b"GET")

    def test_tooLong(self) -> None:
        """
        A header has a length that is bounded.
        """
        longest = appended(MAXIMUM_HEADER_BYTES - 28)
        self.client.sendall(longest)
        self.assertEqual(self.take(), ProxyHeader(len(longest), CLIENT))
        self.client.sendall(appended(MAXIMUM_HEADER_BYTES - 27)[:100])
        self.assertIs(self.take(), Header.WRONG)

    def test_gone(self) -> None:
        """
        If the proxy has left, or the connection is broken, no header can come.
        """
        self.client.close()
        self.assertIs(self.take(), Header.WRONG)
        self.accepted.close()
        self.assertIs(takeHeader(self.accepted.fileno()), Header.WRONG)

    def test_pauses(self) -> None:
        """
        A header is awaited for as long as the specification demands, with few looks.
        """
        found = list(pauses())
        self.assertAlmostEqual(sum(found), TIMEOUT_SECONDS)
        self.assertLess(len(found), 100)
        self.assertLess(found[0], 0.002)


class AddressTests(SynchronousTestCase):
    """
    Tests for L{addressOf}.
    """

    def test_families(self) -> None:
        """
        An address is as the kernel gives it for its family, whatever the proxy's is.
        """
        for client, expected in [
            (CLIENT, CLIENT),
            (("2001:db8::1", 5), ("2001:db8::1", 5, 0, 0)),
            (None, ("10.0.0.1", 7)),
        ]:
            found = addressOf(ProxyHeader(1, client), ("10.0.0.1", 7))
            self.assertEqual(found, expected)

    def test_asKernel(self) -> None:
        """
        The kernel gives the same kind of tuple.
        """
        for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            with socket.socket(family) as sock:
                sock.bind((host, 0))
                name = sock.getsockname()
            header = ProxyHeader(1, (host, name[1]))
            self.assertEqual(addressOf(header, None), name)
