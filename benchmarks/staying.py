"""
The question "they stay": how evenly connections that stay spread over workers.
"""

from __future__ import annotations

import os
import re
import selectors
import signal
import socket
import time
from collections import Counter

from benchmarks.bench import Bench, Figures
from benchmarks.contestants import Contestant, present
from benchmarks.foreign import UVICORNS, cluster
from benchmarks.running import Running

#: How many connections arrive, and how many more after a worker was replaced.
FIRST, MORE = 400, 100

#: How many arrive in a second.
A_SECOND = 200

#: How many workers there are.
WORKERS = 4

#: How long after the replacement the connections are counted again, in seconds.
LATER_SECONDS = 10.0

#: How long a new worker may take to start, in seconds.
START_SECONDS = 3.0

#: How long a client waits for its answer, in seconds.
PATIENCE_SECONDS = 20.0


class Clients:
    """
    Clients that arrive one by one, and stay.  Each hears which process serves it.

    @ivar lost: how many clients got no answer.
    """

    def __init__(self, port: int, request: bytes) -> None:
        self._port = port
        self._request = request
        self._selector = selectors.DefaultSelector()
        #: The process of each living connection: 0 until it has answered.
        self._servers: dict[socket.socket, int] = {}
        self.lost = 0

    def arrive(self, count: int) -> None:
        """
        Connect so many clients, evenly in time, and wait until all are answered.
        """
        began = time.monotonic()
        for number in range(count):
            self._hear(began + number / A_SECOND)
            client = socket.create_connection(("127.0.0.1", self._port), 5)
            client.sendall(self._request)
            client.setblocking(False)
            self._servers[client] = 0
            self._selector.register(client, selectors.EVENT_READ)
        until = time.monotonic() + PATIENCE_SECONDS
        while 0 in self._servers.values() and time.monotonic() < until:
            self._hear(time.monotonic() + 0.05)

    def stay(self, seconds: float) -> None:
        """
        Stay, and notice which connections end.
        """
        self._hear(time.monotonic() + seconds)

    def _hear(self, until: float) -> None:
        while (left := until - time.monotonic()) > 0:
            for key, _ in self._selector.select(left):
                client = key.fileobj
                assert isinstance(client, socket.socket)
                try:
                    data = client.recv(4096)
                except ConnectionError:
                    data = b""
                if not data:
                    self._end(client)
                elif found := re.search(rb"pid (\d+)\n", data):
                    self._servers[client] = int(found[1])

    def _end(self, client: socket.socket) -> None:
        self._selector.unregister(client)
        self.lost += not self._servers.pop(client)
        client.close()

    def alive(self) -> dict[int, int]:
        """
        Return how many living connections each process has.
        """
        return Counter(pid for pid in self._servers.values() if pid)

    def close(self) -> None:
        """
        Close all.
        """
        for client in list(self._servers):
            self._end(client)
        self._selector.close()


def counts(alive: dict[int, int]) -> list[int]:
    """
    Return how many connections each worker has, the most first.  A worker that no
    client has met counts, with none.
    """
    found = sorted(alive.values(), reverse=True)
    return found + [0] * (WORKERS - len(found))


def measure(bench: Bench, each: Contestant, running: Running) -> Figures:
    """
    Let clients arrive; replace a worker; let more arrive; and count.

    The worker that served the first client is killed by SIGKILL, so its connections
    end, whatever a server does with a signal that asks.  Whoever started it starts
    another.  The next clients arrive 3 seconds later, when that one has started.

    @raise RuntimeError: if a client got no answer.
    """
    scale = min(1.0, bench.scale)
    wait = max(START_SECONDS, LATER_SECONDS * scale)
    clients = Clients(running.port, each.stayRequest.encode())
    began, used = time.monotonic(), time.process_time()
    try:
        clients.arrive(max(20, int(FIRST * scale)))
        first = clients.alive()
        os.kill(next(iter(first)), signal.SIGKILL)
        replaced = time.monotonic()
        clients.stay(START_SECONDS)
        clients.arrive(max(5, int(MORE * scale)))
        clients.stay(replaced + wait - time.monotonic())
        later = clients.alive()
        if clients.lost:
            raise RuntimeError(f"{each.name}: {clients.lost} clients got no answer")
    finally:
        clients.close()
    passed = (time.monotonic() - began) * (os.cpu_count() or 1)
    return {
        "first": counts(first),
        "later": counts(later),
        "taken": (time.process_time() - used) / passed,
    }


def stay(bench: Bench) -> Figures:
    """
    How many living connections the workers have, the most and the fewest, when clients
    have arrived; and after one of the workers was replaced.
    """
    names = ["inherited x4", "reuseport x4", "listen x4", "share x4"]
    names += ["unbalanced x4", "groups x4"]
    several = [each for each in UVICORNS if each.name.endswith("x4")]
    contestants = [*bench.chosen(names), *cluster(WORKERS), *several]
    return bench.interleave(
        "stay",
        present(contestants),
        {"": lambda each, running: measure(bench, each, running)},
    )[0][""]
