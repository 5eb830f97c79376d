"""
Sockets that were bound before this process: by the listener that it replaces, or by the
process before it, whose sockets the service manager kept.

A port takes the sockets that fit, and binds only what is missing.  Sockets are found by
their type, their address and their place in a group, never by a text.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Sequence

from portlisten import _kernel
from portlisten._model import Kind
from portlisten.errors import WrongSocket

#: C{IFNAMSIZ} in linux/include/uapi/linux/if.h.
_DEVICE_BYTES = 16


class KeptSockets:
    """
    The sockets that no port has taken.

    @param sockets: the sockets, in the order in which they were bound.  They belong to
        this object until they are taken.  Sockets that no client can reach are never
        taken: those that do not listen and are no UDP sockets, those that a process has
        shut down, and those with a filter that a process has locked.
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
        device: str = "",
    ) -> list[socket.socket]:
        """
        Take the sockets of a TCP or UDP port.

        @param family: C{AF_INET} or C{AF_INET6}; the latter for IPv6 alone.
        @param kind: C{SOCK_STREAM} or C{SOCK_DGRAM}.
        @param host: the address, or its name; empty for all addresses.
        @param number: the port's number; nothing fits 0.
        @param protocol: L{_kernel.IPPROTO_MPTCP}, or 0 for the usual one.
        @param group: how many sockets share the port; 0 if none does.
        @param device: the network device that the port is bound to; empty for all.
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
            and _device(sock) == device
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


def _device(sock: socket.socket) -> str:
    name = sock.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, _DEVICE_BYTES)
    return os.fsdecode(name.rstrip(b"\0"))


def _isUsable(sock: socket.socket) -> bool:
    """
    Whether clients can reach a socket.  A filter that refuses them is removed.
    """
    try:
        kind = _kernel.kindOf(sock)
    except (WrongSocket, OSError):
        return False
    return (
        kind in (Kind.LISTENER, Kind.DATAGRAMS)
        and not _kernel.isShutDown(sock)
        and _kernel.admitClients(sock)
    )
