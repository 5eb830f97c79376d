"""
The connections of proxies: their headers are awaited, and read.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IAddress
from twisted.logger import Logger

from portlisten._ports.proxies import NO_HEADER, Proxies, awaitHeader, takeHeader
from portlisten._reactor.log_limit import logLimit
from portlisten._wire.proxy_header import ProxyHeader

#: Called with the client's address; L{None} if it is that of the other end.
Adopt = Callable[[IAddress | None], None]


class ProxiedConnections:
    """
    Reads the headers of proxies that are believed.

    @param reactor: an L{IReactorTime}.
    @param changed: called each time that L{count} has become another one.

    @ivar count: how many connections wait for their headers.
    """

    log = Logger()

    def __init__(
        self, reactor: Any, proxies: Proxies, changed: Callable[[], None]
    ) -> None:
        self._reactor = reactor
        self._proxies = proxies
        self._changed = changed
        self.count = 0

    def has(self, sock: socket.socket) -> bool:
        """
        Whether a connection begins with a header.
        """
        try:
            return self.believes(sock.getpeername())
        except OSError:
            return False

    def believes(self, peer: Any) -> bool:
        """
        See L{Proxies.believes}.
        """
        return self._proxies.believes(peer)

    def identify(
        self, sock: socket.socket, adopt: Adopt, refused: Callable[[], None]
    ) -> None:
        """
        Read the header of a connection.

        @param sock: owned by this object until one of the functions is called.
        @param adopt: called with the client's address.  It owns the socket from then
            on.
        @param refused: called if no header came.  The socket is closed by then.
        """
        self.count += 1

        def done(header: ProxyHeader | None) -> None:
            self.count -= 1
            if header is not None:
                adopt(_address(header))
            else:
                self._refuse(sock)
                refused()
            self._changed()

        look = partial(takeHeader, sock.fileno())
        awaitHeader(look, self._reactor.callLater, done)
        self._changed()

    def _refuse(self, sock: socket.socket) -> None:
        with suppress(OSError):
            host = sock.getpeername()[0]
            logLimit(self._reactor)(
                self.log.warn, NO_HEADER, event="header-missing", host=host
            )
        # While the listener has its copy, closing sends nothing to the proxy.
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
        sock.close()


def _address(header: ProxyHeader) -> IAddress | None:
    if header.client is None:
        return None
    host, port = header.client
    return (IPv6Address if ":" in host else IPv4Address)("TCP", host, port)
