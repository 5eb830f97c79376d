"""
Networks of IPv4 and IPv6, and sets of them.

An address is its bytes here: 4 for IPv4, and 16 for IPv6.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import TypeAlias

Network: TypeAlias = "IPv4Network | IPv6Network"

#: How many bits of an IPv4 address that an IPv6 socket shows come before it.
_MAPPED_BITS = 96


class Networks:
    """
    Some networks.  To look an address up takes a step for each length of a prefix that
    occurs, however many networks there are.
    """

    def __init__(self, networks: Iterable[Network] = ()) -> None:
        # By the number of bytes of the addresses, and how many bits follow the prefix:
        # the networks as numbers, without these bits.
        self._by: dict[int, dict[int, set[int]]] = {4: {}, 16: {}}
        for each in networks:
            self.add(each)

    def __bool__(self) -> bool:
        return any(self._by.values())

    def __contains__(self, address: bytes) -> bool:
        """
        Whether one of the networks has an address.
        """
        by = self._by.get(len(address))
        if not by:
            return False
        number = int.from_bytes(address, "big")
        return any(number >> shift in prefixes for shift, prefixes in by.items())

    def add(self, network: Network) -> None:
        """
        Add a network.  It may be there already.
        """
        by, shift = self._place(network)
        by.setdefault(shift, set()).add(int(network.network_address) >> shift)

    def remove(self, network: Network) -> None:
        """
        Remove a network.

        @raise KeyError: if it is not there.
        """
        by, shift = self._place(network)
        by[shift].remove(int(network.network_address) >> shift)
        if not by[shift]:
            del by[shift]

    def containing(self, network: Network) -> Network | None:
        """
        Find a network that contains another one, or is the same.

        @return: the smallest one; L{None} if there is none.
        """
        by, own = self._place(network)
        number = int(network.network_address)
        for shift in sorted(by):
            if shift >= own and number >> shift in by[shift]:
                bits = network.max_prefixlen - shift
                return type(network)((number >> shift << shift, bits))
        return None

    def _place(self, network: Network) -> tuple[dict[int, set[int]], int]:
        by = self._by[network.max_prefixlen // 8]
        return by, network.max_prefixlen - network.prefixlen


def prefixed(address: bytes, bits: int) -> bytes:
    """
    Set all bits of an address behind a prefix to zero.

    @param bits: how many bits the prefix has.
    """
    size = len(address)
    shift = size * 8 - bits
    number = int.from_bytes(address, "big")
    return (number >> shift << shift).to_bytes(size, "big")


def plain(network: Network) -> Network:
    """
    Write a network of IPv4 addresses as one, also if it comes as IPv6 sockets write it.
    """
    if network.version == 6 and network.prefixlen >= _MAPPED_BITS:
        number = int(network.network_address)
        if number >> 32 == 0xFFFF:
            return IPv4Network((number & 0xFFFFFFFF, network.prefixlen - _MAPPED_BITS))
    return network


def networkOf(text: str) -> Network:
    """
    Read an address, or a network such as C{192.0.2.0/24}.

    @raise ValueError: if it is neither.  The error says why.
    """
    try:
        return plain(ip_network(text))
    except ValueError:
        pass
    try:
        wider = ip_network(text, strict=False)
    except ValueError:
        raise ValueError(
            f"{text!r} is neither an address nor a network, such as 192.0.2.7,"
            " 192.0.2.0/24 or 2001:db8::/32"
        ) from None
    raise ValueError(
        f"{text!r} is an address with the length of a network: the network is {wider},"
        f" and the address is {text.partition('/')[0]}"
    )


def nameOf(network: Network) -> str:
    """
    Write a network: one of a single address as that address.
    """
    alone = network.prefixlen == network.max_prefixlen
    return str(network.network_address if alone else network)
