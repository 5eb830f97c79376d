"""
Servers of asyncio, as they are on PyPI, are workers.  They are replaced under load, and
no client notices.

If C{PORTLISTEN_ROUNDS} is set, each worker is replaced so many times, and all servers
are tried, plain and with TLS.
"""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from tests.integration.test_guides import closeFrame
from tests.integration.test_servers import shakeHands
from tests.support.asgi_servers import KINDS, Clients, Fleet, begun, write
from tests.support.asking import ask
from tests.support.asynchronous import asynchronous
from tests.support.certificates import certificates
from tests.support.load import wrk
from tests.support.ports import freePort
from tests.support.programs import command, needs
from tests.support.spawned import Process, Start
from tests.support.waiting import sleep

LONG = os.environ.get("PORTLISTEN_ROUNDS")
ROUNDS = int(LONG or 1)
CLOSE = "--header=Connection: close"
WORKERS = 2

#: How long a client is silent before it speaks, in seconds.
SILENCE = "--silence=0.3"

#: The servers that are tried if the tests are to be short.
SHORT = {
    "plain": ["uvicorn-asyncio", "uvicorn-uvloop", "hypercorn", "aiohttp"],
    "tls": ["uvicorn-uvloop", "hypercorn-uvloop", "aiohttp"],
}

CASES = [
    (kind, wire) for wire, short in SHORT.items() for kind in (KINDS if LONG else short)
]

SERVERS = pytest.mark.parametrize(("kind", "wire"), CASES)

#: The same, but with TLS only one of them if the tests are to be short.
KEPT = pytest.mark.parametrize(
    ("kind", "wire"),
    [each for each in CASES if LONG or each[1] == "plain" or "hypercorn" in each[0]],
)


async def fleetOf(
    start: Start, twistd: Start, folder: Path, name: str, wire: str = "plain"
) -> Fleet:
    """
    Prepare a listener and its workers.
    """
    kind = KINDS[name]
    needs(kind.package, kind.package)
    if "uvloop" in name:
        needs("uvloop", "uvloop")
    tls = await certificates(start, folder) if wire == "tls" else None
    return Fleet(start, twistd, folder, kind, tls)


def show(what: str, fleet: Fleet, **figures: Any) -> None:
    """
    Print the figures of a test.
    """
    print(f"{what}: {len(fleet.gone)} replaced;", figures)


@SERVERS
@asynchronous
async def test_terminated(
    start: Start, twistd: Start, folder: Path, kind: str, wire: str
) -> None:
    """
    Workers get SIGTERM and nothing else.  No client that sends one request for each
    connection has an error, even if it is silent first.
    """
    fleet = await fleetOf(start, twistd, folder, kind, wire)
    url = await fleet.open(WORKERS)
    silent = fleet.clients(SILENCE, "--clients=60")
    await begun()

    async def roll() -> None:
        for _ in range(WORKERS * ROUNDS):
            await fleet.replace()

    load = await wrk(start, url, roll(), CLOSE, connections=16)
    figures = await silent.end()
    show(f"{kind} {wire}, SIGTERM alone", fleet, close=vars(load), silent=figures)
    assert load.errors == 0
    assert figures["errors"] == {}
    assert load.requests + figures["requests"] > 300
    fleet.check()


@pytest.mark.parametrize("drain", [False, True], ids=["terminated", "drained"])
@KEPT
@asynchronous
async def test_kept(
    start: Start, twistd: Start, folder: Path, kind: str, wire: str, drain: bool
) -> None:
    """
    Workers get SIGTERM, alone or after they were drained.  No client that keeps its
    connection has an error, whether it sends requests all the time or now and then.
    """
    fleet = await fleetOf(start, twistd, folder, kind, wire)
    url = await fleet.open(WORKERS)
    slow = fleet.clients("--keep", "--pause=0.3", "--clients=60")
    await begun()

    async def roll() -> None:
        for _ in range(WORKERS * ROUNDS):
            await fleet.replace(drain=drain)

    load = await wrk(start, url, roll(), connections=16)
    figures = await slow.end()
    how = "drained" if drain else "SIGTERM alone"
    show(f"{kind} {wire}, kept, {how}", fleet, busy=vars(load), slow=figures)
    assert load.errors == 0
    assert figures["errors"] == {}
    assert load.requests + figures["requests"] > 300
    fleet.check()


EACH = pytest.mark.parametrize("kind", SHORT["plain"])


@EACH
@asynchronous
async def test_inService(start: Start, twistd: Start, folder: Path, kind: str) -> None:
    """
    A request that is in service when SIGTERM comes gets its answer, and a WebSocket its
    end: the code 1001, "going away".
    """
    fleet = await fleetOf(start, twistd, folder, kind)
    await fleet.open(1)
    [worker] = fleet.workers
    with await deferToThread(shakeHands, fleet.port, "/ws") as sock:
        sock.settimeout(10)
        assert (await deferToThread(sock.recv, 1000)).startswith(b"HTTP/1.1 101 ")
        request = b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n"
        answer = Deferred.fromCoroutine(ask(fleet.port, request))
        await worker.says("asked")
        worker.signal(signal.SIGTERM)
        code = await deferToThread(closeFrame, sock)
        assert int.from_bytes(code, "big") == 1001
    assert (await answer).endswith(b"\r\n\r\nhello\n")
    await worker.ended()
    fleet.check()


@EACH
@asynchronous
async def test_undrained(start: Start, twistd: Start, folder: Path, kind: str) -> None:
    """
    A worker that is drained answers one more request on each connection, and says so.
    When it is undrained, it keeps connections again.
    """
    fleet = await fleetOf(start, twistd, folder, kind)
    await fleet.open(1)
    [worker] = fleet.workers
    with await deferToThread(connect, fleet.port) as kept:
        assert not await deferToThread(saysClose, kept)
        drain = Deferred.fromCoroutine(fleet.drain(worker))
        await fleet.listener.says("drain")
        await sleep(0.5)
        assert await deferToThread(saysClose, kept)
        assert await deferToThread(kept.recv, 100) == b""
    assert "is drained" in await drain
    arguments = ["undrain", "./socket", str(worker.pid)]
    assert await start(command("portlisten"), *arguments).ended() == 0
    with await deferToThread(connect, fleet.port) as kept:
        for _ in range(2):
            assert not await deferToThread(saysClose, kept)
    await worker.stop()
    fleet.check()


def connect(port: int) -> socket.socket:
    """
    Connect to a server.
    """
    return socket.create_connection(("127.0.0.1", port), timeout=20)


def saysClose(sock: socket.socket) -> bool:
    """
    Send a request, and read the response.

    @return: whether the response says that it is the last one.
    """
    sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    received = b""
    while not received.endswith(b"\r\n\r\nhello\n"):
        data = sock.recv(1000)
        assert data, received
        received += data
    return b"\r\nconnection: close\r\n" in received.lower()


@pytest.mark.parametrize("option", ["--http2", "--http1.1"])
@asynchronous
async def test_versions(start: Start, twistd: Start, folder: Path, option: str) -> None:
    """
    Hypercorn's answer to a request of either version is complete if the worker is
    drained meanwhile.
    """
    fleet = await fleetOf(start, twistd, folder, "hypercorn", "tls")
    url = await fleet.open(1)
    [worker] = fleet.workers
    shown = ["--write-out", "HTTP/%{http_version}", "--insecure", "--silent"]
    curl = start("curl", option, *shown, f"{url}slow")
    await worker.says("asked")
    await fleet.drain(worker)
    assert await curl.ended() == 0, curl.output
    assert curl.output == f"hello\nHTTP/{option.removeprefix('--http')}"
    await worker.stop()
    fleet.check()


@asynchronous
async def test_severalProcesses(start: Start, twistd: Start, folder: Path) -> None:
    """
    One process is one worker.  A server that is told to start several processes ends,
    with a line that says why.
    """
    fleet = await fleetOf(start, twistd, folder, "hypercorn")
    write(folder)
    host = "portlisten:./socket:name=http"
    hypercorn = start(*fleet.kind.arguments(host, None), "--workers=2")
    assert await hypercorn.ended() == 1
    assert hypercorn.output == (
        "portlisten: one process is one worker: start 2 processes, each without"
        " --workers\n"
    )
    # uvicorn binds before it imports anything of the loop.
    fleet = await fleetOf(start, twistd, folder, "uvicorn-asyncio")
    uvicorn = start(*fleet.kind.arguments(host, None), "--workers=2")
    assert await uvicorn.ended() != 0
    assert "Name or service not known" in uvicorn.output


@asynchronous
async def test_killed(start: Start, twistd: Start, folder: Path) -> None:
    """
    Workers get SIGKILL.  No client loses more than what a dead worker was serving.
    """
    fleet = await fleetOf(start, twistd, folder, "uvicorn-asyncio")
    url = await fleet.open(WORKERS)

    async def roll() -> None:
        for _ in range(WORKERS * ROUNDS):
            await fleet.replace(signal.SIGKILL)

    load = await wrk(start, url, roll(), CLOSE, connections=16)
    counters = await fleet.counters()
    show("SIGKILL", fleet, close=vars(load), lostInService=counters["lostInService"])
    assert load.connect == load.write == load.timeout == load.refused == 0
    assert load.broken <= counters["lostInService"]
    fleet.check()


@asynchronous
async def test_alone(start: Start, folder: Path) -> None:
    """
    For comparison: uvicorn on a port of its own is stopped and started again.  Clients
    are refused meanwhile, and those that keep connections or are silent first lose
    requests.
    """
    needs("uvicorn", "uvicorn")
    write(folder)
    port = freePort(10000, 11000)

    async def serve() -> Process:
        own = ["--port", str(port), "--no-access-log", "app:app"]
        server = start(command("uvicorn"), *own)
        await server.says("Uvicorn running")
        return server

    servers = [await serve()]
    silent = Clients.begin(start, port, SILENCE, "--clients=40")
    await begun()

    async def roll() -> None:
        for _ in range(ROUNDS):
            await servers[-1].stop()
            servers.append(await serve())
            await sleep(1)

    load = await wrk(start, f"http://127.0.0.1:{port}/", roll(), connections=16)
    figures: Any = await silent.end()
    print(f"alone: {ROUNDS} replaced;", vars(load), figures)
    assert load.errors > 0
    assert sum(figures["errors"].values()) > 0
