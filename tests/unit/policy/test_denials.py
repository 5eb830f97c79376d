"""
Tests for L{portlisten._policy.denials}.
"""

from __future__ import annotations

import math
from ipaddress import ip_network

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)
from twisted.trial.unittest import SynchronousTestCase

from portlisten import _kernel
from portlisten._policy.denials import Denial, Denials
from portlisten._policy.networks import Network, networkOf
from tests.support.prefixes import HOSTS, networks
from tests.support.settings import SETTINGS

#: How many networks the table of the machine holds.
MOST = 4


def denies(denials: Denials, host: str, now: float) -> bool:
    """
    Say whether an address is denied, as the kernel writes it.
    """
    return denials.denies(_kernel.packed((host, 0)), now)


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
        assert denies(self.denials, str(host), self.now) is expected

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
        self.assertTrue(denies(denials, "192.0.2.7", 14.9))
        self.assertFalse(denies(denials, "192.0.2.7", 15.0))
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
                self.assertTrue(denies(denials, host, 0.0), (text, host))
            self.assertFalse(denies(denials, "::ffff:192.0.3.7", 0.0))
            self.assertTrue(denials.allow(ip_network(text), 0.0))

    def test_scope(self) -> None:
        """
        A link-local address comes with its interface.
        """
        denials = Denials()
        denials.deny(networkOf("fe80::/10"), None, 0.0)
        self.assertTrue(denies(denials, "fe80::7%eth0", 0.0))

    def test_noAddress(self) -> None:
        """
        What is no address is not denied.
        """
        denials = Denials()
        denials.deny(networkOf("0.0.0.0/0"), None, 0.0)
        denials.deny(networkOf("::/0"), None, 0.0)
        for host in ("", "a client", "1.2.3", "1.2.3.x", ":", "::ffff:1.2", "x:y"):
            self.assertFalse(denies(denials, host, 0.0), host)

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
