"""
Accepting many connections in one call, and an object for each.

C{_batch.c} has the same in C, which takes about half of the time.  Everything here is
true of both, except for one thing: in C, no accepted connection is lost for want of
memory.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from socket import SocketType, socket
from typing import Any, TypeVar

from portlisten._kernel import sockets
from portlisten._kernel.errors import EXHAUSTION_ERRORS, UNUSABLE_ERRORS

_PORTS_ERRORS = EXHAUSTION_ERRORS | UNUSABLE_ERRORS

T = TypeVar("T")


class Connection:
    """
    An accepted connection.

    @param sock: the connection's socket, which belongs to this object from now on.
    @param address: the client's address, as C{accept} gave it.

    @ivar family: the address family of the socket.
    @ivar proto: C{proto} of the socket, as L{sockets.accept} sets it.
    @ivar cookie: see L{sockets.cookie}.
    @raise OSError: if the kernel does not tell the cookie.
    """

    __slots__ = ("_socket", "address", "cookie", "family", "proto")

    def __init__(self, sock: SocketType, address: Any) -> None:
        self._socket = sock
        self.address = address
        self.family = int(sock.family)
        self.proto = sock.proto
        self.cookie = sockets.cookieOf(sock, sock.proto)

    @property
    def packed(self) -> bytes:
        """
        The bytes of the client's address: 4 for IPv4, also if it is mapped to IPv6, and
        16 for IPv6.  Empty if it has none.
        """
        return sockets.packed(self.address)

    def fileno(self) -> int:
        """
        The descriptor, which stays this object's.  -1 after L{closeCopy}.
        """
        return self._socket.fileno()

    def getsockopt(self, level: int, option: int, size: int = 0) -> Any:
        """
        See C{socket.getsockopt}.

        @param size: the most bytes to return; 0 for a number.
        @raise OSError: as getsockopt(2) does.
        """
        if not size:
            return self._socket.getsockopt(level, option)
        return self._socket.getsockopt(level, option, size)

    def closeCopy(self) -> None:
        """
        Close the descriptor, as L{sockets.closeCopy} does.  May be called again.
        """
        if self._socket.fileno() >= 0:
            sockets.closeCopy(self._socket)

    def reset(self) -> None:
        """
        End the connection for its client, and close the descriptor.  If no other
        process has the connection, the client sees a reset.  May be called again.
        """
        if self._socket.fileno() >= 0:
            sockets.resetCopy(self._socket)


def acceptMany(
    kind: Callable[[SocketType, Any], T], sock: socket, family: int, most: int
) -> tuple[list[T], int]:
    """
    Accept connections, until none waits or the port has an error.  Other errors of
    accept(2) are a single connection's: see "Error handling" there.  The next one is
    tried then.  If the kernel does not tell a connection's cookie, that counts as an
    error of accept(2), and the connection is closed.

    @param kind: the class of the connections: L{Connection}, or a subclass that has no
        constructor of its own.
    @param sock: the listening socket, which does not block.
    @param family: its address family.
    @param most: how many attempts to make.
    @return: the connections; and the number of the error, or 0: one of
        L{EXHAUSTION_ERRORS} or L{UNUSABLE_ERRORS}.
    @raise MemoryError: if nothing was accepted.
    """
    connections: list[T] = []
    for _ in range(most):
        try:
            connections.append(_make(kind, *sockets.accept(sock, family)))
        except BlockingIOError:
            break
        except OSError as error:
            if error.errno in _PORTS_ERRORS:
                return connections, error.errno
        except MemoryError:
            return connections, errno.ENOMEM
    return connections, 0


def _make(
    kind: Callable[[SocketType, Any], T], accepted: SocketType, address: Any
) -> T:
    try:
        return kind(accepted, address)
    except BaseException:
        # Nobody can be told of a connection without a number.
        accepted.close()
        raise


def acceptSockets(
    sock: socket, family: int, most: int
) -> tuple[list[tuple[SocketType, Any]], int]:
    """
    Like L{acceptMany}, for callers that need sockets.

    @return: the sockets, which the caller owns, with the addresses of the clients; and
        the number of the error, or 0.
    """
    return acceptMany(lambda *accepted: accepted, sock, family, most)
