"""
What a server sees of a C{portlisten:} port.
"""

from __future__ import annotations

from pathlib import Path

from tests.support.asking import ask
from tests.support.asynchronous import asynchronous
from tests.support.ports import freePort
from tests.support.spawned import Process, Start, listening

#: A server that says where it listens, and to each client who it is.
TELL = """
from twisted.application.service import Application, Service
from twisted.internet import reactor
from twisted.internet.endpoints import serverFromString
from twisted.internet.protocol import Factory, Protocol

class Tell(Protocol):
    def dataReceived(self, data):
        self.transport.write(f"{self.transport.getPeer()}".encode())
        self.transport.loseConnection()

class Server(Service):
    def startService(self):
        endpoint = serverFromString(reactor, "DESCRIPTION")
        endpoint.listen(Factory.forProtocol(Tell)).addCallback(self.listening)

    def listening(self, port):
        self.port = port
        print("it listens on", port.getHost())

    def stopService(self):
        return self.port.stopListening()

application = Application("tell")
Server().setServiceParent(application)
"""


def server(twistd: Start, folder: Path, description: str) -> str:
    """
    Write the server.

    @return: the name of the file.
    """
    folder.joinpath("tell.tac").write_text(TELL.replace("DESCRIPTION", description))
    return "tell.tac"


@asynchronous
async def test_address(twistd: Start, folder: Path) -> None:
    """
    The port's address is that of the listener's port, and the peer's is the
    client's.
    """
    listener = twistd("portlisten", "tcp:0:interface=127.0.0.1", "./socket")
    port = await listening(listener)
    worker = twistd("-y", server(twistd, folder, "portlisten:./socket"))
    match = await worker.says("it listens on (.*)")
    assert match[1] == f"IPv4Address(type='TCP', host='127.0.0.1', port={port})"
    assert b"host='127.0.0.1'" in await ask(port, b"who?")


@asynchronous
async def test_proxyProtocol(twistd: Start, folder: Path) -> None:
    """
    Behind C{haproxy:}, the peer is the client that the PROXY header names.
    """
    listener = twistd("portlisten", "0", "./socket")
    port = await listening(listener)
    worker = twistd("-y", server(twistd, folder, "haproxy:portlisten:./socket"))
    await worker.says("it listens on")
    answer = await ask(port, b"PROXY TCP4 192.0.2.7 192.0.2.1 4711 80\r\nwho?")
    assert answer == b"IPv4Address(type='TCP', host='192.0.2.7', port=4711)"


@asynchronous
async def test_listenerRestarts(twistd: Start, folder: Path) -> None:
    """
    Running workers join the listener's successor by themselves, whether it was
    stopped or killed.
    """
    number = freePort(20000, 30000)
    arguments = ("portlisten", str(number), "./socket")
    listener = twistd(*arguments)
    name = server(twistd, folder, "portlisten:./socket")
    workers = [twistd("-y", name) for _ in range(2)]
    await listener.says("worker 2 .*joined")
    for end in (Process.stop, Process.kill):
        assert b"IPv4Address" in await ask(number, b"who?")
        await end(listener)
        listener = twistd(*arguments)
        await listener.says("worker 2 .*joined")
    assert b"IPv4Address" in await ask(number, b"who?")
    for worker in workers:
        await worker.says("(?s)(?:joined the listener.*){3}")
        assert worker.output.count("it listens on") == 1
        assert worker.output.count("joined the listener") == 3
        assert "Traceback" not in worker.output
