"""
Tests for L{portlisten._worker.addresses}.
"""

from __future__ import annotations

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.trial.unittest import SynchronousTestCase

from portlisten._model import InternetAddress, UnixAddress
from portlisten._worker.addresses import twistedAddress


class TwistedAddressTests(SynchronousTestCase):
    """
    Tests for L{twistedAddress}.
    """

    def test_kinds(self) -> None:
        """
        Each kind of address has its counterpart.
        """
        for address, expected in (
            (
                InternetAddress("TCP", "192.0.2.1", 80),
                IPv4Address("TCP", "192.0.2.1", 80),
            ),
            (
                InternetAddress("UDP", "192.0.2.1", 53),
                IPv4Address("UDP", "192.0.2.1", 53),
            ),
            (
                InternetAddress("TCP", "fe80::1", 80, 3),
                IPv6Address("TCP", "fe80::1", 80, scopeID=3),
            ),
            (UnixAddress(b"/run/www"), UNIXAddress(b"/run/www")),
            (UnixAddress(b"\0www"), UNIXAddress(b"\0www")),
            (UnixAddress(b""), UNIXAddress(None)),
        ):
            self.assertEqual(twistedAddress(address), expected)
