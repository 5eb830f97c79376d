"""
A worker that tells a client what the client's connection is:
C{python -m tests.support.telling_worker LOOP DESCRIPTION}.

When the client has sent a byte, it gets a line in JSON: the protocol and the options of
its connection, and the process id of the worker.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import sys
from socket import IPPROTO_TCP, SOL_SOCKET
from typing import Any

# Each has a level and a number, and perhaps the size of its value.
_OPTIONS = {
    "protocol": (SOL_SOCKET, socket.SO_PROTOCOL),
    "nodelay": (IPPROTO_TCP, socket.TCP_NODELAY),
    "keepalive": (SOL_SOCKET, socket.SO_KEEPALIVE),
    "idle": (IPPROTO_TCP, socket.TCP_KEEPIDLE),
    "interval": (IPPROTO_TCP, socket.TCP_KEEPINTVL),
    "device": (SOL_SOCKET, socket.SO_BINDTODEVICE, 16),
}


def tell(descriptor: int) -> bytes:
    """
    Make the line for a connection.

    @param descriptor: stays open.
    """
    with socket.socket(fileno=os.dup(descriptor)) as sock:
        found: dict[str, Any] = {"pid": os.getpid()}
        for name, option in _OPTIONS.items():
            value = sock.getsockopt(*option)
            if isinstance(value, bytes):
                value = value.rstrip(b"\0").decode()
            found[name] = value
        return json.dumps(found).encode() + b"\n"


class Teller(asyncio.Protocol):
    """
    Tells a client, in asyncio.
    """

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        sock = self._transport.get_extra_info("socket")
        self._transport.write(tell(sock.fileno()))
        self._transport.close()


async def serve(description: str) -> None:
    """
    Serve until killed, in asyncio.
    """
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Teller, description)
    await server.serve_forever()


def twisted(description: str) -> None:
    """
    Serve until killed, in Twisted.
    """
    from twisted.internet import reactor as _reactor
    from twisted.internet.endpoints import serverFromString
    from twisted.internet.protocol import Factory, Protocol
    from twisted.logger import globalLogBeginner, textFileLogObserver

    reactor: Any = _reactor

    class TwistedTeller(Protocol):
        """
        Tells a client, in Twisted.
        """

        def dataReceived(self, data: bytes) -> None:
            transport: Any = self.transport
            transport.write(tell(transport.getHandle().fileno()))
            transport.loseConnection()

    globalLogBeginner.beginLoggingTo([textFileLogObserver(sys.stdout)])
    serverFromString(reactor, description).listen(Factory.forProtocol(TwistedTeller))
    reactor.run()


def main(loop: str, description: str) -> None:
    """
    Be the worker of the command line.
    """
    if loop == "twisted":
        twisted(description)
        return
    from tests.support.asyncio_worker import LOOPS

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    LOOPS[loop]().run_until_complete(serve(description))


if __name__ == "__main__":
    main(*sys.argv[1:])
