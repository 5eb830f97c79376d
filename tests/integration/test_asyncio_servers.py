"""
Servers of asyncio, as they are on PyPI, are workers.  They are replaced under load, and
no client notices.

If C{PORTLISTEN_ROUNDS} is set, each worker is replaced so many times, and all servers
are tried, plain and with TLS.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.support.asgi_servers import KINDS, Clients, Fleet, begun, write
from tests.support.asynchronous import asynchronous
from tests.support.certificates import certificates
from tests.support.load import wrk
from tests.support.ports import freePort
from tests.support.programs import command, needs
from tests.support.spawned import Process, Start
from tests.support.waiting import sleep

LONG = os.environ.get("PORTLISTEN_ROUNDS")
ROUNDS = int(LONG or 2)
CLOSE = "--header=Connection: close"
WORKERS = 2

#: How long a client is silent before it speaks, in seconds.
SILENCE = "--silence=0.3"

#: The servers that are tried if the tests are to be short.
SHORT = {
    "plain": ["uvicorn-asyncio", "uvicorn-uvloop", "hypercorn", "aiohttp"],
    "tls": ["uvicorn-uvloop", "hypercorn-uvloop", "aiohttp"],
}

SERVERS = pytest.mark.parametrize(
    ("kind", "wire"),
    [
        (kind, wire)
        for wire, short in SHORT.items()
        for kind in (KINDS if LONG else short)
    ],
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
    assert load.requests + figures["requests"] > 1000
    fleet.check()


@SERVERS
@asynchronous
async def test_drained(
    start: Start, twistd: Start, folder: Path, kind: str, wire: str
) -> None:
    """
    Workers are drained, and then get SIGTERM.  No client that keeps its connection has
    an error, whether it sends requests all the time or now and then.
    """
    fleet = await fleetOf(start, twistd, folder, kind, wire)
    url = await fleet.open(WORKERS)
    slow = fleet.clients("--keep", "--pause=0.3", "--clients=60")
    await begun()

    async def roll() -> None:
        for _ in range(WORKERS * ROUNDS):
            await fleet.replace(drain=True)

    load = await wrk(start, url, roll(), connections=16)
    figures = await slow.end()
    show(f"{kind} {wire}, drained", fleet, busy=vars(load), slow=figures)
    assert load.errors == 0
    assert figures["errors"] == {}
    assert load.requests + figures["requests"] > 1000
    fleet.check()


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
    assert load.connect == load.timeout == load.refused == 0
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
