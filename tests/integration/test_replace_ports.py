"""
A listener is replaced by one with other ports, while a worker hangs, or while one of
both is told to stop.
"""

from __future__ import annotations

import re
import signal
import socket
import sys
from pathlib import Path

from twisted.internet.threads import deferToThread

from tests.support.asynchronous import asynchronous
from tests.support.clients import ask, read
from tests.support.ports import freePort
from tests.support.replacing import SERVES, Make
from tests.support.spawned import Start
from tests.support.waiting import until

REQUEST = b"GET /word HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n"

#: Runs C{twistd} with a listener that stands still before it takes over.
STANDING = """
import os, signal
from portlisten._handover.takeover import Takeover
commit = Takeover.commit
def stand(*arguments):
    os.kill(os.getpid(), signal.SIGSTOP)
    return commit(*arguments)
Takeover.commit = stand
from twisted.scripts.twistd import run
run()
"""


def address(name: str, port: int) -> str:
    """
    The option of a listener for a port.
    """
    return f"--listen={name}=tcp:{port}:interface=127.0.0.1"


def refused(port: int) -> bool:
    """
    Say whether nobody listens on a port.
    """
    try:
        socket.create_connection(("127.0.0.1", port), 30).close()
    except ConnectionRefusedError:
        return True
    return False


def pidOf(answer: bytes | None) -> int:
    """
    The process that gave an answer.
    """
    assert answer is not None
    assert answer.startswith(b"HTTP/1.1 200 "), answer
    return int(answer.rpartition(b" ")[2])


@asynchronous
async def test_otherPorts(replaced: Make) -> None:
    """
    The next one has a new port, and lacks one.  Clients that wait at that one are
    served, even in the backlog, and later ones are refused.
    """
    gone, stays, new = (freePort(first, first + 500) for first in (22500, 23000, 23500))
    made = replaced(address("gone", gone), address("http", stays), "--queue=10")
    await made.replace()
    await made.work("asyncio")
    worker = made.workers[0]
    worker.signal(signal.SIGSTOP)
    waiting = [made.connect(port) for port in (gone, stays) for _ in range(60)]
    for each in waiting:
        each.sendall(REQUEST)
    await made.shows(lambda status: status["ports"][0]["waiting"] > 0)
    old = made.listener
    made.arguments = (address("http", stays), address("new", new))
    process = made.launch()
    await process.says(SERVES)
    made.listeners.append(process)
    # This one cannot join the next listener, since it also asks for what is gone.
    worker.signal(signal.SIGCONT)
    await made.work("twisted")
    answers = await deferToThread(lambda: [read(each) for each in waiting])
    assert {pidOf(each) for each in answers[:60]} == {worker.pid}
    assert {pidOf(each) for each in answers} <= {each.pid for each in made.workers}
    assert await old.ended() == 0
    assert refused(gone)
    answer = await deferToThread(ask, new, send=REQUEST)
    assert pidOf(answer) == made.workers[1].pid
    made.check()


@asynchronous
async def test_hungWorker(replaced: Make) -> None:
    """
    A worker hangs, and has offers that it has not claimed.  It is revoked, and its
    clients go to the next listener, whose worker serves them.
    """
    port = freePort(22500, 23500)
    made = replaced(address("http", port), "--claim-timeout=1")
    await made.replace()
    await made.work("asyncio")
    hung = made.workers[0]
    hung.signal(signal.SIGSTOP)
    try:
        clients = [made.connect(port) for _ in range(60)]
        for each in clients:
            each.sendall(REQUEST)
        await made.shows(lambda status: status["held"]["offered"] > 0)
        await made.replace()
        await made.work("twisted")
        answers = await deferToThread(lambda: [read(each) for each in clients])
    finally:
        hung.signal(signal.SIGCONT)
    assert {pidOf(each) for each in answers} == {made.workers[1].pid}
    assert "hangs, and is revoked" in made.listeners[0].output
    made.check()


@asynchronous
async def test_oldStops(replaced: Make, start: Start) -> None:
    """
    If the old one is told to stop before the next one has taken over, it stops, and the
    next one gives up.
    """
    port = freePort(22500, 23500)
    made = replaced(address("http", port))
    await made.replace()
    process = start(
        *(sys.executable, "-c", STANDING, "-n", "--pidfile=", "portlisten"),
        *("--replace", address("http", port), made.path),
    )
    await until(lambda: process.status()["State"].startswith("T"), "it stands still")
    assert await made.listener.stop() == 0
    process.signal(signal.SIGCONT)
    assert await process.ended() == 1
    assert len(process.errors.strip().splitlines()) == 1, process.errors
    assert process.errors.endswith("this listener was told to stop\n")
    assert "Traceback" not in process.output
    assert refused(port)
    made.check()


@asynchronous
async def test_newStops(replaced: Make) -> None:
    """
    If the next one is told to stop while the old one still hands over, both stop, and
    hand off what waits before that.
    """
    port = freePort(22500, 23500)
    made = replaced(address("http", port))
    await made.replace()
    await made.work("asyncio")
    worker = made.workers[0]
    worker.signal(signal.SIGSTOP)
    clients = [made.connect(port) for _ in range(60)]
    for each in clients:
        each.sendall(REQUEST)
    await made.shows(lambda status: status["held"]["offered"] > 0)
    old, process = made.listener, made.launch()
    await process.says(SERVES)
    process.signal(signal.SIGTERM)
    await process.says("SIGTERM|stopping")
    worker.signal(signal.SIGCONT)
    answers = await deferToThread(lambda: [read(each) for each in clients])
    assert {pidOf(each) for each in answers} == {worker.pid}
    assert await process.ended() == 0
    assert await old.ended() == 0
    assert refused(port)
    made.listeners.append(process)
    made.check()


@asynchronous
async def test_monitor(replaced: Make, folder: Path) -> None:
    """
    The next one serves the metrics on the same port.
    """
    port, metrics = freePort(22500, 23500), freePort(23500, 24000)
    made = replaced(
        address("http", port), f"--metrics=tcp:{metrics}:interface=127.0.0.1"
    )
    await made.replace()
    await made.work("asyncio")
    request = b"GET /metrics HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n"
    for _ in range(3):
        await made.replace()
        answer = await deferToThread(ask, metrics, send=request)
        assert answer is not None
        assert re.search(rb"(?m)^portlisten_\w+", answer), answer
    assert await made.listener.stop() == 0
    assert refused(metrics)
    made.check()
