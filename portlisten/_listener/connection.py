"""
An accepted connection, as the listener holds it.  The listener's descriptor is the
I{copy}: see L{portlisten._policy.ledger}.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from functools import partial

from zope.interface import implementer

from portlisten import _kernel
from portlisten._listener.interfaces import IConnection
from portlisten._model import socketName

#: How often the kernel is asked whether a dead worker touched a connection, as long as
#: it cannot say.
TRIES = 20


@implementer(IConnection)
class AcceptedConnection(_kernel.Connection):
    """
    See L{IConnection} and L{_kernel.Connection}.  The address is L{None} if the client
    had left before the connection came from another listener.
    """

    __slots__ = ()

    @property
    def peer(self) -> str:
        """
        See L{IConnection}.
        """
        address = self.address
        if address is None:
            return "a client that has left"
        if isinstance(address, tuple):
            host, port = address[:2]
            return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        return socketName(address) or "a client on a Unix socket"

    @property
    def canCheck(self) -> bool:
        """
        Whether the kernel can tell if the connection is untouched.
        """
        return self.family != socket.AF_UNIX

    def untouched(self) -> bool | None:
        """
        See L{IConnection}.
        """
        return _kernel.untouched(self) if self.canCheck else False

    def unusable(self) -> bool:
        """
        See L{IConnection}.
        """
        return _kernel.listens(self)


acceptConnections = partial(_kernel.acceptMany, AcceptedConnection)
"""
Accepts for an L{Acceptor<portlisten._ports.accepting.Acceptor>}.
"""


def touched(connections: Iterable[IConnection]) -> set[IConnection]:
    """
    Find the connections that were touched.  If the kernel cannot say, a connection
    counts as touched: no connection may be served twice.
    """

    def isUntouched(connection: IConnection) -> bool:
        for _ in range(TRIES):
            untouched = connection.untouched()
            if untouched is not None:
                return untouched
        return False

    return {each for each in connections if not isUntouched(each)}


def unusable(connections: Iterable[IConnection]) -> set[IConnection]:
    """
    Among the connections that a worker did not claim, find those that it made unusable.
    All other workers would refuse them, again and again.
    """
    return {each for each in connections if each.unusable()}
