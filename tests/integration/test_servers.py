"""
Servers that know nothing of portlisten, and servers that take leave of their clients.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import ssl
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.threads import deferToThread

from tests.support.asking import ask
from tests.support.asynchronous import asynchronous
from tests.support.certificates import certificates
from tests.support.programs import command, needs
from tests.support.spawned import Process, Start, listening, steady
from tests.support.waiting import sleep

REQUEST = b"GET / HTTP/1.0\r\n\r\n"


APPLICATION = """
async def app(scope, receive, send):
    assert scope["type"] == "http"
    body = f"hello from ASGI, {scope['client'][0]}".encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})
"""


@asynchronous
async def test_daphne(twistd: Start, start: Start, folder: Path) -> None:
    """
    Daphne, an ASGI server, is a worker by its C{-e}.
    """
    needs("daphne", "daphne")
    folder.joinpath("module.py").write_text(APPLICATION)
    listener = twistd("portlisten", "0", "./socket")
    port = await listening(listener)
    daphne = start(command("daphne"), "-e", "portlisten:./socket", "module:app")
    await listener.says("joined")
    answer = await ask(port, REQUEST)
    assert b" 200 OK" in answer
    assert answer.endswith(b"hello from ASGI, 127.0.0.1")
    await daphne.stop()
    assert "Traceback" not in daphne.output


def shakeHands(port: int, path: str) -> socket.socket:
    """
    Open a WebSocket.
    """
    sock = socket.create_connection(("127.0.0.1", port), 10)
    key = base64.b64encode(os.urandom(16)).decode()
    lines = [
        f"GET {path} HTTP/1.1",
        f"Host: 127.0.0.1:{port}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {key}",
        "Sec-WebSocket-Version: 13",
    ]
    sock.sendall("".join(line + "\r\n" for line in [*lines, ""]).encode())
    return sock


@asynchronous
async def test_wormholeMailbox(twistd: Start, start: Start, folder: Path) -> None:
    """
    The mailbox server of magic-wormhole is a worker by its C{--port}, for HTTP
    and for WebSockets, whose ends it reports.
    """
    needs("wormhole_mailbox_server", "magic-wormhole-mailbox-server")
    listener = twistd("portlisten", "0", "./socket")
    port = await listening(listener)
    server = start(
        command("twist"), "wormhole-mailbox", "--port=portlisten:./socket:grace=20"
    )
    await listener.says("joined")
    assert (await ask(port, REQUEST)).endswith(b"Wormhole Relay\n")

    def welcome() -> dict[str, Any]:
        with shakeHands(port, "/v1") as sock:
            head, _, frame = b"", b"", b""
            while b"}}" not in frame and b"server_tx" not in frame:
                head += sock.recv(65536)
                frame = head.partition(b"\r\n\r\n")[2]
            assert b" 101 " in head
            told: dict[str, Any] = json.loads(frame[frame.index(b"{") :])
            return told

    assert (await deferToThread(welcome))["type"] == "welcome"
    await sleep(0.2)
    before = time.monotonic()
    await server.stop()
    assert time.monotonic() - before < 8
    assert "still in service" not in server.output
    assert "Traceback" not in server.output


#: A server that says goodbye, and one whose connections change hands.
CHAT = """
from twisted.application.internet import StreamServerEndpointService
from twisted.application.service import Application
from twisted.internet import reactor, ssl
from twisted.internet.endpoints import serverFromString
from twisted.internet.protocol import Factory, Protocol
from twisted.protocols.basic import LineReceiver
from zope.interface import implementer
from portlisten.interfaces import IDrainable

class Other(Protocol):
    def dataReceived(self, data):
        self.transport.write(b"other " + data)

@implementer(IDrainable)
class Chat(LineReceiver):
    def lineReceived(self, line):
        if line == b"SWAP":
            self.transport.protocol = other = Other()
            other.makeConnection(self.transport)
            self.transport.write(b"swapped\\r\\n")
        elif line == b"STARTTLS":
            self.sendLine(b"go ahead")
            self.transport.startTLS(ssl.DefaultOpenSSLContextFactory(KEY, CERTIFICATE))
        else:
            self.sendLine(line)

    def drain(self):
        self.sendLine(b"goodbye")
        self.transport.loseConnection()

KEY, CERTIFICATE = "tls/localhost.key", "tls/localhost.pem"
application = Application("chat")
endpoint = serverFromString(reactor, "portlisten:./socket:grace=20")
StreamServerEndpointService(endpoint, Factory.forProtocol(Chat)).setServiceParent(
    application
)
"""


def chat(twistd: Start, folder: Path) -> Process:
    """
    Start that server.
    """
    folder.joinpath("chat.tac").write_text(CHAT)
    return twistd("-y", "chat.tac")


class Client:
    """
    A client of it, that waits.
    """

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), 10)

    def say(self, line: bytes) -> bytes:
        """
        Say something, and read the answer.
        """
        self.socket.sendall(line + b"\r\n")
        return self.socket.recv(100)

    def secure(self) -> None:
        """
        Begin TLS, after STARTTLS.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        self.socket = context.wrap_socket(self.socket)

    def rest(self) -> bytes:
        """
        Read to the end.
        """
        data = b""
        while more := self.socket.recv(100):
            data += more
        return data


@asynchronous
async def test_goodbye(twistd: Start, folder: Path) -> None:
    """
    A protocol that provides L{IDrainable} learns that its server stops, says so to its
    clients, and the server ends at once.
    """
    listener = twistd("portlisten", "0", "./socket")
    port = await listening(listener)
    server = chat(twistd, folder)
    await listener.says("joined")

    def talk() -> list[Client]:
        clients = [Client(port) for _ in range(10)]
        assert [client.say(b"hello") for client in clients] == [b"hello\r\n"] * 10
        return clients

    clients = await deferToThread(talk)
    before = time.monotonic()
    await server.stop()
    seconds = time.monotonic() - before
    assert [client.rest() for client in clients] == [b"goodbye\r\n"] * 10
    for client in clients:
        client.socket.close()
    print(f"10 chats ended with a goodbye, and the server in {seconds:.2f} s")
    assert seconds < 8
    assert "still in service" not in server.output
    assert "Traceback" not in server.output


#: A program that leaves its port to the end of the process.
LEAVES = """
from twisted.internet import reactor
from twisted.internet.endpoints import serverFromString
from twisted.internet.protocol import Factory, Protocol
from zope.interface import implementer
from portlisten.interfaces import IDrainable

@implementer(IDrainable)
class Polite(Protocol):
    def connectionMade(self):
        self.transport.write(b"hello\\n")

    def drain(self):
        self.transport.write(b"goodbye\\n")
        self.transport.loseConnection()

serverFromString(reactor, "portlisten:./socket").listen(Factory.forProtocol(Polite))
reactor.run()
"""


@asynchronous
async def test_portNeverStopped(twistd: Start, start: Start, folder: Path) -> None:
    """
    A program that never stops its port still parts with its clients and with
    the listener in good order when it is told to end.
    """
    listener = twistd("portlisten", "0", "./socket")
    port = await listening(listener)
    folder.joinpath("leaves.py").write_text(LEAVES)
    server = start(sys.executable, "leaves.py")
    await listener.says("joined")
    client = Client(port)
    assert await deferToThread(client.socket.recv, 6) == b"hello\n"
    await server.stop()
    assert client.rest() == b"goodbye\n"
    client.socket.close()
    await listener.says("left, .* it says: the worker stops")
    assert "died" not in listener.output


@pytest.mark.parametrize("how", ["SWAP", "STARTTLS"])
@asynchronous
async def test_changedHands(
    twistd: Start, start: Start, folder: Path, how: str
) -> None:
    """
    The listener learns of a connection's end even if another protocol has taken the
    connection over, so the next connections are shared evenly and the server waits for
    none.
    """
    needs("OpenSSL", "twisted[tls]")
    await certificates(start, folder)
    listener = twistd("portlisten", "0", "./socket")
    port = await listening(listener)
    first = chat(twistd, folder)
    await listener.says("worker 1 .*joined")

    def change() -> None:
        clients = [Client(port) for _ in range(10)]
        for client in clients:
            assert client.say(how.encode()) in (b"swapped\r\n", b"go ahead\r\n")
            if how == "STARTTLS":
                client.secure()
                assert client.say(b"hello") == b"hello\r\n"
            else:
                assert client.say(b"hello") == b"other hello\r\n"
        for client in clients:
            client.socket.close()

    await deferToThread(change)
    second = chat(twistd, folder)
    await listener.says("worker 2 .*joined")

    def hold() -> list[Client]:
        clients = [Client(port) for _ in range(10)]
        assert {client.say(b"hello") for client in clients} == {b"hello\r\n"}
        return clients

    base = [await steady(first), await steady(second)]
    clients = await deferToThread(hold)
    held = [first.descriptors() - base[0], second.descriptors() - base[1]]
    print(f"{how}: 10 more connections were shared {held}")
    assert held == [5, 5]
    for client in clients:
        client.socket.close()
    before = time.monotonic()
    await first.stop()
    assert time.monotonic() - before < 8
    assert "still in service" not in first.output
