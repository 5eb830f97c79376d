"""
Workers that share a socket have equally many connections, whoever of them hangs, lies
or is replaced.
"""

from __future__ import annotations

import signal
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.support.processes import PATIENCE, Process, Processes
from tests.support.programs import command

PORT = "tcp:0:interface=127.0.0.1"
LOOPS = ["twisted", "asyncio"]

#: How many clients come in a second.
RATE = 200


class Clients:
    """
    Clients that come, are told by whom they are served, and stay.
    """

    def __init__(self, address: int | str) -> None:
        self._address = address
        self._stack = ExitStack()
        self.sockets: list[tuple[socket.socket, int]] = []
        self.times: list[float] = []

    def come(self, count: int) -> None:
        """
        Let so many come.
        """
        due = time.monotonic()
        for _ in range(count):
            began = time.monotonic()
            if isinstance(self._address, str):
                sock = socket.socket(socket.AF_UNIX)
                sock.settimeout(PATIENCE)
                sock.connect(self._address)
            else:
                sock = socket.create_connection(("127.0.0.1", self._address), PATIENCE)
            self._stack.callback(sock.close)
            self.sockets.append((sock, int(sock.recv(20))))
            self.times.append(time.monotonic() - began)
            due += 1 / RATE
            time.sleep(max(0, due - time.monotonic()))

    def counts(self, workers: list[Process]) -> list[int]:
        """
        How many connections each of these workers has.
        """
        counted = Counter(pid for _, pid in self.sockets)
        return [counted[each.pid] for each in workers]

    def close(self) -> None:
        """
        Let all leave.
        """
        self._stack.close()


@contextmanager
def coming(address: int | str) -> Iterator[Clients]:
    """
    Let clients come.
    """
    clients = Clients(address)
    try:
        yield clients
    finally:
        clients.close()


def start(
    processes: Processes, loop: str, count: int = 1, options: str = ""
) -> list[Process]:
    """
    Start workers, and wait until they have joined.
    """
    description = f"portlisten:./socket:grace=0{options}"
    workers = [
        processes.python("-m", "tests.support.staying_worker", loop, description)
        for _ in range(count)
    ]
    for each in workers:
        each.says("joined the listener")
    return workers


def listen(processes: Processes, port: str = PORT, *more: str) -> Process:
    """
    Start a listener that shares.
    """
    return processes.twistd("portlisten", *more, f"--share={port}", "./socket")


@pytest.mark.parametrize("loop", LOOPS)
def test_stay(processes: Processes, loop: str) -> None:
    """
    Connections that stay spread evenly.  When a worker was killed, its successor gets
    what comes, until it has as many as the others.
    """
    port = listen(processes).port()
    workers = start(processes, loop, 4)
    with coming(port) as clients:
        clients.come(200)
        counts = clients.counts(workers)
        assert max(counts) <= 1.1 * min(counts), counts
        workers[0].kill()
        (workers[0],) = start(processes, loop)
        clients.come(50)
        counts = clients.counts(workers)
        assert max(counts) <= 1.2 * min(counts), counts


def test_unbalanced(processes: Processes) -> None:
    """
    With C{balance=no}, they pile up in some workers.
    """
    port = listen(processes, f"{PORT}:balance=no").port()
    workers = start(processes, "twisted", 4)
    with coming(port) as clients:
        clients.come(200)
        counts = clients.counts(workers)
        assert max(counts) > 1.2 * min(counts), counts


def test_mixed(processes: Processes) -> None:
    """
    Workers of Twisted and of asyncio share a Unix socket evenly.
    """
    place = f"{processes.folder}/port"
    listener = listen(processes, f"unix:{place}")
    listener.says("listening on")
    workers = [*start(processes, "twisted", 2), *start(processes, "asyncio", 2)]
    with coming(place) as clients:
        clients.come(200)
        counts = clients.counts(workers)
        assert max(counts) <= 1.1 * min(counts), counts


@pytest.mark.parametrize("loop", LOOPS)
def test_stopped(processes: Processes, loop: str) -> None:
    """
    While a worker is stopped, its clients go to the others, evenly and soon.
    """
    port = listen(processes).port()
    workers = start(processes, loop, 4)
    with coming(port) as clients:
        clients.come(40)
        workers[1].signal(signal.SIGSTOP)
        clients.come(120)
        workers[1].signal(signal.SIGCONT)
        counts = clients.counts(workers)
        own = counts.pop(1)
        assert own <= 12, (own, counts)
        assert max(counts) <= 1.1 * min(counts), counts


def test_hostile(processes: Processes) -> None:
    """
    A worker that writes noise over everything harms nobody: it can neither truncate the
    memory nor write what the listener writes there, and all clients are served.
    """
    port = listen(processes).port()
    workers = start(processes, "twisted", 3)
    with coming(port) as clients:
        clients.come(60)
        hostile = processes.python("-m", "tests.support.noisy_worker", "./socket")
        hostile.says("writing noise")
        clients.come(200)
        assert sum(clients.counts(workers)) == 260
        said = dict(each.split(": ") for each in hostile.output.splitlines()[:-1])
        assert set(said.values()) == {"Operation not permitted"}, said
        assert len(said) == 7
        # It has taken a second core, and so the clients have waited for that as well.
        assert sorted(clients.times)[len(clients.times) // 2] < 0.1
        hostile.kill()
        clients.come(60)
        assert sum(clients.counts(workers)) == 320


def test_limit(processes: Processes) -> None:
    """
    No worker has more than its limit, and nobody waits for one that has no room.
    """
    port = listen(processes).port()
    full = start(processes, "twisted", 1, ":limit=5")
    free = start(processes, "asyncio", 1)
    with coming(port) as clients:
        clients.come(60)
        assert clients.counts([*full, *free]) == [5, 55]


def test_others(processes: Processes) -> None:
    """
    A program that knows nothing of this accepts as well, and nobody waits for it.
    """
    port = listen(processes).port()
    workers = start(processes, "twisted", 2)
    program = (
        "import os, socket, time\n"
        "port = socket.socket(fileno=3)\n"
        "port.setblocking(True)\n"
        "kept = []\n"
        "print('accepts', flush=True)\n"
        "while True:\n"
        "    try:\n"
        "        kept.append(port.accept()[0])\n"
        "    except BlockingIOError:\n"
        "        time.sleep(0.001)\n"
        "    else:\n"
        "        kept[-1].sendall(b'%d\\n' % os.getpid())\n"
    )
    other = processes.start(
        *(command("portlisten"), "exec", "./socket", "--", "python3", "-c", program)
    )
    other.says("accepts")
    with coming(port) as clients:
        clients.come(100)
        first, second, third = clients.counts([*workers, other])
        assert first + second + third == 100
        assert abs(first - second) <= 3, (first, second)


def test_replaced(processes: Processes) -> None:
    """
    The next listener has memory of its own, and the workers go on evenly.  Nothing of
    the first one's is left.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        number = free.getsockname()[1]
    first = listen(processes, f"tcp:{number}:interface=127.0.0.1")
    assert first.port() == number
    workers = start(processes, "twisted", 2)
    with coming(number) as clients:
        clients.come(40)
        second = listen(processes, f"tcp:{number}:interface=127.0.0.1", "--replace")
        second.says("worker .*joined(?s:.*)worker .*joined")
        assert first.wait() == 0, first.output
        clients.come(60)
        counts = clients.counts(workers)
        assert abs(counts[0] - counts[1]) <= 5, counts
        for each in workers:
            maps = Path(f"/proc/{each.pid}/maps").read_text()
            assert maps.count("memfd:portlisten-loads") == 1, maps
