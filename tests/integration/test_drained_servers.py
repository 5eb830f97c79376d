"""
Servers that cut their own work when they are told to stop, and WebSockets: what their
clients see if the worker is drained first, and if not.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred, gatherResults

from tests.support.asking import ask
from tests.support.asynchronous import asynchronous
from tests.support.certificates import certificates
from tests.support.programs import command, needs
from tests.support.spawned import Process, Start, listening
from tests.support.waiting import until

REQUESTS = 10

APPLICATION = """
import asyncio

async def app(scope, receive, send):
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        while (await receive())["type"] != "websocket.disconnect":
            pass
        return
    print("begun", flush=True)
    await asyncio.sleep(2)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"done"})
"""


async def startDaphne(start: Start, folder: Path, listener: Process) -> Process:
    """
    Start a server with slow requests and WebSockets.
    """
    folder.joinpath("module.py").write_text(APPLICATION)
    endpoint = "portlisten:./socket:label=web-1:grace=5"
    daphne = start(command("daphne"), "-e", endpoint, "module:app")
    await listener.says("joined")
    return daphne


async def drain(start: Start) -> None:
    """
    Drain the worker, and wait until it is drained.
    """
    draining = start(command("portlisten"), "drain", "./socket", "web-1")
    assert await draining.ended() == 0, draining.output


async def slowRequests(port: int, server: Process) -> Deferred[list[bytes]]:
    """
    Ask for slow pages, and wait until the server works on all of them.

    @return: fires with the answers, or what had come before the connection broke.
    """

    async def one() -> bytes:
        try:
            return await ask(port, b"GET / HTTP/1.0\r\n\r\n")
        except ConnectionResetError:
            return b""

    answers = gatherResults(
        [Deferred.fromCoroutine(one()) for _ in range(REQUESTS)], consumeErrors=True
    )
    await until(lambda: server.output.count("begun") == REQUESTS, "all begun")
    return answers


@asynchronous
async def test_daphneDrained(twistd: Start, start: Start, folder: Path) -> None:
    """
    If daphne is drained before SIGTERM, each request in hand is answered, and the
    client of a WebSocket hears that the server goes away.
    """
    needs("daphne", "daphne")
    from tests.support import websockets

    listener = twistd("portlisten", "0", "./socket")
    port = await listening(listener)
    daphne = await startDaphne(start, folder, listener)
    socket = await websockets.connect(port)
    answers = await slowRequests(port, daphne)
    await drain(start)
    assert daphne.running
    assert await websockets.closeCode(socket) == 1001
    await daphne.stop()
    got = await answers
    lost = [each for each in got if not each.endswith(b"done")]
    print(f"drained before SIGTERM: {len(lost)} of {REQUESTS} requests lost")
    assert lost == []
    assert "Traceback" not in daphne.output


@asynchronous
async def test_daphneStopped(twistd: Start, start: Start, folder: Path) -> None:
    """
    If daphne gets SIGTERM at once, it gives up what it has in hand, which is why it
    should be drained first.
    """
    needs("daphne", "daphne")
    listener = twistd("portlisten", "0", "./socket")
    port = await listening(listener)
    daphne = await startDaphne(start, folder, listener)
    answers = await slowRequests(port, daphne)
    await daphne.stop()
    got = await answers
    lost = [each for each in got if not each.endswith(b"done")]
    print(f"SIGTERM at once: {len(lost)} of {REQUESTS} requests lost")
    assert len(lost) == REQUESTS


@asynchronous
async def test_daphneUndrained(twistd: Start, start: Start, folder: Path) -> None:
    """
    A drained daphne serves again, and keeps connections again, after it is taken back.
    """
    needs("daphne", "daphne")
    from tests.support import websockets

    listener = twistd("portlisten", "0", "./socket")
    port = await listening(listener)
    daphne = await startDaphne(start, folder, listener)
    await drain(start)
    back = start(command("portlisten"), "undrain", "./socket", "web-1")
    assert await back.ended() == 0, back.output
    socket = await websockets.connect(port)
    socket.sendMessage(b"hello")
    await drain(start)
    assert await websockets.closeCode(socket) == 1001
    await daphne.stop()


#: WebSockets alone, and beside pages.
WEBSOCKETS = """
from autobahn.twisted.resource import WebSocketResource
from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from twisted.application.service import Application
from twisted.application.strports import service
from twisted.web.resource import Resource
from twisted.web.server import Site

def factory():
    made = WebSocketServerFactory()
    made.protocol = WebSocketServerProtocol
    return made

root = Resource()
root.putChild(b"ws", WebSocketResource(factory()))
application = Application("websockets")
tls = "privateKey=tls/localhost.key:certKey=tls/localhost.pem"
for description, served in [
    ("name=plain", factory()),
    ("name=page", Site(root)),
    (f"name=tls:{tls}", Site(root)),
]:
    endpoint = f"portlisten:./socket:label=web-1:grace=30:{description}"
    service(endpoint, served).setServiceParent(application)
"""


@pytest.mark.parametrize("how", ["drain", "SIGTERM"])
@asynchronous
async def test_webSockets(twistd: Start, start: Start, folder: Path, how: str) -> None:
    """
    Autobahn's clients hear that the server goes away, whatever the WebSocket came
    through.
    """
    needs("autobahn", "autobahn")
    needs("OpenSSL", "twisted[tls]")
    from tests.support import websockets

    await certificates(start, folder)
    folder.joinpath("websockets.tac").write_text(WEBSOCKETS)
    names = ("plain", "page", "tls")
    options = [f"--listen={name}=tcp:0:interface=127.0.0.1" for name in names]
    listener = twistd("portlisten", *options, "./socket")
    ports: dict[str, Any] = {}
    for name in names:
        found = await listener.says(rf"{name}=tcp:127\.0\.0\.1:(\d+)")
        ports[name] = int(found[1])
    server = twistd("-y", "websockets.tac")
    await listener.says("worker 3 .*joined")
    sockets = [
        await websockets.connect(ports["plain"]),
        await websockets.connect(ports["page"], "/ws"),
        await websockets.connect(ports["tls"], "/ws", tls=True),
    ]
    if how == "drain":
        await drain(start)
        assert server.running
        await server.stop()
    else:
        await server.stop()
    codes = [await websockets.closeCode(each) for each in sockets]
    assert codes == [1001, 1001, 1001]
    assert "still in service" not in server.output
    assert "Traceback" not in server.output
