"""
Frames that tests write by hand.
"""

from __future__ import annotations

import struct

from portlisten._model import (
    InternetAddress,
    Port,
    UnixAddress,
)
from portlisten._wire.frames import Leave, Loads

#: The frames that a worker announces, if it knows LEAVE.
LEAVES = frozenset([Leave.TYPE])

#: The same, if it also takes shared sockets.
SHARES = LEAVES | {Loads.TYPE}

PORTS = (
    Port(0, InternetAddress("TCP", "192.0.2.1", 80), "http"),
    Port(1, InternetAddress("TCP", "2001:db8::1", 443), "https"),
    Port(2, InternetAddress("TCP", "fe80::1", 8080, scope=3)),
    Port(513, UnixAddress(b"/run/web.sock")),
    Port(65535, UnixAddress(b"")),
)


def raw(kind: int, payload: bytes = b"") -> bytes:
    """
    Make a frame by hand.
    """
    return struct.pack("!BBH", kind, 0, len(payload)) + payload


def hello(
    magic: bytes = b"portlstn", version: int = 1, window: int = 8, ports: int = 0
) -> bytes:
    """
    Make the payload of a HELLO by hand.
    """
    return magic + struct.pack("!HHHH", version, window, ports, 0)
