"""
Tests for L{portlisten._policy.networks}.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from portlisten._policy.networks import (
    Network,
    Networks,
    nameOf,
    networkOf,
    plain,
    prefixed,
)
from tests.support.prefixes import HOSTS, networks
from tests.support.settings import SETTINGS


class NetworksTests(SynchronousTestCase):
    """
    Tests for L{Networks} and L{prefixed}.
    """

    @given(st.lists(networks(), max_size=5), st.sets(st.integers(0, 4)), HOSTS)
    @SETTINGS
    def test_contains(
        self, some: list[Network], left: set[int], host: IPv4Address | IPv6Address
    ) -> None:
        """
        It has the addresses of the networks that were added, and not removed.
        """
        found = Networks(some)
        stay = [each for n, each in enumerate(some) if n not in left]
        for each in set(some) - set(stay):
            found.remove(each)
        self.assertEqual(host.packed in found, any(host in each for each in stay))
        self.assertEqual(bool(found), bool(stay))

    @given(HOSTS, st.integers(0, 32))
    @SETTINGS
    def test_prefixed(self, host: IPv4Address | IPv6Address, bits: int) -> None:
        """
        The bits behind a prefix are zero.
        """
        network = networkOf(f"{host}").supernet(new_prefix=bits)
        self.assertEqual(prefixed(host.packed, bits), network.network_address.packed)


class TextTests(SynchronousTestCase):
    """
    Tests for L{networkOf} and L{nameOf}.
    """

    @given(networks())
    @SETTINGS
    def test_roundTrip(self, network: Network) -> None:
        """
        A name is read as the same network.
        """
        self.assertEqual(networkOf(nameOf(network)), plain(network))

    def test_names(self) -> None:
        """
        A network of one address is written as the address.
        """
        for text in ("192.0.2.7", "192.0.2.0/24", "2001:db8::7", "2001:db8::/32"):
            self.assertEqual(nameOf(networkOf(text)), text)
        self.assertEqual(nameOf(networkOf("192.0.2.7/32")), "192.0.2.7")
        self.assertEqual(nameOf(networkOf("::ffff:192.0.2.7")), "192.0.2.7")

    def test_wrong(self) -> None:
        """
        What is no network is refused, with the reason.
        """
        for text in ("", "x", "192.0.2", "192.0.2.256", "192.0.2.0/33", "1:2", "%"):
            error = self.assertRaises(ValueError, networkOf, text)
            self.assertIn(f"{text!r} is neither an address nor a net", str(error))
        error = self.assertRaises(ValueError, networkOf, "192.0.2.7/24")
        self.assertEqual(
            str(error),
            "'192.0.2.7/24' is an address with the length of a network: the network is"
            " 192.0.2.0/24, and the address is 192.0.2.7",
        )
