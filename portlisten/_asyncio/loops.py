"""
Event loops that know descriptions of workers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from portlisten._asyncio.server import Server, servers, tlsArguments
from portlisten._config.descriptions import PREFIX
from portlisten.errors import EndpointError

#: The arguments of C{create_server} that name a socket of its own.
_OF_SOCKETS = ("sock", "reuse_port")


def describedBy(host: Any) -> str | None:
    """
    Find the description in the argument C{host} of C{create_server}.

    @return: the description, or L{None} if it is none.
    @raise EndpointError: if there are other hosts beside it.
    """
    if isinstance(host, str):
        return host if host.startswith(PREFIX) else None
    if not isinstance(host, Sequence):
        return None
    descriptions = [each for each in map(describedBy, host) if each is not None]
    if descriptions and len(host) > 1:
        raise EndpointError(f"{descriptions[0]} must be the only host")
    return descriptions[0] if descriptions else None


async def makeServer(
    loop: asyncio.AbstractEventLoop,
    factory: Callable[[], Any],
    description: str,
    *,
    ssl: Any = None,
    ssl_handshake_timeout: float | None = None,
    ssl_shutdown_timeout: float | None = None,
    start_serving: bool = True,
    **others: Any,
) -> Server:
    """
    Make a server of a description.

    @param others: further arguments of C{create_server}.  Those about the socket that
        the listener has are ignored.
    @raise EndpointError: if the description or its path can never work, or an argument
        names another socket.
    """
    for name in _OF_SOCKETS:
        if others.get(name):
            raise EndpointError(f"{name}= cannot be given together with {description}")
    tls = tlsArguments(
        ssl,
        ssl_handshake_timeout=ssl_handshake_timeout,
        ssl_shutdown_timeout=ssl_shutdown_timeout,
    )
    server = Server(loop, factory, description, tls)
    if start_serving:
        await server.start_serving()
    return server


def extended(base: type[Any]) -> type[Any]:
    """
    Make a class of loops whose C{create_server} takes a description as the host.

    @param base: a class of event loops, such as L{asyncio.SelectorEventLoop}.
    """

    class Loop(base):  # type: ignore[misc]
        async def create_server(
            self,
            protocol_factory: Any,
            host: Any = None,
            port: Any = None,
            **others: Any,
        ) -> Any:
            description = describedBy(host)
            if description is None:
                return await super().create_server(
                    protocol_factory, host, port, **others
                )
            return await makeServer(self, protocol_factory, description, **others)

        async def create_unix_server(
            self, protocol_factory: Any, path: Any = None, **others: Any
        ) -> Any:
            description = describedBy(path)
            if description is None:
                return await super().create_unix_server(
                    protocol_factory, path, **others
                )
            return await makeServer(self, protocol_factory, description, **others)

        def close(self) -> None:
            if not self.is_closed() and not self.is_running():
                for server in servers.pop(self, ()):
                    server.abandon()
            super().close()

    Loop.__name__ = Loop.__qualname__ = f"Portlisten{base.__name__}"
    Loop.__doc__ = f"L{{{base.__module__}.{base.__name__}}}, for workers as well."
    return Loop
