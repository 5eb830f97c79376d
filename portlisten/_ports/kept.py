"""
Sockets that were bound before this process: by the listener that it replaces, or by the
process before it, whose sockets the service manager kept.

A port takes the sockets that fit, and binds only what is missing.  Sockets are found by
their type, their address and their place in a group, never by a text.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Sequence

from portlisten import _kernel
from portlisten._model import Kind
from portlisten.errors import WrongSocket


class KeptSockets:
    """
    The sockets that no port has taken.

    @param sockets: the sockets, in the order in which they were bound.  They belong to
        this object until they are taken.  Those that do not listen, and are no UDP
        sockets, are never taken.
    """

    def __init__(self, sockets: Iterable[socket.socket] = ()) -> None:
        self._sockets = list(sockets)

    def take(
        self,
        family: int,
        kind: int,
        host: str,
        number: int,
        protocol: int = 0,
        group: int = 0,
    ) -> list[socket.socket]:
        """
        Take the sockets of a TCP or UDP port.

        @param family: C{AF_INET} or C{AF_INET6}; the latter for IPv6 alone.
        @param kind: C{SOCK_STREAM} or C{SOCK_DGRAM}.
        @param host: the address, or its name; empty for all addresses.
        @param number: the port's number; nothing fits 0.
        @param protocol: L{_kernel.IPPROTO_MPTCP}, or 0 for the usual one.
        @param group: how many sockets share the port; 0 if none does.
        @return: as many as fit and are wanted, which are the caller's.
        """
        if not number or not self._sockets:
            return []
        every = "::" if family == socket.AF_INET6 else "0.0.0.0"  # noqa: S104
        try:
            wanted = socket.getaddrinfo(host or every, number, family, kind)[0][4]
        except OSError:
            return []  # bind(2) says why
        multipath = protocol == _kernel.IPPROTO_MPTCP
        found = [
            sock
            for sock in self._sockets
            if sock.family == family
            and sock.type == kind
            and (sock.proto == _kernel.IPPROTO_MPTCP) is multipath
            and sock.getsockname() == wanted
            and _isAlone(sock) is not bool(group)
            and _onlyOneFamily(sock)
            and _isUsable(sock)
        ]
        return self._taken(found[: group or 1])

    def takePath(self, path: str) -> socket.socket | None:
        """
        Take the listening socket that a path leads to.

        @return: the socket, which is the caller's; L{None} if no socket fits.
        """
        for sock in self._sockets:
            if (
                sock.family == socket.AF_UNIX
                and sock.type == socket.SOCK_STREAM
                and _isUsable(sock)
                and _kernel.isAtPath(sock, path)
            ):
                return self._taken([sock])[0]
        return None

    def hasPath(self, path: str) -> bool:
        """
        Whether L{takePath} would find a socket.
        """
        sock = self.takePath(path)
        if sock is not None:
            self.giveBack([sock])
        return sock is not None

    @property
    def left(self) -> Sequence[socket.socket]:
        """
        The sockets that were not taken, which stay this object's.
        """
        return tuple(self._sockets)

    def _taken(self, sockets: list[socket.socket]) -> list[socket.socket]:
        for sock in sockets:
            self._sockets.remove(sock)
            sock.setblocking(False)
            sock.set_inheritable(False)
        return sockets

    def giveBack(self, sockets: Iterable[socket.socket]) -> None:
        """
        Keep sockets that were taken.
        """
        self._sockets[:0] = sockets

    def close(self) -> None:
        """
        Close what was not taken.  May be called again.
        """
        sockets, self._sockets = self._sockets, []
        for each in sockets:
            each.close()


def _isAlone(sock: socket.socket) -> bool:
    return not sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)


def _onlyOneFamily(sock: socket.socket) -> bool:
    if sock.family != socket.AF_INET6:
        return True
    return bool(sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY))


def _isUsable(sock: socket.socket) -> bool:
    try:
        return _kernel.kindOf(sock) in (Kind.LISTENER, Kind.DATAGRAMS)
    except (WrongSocket, OSError):
        return False
