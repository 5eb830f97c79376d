"""
The connections that C{accept} returns, and how their ends are noticed.

A program ends a connection in one of three ways.  It closes the socket, which tells at
once.  Or it wraps the socket by TLS, and closes that.  C{SSLSocket} takes the
descriptor away by C{detach()}, and tells at once if it is a L{TLSSocket}.  In every
other case the program may do what it likes with the descriptor.  The kernel tells
nobody when a descriptor is closed, so the descriptor is looked at now and then: seldom
if the connection is old, so that the end is seen after another tenth of its age.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl as _ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from portlisten import _kernel
from portlisten._blocking.forks import forks
from portlisten._blocking.loop import Loop

#: How soon, how late, and after which part of its age a descriptor is looked at again.
SOONEST_SECONDS = 0.005
LATEST_SECONDS = 1.0
PART_OF_AGE = 0.1

#: The detached connections that have not ended, by their cookies.
_detached: dict[int, Accepted] = {}


class Connection(_kernel.ConnectionSocket):
    """
    A connection, as a blocking socket.

    If the process has forked since it accepted the connection, the child may serve the
    connection.  Then closing the socket here does not end the connection.
    """

    def __init__(
        self,
        descriptor: int,
        cookie: int,
        ended: Callable[[], None],
        escaped: Callable[[int, int], None],
    ) -> None:
        """
        @param descriptor: owned by this object from now on.
        @param cookie: C{SO_COOKIE} of the socket.
        @param ended: called when the descriptor was closed, perhaps in another thread.
        @param escaped: called with the descriptor and the cookie if the descriptor was
            detached.
        @raise OSError: if the kernel does not tell what the socket is.  The descriptor
            is closed.
        """
        self._forks = forks.count
        super().__init__(descriptor, cookie, ended, escaped, blocking=True)
        timeout = socket.getdefaulttimeout()
        if timeout is not None:
            # As C{socket.socket.accept} does.
            self.settimeout(timeout)

    @property
    def endsAlone(self) -> bool:
        """
        See L{portlisten._kernel.ConnectionSocket.endsAlone}.
        """
        return super().endsAlone and self._forks == forks.count


class TLSSocket(_ssl.SSLSocket):
    """
    A connection with TLS that tells its end at once.
    """

    def _real_close(self) -> None:
        """
        Called by C{close}.
        """
        try:
            cookie = _kernel.cookie(self)
        except OSError:
            cookie = -1
        accepted = _detached.get(cookie)
        if accepted is not None and accepted.endsAlone:
            with suppress(OSError):
                self.shutdown(socket.SHUT_RDWR)
        super()._real_close()  # type: ignore[misc]
        if accepted is not None:
            accepted.detachedEnded()


def tellEnds(context: _ssl.SSLContext) -> None:
    """
    Let a context make sockets that tell their ends at once.

    @raise TypeError: if the context makes sockets of a class of its own.
    """
    if context.sslsocket_class not in (_ssl.SSLSocket, TLSSocket):
        raise TypeError(
            f"the SSLContext makes sockets of the class"
            f" {context.sslsocket_class.__name__}: leave sslsocket_class alone"
        )
    context.sslsocket_class = TLSSocket


class Accepted:
    """
    A connection that belongs to this process.

    @param loop: makes the calls.
    @param descriptor: owned by this object from now on.
    @param cookie: C{SO_COOKIE} of the socket.
    @param ended: called with the lock when the connection has ended.

    @ivar descriptor: the connection's, as long as no socket owns it, and -1 after that.
    @ivar client: the client's address, if a proxy is at the other end.
    @ivar clientGone: whether the client had left before the program got the connection.
    @ivar soonest: how soon a detached descriptor is looked at again, in seconds.
    """

    def __init__(
        self, loop: Loop, descriptor: int, cookie: int, ended: Callable[[Accepted], Any]
    ) -> None:
        self._loop = loop
        self._cookie = cookie
        self._ended = ended
        self._since = loop.time()
        self._forks = forks.count
        self.descriptor = descriptor
        self.client: Any = None
        self.clientGone = False
        self.soonest = SOONEST_SECONDS

    @property
    def endsAlone(self) -> bool:
        """
        See L{Connection.endsAlone}.
        """
        return self._forks == forks.count

    def socket(self) -> Connection:
        """
        Make a socket.  It owns the descriptor.

        @raise OSError: if that fails.  The connection has ended then.
        """
        self._forks = forks.count
        descriptor, self.descriptor = self.descriptor, -1
        try:
            made = Connection(descriptor, self._cookie, self._tell, self._escaped)
        except BaseException:
            self._tell()
            raise
        made.client = self.client
        return made

    def refuse(self) -> None:
        """
        End the connection, which no socket owns.
        """
        with _kernel.received(self.descriptor) as sock, suppress(OSError):
            # While the listener has its copy, closing sends nothing.
            sock.shutdown(socket.SHUT_RDWR)
        self.descriptor = -1
        self._ended(self)

    def close(self, ended: bool = False) -> None:
        """
        Close the descriptor, if no socket owns it.

        @param ended: whether that ends the connection.  Otherwise the listener may hand
            the connection to another worker.
        """
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
            if ended:
                self._ended(self)

    def _tell(self) -> None:
        """
        The connection has ended.  Called in any thread.
        """
        self._loop.call(self._ended, self)

    def detachedEnded(self) -> None:
        """
        The descriptor was detached, and is closed now.  May be called in any thread,
        and again.
        """
        if _detached.pop(self._cookie, None) is not None:
            self._tell()

    def _escaped(self, descriptor: int, cookie: int) -> None:
        _detached[cookie] = self
        self._loop.call(self._look, descriptor)

    def _look(self, descriptor: int) -> None:
        """
        Look whether a detached descriptor is still open.
        """
        if self._cookie not in _detached:
            return
        if _kernel.leadsTo(descriptor, self._cookie):
            age = self._loop.time() - self._since
            delay = min(max(age * PART_OF_AGE, self.soonest), LATEST_SECONDS)
            self._loop.call_later(delay, self._look, descriptor)
        elif _detached.pop(self._cookie, None) is not None:
            self._ended(self)


def peerOf(sock: socket.socket) -> Any:
    """
    Ask for the address of a connection's client.

    @return: as C{getpeername} returns it, or L{None} if the client has left.
    @raise OSError: if that fails otherwise.
    """
    try:
        return sock.getpeername()
    except OSError as error:
        if error.errno == errno.ENOTCONN:
            return None
        raise
