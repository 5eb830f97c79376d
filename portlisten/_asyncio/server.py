"""
The server that C{create_server} gives for a description.
"""

from __future__ import annotations

import asyncio
import socket
import ssl as _ssl
import weakref
from collections.abc import Callable, Mapping
from typing import Any

from portlisten._anyloop.descriptions import understand
from portlisten._anyloop.worker import Stage, Worker
from portlisten._asyncio.connections import Adopter
from portlisten._asyncio.recognition import firstSeconds
from portlisten._asyncio.servers import prepare
from portlisten.errors import EndpointError


def tlsArguments(ssl: Any, **timeouts: float | None) -> Mapping[str, Any]:
    """
    Make the arguments for TLS of C{connect_accepted_socket}.

    @param ssl: an L{ssl.SSLContext}, or L{None}.
    @param timeouts: in seconds, or L{None} for the loop's own.
    @raise TypeError: if C{ssl} is something else.
    @raise ValueError: if a timeout is given without C{ssl}.
    """
    given = {name: value for name, value in timeouts.items() if value is not None}
    if ssl is None:
        for name in given:
            raise ValueError(f"{name} is only meaningful with ssl")
        return {}
    if not isinstance(ssl, _ssl.SSLContext):
        raise TypeError(f"ssl argument must be an SSLContext or None, not {ssl!r}")
    return {"ssl": ssl, **given}


class Server(asyncio.AbstractServer):
    """
    Serves the connections that a listener hands off.  It has the methods of
    L{asyncio.Server}, and no sockets.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        factory: Callable[[], Any],
        description: str,
        tls: Mapping[str, Any],
    ) -> None:
        """
        @param factory: makes the protocols.
        @param description: as in C{portlisten:/run/web.sock:name=http}.
        @param tls: made by L{tlsArguments}.
        @raise EndpointError: if the description or its path can never work.
        """
        settings, label = understand(
            description,
            "use the server's own options for TLS, such as --ssl-keyfile, or ssl= in"
            " code",
        )
        if settings.proxies and not isinstance(loop, asyncio.BaseEventLoop):
            raise EndpointError(
                f"proxyFrom needs asyncio's own loop: {type(loop).__name__} asks the"
                " kernel for the client's address; use portlisten.asyncio:asyncioLoop"
            )
        self._loop = loop
        self._path = settings.path
        self._done = loop.create_future()
        self._forever: asyncio.Future[None] | None = None
        first = firstSeconds(factory, bool(tls), settings.first)
        self._worker: Worker[Adopter] = Worker(
            loop,
            settings,
            first,
            label,
            lambda clock, changed: Adopter(
                loop,
                clock,
                factory,
                first,
                tls,
                changed,
                settings.grace,
                settings.proxies or (),
            ),
            self._onDone,
        )
        prepare(factory, self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._path}>"

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """
        None: the listener has them.
        """
        return ()

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """
        See L{asyncio.Server}.
        """
        return self._loop

    def is_serving(self) -> bool:
        """
        Whether connections are served as soon as there is a listener.
        """
        return self._worker.stage is Stage.SERVING

    async def start_serving(self) -> None:
        """
        Look for the listener, and serve.  This does not wait for the listener.

        @raise RuntimeError: if the server was closed.
        """
        if self._worker.stage not in (Stage.NEW, Stage.SERVING):
            raise RuntimeError(f"server {self!r} is closed")
        self._worker.start()
        servers.setdefault(self._loop, weakref.WeakSet()).add(self)

    async def serve_forever(self) -> None:
        """
        Serve until this is cancelled, or the server is closed.  If this is cancelled,
        close the server, and wait until it is closed.

        @raise RuntimeError: if the server was closed, or serves for ever already.
        """
        if self._forever is not None:
            raise RuntimeError(f"server {self!r} is already being awaited on")
        await self.start_serving()
        self._forever = self._loop.create_future()
        try:
            await self._forever
        finally:
            self._forever = None
            self.close()
            await self.wait_closed()

    def close(self) -> None:
        """
        Take no more connections.  Offered and unclaimed connections go to other
        workers.  Connections in service go on.
        """
        if self._forever is not None and not self._forever.done():
            self._forever.cancel()
        self._worker.stop()

    async def wait_closed(self) -> None:
        """
        Wait until the server is closed, and the connections in service have ended or
        the grace is over.
        """
        await asyncio.shield(self._done)

    def close_clients(self) -> None:
        """
        Close the transports of all connections.
        """
        for transport in self._transports():
            transport.close()

    def abort_clients(self) -> None:
        """
        Close the transports of all connections at once.
        """
        for transport in self._transports():
            transport.abort()

    def abandon(self) -> None:
        """
        Let everything go, because the loop is being closed.
        """
        self._worker.abandon()

    def _transports(self) -> list[Any]:
        connections = self._worker.adopter.connections
        return [each.transport for each in connections if each.transport is not None]

    def _onDone(self) -> None:
        if not self._done.done():
            self._done.set_result(None)


#: The servers of each loop that were started.
servers: weakref.WeakKeyDictionary[
    asyncio.AbstractEventLoop, weakref.WeakSet[Server]
] = weakref.WeakKeyDictionary()
