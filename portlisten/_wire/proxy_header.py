"""
The header that a proxy writes before the bytes of its client, to say where the client
comes from: the PROXY protocol, in its versions 1 and 2.

U{The specification<https://www.haproxy.org/download/2.6/doc/proxy-protocol.txt>} is
HAProxy's.  Only the client's address and the length are of interest here.  The rest of
the header is checked as far as that is needed to tell a header from something else.
"""

from __future__ import annotations

import re
import socket
import struct
from dataclasses import dataclass
from enum import Enum

#: So many of the first bytes of a connection are enough to know the source.
MAXIMUM_BYTES = 107

# Version 1: a line that has at most MAXIMUM_BYTES, with its end
_FAMILIES = {b"TCP4": socket.AF_INET, b"TCP6": socket.AF_INET6}
_BEGINNINGS = (b"PROXY TCP4 ", b"PROXY TCP6 ", b"PROXY UNKNOWN ", b"PROXY UNKNOWN\r\n")
_END = b"\r\n"
_PORT = re.compile(rb"0|[1-9][0-9]{0,4}")
_HIGHEST_PORT = 65535

# Version 2: the version and the command, the family, the transport, and how many bytes
# follow
_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_HEADER = struct.Struct(f"!{len(_SIGNATURE)}sBBH")
_PORT_NUMBER = struct.Struct("!H")
_LOCAL, _PROXY = 0x20, 0x21
_UNSPECIFIED = 0
_DATAGRAM = 2  # the highest number of a transport

# How many bytes the addresses and ports of a family have, by its number: of none, of
# IPv4, of IPv6, and of Unix sockets
_ADDRESSES_BYTES = {_UNSPECIFIED: 0, 1: 12, 2: 36, 3: 216}
_INTERNET = {1: (socket.AF_INET, 4), 2: (socket.AF_INET6, 16)}


class Header(Enum):
    """
    What the first bytes of a connection say, if that is no address.

    @cvar INCOMPLETE: more bytes must come.
    @cvar WRONG: they are no header.
    @cvar OWN: the source is the other end of the connection: see L{ProxyHeader}.
    """

    INCOMPLETE = "incomplete"
    WRONG = "wrong"
    OWN = "own"


@dataclass(frozen=True)
class ProxyHeader:
    """
    A header.

    @ivar size: how many bytes it has.  Perhaps not all of them have come.
    @ivar client: the client's host, written as C{socket.inet_ntop} does it, and its
        port; L{None} if the source is the other end of the connection, as if there were
        no header.  Proxies write that when they check whether a server is well, or if
        they cannot say where their client comes from.
    """

    size: int
    client: tuple[str, int] | None = None


def sourceOf(data: bytes) -> Header | str:
    """
    Read the header at the beginning of a connection.

    @param data: the first bytes that have come: L{MAXIMUM_BYTES}, or all if these are
        fewer.  What comes after the header is ignored.
    @return: the client's host, written as C{socket.inet_ntop} does it; or what else
        there is to say.  As long as the bytes are the beginning of a header, that is
        L{Header.INCOMPLETE}.  Of version 2, the addresses are enough: what a proxy adds
        behind them need not have come.
    """
    header = parseHeader(data)
    if isinstance(header, Header):
        return header
    return Header.OWN if header.client is None else header.client[0]


def parseHeader(data: bytes) -> Header | ProxyHeader:
    """
    Read the header at the beginning of a connection.

    @param data: the first bytes that have come.  What comes after the header is
        ignored.
    @return: the header; L{Header.INCOMPLETE} as long as the bytes are the beginning of
        one, and do not tell the client yet; or L{Header.WRONG}.
    """
    if data[: len(_SIGNATURE)] == _SIGNATURE[: len(data)]:
        return _binary(data)
    if any(data[: len(each)] == each[: len(data)] for each in _BEGINNINGS):
        return _line(data)
    return Header.WRONG


def _line(data: bytes) -> Header | ProxyHeader:
    """
    Read a header of version 1.
    """
    end = data.find(_END, 0, MAXIMUM_BYTES)
    if end < 0:
        return Header.INCOMPLETE if len(data) < MAXIMUM_BYTES else Header.WRONG
    size = end + len(_END)
    _, name, *fields = data[:end].split(b" ")
    family = _FAMILIES.get(name)
    if family is None:
        return ProxyHeader(size)
    try:
        source, destination, *ports = fields
        packed = socket.inet_pton(family, source.decode("ascii"))
        socket.inet_pton(family, destination.decode("ascii"))
        if len(ports) == 2 and all(map(_isPort, ports)):
            return ProxyHeader(size, (socket.inet_ntop(family, packed), int(ports[0])))
    except (OSError, ValueError):
        pass
    return Header.WRONG


def _isPort(text: bytes) -> bool:
    return bool(_PORT.fullmatch(text)) and int(text) <= _HIGHEST_PORT


def _binary(data: bytes) -> Header | ProxyHeader:
    """
    Read a header of version 2.
    """
    if len(data) < _HEADER.size:
        return Header.INCOMPLETE
    _, command, kind, length = _HEADER.unpack_from(data)
    whole = _HEADER.size + length
    if command == _LOCAL:
        return ProxyHeader(whole)
    family, transport = kind >> 4, kind & 0xF
    if command != _PROXY or family not in _ADDRESSES_BYTES or transport > _DATAGRAM:
        return Header.WRONG
    if _UNSPECIFIED in (family, transport):
        return ProxyHeader(whole)
    if length < _ADDRESSES_BYTES[family]:
        return Header.WRONG
    if family not in _INTERNET:
        return ProxyHeader(whole)
    if len(data) < _HEADER.size + _ADDRESSES_BYTES[family]:
        return Header.INCOMPLETE
    system, size = _INTERNET[family]
    source = data[_HEADER.size : _HEADER.size + size]
    (port,) = _PORT_NUMBER.unpack_from(data, _HEADER.size + 2 * size)
    return ProxyHeader(whole, (socket.inet_ntop(system, source), port))
