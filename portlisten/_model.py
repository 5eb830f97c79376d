"""
Ports, their kinds and their addresses, for all parts of the package.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal, TypeAlias

#: The names that a port may have.
NAME = re.compile("[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}", re.ASCII)


class Kind(IntEnum):
    """
    The kind of a port: what a worker gets from it.

    @cvar CONNECTIONS: the connections that the listener accepts on the port.
    @cvar LISTENER: the listening socket itself.  All workers that ask for it get it.
    @cvar GROUP: some of the port's listening sockets.  They are bound with
        C{SO_REUSEPORT}, so each has its own queue.  The listener sends and withdraws
        them while the worker runs.
    @cvar DATAGRAMS: the UDP socket.
    @cvar UNKNOWN: a kind that only a later version knows.
    """

    CONNECTIONS = 0
    LISTENER = 1
    GROUP = 2
    DATAGRAMS = 3
    UNKNOWN = 255


@dataclass(frozen=True)
class InternetAddress:
    """
    The address that a TCP or UDP port is bound to.

    @ivar protocol: TCP or UDP.
    @ivar host: an IPv4 or IPv6 address.
    @ivar port: the port's number.
    @ivar scope: the index of the interface that an IPv6 address belongs to, or 0.
    """

    protocol: Literal["TCP", "UDP"]
    host: str
    port: int
    scope: int = 0

    @property
    def isIPv6(self) -> bool:
        """
        Whether this is an IPv6 address.
        """
        return ":" in self.host

    def __str__(self) -> str:
        if self.isIPv6:
            return f"{self.protocol.lower()}6:[{self.host}]:{self.port}"
        return f"{self.protocol.lower()}:{self.host}:{self.port}"


@dataclass(frozen=True)
class UnixAddress:
    """
    The address that a Unix socket is bound to.

    @ivar name: a path; or an abstract name, which begins with a zero byte; or empty.
    """

    name: bytes

    def __str__(self) -> str:
        return f"unix:{socketName(self.name)}"


Address: TypeAlias = "InternetAddress | UnixAddress"


@dataclass(frozen=True)
class Port:
    """
    A port that the listener listens on, as the listener's HELLO describes it.

    @ivar number: the port's number in an OFFER: its place among the listener's ports.
    @ivar address: the address that the port is really bound to.
    @ivar name: the operator's name for the port, or empty.
    @ivar kind: the kind.
    """

    number: int
    address: Address
    name: str = ""
    kind: Kind = Kind.CONNECTIONS

    @property
    def label(self) -> str:
        """
        The port in readable form: see L{describe}.
        """
        return describe(self.address, self.name)


def portName(text: str) -> str:
    """
    Check the name of a port.

    @return: the name.
    @raise ValueError: if a port cannot have this name.  The text says which names are
        valid.
    """
    if not NAME.fullmatch(text):
        raise ValueError(
            f"{text!r} is no name for a port: give up to 63 letters, digits, '_', '-'"
            " and '.', with neither '-' nor '.' first, such as http"
        )
    return text


def workerLabel(text: str) -> str:
    """
    Check the label of a worker.

    @return: the label.
    @raise ValueError: if a worker cannot have this label.  The text says which labels
        are valid.
    """
    if not NAME.fullmatch(text) or text.isdecimal():
        raise ValueError(
            f"{text!r} is no label for a worker: give up to 63 letters, digits, '_',"
            " '-' and '.', such as web-1; not digits alone, and neither '-' nor '.'"
            " first"
        )
    return text


def printable(text: str) -> str:
    """
    Replace what a terminal could take for a command.
    """
    return "".join(c if c.isprintable() else "?" for c in text)


def describe(address: Address, name: str = "") -> str:
    """
    Write a port's address and name in readable form, like an endpoint description.
    """
    return f"{name}={address}" if name else str(address)


def socketName(name: str | bytes) -> str:
    """
    Write the name of a Unix socket in readable form, in one line.  If the name is
    abstract, and so begins with a zero byte, C{@} stands for that byte, as for systemd.

    @param name: the name, as the kernel gives it.
    """
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    if text.startswith("\0"):
        text = "@" + text[1:]
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in text
    )
