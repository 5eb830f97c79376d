"""
Mappings: which port of a program comes from which listener.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from portlisten._config.descriptions import PREFIX, split, workerSettings
from portlisten._config.settings import WorkerSettings
from portlisten.errors import BadDescription, EndpointError

#: The address of every interface, as the kernel writes it.
ANY = "0.0.0.0"  # noqa: S104
ANY6 = "::"


@dataclass(frozen=True)
class Mapping:
    """
    A port of a program, and the listener that it comes from.

    @ivar address: the address that the program listens on; empty for any.
    @ivar number: the number of the port in the program.
    @ivar settings: the settings of the worker.
    """

    address: str
    number: int
    settings: WorkerSettings

    @property
    def port(self) -> str:
        """
        The port, as it is written.
        """
        if not self.address:
            return str(self.number)
        return writePort(self.address, self.number)


def writePort(address: str, number: int) -> str:
    """
    Write an address with a number.
    """
    host = f"[{address}]" if ":" in address else address
    return f"{host}:{number}"


def parse(text: str) -> Mapping:
    """
    Parse C{NUMBER=PATH}, C{ADDRESS:NUMBER=PATH}, or C{[ADDRESS]:NUMBER=PATH}.  The
    options of a description may follow the path: C{80=PATH:name=http}.

    @raise BadDescription: if the text is no mapping.
    """
    port, equals, description = text.partition("=")
    if not equals:
        raise BadDescription(
            f"{text!r} is no mapping, as in 80=/run/portlisten/web.sock:name=http"
        )
    address, number = _parsePort(port)
    try:
        arguments, named = split(PREFIX + description.removeprefix(PREFIX))
        settings = workerSettings(arguments, named)
    except EndpointError as error:
        reason = str(error).removeprefix("portlisten: ")
        raise BadDescription(f"{text!r}: {reason}") from None
    return Mapping(address, number, settings)


def _parsePort(text: str) -> tuple[str, int]:
    """
    Parse what comes before the C{=}.

    @raise BadDescription: if it is no port.
    """
    address, _, number = text.rpartition(":")
    if not (number.isascii() and number.isdecimal() and 0 < int(number) < 2**16):
        raise BadDescription(
            f"{text!r} is no port, which is a number from 1 to 65535, perhaps with an"
            " address before it, as in 127.0.0.1:80 or [::1]:80"
        )
    bracketed = address.startswith("[") and address.endswith("]")
    host = address[1:-1] if bracketed else address
    if ":" in host and not bracketed:
        raise BadDescription(
            f"{text!r} has an address of IPv6 without brackets: write [{host}]:{number}"
        )
    if not text.startswith(f":{number}") and not address:
        return "", int(number)
    try:
        return str(ipaddress.ip_address(host)), int(number)
    except ValueError:
        raise BadDescription(
            f"{text!r} has {host!r} where an IP address is expected, as in 127.0.0.1:80"
        ) from None


def parseAll(texts: Sequence[str]) -> list[Mapping]:
    """
    Parse several mappings.

    @raise BadDescription: if one is no mapping, or two are of the same port.
    """
    mappings = [parse(text) for text in texts]
    seen = set()
    for each in mappings:
        if each.port in seen:
            raise BadDescription(
                f"two mappings are of port {each.port}: a program can listen on it once"
            )
        seen.add(each.port)
    return mappings


def host(interface: str) -> str:
    """
    Write the interface of C{listenTCP} as the kernel would write the address.

    @return: if the interface is a name, that name.
    """
    try:
        return str(ipaddress.ip_address(interface or ANY))
    except ValueError:
        return interface


def find(mappings: Iterable[Mapping], address: str, number: int) -> Mapping | None:
    """
    Find the mapping of a port.  One with the port's address comes before one with the
    number alone.

    @param address: as from L{host}.
    """
    found = {each.address: each for each in mappings if each.number == number}
    return found.get(address) or found.get("")


def conflict(one: str, other: str) -> bool:
    """
    Whether the kernel lets only one of two sockets listen on a number: if both have
    the same address, or one has all addresses of the other's kind.  A socket on C{::}
    takes IPv4 as well: C{bindv6only} in ipv6(7) is 0 by default.

    @param one: an address, as from L{host}.
    @param other: another one.
    """
    if one == other or ANY6 in (one, other):
        return True
    return ANY in (one, other) and not any(":" in each for each in (one, other))
