"""
Workers for the tests of faults: C{python -m tests.worker --help}.

Each answers a line with the same line and its process id, as the storm's do.
"""

from __future__ import annotations

import argparse
import os
import resource
import select
import signal
import socket
import struct
import sys
import time
from typing import Any

from twisted.python.monkey import MonkeyPatcher

from portlisten._wire.codec import FROM_LISTENER, Decoder, encode
from portlisten._wire.frames import (
    Claim,
    Closed,
    Leave,
    Offer,
    Serving,
    WorkerHello,
)
from portlisten._worker import worker as _worker
from tests.support.naive import ByOrder
from tests.support.storm_workers import work


def limited(path: str, spare: int, byOrder: bool) -> None:
    """
    Run an honest worker with few descriptors to spare.

    @param byOrder: be the control, which goes by the order of descriptors.
    """
    if byOrder:
        MonkeyPatcher((_worker, "WorkerChannel", ByOrder)).patch()
    if spare:
        from twisted.internet import epollreactor

        used = len(os.listdir("/proc/self/fd"))
        # The reactor's own five, the channel's two, and what is served.
        limit = used + 7 + spare
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
        del epollreactor
    work(path, os.open(os.devnull, os.O_WRONLY))


class Hostile:
    """
    A worker that does harm, on purpose or not.  Each method is one way.  All take a new
    channel, and the path.

    Each method is one way; all take a fresh channel, and the path.
    """

    def linger(self, channel: socket.socket, path: str) -> None:
        """
        Send back a connection that lingers on close, with many unsent bytes.
        """
        left, right = socket.socketpair()
        server = socket.create_server(("127.0.0.1", 0))
        client = socket.create_connection(server.getsockname())
        client.setblocking(False)
        try:
            while True:
                client.send(bytes(65536))
        except BlockingIOError:
            pass
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 20))
        socket.send_fds(channel, [encode(WorkerHello(4))], [client.fileno()])
        client.close()
        del left, right

    def flood(self, channel: socket.socket, path: str) -> None:
        """
        Send the same small frame as often as the channel takes it.
        """
        channel.sendall(encode(WorkerHello(4)))
        # Of what is never on offer.
        noise = encode(Claim((4711,))) * 8000
        while True:
            channel.sendall(noise)

    def serves(self, channel: socket.socket, path: str) -> None:
        """
        Report ever new numbers of connections, as often as the channel takes it.
        """
        channel.sendall(encode(WorkerHello(4, frames=frozenset([Leave.TYPE]))))
        noise = b"".join(encode(Serving(0xFFFFFFFF - each)) for each in range(8000))
        while True:
            channel.sendall(noise)

    def halfFrame(self, channel: socket.socket, path: str) -> None:
        """
        Announce a frame, and never finish it.
        """
        channel.sendall(encode(WorkerHello(4)) + encode(Closed((1,)))[:5])
        time.sleep(1)

    def neverReads(self, channel: socket.socket, path: str) -> None:
        """
        Join, and read nothing.
        """
        channel.sendall(encode(WorkerHello(128)))
        time.sleep(1)

    def claimsAll(self, channel: socket.socket, path: str) -> None:
        """
        Claim other workers' offers.
        """
        channel.sendall(encode(WorkerHello(4)) + encode(Claim(tuple(range(4000)))))
        time.sleep(0.05)

    def connects(self, channel: socket.socket, path: str) -> None:
        """
        Connect a thousand times, and say nothing.
        """
        crowd = []
        for _ in range(1000):
            sock = socket.socket(socket.AF_UNIX)
            sock.setblocking(False)
            crowd.append(sock)
            try:
                sock.connect(path)
            except BlockingIOError:
                break
        time.sleep(1)


def hostile(path: str, way: str) -> None:
    """
    Run a hostile worker, again and again.  Says once that the listener has let it in.
    """
    with socket.socket(socket.AF_UNIX) as channel:
        channel.connect(path)
        select.select([channel], [], [])
    print("let in", flush=True)
    while True:
        with socket.socket(socket.AF_UNIX) as channel:
            try:
                channel.connect(path)
                getattr(Hostile(), way)(channel, path)
            except OSError:
                time.sleep(0.01)


def hold(path: str) -> None:
    """
    Claim every offer, touch nothing, and keep the connections, by hand.  SIGUSR1 makes
    it read six bytes from the oldest; SIGUSR2 makes it end its channel, and live on
    with its connections.

    SIGUSR1 has it read six bytes from the oldest; SIGUSR2 has it end its channel, and
    live on with what it holds.
    """
    channel = socket.socket(socket.AF_UNIX)
    channel.connect(path)
    decoder = Decoder(FROM_LISTENER)
    held: list[int] = []
    left = False

    def touch(*_: object) -> None:
        print("read", os.read(held[0], 6), flush=True)

    def leave(*_: object) -> None:
        nonlocal left
        left = True
        channel.shutdown(socket.SHUT_RDWR)

    signal.signal(signal.SIGUSR1, touch)
    signal.signal(signal.SIGUSR2, leave)
    channel.sendall(encode(WorkerHello(128)))
    while True:
        data, descriptors, _, _ = socket.recv_fds(channel, 65536, 253)
        held.extend(descriptors)
        frames: list[Any] = list(decoder.feed(data))
        ids = [frame.id for frame in frames if isinstance(frame, Offer)]
        if ids:
            channel.sendall(encode(Claim(tuple(ids))))
            print("holds", len(held), flush=True)
        while left:
            signal.pause()
        if not data:
            sys.exit()


def main() -> None:
    """
    Run the worker of the command line.
    """
    ways = [name for name in vars(Hostile) if not name.startswith("_")]
    parser = argparse.ArgumentParser(prog="python -m tests.worker")
    parser.add_argument("path")
    parser.add_argument("--spare", type=int, default=0, help="descriptors to spare")
    parser.add_argument("--by-order", action="store_true", help="the control")
    parser.add_argument("--hold", action="store_true", help="claim, and do nothing")
    parser.add_argument("--hostile", choices=ways)
    arguments = parser.parse_args()
    if arguments.hostile:
        hostile(arguments.path, arguments.hostile)
    elif arguments.hold:
        hold(arguments.path)
    else:
        limited(arguments.path, arguments.spare, arguments.by_order)


if __name__ == "__main__":
    main()
