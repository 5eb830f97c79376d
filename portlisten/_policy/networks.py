"""
Sets of networks, and whether an address is in one.

An address is its bytes here: 4 for IPv4, and 16 for IPv6.
"""

from __future__ import annotations

from collections.abc import Iterable

from portlisten._policy.source_limits import Network


class Networks:
    """
    Some networks.  To look an address up takes a step for each length of a prefix that
    occurs, however many networks there are.
    """

    def __init__(self, networks: Iterable[Network] = ()) -> None:
        # By the number of bytes of the addresses, and how many bits follow the prefix.
        self._by: dict[int, dict[int, set[int]]] = {4: {}, 16: {}}
        for each in networks:
            size = each.max_prefixlen
            shift = size - each.prefixlen
            prefixes = self._by[size // 8].setdefault(shift, set())
            prefixes.add(int(each.network_address) >> shift)

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


def prefixed(address: bytes, bits: int) -> bytes:
    """
    Set all bits of an address behind a prefix to zero.

    @param bits: how many bits the prefix has.
    """
    size = len(address)
    shift = size * 8 - bits
    number = int.from_bytes(address, "big")
    return (number >> shift << shift).to_bytes(size, "big")
