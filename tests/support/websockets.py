"""
Clients of WebSockets, by Autobahn.
"""

from __future__ import annotations

from typing import Any

from autobahn.twisted import websocket
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, wrapClientTLS
from twisted.internet.ssl import CertificateOptions

from tests.support.waiting import PATIENCE

reactor: Any = _reactor


class Client(websocket.WebSocketClientProtocol):
    """
    A client that listens.

    @ivar opened: fires when the WebSocket is open.
    @ivar closed: fires with the close code at the end, or with L{None} if none came.
    """

    def __init__(self) -> None:
        super().__init__()
        self.opened: Deferred[None] = Deferred()
        self.closed: Deferred[int | None] = Deferred()

    def onOpen(self) -> None:
        self.opened.callback(None)

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        self.closed.callback(self.remoteCloseCode)


async def connect(port: int, path: str = "/", tls: bool = False) -> Client:
    """
    Open a WebSocket.
    """
    factory: Any = websocket.WebSocketClientFactory(f"ws://127.0.0.1:{port}{path}")
    factory.protocol = Client
    factory.noisy = False
    endpoint: Any = TCP4ClientEndpoint(reactor, "127.0.0.1", port, timeout=PATIENCE)
    if tls:
        endpoint = wrapClientTLS(CertificateOptions(), endpoint)
    made: Client = await endpoint.connect(factory)
    await made.opened.addTimeout(PATIENCE, reactor)
    return made


async def closeCode(client: Client) -> int | None:
    """
    Wait for the end of a WebSocket.

    @return: the close code of the server, or L{None} if it sent none.
    """
    return await client.closed.addTimeout(PATIENCE, reactor)
