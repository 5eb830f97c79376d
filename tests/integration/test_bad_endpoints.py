"""
Mistakes in the description of a port.  If the port can never work, the server prints
one clear line, and exits with 1.  If it may work later, the server goes on trying.
"""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

from twisted.internet.protocol import Factory, Protocol

from portlisten._wire.codec import encode
from portlisten._wire.frames import ListenerHello
from tests.integration.test_bad_input import refused
from tests.support.asking import ask
from tests.support.asynchronous import asynchronous
from tests.support.ports import freePort
from tests.support.programs import needs
from tests.support.spawned import Process, Start, listening
from tests.support.waiting import reactor, sleep

REQUEST = b"GET / HTTP/1.0\r\n\r\n"


def web(twistd: Start, description: str) -> Process:
    """
    Start Twisted's own web server, with a port of this description.
    """
    return twistd("web", f"--port={description}", "--logfile=/dev/null")


async def waits(worker: Process, why: str, seconds: float = 0.5) -> None:
    """
    Check that a worker says that it waits, and why, in one line, once.
    """
    match = await worker.says(rf"waiting for a listener at .*{why}.*")
    await sleep(seconds)
    assert worker.running
    assert worker.output.count(match[0]) == 1, worker.output
    assert "Traceback" not in worker.output
    assert "Unhandled" not in worker.output
    print(match[0])


@asynchronous
async def test_refused(twistd: Start, folder: Path) -> None:
    """
    Each mistake ends C{twistd web} with one line on standard error.
    """
    needs("OpenSSL", "twisted[tls]")
    cases = {
        "portlisten:": ["one path", "portlisten:/run/portlisten/web.sock"],
        "portlisten:s:backlog=5": ["no option 'backlog'", "name, grace", "certKey"],
        "portlisten:s:grace=long": ["grace", "'long' is not a number"],
        "portlisten:s:name=a b": ["name", "'a b' is no name", "such as http"],
        "portlisten:s:certKey=c.pem": ["certKey needs privateKey"],
        "portlisten:s:privateKey=k.pem": ["k.pem", "No such file"],
        "portlisten:s:privateKey=text": ["privateKey=text", "OpenSSL says"],
    }
    folder.joinpath("text").write_text("keep me")
    workers = {description: web(twistd, description) for description in cases}
    for description, worker in workers.items():
        print(await refused(worker, "portlisten: ", *cases[description]))
    assert [path.name for path in folder.iterdir()] == ["text"]
    assert folder.joinpath("text").read_text() == "keep me"


@asynchronous
async def test_path(twistd: Start, folder: Path) -> None:
    """
    If no listener can ever be at the path, C{twistd web} ends with one line, in the
    log.
    """
    folder.joinpath("text").write_text("keep me")
    cases = {
        "portlisten:text": "text exists and is no socket",
        "portlisten:./missing/s": "the folder './missing' of",
        "haproxy:portlisten:text": "text exists and is no socket",
    }
    workers = {description: web(twistd, description) for description in cases}
    for description, worker in workers.items():
        assert await worker.ended() == 1
        assert worker.output.count("portlisten: ") == 1
        assert f"portlisten: {cases[description]}" in worker.output
        assert "Traceback" not in worker.output
    assert folder.joinpath("text").read_text() == "keep me"


@asynchronous
async def test_noListener(twistd: Start) -> None:
    """
    While the listener is missing, the server logs one line; it serves when the listener
    comes.
    """
    worker = web(twistd, "portlisten:./socket")
    await waits(worker, "No such file or directory", 2.0)
    listener = twistd("portlisten", "0", "./socket")
    answer = await ask(await listening(listener), REQUEST)
    assert b" 200 OK" in answer
    assert await worker.stop() in (0, -15)


@asynchronous
async def test_unknownName(twistd: Start) -> None:
    """
    If the listener lacks the name, each side logs one line, and the server serves after
    the listener restarts with that name.
    """
    port = freePort(20000, 30000)
    listener = twistd("portlisten", f"http={port}", "./socket")
    worker = web(twistd, "portlisten:./socket:name=https")
    await waits(worker, "no port is called 'https' here, only http")
    assert "Traceback" not in listener.output
    assert await listener.stop() == 0
    listener = twistd("portlisten", f"https={port}", "./socket")
    await worker.says("joined the listener.*https=")
    assert b" 200 OK" in await ask(port, REQUEST)
    assert "Traceback" not in worker.output


@asynchronous
async def test_datagramSocket(twistd: Start, folder: Path) -> None:
    """
    A socket of another kind gets one line.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(folder / "socket"))
        worker = web(twistd, "portlisten:./socket")
        await waits(worker, "a socket of another kind is there")


def another(words: bytes) -> Any:
    """
    A factory of a server that is no listener, and that sends these bytes.
    """

    class Other(Protocol):
        def connectionMade(self) -> None:
            assert self.transport is not None
            self.transport.write(words)

    factory = Factory.forProtocol(Other)
    factory.noisy = False
    return factory


#: A listener's HELLO of the next version.
HELLO2 = bytearray(encode(ListenerHello(16)))
HELLO2[12:14] = b"\x00\x02"


@asynchronous
async def test_anotherServer(twistd: Start, folder: Path) -> None:
    """
    A server that is no listener, or a listener of another version, gets one line.  If
    it never answers, the worker waits, and says so.
    """
    cases = {
        "garbage": (b"220 mail.example.com ESMTP\r\n", "frame of the unknown type"),
        "zeros": (bytes(4096), "frame of the unknown type"),
        "version": (bytes(HELLO2), "the peer speaks version 2"),
        "silence": (b"", ""),
    }
    ports = [
        reactor.listenUNIX(str(folder / name), another(words))
        for name, (words, _) in cases.items()
    ]
    try:
        workers = {name: web(twistd, f"portlisten:./{name}") for name in cases}
        silent = workers.pop("silence")
        for name, worker in workers.items():
            await waits(
                worker, f"/{name},.* cannot serve this worker: .*{cases[name][1]}"
            )
        await silent.says("waiting for the listener at ./silence: no HELLO has come")
    finally:
        for port in ports:
            await port.stopListening()
