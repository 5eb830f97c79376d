"""
The proxies whose PROXY headers a worker believes, and the headers of their connections.

A worker reads the header off a connection before anything else does: before TLS begins,
and before the server's protocol sees a byte.  Anybody can write such a header, so only
the address of the other end says whether to believe it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from portlisten import _kernel
from portlisten._policy.networks import Network, Networks
from portlisten._wire.proxy_header import Header, ProxyHeader, parseHeader

#: The longest header that is read.  Proxies append what they know of their client's
#: TLS, some hundred bytes.
MAXIMUM_HEADER_BYTES = 4096

#: How long to wait for a header, in seconds.  The specification demands no less, for a
#: segment that must be sent twice.
TIMEOUT_SECONDS = 3.0

#: The line of the log if none comes.
NO_HEADER = (
    "a connection from the proxy {host} is closed: it does not begin with a PROXY"
    " header"
)

_FIRST_PAUSE = 0.001
_LONGEST_PAUSE = 0.05


class Proxies:
    """
    The proxies that a worker believes.

    @param networks: their addresses.
    """

    def __init__(self, networks: Iterable[Network] = ()) -> None:
        self._networks = Networks(networks)
        # Few have any, and all ask for each connection.
        self._some = bool(self._networks)

    def __bool__(self) -> bool:
        return self._some

    def believes(self, peer: Any) -> bool:
        """
        Whether a connection begins with a header.

        @param peer: the address of the other end, as C{getpeername} gives it.
        """
        return self._some and _kernel.packed(peer) in self._networks


def lookAtHeader(descriptor: int) -> Header | ProxyHeader:
    """
    Look at the header of a connection, and read nothing.  Does not wait, and does not
    keep the descriptor.

    @return: the header, if all of it has come; or L{Header.INCOMPLETE} or
        L{Header.WRONG}.
    """
    try:
        data = _kernel.peekBytes(descriptor, MAXIMUM_HEADER_BYTES)
    except BlockingIOError:
        return Header.INCOMPLETE
    except (OSError, ValueError):
        return Header.WRONG  # it was reset, or is closed
    header = parseHeader(data) if data else Header.WRONG
    if isinstance(header, ProxyHeader) and header.size > len(data):
        fits = header.size <= MAXIMUM_HEADER_BYTES
        return Header.INCOMPLETE if fits else Header.WRONG
    return header


def takeHeader(descriptor: int) -> Header | ProxyHeader:
    """
    Read the header off a connection, if all of it has come.  Nothing else is read.
    Does not wait, and does not keep the descriptor.

    @return: what L{lookAtHeader} says.
    """
    header = lookAtHeader(descriptor)
    if isinstance(header, ProxyHeader):
        left = header.size
        try:
            while left:
                left -= len(os.read(descriptor, left))
        except OSError:
            return Header.WRONG
    return header


def pauses() -> Iterator[float]:
    """
    Say when to look for a header that is incomplete: its first bytes stay where they
    are, so the kernel would call the connection readable all the time.

    @return: seconds, each from one look to the next; L{TIMEOUT_SECONDS} in all.
    """
    left, pause = TIMEOUT_SECONDS, _FIRST_PAUSE
    while left > 0:
        yield min(pause, left)
        left -= pause
        pause = min(2 * pause, _LONGEST_PAUSE)


def awaitHeader(
    look: Callable[[], Header | ProxyHeader],
    callLater: Callable[[float, Callable[[], None]], object],
    done: Callable[[ProxyHeader | None], None],
) -> None:
    """
    Wait for the header of a connection.

    @param look: L{lookAtHeader} or L{takeHeader} of the connection.
    @param callLater: makes a call after some seconds.
    @param done: called with the header; or with L{None} if none has come.  It may be
        called before this returns.
    """
    left = pauses()

    def again() -> None:
        header = look()
        pause = next(left, None) if header is Header.INCOMPLETE else None
        if pause is None:
            done(header if isinstance(header, ProxyHeader) else None)
        else:
            callLater(pause, again)

    again()


def addressOf(header: ProxyHeader, peer: Any) -> Any:
    """
    The address of a client, as C{getpeername} would give it.

    @param peer: the address of the other end of the connection.
    """
    if header.client is None:
        return peer
    host, port = header.client
    return (host, port, 0, 0) if ":" in host else (host, port)
