"""
Sockets that tell their end.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from portlisten._kernel import sockets


class ConnectionSocket(socket.socket):
    """
    A connection that calls back once, when its descriptor was closed.

    An event loop ends a connection in one of two ways.  asyncio closes the socket.
    uvloop closes the descriptor, and then detaches it from the socket.  A program may
    detach a descriptor that is still open: see C{escaped}.

    @param descriptor: owned by this object from now on.  If this fails, it is closed.
    @param cookie: C{SO_COOKIE} of the socket; L{None} if it is not known.
    @param ended: called when the descriptor was closed, perhaps in another thread.
    @param escaped: called with the descriptor and the socket's cookie if a program has
        detached the descriptor, which is still open.  The program then owns it.
    @param blocking: whether the socket is blocking.
    @ivar client: the client's address, if a proxy is at the other end, as
        C{getpeername} gives it.
    @raise OSError: if the kernel does not tell what the socket is.
    """

    def __init__(
        self,
        descriptor: int,
        cookie: int | None,
        ended: Callable[[], None],
        escaped: Callable[[int, int], None],
        blocking: bool = False,
    ) -> None:
        self._ended: Callable[[], None] | None = None
        self._duplicated = False
        self.client: Any = None
        try:
            family = sockets.family(descriptor)
            # asyncio sets TCP_NODELAY if the number of the protocol is given.
            protocol = 0 if family == socket.AF_UNIX else socket.IPPROTO_TCP
            super().__init__(family, socket.SOCK_STREAM, protocol, descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        try:
            # All holders share the flag, and one of them may have changed it.
            self.setblocking(blocking)
            self.cookie = sockets.cookie(self) if cookie is None else cookie
        except BaseException:
            self.close()
            raise
        self._ended = ended
        self._escaped = escaped

    def getpeername(self) -> Any:
        """
        Get the client's address.
        """
        return super().getpeername() if self.client is None else self.client

    def forget(self, close: bool) -> None:
        """
        Do not call back, and do not end the connection when the descriptor is closed:
        another process may serve it.

        @param close: whether to close the descriptor now.
        """
        self._ended = None
        if close and self.fileno() >= 0:
            os.close(super().detach())

    def _real_close(self) -> None:
        """
        Called by C{close}.
        """
        if self._ended is not None and self.endsAlone:
            # While the listener has its copy, closing sends nothing to the client.
            with suppress(OSError):
                self.shutdown(socket.SHUT_RDWR)
        super()._real_close()  # type: ignore[misc]
        self._tell()

    @property
    def endsAlone(self) -> bool:
        """
        Whether the connection ends when this socket is closed, even if other processes
        hold its descriptor.
        """
        return not self._duplicated

    def dup(self) -> socket.socket:  # type: ignore[override]
        """
        See C{socket.socket.dup}.  The duplicate tells nothing, and goes on with the
        connection when this socket is closed.
        """
        descriptor = os.dup(self.fileno())
        try:
            sock = socket.socket(self.family, self.type, self.proto, descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        sock.settimeout(self.gettimeout())
        self._duplicated = True
        return sock

    def detach(self) -> int:
        """
        See C{socket.socket.detach}.
        """
        descriptor = super().detach()
        if self._ended is not None and descriptor >= 0:
            if leadsTo(descriptor, self.cookie):
                self._ended = None
                self._escaped(descriptor, self.cookie)
            else:
                self._tell()
        return descriptor

    def __del__(self) -> None:
        if self._ended is not None:
            self.close()

    def _tell(self) -> None:
        ended, self._ended = self._ended, None
        if ended is not None:
            ended()


def leadsTo(descriptor: int, cookie: int) -> bool:
    """
    Whether a descriptor is open, and leads to a certain socket.

    @param cookie: C{SO_COOKIE} of the socket.
    """
    try:
        sock = sockets.peek(descriptor)
    except OSError:
        return False
    try:
        return sockets.cookie(sock) == cookie
    except OSError:
        return False
    finally:
        sock.detach()
