"""
Workers that block, with a real listener: servers of the standard library, and what goes
wrong.
"""

from __future__ import annotations

import signal
import socket
import time

import pytest

from tests.support.blocking_pair import Pair, answer, processes
from tests.support.processes import PATIENCE, Processes
from tests.support.programs import needs

#: What a listener reports when a worker has claimed its first connection.
SERVED = " 0 connections waiting, 0 offered.* accepted 1, "

__all__ = ["processes"]

#: A program that gives the socket to an event loop, where it does not belong.
IN_A_LOOP = """
import asyncio, logging, sys
from portlisten.blocking import ListeningSocket

logging.basicConfig(level=logging.INFO, format="%(message)s")


class Hello(asyncio.Protocol):
    def connection_made(self, transport):
        transport.write(b"HTTP/1.0 200 OK\\r\\n\\r\\nhello\\n")
        transport.close()


async def main():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Hello, sock=ListeningSocket(sys.argv[1]))
    print("serves", type(loop).__module__, flush=True)
    await server.serve_forever()


if sys.argv[2] == "uvloop":
    import uvloop

    uvloop.run(main())
else:
    asyncio.run(main())
"""


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("kind", ["one", "threads", "forks"])
def test_serves(processes: Processes, kind: str, tls: bool) -> None:
    """
    Each kind of server answers, leaves no descriptor open, and stops in good order.
    """
    pair = Pair(processes)
    if tls:
        pair.secure()
    worker = pair.worker(kind)
    before = worker.descriptors()
    with pair.requests(atMost=60, threads=3) as clients:
        clients.join()
    assert (clients.right, clients.wrong) == (60, [])
    deadline = time.monotonic() + PATIENCE
    while worker.descriptors() > before:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert worker.stop() == 0
    pair.listener.says("worker 1 .* left")
    assert "Traceback" not in worker.output


def test_oneAtATime(processes: Processes) -> None:
    """
    Of two workers with one thread each, one is busy for long and one for short.  More
    clients are answered as soon as the second worker is free, and no worker counts as
    hung.
    """
    pair = Pair(processes)
    for _ in range(2):
        pair.worker()
    long, short = pair.ask("/sleep/6"), pair.ask("/sleep/0.5")
    time.sleep(0.2)
    more = [pair.ask(f"/{number}") for number in (3, 4)]
    assert [answer(each) for each in more] == ["hello 3\n", "hello 4\n"]
    assert long.poll() is None
    assert answer(short) == "hello 0.5\n"
    assert answer(long) == "hello 6\n"
    assert "revoked" not in pair.listener.output


def test_olderListener(processes: Processes) -> None:
    """
    The same with a listener that does not know limits.
    """
    pair = Pair(processes, before=True)
    for _ in range(2):
        pair.worker()
    long, short = pair.ask("/sleep/6"), pair.ask("/sleep/0.5")
    time.sleep(0.2)
    more = [pair.ask(f"/{number}") for number in (3, 4)]
    assert [answer(each) for each in more] == ["hello 3\n", "hello 4\n"]
    assert long.poll() is None
    assert answer(short) == "hello 0.5\n"
    assert answer(long) == "hello 6\n"
    with pair.requests(atMost=100) as clients:
        clients.join()
    assert (clients.right, clients.wrong) == (100, [])
    assert "revoked" not in pair.listener.output


@pytest.mark.parametrize("how", ["stopped", "killed", "closed", "dies"])
def test_unclaimed(processes: Processes, how: str) -> None:
    """
    Offers that a worker has not claimed when it stands still, is killed, closes its
    socket or dies of SIGTERM go to others.
    """
    pair = Pair(processes, "--claim-timeout=1")
    handler = "" if how == "closed" else "OPTIONS=signal=default"
    first = pair.worker("one", ":limit=8", handler)
    busy = pair.ask("/sleep/4")
    pair.reports(SERVED)
    waiting = [pair.ask(f"/{number}") for number in range(5)]
    pair.reports(" accepted 6, ")
    if how == "stopped":
        first.signal(signal.SIGSTOP)
    elif how == "killed":
        first.kill()
    elif how in ("closed", "dies"):
        first.signal(signal.SIGTERM)
    second = pair.worker("threads")
    assert [answer(each) for each in waiting] == [f"hello {n}\n" for n in range(5)]
    if how in ("stopped", "closed"):
        first.signal(signal.SIGCONT)
        assert answer(busy) == "hello 4\n"
    else:
        assert "curl: (52)" in answer(busy)
    assert second.stop() == 0


def test_hung(processes: Processes) -> None:
    """
    A server that calls C{accept} too seldom for the offers that it has is revoked.  It
    joins again when it calls C{accept}, and serves.
    """
    pair = Pair(processes, "--claim-timeout=1")
    worker = pair.worker("one", ":limit=8")
    busy = pair.ask("/sleep/6")
    pair.reports(SERVED)
    waiting = [pair.ask(f"/{number}") for number in range(3)]
    pair.listener.says("worker 1 .* hangs, and is revoked")
    time.sleep(0.5)
    assert "worker 2" not in pair.listener.output
    assert answer(busy) == "hello 6\n"
    assert [answer(each) for each in waiting] == [f"hello {n}\n" for n in range(3)]
    pair.listener.says("worker 2 .* joined")
    assert "nothing calls accept()" not in worker.output


def test_uvloop(processes: Processes) -> None:
    """
    uvloop does not call C{accept} of a socket that it is given.  It seems to serve, and
    never does.  A line of the log says so at once, and the worker leaves, so that
    others get the connections.
    """
    needs("uvloop", "uvloop")
    pair = Pair(processes)
    program = processes.folder / "loop.py"
    program.write_text(IN_A_LOOP)
    worker = processes.python(str(program), f"portlisten:{pair.path}", "uvloop")
    client = pair.ask()
    try:
        worker.says("in an event loop, use portlisten.asyncio.create_server")
        pair.listener.says("worker 1 .* left")
    finally:
        client.kill()
        client.communicate()


def test_asyncio(processes: Processes) -> None:
    """
    asyncio's own loop calls C{accept}, and serves.
    """
    pair = Pair(processes)
    program = processes.folder / "loop.py"
    program.write_text(IN_A_LOOP)
    worker = processes.python(str(program), f"portlisten:{pair.path}", "asyncio")
    for _ in range(20):
        assert answer(pair.ask()) == "hello\n"
    assert "Traceback" not in worker.output


def test_listenerDies(processes: Processes) -> None:
    """
    When the listener is killed, its offers are served, and so is what is in service.
    The worker finds the next listener.
    """
    pair = Pair(processes)
    worker = pair.worker("one", ":limit=8")
    clients = [pair.ask("/sleep/3")]
    pair.reports(SERVED)
    clients += [pair.ask(f"/{number}") for number in range(4)]
    pair.reports(" 0 connections waiting,.* accepted 5, ")
    pair.listener.kill()
    pair.listen()
    assert [answer(each) for each in clients] == [
        "hello 3\n",
        *(f"hello {number}\n" for number in range(4)),
    ]
    assert answer(pair.ask("/next")) == "hello next\n"
    assert worker.stop() == 0


def test_drain(processes: Processes) -> None:
    """
    A worker that is drained gets no connections, serves what it has, and may be let
    serve again.
    """
    pair = Pair(processes)
    first = pair.worker("threads", ":label=first")
    slow = pair.ask("/sleep/1")
    time.sleep(0.3)
    second = pair.worker("threads")
    assert pair.drain("first") == 0
    assert answer(slow) == "hello 1\n"
    for _ in range(5):
        assert answer(pair.ask("/who")).endswith(f" {second.pid}\n")
    assert pair.drain("first", word="undrain") == 0
    first.says("(?s)joined the listener.*joined the listener")
    assert second.stop() == 0
    assert answer(pair.ask("/who")).endswith(f" {first.pid}\n")
    assert first.stop() == 0


@pytest.mark.parametrize("handler", [True, False], ids=["handler", "none"])
def test_terminated(processes: Processes, handler: bool) -> None:
    """
    With a handler of SIGTERM, the request in hand is answered, and the worker says BYE.
    Without one, the request is lost, as with any server.
    """
    pair = Pair(processes)
    worker = pair.worker("one", "", "" if handler else "OPTIONS=signal=default")
    slow = pair.ask("/sleep/3")
    pair.reports(SERVED)
    code = worker.stop()
    if handler:
        assert code == 0
        assert answer(slow) == "hello 3\n"
        pair.listener.says("worker 1 .* left, .* the worker stops")
    else:
        assert code == -signal.SIGTERM
        assert "curl: (52)" in answer(slow)
        pair.listener.says("worker 1 .* died")


@pytest.mark.parametrize("path", ["fork", "multiprocessing", "run"])
def test_forkDuringRequest(processes: Processes, path: str) -> None:
    """
    A process that a request makes cuts no client off, and does not hide the end of the
    worker.
    """
    pair = Pair(processes)
    worker = pair.worker("threads", "", "OPTIONS=signal=default")
    for number in range(3):
        assert answer(pair.ask(f"/{path}/{number}")) == f"hello {number}\n"
    with pair.requests(atMost=50) as clients:
        clients.join()
    assert (clients.right, clients.wrong) == (50, [])
    worker.kill()
    pair.listener.says("worker 1 .* died", patience=1.5)


def test_handshakes(processes: Processes) -> None:
    """
    After many handshakes that failed, a worker with one thread still serves.
    """
    pair = Pair(processes)
    pair.secure()
    worker = pair.worker()
    for number in range(60):
        with socket.create_connection(("127.0.0.1", pair.port)) as client:
            client.sendall([b"GET / HTTP/1.0\r\n\r\n", b"\x16\x03\x01"][number % 2])
    with pair.requests(atMost=20, threads=2) as clients:
        clients.join()
    assert (clients.right, clients.wrong) == (20, [])
    assert worker.running


@pytest.mark.parametrize("kind", ["one", "threads"])
def test_share(processes: Processes, kind: str) -> None:
    """
    On a shared port, two workers accept from one socket.  When one is replaced, none is
    lost that waits in the backlog.
    """
    pair = Pair(processes, share=True)
    workers = [pair.worker(kind) for _ in range(2)]
    with pair.requests() as clients:
        for _ in range(3):
            clients.reach(50)
            new = pair.worker(kind)
            assert workers.pop(0).stop() == 0
            workers.append(new)
    assert clients.wrong == []
    assert clients.right >= 150


def test_usage(processes: Processes) -> None:
    """
    A description that cannot work is one line, and no traceback.
    """
    process = processes.python(
        "-c",
        "from portlisten.blocking import ListeningSocket;"
        "ListeningSocket('portlisten:/run/x.sock:limit=none')",
    )
    process.says("limit")
    while process.running:
        time.sleep(0.02)
    assert "Traceback" not in process.output
    assert len(process.output.splitlines()) == 1
