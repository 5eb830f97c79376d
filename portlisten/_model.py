"""
The nouns that everybody uses: ports, their kinds and their addresses.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal, TypeAlias

#: What a port may be called.
NAME = re.compile("[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}", re.ASCII)


class Kind(IntEnum):
    """
    What a worker gets of a port.

    @cvar CONNECTIONS: the connections that the listener accepts on it.
    @cvar LISTENER: the listening socket itself, as everybody else who asks.
    @cvar GROUP: some of its listening sockets, which are bound with
        C{SO_REUSEPORT}: each has its own queue, and they come and go.
    @cvar DATAGRAMS: the UDP socket.
    @cvar UNKNOWN: something that only a later version knows.
    """

    CONNECTIONS = 0
    LISTENER = 1
    GROUP = 2
    DATAGRAMS = 3
    UNKNOWN = 255


@dataclass(frozen=True)
class InternetAddress:
    """
    Where a TCP or UDP port is bound.

    @ivar protocol: which of them.
    @ivar host: an address of IPv4 or IPv6.
    @ivar port: the port's number.
    @ivar scope: the interface that an IPv6 address belongs to, as its index, or 0.
    """

    protocol: Literal["TCP", "UDP"]
    host: str
    port: int
    scope: int = 0

    @property
    def isIPv6(self) -> bool:
        """
        Whether it is an address of IPv6.
        """
        return ":" in self.host

    def __str__(self) -> str:
        if self.isIPv6:
            return f"{self.protocol.lower()}6:[{self.host}]:{self.port}"
        return f"{self.protocol.lower()}:{self.host}:{self.port}"


@dataclass(frozen=True)
class UnixAddress:
    """
    Where a Unix socket is bound.

    @ivar name: a path; an abstract name, which begins with a zero byte; or nothing.
    """

    name: bytes

    def __str__(self) -> str:
        return f"unix:{socketName(self.name)}"


Address: TypeAlias = "InternetAddress | UnixAddress"


@dataclass(frozen=True)
class Port:
    """
    A port that the listener listens on, as its HELLO describes it.

    @ivar number: what an OFFER calls it: its place among the listener's ports.
    @ivar address: where it really listens.
    @ivar name: what the operator called it, or nothing.
    @ivar kind: what workers get of it.
    """

    number: int
    address: Address
    name: str = ""
    kind: Kind = Kind.CONNECTIONS

    @property
    def label(self) -> str:
        """
        The port, for people.
        """
        return describe(self.address, self.name)


def portName(text: str) -> str:
    """
    Check what a port is to be called.

    @raise ValueError: if nothing can be called that; the text says what can.
    """
    if not NAME.fullmatch(text):
        raise ValueError(
            f"{text!r} is no name for a port: give up to 63 letters, digits, '_', and"
            " after the first '-' and '.', such as http"
        )
    return text


def describe(address: Address, name: str = "") -> str:
    """
    Write where a port listens, and what it is called, as endpoint descriptions
    do, for people.
    """
    return f"{name}={address}" if name else str(address)


def socketName(name: str | bytes) -> str:
    """
    Write the name of a Unix socket in one line, for people: an abstract one, which
    begins with a zero byte, begins with C{@} instead, as for systemd.

    @param name: as the kernel gives it.
    """
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    if text.startswith("\0"):
        text = "@" + text[1:]
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in text
    )
