"""
A worker with a limit, whose clients speak first, made by hand:
C{python -m tests.support.limited PATH --limit 8 --first 2000}.

It claims each offer at once, and answers a line with the same line and its process id.
It prints C{silent} for each connection that it gets before its client has spoken.  If
it gets more connections than its limit, it says so, and ends.
"""

from __future__ import annotations

import argparse
import os
import select
import selectors
import socket
import sys
from typing import Any

from portlisten import _kernel
from portlisten._wire.codec import FROM_LISTENER, Decoder, encode
from portlisten._wire.frames import Claim, Closed, Frame, Offer, WorkerHello


class Worker:
    """
    The worker.

    @param path: the channel's.
    @param hello: its first frame, which has the limit.
    """

    def __init__(self, path: str, hello: WorkerHello) -> None:
        self._limit = hello.limit or sys.maxsize
        self._channel = socket.socket(socket.AF_UNIX)
        self._channel.connect(path)
        self._decoder = Decoder(FROM_LISTENER)
        self._loose: dict[int, socket.socket] = {}
        self._serving: dict[int, socket.socket] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._channel, selectors.EVENT_READ)
        self._say(hello)

    def _say(self, *frames: Frame) -> None:
        self._channel.sendall(b"".join(map(encode, frames)))

    def run(self) -> None:
        """
        Serve until the listener has ended, and all connections have.
        """
        listening = True
        while listening or self._serving:
            for key, _ in self._selector.select():
                if key.fileobj is not self._channel:
                    self._serve(key.data)
                elif not self._readChannel():
                    self._selector.unregister(self._channel)
                    listening = False

    def _readChannel(self) -> bool:
        data, descriptors, _, _ = socket.recv_fds(self._channel, 65536, 253)
        for each in descriptors:
            sock = socket.socket(fileno=each)
            self._loose[_kernel.cookie(sock)] = sock
        frames: list[Any] = list(self._decoder.feed(data))
        offers = [frame for frame in frames if isinstance(frame, Offer)]
        if offers:
            self._claim(offers)
        return bool(data)

    def _claim(self, offers: list[Offer]) -> None:
        for offer in offers:
            sock = self._serving[offer.id] = self._loose.pop(offer.cookie)
            if not select.select([sock], [], [], 0)[0]:
                print("silent", flush=True)
        if len(self._serving) > self._limit:
            sys.exit(f"more than {self._limit} connections")
        self._say(Claim(tuple(offer.id for offer in offers)))
        for offer in offers:
            sock = self._serving[offer.id]
            self._selector.register(sock, selectors.EVENT_READ, offer.id)

    def _serve(self, id: int) -> None:
        sock = self._serving.pop(id)
        self._selector.unregister(sock)
        with sock:
            try:
                line = sock.recv(1000)
                if line:
                    sock.sendall(b"%s %d\n" % (line.strip(), os.getpid()))
            except OSError:
                pass  # the client has left
        try:
            self._say(Closed((id,)))
        except OSError:
            pass  # the listener has ended


def main() -> None:
    """
    Run the worker of the command line.
    """
    parser = argparse.ArgumentParser(prog="python -m tests.support.limited")
    parser.add_argument("path")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--first", type=int, help="milliseconds")
    parser.add_argument("--name", action="append", default=[])
    parser.add_argument("--window", type=int, default=32)
    arguments = parser.parse_args()
    hello = WorkerHello(
        arguments.window,
        tuple(arguments.name),
        limit=arguments.limit,
        first=arguments.first,
    )
    Worker(arguments.path, hello).run()


if __name__ == "__main__":
    main()
