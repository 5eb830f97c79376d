"""
Where ports are, for tests that know which kind of address they have.
"""

from __future__ import annotations

from portlisten._model import Address, InternetAddress


def internet(address: Address) -> InternetAddress:
    """
    See that an address is one of TCP or UDP.
    """
    assert isinstance(address, InternetAddress)
    return address
