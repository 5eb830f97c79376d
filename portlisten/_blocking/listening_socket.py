"""
A listening socket whose C{accept()} claims a connection from a listener.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl as _ssl
import time
import weakref
from dataclasses import replace
from typing import Any

from portlisten._anyloop import log
from portlisten._anyloop.descriptions import understand
from portlisten._blocking.connections import (
    LATEST_SECONDS,
    Accepted,
    Connection,
    peerOf,
    tellEnds,
)
from portlisten._blocking.receiver import Receiver
from portlisten._config.values import FIRST_SECONDS
from portlisten._model import Port, UnixAddress


class ListeningSocket(socket.socket):
    """
    Looks like a listening socket.  Its C{accept()} claims a connection that a listener
    offers.  It can be selected and polled, and be used by several threads.

    A thread reads the channel.  A fork does not copy threads, so make the socket in the
    process that calls C{accept()}.

    Closing it takes no more connections.  Those in service go on.
    """

    def __init__(
        self,
        description: str,
        *,
        limit: int | None = 1,
        first: bool = False,
        ssl: _ssl.SSLContext | None = None,
        timeout: float | None = 2.0,
    ) -> None:
        """
        @param description: as in C{portlisten:/run/web.sock:name=http}.
        @param limit: how many connections the program serves at a time; L{None} for no
            limit.  The description's C{limit} goes before this one.
        @param first: whether clients speak first, as in HTTP.  The listener then keeps
            each connection until its client speaks, for up to 2 seconds.  The
            description's C{first} goes before this one.
        @param ssl: for TLS on each connection.  The handshake takes place when the
            program first reads or writes.
        @param timeout: how long to wait here for a listener, in seconds; L{None} for no
            limit.  After that, the search goes on while the program runs.
        @raise EndpointError: if the description or its path can never work.
        @raise TypeError: if the SSLContext makes sockets of a class of its own.
        @raise ssl.SSLError: if the SSLContext is none for servers.
        @raise OSError: if the process has no free descriptor.
        """
        self._receiver: Receiver | None = None
        settings, label = understand(description, "give an SSLContext instead, ssl=")
        if settings.limit is None:
            settings = replace(settings, limit=limit)
        if ssl is not None:
            tellEnds(ssl)
            # Fails now rather than for each connection.
            ssl.wrap_bio(_ssl.MemoryBIO(), _ssl.MemoryBIO(), server_side=True)
        self._ssl = ssl
        seconds = settings.first
        if seconds is None:
            seconds = FIRST_SECONDS if first or ssl is not None else 0
        receiver = Receiver(settings, seconds, label)
        descriptor = receiver.start()
        try:
            super().__init__(socket.AF_UNIX, socket.SOCK_STREAM, 0, descriptor)
        except BaseException:
            receiver.close()
            os.close(descriptor)
            raise
        self._path = settings.path
        self._waits = True
        self._receiver = receiver
        self._finalizer = weakref.finalize(self, receiver.close)
        self._finalizer.atexit = False
        receiver.waitForListener(timeout)
        self._family = _familyOf(self._port)

    @property
    def _port(self) -> Port | None:
        receiver = self._receiver
        ports = receiver.ports if receiver is not None else ()
        return ports[0] if ports else None

    @property
    def draining(self) -> bool:
        """
        Whether an operator has drained the worker, or does so now: it gets no more
        connections, and should end those that it has as soon as that does no harm.
        """
        return self._receiver is not None and self._receiver.draining

    # What servers ask of a listening socket

    @property
    def family(self) -> int:  # type: ignore[override]
        """
        The family of the listener's first port.
        """
        return self._family

    def getsockname(self) -> Any:
        """
        The address of the listener's first port.  Its number is 0 if the worker has not
        found a listener yet.
        """
        port = self._port
        if port is None:
            return ("0.0.0.0", 0)  # noqa: S104
        address = port.address
        if isinstance(address, UnixAddress):
            return os.fsdecode(address.name or b"")
        if self._family == socket.AF_INET6:
            return (address.host, address.port, 0, address.scope)
        return (address.host, address.port)

    def bind(self, address: Any) -> None:
        """
        Do nothing: the listener has bound the port.
        """

    def listen(self, backlog: int = 0) -> None:
        """
        Do nothing: the listener listens.
        """

    def setsockopt(self, *arguments: Any) -> None:
        """
        Do nothing: the listener has set the port's options.
        """

    def getsockopt(self, level: int, option: int, *size: int) -> Any:
        """
        See C{socket.socket.getsockopt}.
        """
        if (level, option) == (socket.SOL_SOCKET, socket.SO_ACCEPTCONN) and not size:
            return 1
        return super().getsockopt(level, option, *size)

    def accept(self) -> tuple[socket.socket, Any]:
        """
        Claim a connection.  Wait for one as long as the socket's time-out says.

        @return: a blocking socket, and the client's address.
        @raise BlockingIOError: if the time-out is 0, and no connection is offered.
        @raise TimeoutError: if none comes in time.
        @raise OSError: if the socket was closed.
        @raise RuntimeError: if the process that made the socket is another one.
        """
        timeout = self.gettimeout()
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            receiver = self._checked()
            try:
                taken = receiver.take()
                if taken is not None:
                    made = self._make(*taken)
                    if made is not None:
                        return made
                    continue
            except OSError as error:
                log.warning(
                    "a connection cannot be accepted: {error}",
                    event="adoption-failed",
                    error=error,
                )
                continue
            if timeout == 0 or not self._waits:
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
            if not receiver.wait(None if end is None else end - time.monotonic()):
                raise TimeoutError("timed out")

    def neverWaits(self) -> None:
        """
        Let C{accept()} fail at once if no connection is offered, for servers that
        select first.
        """
        self._waits = False

    def _checked(self) -> Receiver:
        """
        The receiver, if it can be used here.
        """
        receiver = self._receiver
        if receiver is None or self.fileno() < 0:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        if receiver.pid != os.getpid():
            raise RuntimeError(
                f"the ListeningSocket of {self._path} belongs to the process"
                f" {receiver.pid}: make it in the process that calls accept(), after"
                " the fork"
            )
        if receiver.stopped:
            raise OSError(errno.EINVAL, "the listening socket was shut down")
        return receiver

    def _make(
        self, accepted: Accepted, sock: Connection
    ) -> tuple[socket.socket, Any] | None:
        """
        Make what C{accept()} returns.

        @return: L{None} if the client has left.
        @raise OSError: if that fails.
        """
        peer = peerOf(sock)
        if peer is None:
            accepted.clientGone = True
            sock.close()
            return None
        if self._ssl is None:
            return sock, peer
        # The socket that this makes tells its end.
        accepted.soonest = LATEST_SECONDS
        wrapped = self._ssl.wrap_socket(
            sock, server_side=True, do_handshake_on_connect=False
        )
        return wrapped, peer

    def shutdown(self, how: int) -> None:
        """
        Take no more connections.  C{accept()} in other threads fails.
        """
        receiver = self._receiver
        if receiver is not None:
            receiver.stop()

    def _real_close(self) -> None:
        """
        Called by C{close}.
        """
        self._letGo()
        super()._real_close()  # type: ignore[misc]

    def _letGo(self) -> None:
        """
        Take no more connections, since the descriptor is about to be closed.
        """
        if self._receiver is not None:
            self._finalizer()
            self._receiver = None

    def detach(self) -> int:
        """
        Fail: the socket is of no use to other code.  C{SSLContext.wrap_socket} does
        this to a listening socket.  uvloop does it when it has failed to listen, and
        goes on as if it had not.

        @raise TypeError: always.
        """
        self._letGo()
        super().detach()
        why = (
            "a ListeningSocket cannot be wrapped or detached, and serves nobody now:"
            " for TLS, give it the SSLContext, ListeningSocket(..., ssl=context);"
            " in an event loop, use portlisten.asyncio.create_server"
        )
        log.error("{why}", event="socket-misused", why=why)
        raise TypeError(why)

    def dup(self) -> Any:
        """
        Fail: a plain socket could not claim connections.

        @raise TypeError: always.
        """
        raise TypeError("a ListeningSocket cannot be duplicated")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._path}>"


def _familyOf(port: Port | None) -> int:
    if port is None:
        return socket.AF_INET
    if isinstance(port.address, UnixAddress):
        return socket.AF_UNIX
    return socket.AF_INET6 if port.address.isIPv6 else socket.AF_INET
