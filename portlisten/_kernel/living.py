"""
The connections of a port that live, whichever process holds them.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Generator
from contextlib import closing
from itertools import islice
from typing import NamedTuple

from portlisten._kernel.sock_diag import TcpSocket, askForTcp

# linux/include/net/tcp_states.h.  TCP_TIME_WAIT and TCP_NEW_SYN_RECV are states of what
# no process holds.
_LISTEN, _TIME_WAIT, _NEW_SYN_RECV = 1 << 10, 1 << 6, 1 << 12
_CONNECTED = (_NEW_SYN_RECV - 1) & ~(_LISTEN | _TIME_WAIT)

_ADDRESS_BYTES = {socket.AF_INET: 4, socket.AF_INET6: 16}

#: How often L{liveConnections} asks if sockets change while the kernel answers.
_TRIES = 4

#: How many sockets L{findLive} looks at in a step.
STEP = 250

#: The most sockets of a port that are looked at.
MAXIMUM_SOCKETS = 1 << 20


class LiveConnection(NamedTuple):
    """
    A connection that a process holds.

    @ivar cookie: C{SO_COOKIE} of its socket.
    @ivar peer: the client's host, as C{socket.accept} writes it.  If a client speaks
        IPv4 to a port of IPv6, that is an address like C{::ffff:192.0.2.1}.
    @ivar host: the local host.
    """

    cookie: int
    peer: str
    host: str


def liveConnections(port: int) -> list[LiveConnection]:
    """
    Find the TCP connections of a port that live: a process holds them, or they are in
    flight between processes.  A connection that waits to be accepted is not among them,
    nor is one that was reset, even if a process still has its descriptor.

    On the loopback, a connection I{from} the port is found as well.  If the port is of
    another network namespace than this process, nothing is found.

    @param port: the local port.
    @raise OSError: if the kernel does not tell, as for lack of the module C{tcp_diag},
        or if the port has more than L{MAXIMUM_SOCKETS}.
    """
    tries = _TRIES
    while True:
        tries -= 1
        try:
            found = {each.cookie: each for some in findLive(port) for each in some}
        except InterruptedError:
            if not tries:
                raise
        else:
            return list(found.values())


def findLive(port: int) -> Generator[list[LiveConnection], None, None]:
    """
    Do what L{liveConnections} does, in steps: between them, the caller may do something
    else.  The kernel looks for more connections only when it is asked for them.

    If sockets come and go in the meantime, a connection may be told of twice.  One that
    lives may be missed, though rarely: it must be in the same bucket of the kernel's
    table as one that ends between two steps.

    @return: the next connections, at most L{STEP}.  The generator has a descriptor
        until it is closed or has come to its end.
    @raise InterruptedError: at the end, if all must be asked for again.
    @raise OSError: as L{liveConnections} does.
    """
    left = MAXIMUM_SOCKETS
    for family in _ADDRESS_BYTES:
        with closing(askForTcp(family, _CONNECTED, port)) as sockets:
            while some := list(islice(sockets, STEP)):
                left -= len(some)
                if left < 0:
                    raise OSError(errno.EOVERFLOW, os.strerror(errno.EOVERFLOW))
                yield _held(family, some)


def _held(
    family: socket.AddressFamily, sockets: list[TcpSocket]
) -> list[LiveConnection]:
    """
    Find the sockets that a process holds.
    """
    size = _ADDRESS_BYTES[family]
    texts: dict[bytes, str] = {}
    found = []
    for each in sockets:
        if not each.inode:
            continue
        for packed in (each.host, each.peer):
            if packed not in texts:
                texts[packed] = socket.inet_ntop(family, packed[:size])
        found.append(LiveConnection(each.cookie, texts[each.peer], texts[each.host]))
    return found
