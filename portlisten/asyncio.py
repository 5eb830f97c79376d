"""
Makes a worker of any asyncio server, with no change to the server's code.

A loop of this module takes a description as the host of C{create_server}.  So a server
that lets its user choose the loop and the host needs no change::

    uvicorn --loop portlisten.asyncio:loop --host portlisten:/run/web.sock app:app

On any other loop, call this module's L{create_server} or L{start_server}.

Nothing here needs Twisted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from portlisten._asyncio import loops
from portlisten._asyncio.server import Server
from portlisten.errors import EndpointError

__all__ = [
    "EndpointError",
    "Server",
    "asyncioLoop",
    "create_server",
    "extend",
    "loop",
    "start_server",
    "uvloopLoop",
]


async def create_server(
    protocol_factory: Callable[[], asyncio.BaseProtocol],
    description: str,
    *,
    ssl: Any = None,
    ssl_handshake_timeout: float | None = None,
    ssl_shutdown_timeout: float | None = None,
    start_serving: bool = True,
) -> Server:
    """
    Serve the connections that a listener hands off, in the running loop.  This does not
    wait for the listener: the server looks for the listener again and again.

    @param protocol_factory: makes the protocols.
    @param description: C{portlisten:PATH} and its options, as in
        C{portlisten:/run/web.sock:name=http}.
    @param ssl: an L{ssl.SSLContext} for TLS on each connection, or L{None}.
    @param ssl_handshake_timeout: in seconds, or L{None} for the loop's own.
    @param ssl_shutdown_timeout: in seconds, or L{None} for the loop's own.
    @param start_serving: whether to serve at once.
    @raise EndpointError: if the description or its path can never work.
    @raise OSError: if the process has no free descriptor.
    """
    return await loops.makeServer(
        asyncio.get_running_loop(),
        protocol_factory,
        description,
        ssl=ssl,
        ssl_handshake_timeout=ssl_handshake_timeout,
        ssl_shutdown_timeout=ssl_shutdown_timeout,
        start_serving=start_serving,
    )


async def start_server(
    client_connected_cb: Callable[
        [asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None] | None
    ],
    description: str,
    *,
    limit: int = 2**16,
    ssl: Any = None,
    ssl_handshake_timeout: float | None = None,
    ssl_shutdown_timeout: float | None = None,
    start_serving: bool = True,
) -> Server:
    """
    Do what L{create_server} does, with streams, as L{asyncio.start_server} does.

    @param client_connected_cb: called with the reader and the writer of each
        connection.
    @param limit: the most bytes that a reader buffers.  The most connections are an
        option of the description.
    """
    running = asyncio.get_running_loop()

    def factory() -> asyncio.StreamReaderProtocol:
        reader = asyncio.StreamReader(limit=limit, loop=running)
        return asyncio.StreamReaderProtocol(reader, client_connected_cb, loop=running)

    return await create_server(
        factory,
        description,
        ssl=ssl,
        ssl_handshake_timeout=ssl_handshake_timeout,
        ssl_shutdown_timeout=ssl_shutdown_timeout,
        start_serving=start_serving,
    )


def extend(base: type[asyncio.AbstractEventLoop]) -> type[asyncio.AbstractEventLoop]:
    """
    Make a class of loops whose C{create_server} takes a description as the host.

    @param base: a class of event loops with C{add_reader}.
    """
    return loops.extended(base)


def loop() -> asyncio.AbstractEventLoop:
    """
    Make a loop: of uvloop if that is installed, and otherwise of asyncio.
    """
    try:
        return uvloopLoop()
    except ImportError:
        return asyncioLoop()


def asyncioLoop() -> asyncio.AbstractEventLoop:
    """
    Make a loop of asyncio.
    """
    return extend(asyncio.SelectorEventLoop)()


def uvloopLoop() -> asyncio.AbstractEventLoop:
    """
    Make a loop of uvloop.

    @raise ImportError: if uvloop is not installed.
    """
    import uvloop

    return extend(uvloop.Loop)()
