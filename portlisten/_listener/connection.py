"""
An accepted connection, as the listener holds it.
"""

from __future__ import annotations

import socket
from typing import Any

from zope.interface import implementer

from portlisten import _kernel
from portlisten._listener.interfaces import IConnection
from portlisten._model import socketName


@implementer(IConnection)
class AcceptedConnection:
    """
    A connection as the listener holds it.

    @param sock: keeps it, until L{forget}.
    @param address: of the client, as C{accept} gave it.
    """

    __slots__ = ("_address", "_socket", "cookie")

    def __init__(self, sock: socket.SocketType, address: Any) -> None:
        self._socket = sock
        self._address = address
        self.cookie = _kernel.cookie(sock)

    @property
    def peer(self) -> str:
        """
        See L{IConnection}.
        """
        if isinstance(self._address, tuple):
            host, port = self._address[:2]
            return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        return socketName(self._address) or "a client on a Unix socket"

    @property
    def witnessed(self) -> bool:
        """
        Whether the kernel can tell if it is pristine.
        """
        return self._socket.family != socket.AF_UNIX

    def fileno(self) -> int:
        """
        See L{IConnection}.
        """
        return self._socket.fileno()

    @property
    def socket(self) -> socket.SocketType:
        """
        The socket, which stays this object's.
        """
        return self._socket

    def pristine(self) -> bool | None:
        """
        See L{IConnection}.
        """
        return _kernel.pristine(self._socket) if self.witnessed else False

    def spoiled(self) -> bool:
        """
        See L{IConnection}.
        """
        return _kernel.listens(self._socket)

    def forget(self) -> None:
        """
        See L{IConnection}.
        """
        _kernel.forget(self._socket)
