"""
Converts portlisten's addresses into Twisted's.
"""

from __future__ import annotations

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import IAddress

from portlisten._model import Address, UnixAddress


def twistedAddress(address: Address) -> IAddress:
    """
    Convert the address of a port.
    """
    made: IAddress
    if isinstance(address, UnixAddress):
        made = UNIXAddress(address.name or None)
    elif address.isIPv6:
        made = IPv6Address(
            address.protocol, address.host, address.port, scopeID=address.scope
        )
    else:
        made = IPv4Address(address.protocol, address.host, address.port)
    return made
