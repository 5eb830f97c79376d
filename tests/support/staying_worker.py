"""
A worker that says its process id to each client, and keeps the connection until the
client leaves: C{python -m tests.support.staying_worker LOOP DESCRIPTION}.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from typing import Any


class Stay(asyncio.Protocol):
    """
    Keeps a connection.
    """

    def connection_made(self, transport: Any) -> None:
        transport.write(b"%d\n" % os.getpid())


def inAsyncio(description: str) -> None:
    """
    Serve with asyncio.
    """
    import portlisten.asyncio

    async def serve() -> None:
        server = await portlisten.asyncio.create_server(Stay, description)
        await server.serve_forever()

    asyncio.run(serve())


def inTwisted(description: str) -> None:
    """
    Serve with Twisted.
    """
    from twisted.internet import reactor
    from twisted.internet.endpoints import serverFromString
    from twisted.internet.protocol import Factory, Protocol
    from twisted.python.log import startLogging

    class Keep(Protocol):
        """
        Keeps a connection.
        """

        def connectionMade(self) -> None:
            assert self.transport is not None
            self.transport.write(b"%d\n" % os.getpid())

    startLogging(sys.stdout)
    serverFromString(reactor, description).listen(Factory.forProtocol(Keep))
    reactor.run()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    {"asyncio": inAsyncio, "twisted": inTwisted}[sys.argv[1]](sys.argv[2])
