"""
Many clients with plain sockets, in threads.  They get the kernel's own errors.
"""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from tests.support.processes import PATIENCE


def read(client: socket.socket) -> bytes:
    """
    Read to the end, or to a reset.  Bytes that came before the reset count.
    """
    heard = []
    try:
        while data := client.recv(65536):
            heard.append(data)
    except ConnectionResetError:
        pass
    return b"".join(heard)


def connect(port: int) -> socket.socket:
    """
    Connect.
    """
    return socket.create_connection(("127.0.0.1", port), PATIENCE)


def listen(port: int) -> bytes:
    """
    Run a client that waits for the answer.
    """
    with connect(port) as client:
        return read(client)


def sendFirst(port: int) -> bytes:
    """
    Run a client that sends bytes first.
    """
    with connect(port) as client:
        client.sendall(b"hello there\n")
        return read(client)


def leave(port: int) -> bytes:
    """
    Run a client that connects and leaves.
    """
    connect(port).close()
    return b""


def crowd(
    client: Callable[[int], bytes], port: int, count: int, atOnce: int = 16
) -> Counter[bytes]:
    """
    Run many clients.

    @return: the answers.
    """
    with ThreadPoolExecutor(atOnce) as pool:
        return Counter(pool.map(client, [port] * count))


def ask(
    port: int,
    patience: float = PATIENCE,
    host: str = "127.0.0.1",
    send: bytes = b"",
    protocol: int = 0,
) -> bytes | None:
    """
    Run a client: connect, perhaps send bytes, and read to the end.

    @param protocol: the number of a protocol of streams; 0 for TCP.
    @return: the answer, or L{None} if it was reset or took too long.
    """
    answer = b""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM, protocol) as client:
            client.settimeout(patience)
            client.connect((host, port))
            client.sendall(send)
            while data := client.recv(4096):
                answer += data
    except OSError:
        return None
    return answer


_R = TypeVar("_R", bound="Repeated")


class Repeated:
    """
    Something that is done in threads again and again, from C{with} to its end.

    @param atOnce: how many threads there are.
    """

    def __init__(self, atOnce: int) -> None:
        self._go = True
        self._threads = [
            threading.Thread(target=self._repeat, daemon=True) for _ in range(atOnce)
        ]

    def _repeat(self) -> None:
        while self._go:
            self.once()

    def once(self) -> None:
        """
        Do it once.  Subclasses implement this.
        """
        raise NotImplementedError

    def __enter__(self: _R) -> _R:
        for each in self._threads:
            each.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._go = False
        for each in self._threads:
            each.join()


class Crowd(Repeated):
    """
    Clients in threads, one after the other in each, from C{with} to its end.

    @ivar answers: how often each answer came.
    @ivar times: how long each client took, in seconds.
    """

    def __init__(
        self,
        port: int,
        atOnce: int,
        patience: float = PATIENCE,
        pause: float = 0.0,
        send: Callable[[], bytes] = bytes,
        protocol: int = 0,
    ) -> None:
        super().__init__(atOnce)
        self.answers: Counter[bytes | None] = Counter()
        self.times: list[float] = []
        self._arguments = (port, patience)
        self._pause = pause
        self._send = send
        self._protocol = protocol

    def once(self) -> None:
        """
        Run one client.
        """
        port, patience = self._arguments
        began = time.monotonic()
        answer = ask(port, patience, send=self._send(), protocol=self._protocol)
        self.answers[answer] += 1
        self.times.append(time.monotonic() - began)
        time.sleep(self._pause)

    def quantile(self, share: float) -> float:
        """
        Return the time within which a share of the clients had answers, in seconds.
        """
        times = sorted(self.times)
        return times[min(len(times) - 1, int(share * len(times)))] if times else 0.0
