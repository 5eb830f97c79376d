"""
Tests for L{portlisten._policy.denials}.
"""

from __future__ import annotations

import math
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)
from twisted.trial.unittest import SynchronousTestCase

from portlisten._policy.denials import Denial, Denials, nameOf, networkOf, plain
from portlisten._policy.source_limits import Network
from tests.support.settings import SETTINGS

#: How many networks the table of the machine holds.
MOST = 4

#: A few addresses, so that networks overlap often.
V4 = st.integers(0, 15).map(lambda each: 0xCB007100 | each << 4 | each)
V6 = st.integers(0, 15).map(lambda each: 0x20010DB8 << 96 | each << 64 | each)


@st.composite
def networks(draw: st.DrawFn) -> Network:
    """
    Make a network.
    """
    if draw(st.booleans()):
        bits = draw(st.sampled_from([0, 24, 28, 30, 32]))
        return IPv4Network((draw(V4), bits), strict=False)
    bits = draw(st.sampled_from([0, 32, 64, 128]))
    return IPv6Network((draw(V6), bits), strict=False)


HOSTS = V4.map(ip_address) | V6.map(ip_address)
TIMES = st.sampled_from([None, 0.5, 1.0, 2.0, 5.0])


class Machine(RuleBasedStateMachine):
    """
    Compares the table with a list of networks and of the times when they end.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.denials = Denials(MOST)
        self.naive: list[tuple[Network, float]] = []

    @rule(network=networks(), seconds=TIMES)
    def deny(self, network: Network, seconds: float | None) -> None:
        """
        Deny a network.
        """
        self.naive = [each for each in self.naive if each[0] != network]
        forgotten = []
        if len(self.naive) == MOST:
            first = min(self.naive, key=lambda each: each[1])
            self.naive.remove(first)
            forgotten = [self.described(*first)]
        self.naive.append((network, self.now + (seconds or math.inf)))
        assert self.denials.deny(network, seconds, self.now) == forgotten

    @rule(network=networks())
    def allow(self, network: Network) -> None:
        """
        Allow a network.
        """
        was = any(each == network for each, _ in self.naive)
        self.naive = [each for each in self.naive if each[0] != network]
        assert self.denials.allow(network, self.now) is was

    @rule(host=HOSTS)
    def ask(self, host: object) -> None:
        """
        Ask for an address.
        """
        expected = any(host in network for network, _ in self.naive)
        assert self.denials.denies(str(host), self.now) is expected

    @rule(network=networks())
    def find(self, network: Network) -> None:
        """
        Find what contains a network.
        """
        found = [
            each
            for each, _ in self.naive
            if each.version == network.version
            and each.prefixlen <= network.prefixlen
            and network.network_address in each
        ]
        smallest = max(found, key=lambda each: each.prefixlen, default=None)
        assert self.denials.containing(network, self.now) == smallest

    @rule(seconds=st.sampled_from([0.25, 1.0, 3.0]))
    def wait(self, seconds: float) -> None:
        """
        Let time pass.
        """
        self.now += seconds
        self.naive = [each for each in self.naive if each[1] > self.now]

    @invariant()
    def listed(self) -> None:
        """
        All are listed, and nothing else is kept.
        """
        expected = [self.described(*each) for each in reversed(self.naive)]
        assert self.denials.all(self.now) == expected
        assert len(self.denials) == len(expected)
        assert len(self.denials._heap) <= 2 * MOST + 16

    def described(self, network: Network, end: float) -> Denial:
        """
        Describe a denial.
        """
        return Denial(network, None if end == math.inf else end - self.now)


class MachineTests(SynchronousTestCase):
    """
    Tests with L{Machine}.
    """

    def test_asNaive(self) -> None:
        """
        Whatever is denied and allowed, the table is like the list.
        """
        run_state_machine_as_test(Machine, settings=SETTINGS)


class DenialsTests(SynchronousTestCase):
    """
    Tests for L{Denials}.
    """

    def test_over(self) -> None:
        """
        A denial ends by itself, without a call meanwhile.
        """
        denials = Denials()
        denials.deny(networkOf("192.0.2.7"), 10.0, 5.0)
        self.assertTrue(denials.denies("192.0.2.7", 14.9))
        self.assertFalse(denials.denies("192.0.2.7", 15.0))
        self.assertEqual(len(denials), 0)

    def test_mapped(self) -> None:
        """
        An address of IPv4 is denied also if an IPv6 socket has accepted it, and may be
        denied as that writes it.
        """
        for text in ("192.0.2.0/24", "::ffff:192.0.2.0/120"):
            denials = Denials()
            denials.deny(ip_network(text), None, 0.0)
            for host in ("192.0.2.7", "::ffff:192.0.2.7"):
                self.assertTrue(denials.denies(host, 0.0), (text, host))
            self.assertFalse(denials.denies("::ffff:192.0.3.7", 0.0))
            self.assertTrue(denials.allow(ip_network(text), 0.0))

    def test_scope(self) -> None:
        """
        A link-local address comes with its interface.
        """
        denials = Denials()
        denials.deny(networkOf("fe80::/10"), None, 0.0)
        self.assertTrue(denials.denies("fe80::7%eth0", 0.0))

    def test_noAddress(self) -> None:
        """
        What is no address is not denied.
        """
        denials = Denials()
        denials.deny(networkOf("0.0.0.0/0"), None, 0.0)
        denials.deny(networkOf("::/0"), None, 0.0)
        for host in ("", "a client", "1.2.3", "1.2.3.x", ":", "::ffff:1.2", "x:y"):
            self.assertFalse(denials.denies(host, 0.0), host)

    def test_full(self) -> None:
        """
        If the table is full, the denial that ends first is forgotten, and of those
        without an end the oldest.
        """
        denials = Denials(2)
        first, second, third, fourth = (
            networkOf(f"192.0.2.{number}") for number in range(4)
        )
        denials.deny(first, None, 0.0)
        denials.deny(second, 60.0, 0.0)
        self.assertEqual(denials.deny(third, None, 1.0), [Denial(second, 59.0)])
        self.assertEqual(denials.deny(third, None, 1.0), [])
        self.assertEqual(denials.deny(fourth, 5.0, 1.0), [Denial(first)])

    def test_again(self) -> None:
        """
        To deny a few networks again and again needs no more memory.
        """
        denials = Denials()
        for number in range(1000):
            denials.deny(networkOf(f"192.0.2.{number % 3}"), 600.0, float(number))
        self.assertEqual(len(denials), 3)
        self.assertLess(len(denials._heap), 30)


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
