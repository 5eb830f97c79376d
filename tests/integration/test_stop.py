"""
A listener is stopped while connections wait.  Workers that come within the grace serve
accepted connections, and the next listener waits for its turn.
"""

from __future__ import annotations

import re
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from tests.support.asking import ask, client
from tests.support.asynchronous import asynchronous
from tests.support.ports import freePort
from tests.support.programs import command
from tests.support.spawned import Process, Start, listening, reports
from tests.support.waiting import beside, sleep, timed, together

HELLO = b"hello"

#: How long the end of a process may take that waits for nobody, in seconds, on a busy
#: machine: less than each grace that is not to be waited for.
SOON = 10.0

WIRES = ("stream", "datagram")


def listener(twistd: Start, wire: str, *options: str, path: str = "") -> Process:
    """
    Start a listener.
    """
    path = path or f"./{wire}"
    return twistd("portlisten", f"--wire={wire}", *options, "0", path)


def worker(twistd: Start, wire: str) -> Process:
    """
    Start a worker for it.
    """
    return twistd("hellofdpass", f"--wire={wire}", f"./{wire}", HELLO.decode())


@asynchronous
async def test_workerWithinGrace(twistd: Start, folder: Path) -> None:
    """
    Connections that wait when the listener is stopped are served by a worker that
    comes within the grace, and then the listener ends.
    """

    async def one(wire: str) -> None:
        leaving = listener(twistd, wire, "--grace=15")
        port = await listening(leaving)
        waiting = [client(port) for _ in range(4)]
        await reports(leaving, "accepted 4,")
        leaving.signal(signal.SIGTERM)
        await sleep(1)
        assert leaving.running
        if wire == "stream":
            # On the other wire nothing tells a successor to wait.
            assert folder.joinpath(wire).exists()
            waiting.append(client(port))
            await sleep(0.3)
            assert not waiting[-1].called
        worker(twistd, wire)
        results = await together(waiting)
        assert {answer for answer, _ in results} == {HELLO}
        code, seconds = await timed(leaving.ended())
        assert code == 0
        assert seconds < SOON
        assert leaving.errors == ""

    await beside({wire: one(wire) for wire in WIRES})


@asynchronous
async def test_nobodyWithinGrace(twistd: Start) -> None:
    """
    Connections that wait are kept for the grace and no longer, and no client that
    has a place in the backlog gets one in the listener.
    """

    async def one(wire: str) -> None:
        leaving = listener(twistd, wire, "--grace=2")
        port = await listening(leaving)
        waiting = client(port)
        await reports(leaving, "accepted 1,")
        ending = timedEnd(leaving)
        await sleep(0.3)
        (code, seconds), *_ = await together([ending, waiting, client(port)])
        assert code == 0
        assert 1.8 < seconds < SOON
        assert re.findall(r"accepted (\d+),", leaving.output)[-1] == "1"

    await beside({wire: one(wire) for wire in WIRES})


def timedEnd(process: Process) -> Deferred[tuple[int, float]]:
    """
    Stop a process, and say how it ended and how long that took.
    """
    return Deferred.fromCoroutine(timed(process.stop()))


@asynchronous
async def test_nothingWaits(twistd: Start) -> None:
    """
    A listener with which nothing waits ends at once, whether a worker is there or
    not.
    """

    async def one(wire: str, withWorker: bool) -> None:
        leaving = listener(twistd, wire, "--grace=20")
        port = await listening(leaving)
        if withWorker:
            worker(twistd, wire)
            assert await ask(port) == HELLO
        await sleep(0.3)
        code, seconds = await timed(leaving.stop())
        assert code == 0
        assert seconds < SOON

    for withWorker in (False, True):
        await beside({wire: one(wire, withWorker) for wire in WIRES})


async def succeed(twistd: Start, port: int, **who: str) -> None:
    """
    Start a listener while another one of the same port and path is stopping.
    """
    own = ["portlisten", "--mode=0666", "--grace=15", str(port), "./stream"]
    leaving = twistd(*own, **who)
    assert await listening(leaving) == port
    waiting = client(port)
    await reports(leaving, "accepted 1,")
    leaving.signal(signal.SIGTERM)
    await leaving.says("received SIGTERM")
    impatient, following = twistd(*own, **who), twistd(*own, **who)
    for each in (impatient, following):
        await each.says("waiting for the listener at .* to stop")
    code, seconds = await timed(impatient.stop())
    assert code == 0
    assert seconds < SOON
    assert leaving.running
    assert following.running
    worker(twistd, "stream")
    answer, _ = await waiting
    assert answer == HELLO
    assert await leaving.ended() == 0
    assert await listening(following) == port
    assert await ask(port) == HELLO


@asynchronous
async def test_successor(twistd: Start) -> None:
    """
    A listener that is started while another one of the same port and path is
    stopping waits for that one's end, and then serves; or ends with 0 if it is
    stopped before.
    """
    await succeed(twistd, freePort(20000, 30000))


@pytest.mark.usefixtures("root")
@asynchronous
async def test_successorOfRoot(twistd: Start) -> None:
    """
    The same holds for listeners that were root, and bind a port below 1024.
    """
    await succeed(twistd, freePort(600, 1024), uid="nobody", gid="nogroup")


@asynchronous
async def test_neighbour(twistd: Start) -> None:
    """
    A listener that is started beside one of the same path that is not stopping
    fails at once.
    """
    first = twistd("portlisten", "0", "./stream")
    port = await listening(first)
    waiting = client(port)
    second = twistd("portlisten", "0", "./stream")
    assert await second.ended() == 1
    assert "a listener lives at ./stream" in second.errors
    worker(twistd, "stream")
    answer, _ = await waiting
    assert answer == HELLO


@pytest.fixture
def inherited() -> Iterator[socket.socket]:
    """
    A listening socket, as the service manager holds it.
    """
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


@pytest.fixture
def activated(start: Start, inherited: socket.socket) -> Callable[[str], Process]:
    """
    A function that starts a listener with the inherited socket, and this grace.
    """

    def run(grace: str) -> Process:
        return start(
            *("sh", "-c", 'LISTEN_FDS=1 LISTEN_PID=$$ exec "$@"', "sh"),
            *(command("twistd"), "--nodaemon", "--pidfile=", "portlisten"),
            *(f"--grace={grace}", "systemd:domain=INET:index=0", "./stream"),
            inherited=[inherited.fileno()],
        )

    return run


async def leave(leaving: Process) -> list[Deferred[tuple[Any, float]]]:
    """
    Stop a listener when it has accepted a connection, and connect again.

    @return: four clients, of which it has accepted one.
    """
    port = await listening(leaving)
    clients = [client(port)]
    await reports(leaving, "accepted 1,")
    leaving.signal(signal.SIGTERM)
    await leaving.says("received SIGTERM")
    await sleep(0.3)
    clients += [client(port) for _ in range(3)]
    await sleep(0.3)
    return clients


@asynchronous
async def test_inherited(twistd: Start, activated: Callable[[str], Process]) -> None:
    """
    If the service manager holds the socket, a stopped listener leaves its backlog to
    its successor.
    """
    leaving = activated("1")
    accepted, *rest = await leave(leaving)
    assert await leaving.ended() == 0
    await accepted
    assert not any(each.called for each in rest)
    activated("1")
    worker(twistd, "stream")
    assert [answer for answer, _ in await together(rest)] == [HELLO] * 3


@asynchronous
async def test_inheritedWithWorker(
    twistd: Start, activated: Callable[[str], Process]
) -> None:
    """
    If a worker comes within the grace, no client notices at all.
    """
    leaving = activated("15")
    clients = await leave(leaving)
    worker(twistd, "stream")
    assert await leaving.ended() == 0
    activated("15")
    assert [answer for answer, _ in await together(clients)] == [HELLO] * 4
