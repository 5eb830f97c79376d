"""
One source that wants many connections, in a process of its own:
C{python -m tests.support.flood PORT COUNT SOURCE}.

It opens COUNT connections from the address SOURCE as fast as it can, and sends a
request on each.  When a connection ends, it opens another a second or two later.  So
COUNT clients of that source try again and again.  With C{--drip}, each connection sends
the beginning of a request and then a header every second, for ever: a slow loris.
Otherwise, C{--path} is what it asks for.

It prints C{opened} when it has tried COUNT connections for the first time.  At SIGTERM,
it closes all of them, and prints what became of them as JSON: how many it has tried,
and how many were answered, reset, closed without an answer, or refused.
"""

from __future__ import annotations

import argparse
import errno
import heapq
import json
import random
import resource
import select
import signal
import socket
import time
from collections import Counter
from typing import Any

BEGINNING = b"GET / HTTP/1.1\r\nHost: here\r\n"
HEADER = b"X-More: more\r\n"

#: The time between headers, and the shortest time before the next connection in the
#: place of one that has ended, in seconds.  The longest is twice as long.
PAUSE = 1.0

#: From Linux's C{include/uapi/linux/in.h}.  The port is then chosen for the pair of
#: addresses, so that a source has one port for each destination.
IP_BIND_ADDRESS_NO_PORT = 24


class Flood:
    """
    The connections.

    @param port: the server's.
    @param source: the address to connect from.
    @param request: what each connection sends.
    @param drip: whether the request never ends.
    @ivar counts: what became of the connections.
    """

    def __init__(self, port: int, source: str, request: bytes, drip: bool) -> None:
        self._port = port
        self._source = source
        self._request = request
        self._drip = drip
        self._poll = select.epoll()
        self._open: dict[int, tuple[socket.socket, bytearray]] = {}
        self._asked: set[int] = set()
        # When to do what next: a descriptor wants a header, or -1 for a connection.
        self._due: list[tuple[float, int]] = []
        self._ended = False
        self.counts: Counter[str] = Counter()

    def end(self, *_: Any) -> None:
        """
        Let L{run} return.
        """
        self._ended = True

    def run(self, count: int) -> None:
        """
        Open so many connections, and replace them as they end.
        """
        for number in range(count):
            self._connect()
            # The kernel completes handshakes by itself.
            if number % 100 == 99:
                self._turn(0)
        print("opened", flush=True)
        while not self._ended:
            self._turn(0.05)
        for sock, _ in self._open.values():
            sock.close()
        print(json.dumps(self.counts), flush=True)

    def _connect(self) -> None:
        sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
        sock.bind((self._source, 0))
        self.counts["tried"] += 1
        code = sock.connect_ex(("127.0.0.1", self._port))
        if code not in (0, errno.EINPROGRESS):
            sock.close()
            self._later("refused")
            return
        self._open[sock.fileno()] = sock, bytearray()
        self._poll.register(sock, select.EPOLLIN | select.EPOLLOUT)

    def _later(self, what: str) -> None:
        self.counts[what] += 1
        due = time.monotonic() + random.uniform(PAUSE, 2 * PAUSE)
        heapq.heappush(self._due, (due, -1))

    def _turn(self, seconds: float) -> None:
        for number, _ in self._poll.poll(seconds, 1000):
            self._handle(number)
        now = time.monotonic()
        while self._due and self._due[0][0] < now:
            _, number = heapq.heappop(self._due)
            if number < 0:
                self._connect()
            elif number in self._open:
                self._send(number, HEADER)

    def _handle(self, number: int) -> None:
        sock, heard = self._open[number]
        if number not in self._asked:
            self._asked.add(number)
            self._poll.modify(number, select.EPOLLIN)
            self._send(number, self._request)
            return
        try:
            data = sock.recv(4096)
        except ConnectionResetError:
            self._finish(number, "reset")
            return
        except BlockingIOError:
            return
        heard += data
        if not data:
            self._finish(number, "answered" if heard else "closed")

    def _send(self, number: int, data: bytes) -> None:
        try:
            self._open[number][0].send(data)
        except OSError:
            self._finish(number, "reset")
            return
        if self._drip:
            heapq.heappush(self._due, (time.monotonic() + PAUSE, number))

    def _finish(self, number: int, what: str) -> None:
        sock, _ = self._open.pop(number)
        self._asked.discard(number)
        sock.close()
        self._later(what)


def main() -> None:
    """
    Run the flood of the command line.
    """
    parser = argparse.ArgumentParser(prog="python -m tests.support.flood")
    parser.add_argument("port", type=int)
    parser.add_argument("count", type=int)
    parser.add_argument("source")
    parser.add_argument("--path", default="/slow")
    parser.add_argument("--drip", action="store_true")
    arguments = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    request = f"GET {arguments.path} HTTP/1.0\r\n\r\n".encode()
    if arguments.drip:
        request = BEGINNING
    flood = Flood(arguments.port, arguments.source, request, arguments.drip)
    signal.signal(signal.SIGTERM, flood.end)
    flood.run(arguments.count)


if __name__ == "__main__":
    main()
