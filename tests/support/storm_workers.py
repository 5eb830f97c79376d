"""
The workers of a storm: they note each connection that they adopt.
"""

from __future__ import annotations

import logging
import os
import struct
import time
from collections.abc import Callable
from functools import partial
from socket import inet_aton
from typing import Any

# With all that it imports, which would take a worker longer than it has to live.
from twisted.internet import epollreactor
from twisted.internet.protocol import Factory, Protocol
from twisted.python.monkey import MonkeyPatcher

from portlisten._asyncio import connections
from portlisten._asyncio.first_bytes import FirstBytes
from portlisten._worker.datagram import DatagramWorker
from portlisten._worker.worker import Worker
from tests.support import asyncio_worker

#: A connection that was adopted: when, by which process, and its client's address.
RECORD = struct.Struct("!dI4sH")


def note(book: int, address: tuple[str, int]) -> None:
    """
    Note that this process has adopted a connection.
    """
    host, port = address
    record = RECORD.pack(time.monotonic(), os.getpid(), inet_aton(host), port)
    os.write(book, record)


class Answer(Protocol):
    """
    Notes that it adopted a connection, and answers the number on it.
    """

    def __init__(self, book: int) -> None:
        self._book = book
        self._line = b""

    def connectionMade(self) -> None:
        transport: Any = self.transport
        peer = transport.getPeer()
        note(self._book, (peer.host, peer.port))

    def dataReceived(self, data: bytes) -> None:
        self._line += data
        if self._line.endswith(b"\n"):
            transport: Any = self.transport
            transport.write(b"%s %d\n" % (self._line[:-1], os.getpid()))
            transport.loseConnection()


def work(path: str, book: int, wire: str = "stream", **options: Any) -> None:
    """
    Be a worker, in a process that was forked for it, until killed or told to stop.

    @param options: the worker's.
    """
    epollreactor.install()
    from twisted.internet import reactor

    factory = Factory.forProtocol(lambda: Answer(book))
    factory.noisy = False
    make = DatagramWorker if wire == "datagram" else Worker
    worker = make(reactor, path, factory, retry=0.005, **options)
    worker.bind()
    worker.start()
    shutdown = ("before", "shutdown", worker.stop)
    reactor.addSystemEventTrigger(*shutdown)
    reactor.run()


def workInAsyncio(path: str, book: int, loop: str, **options: Any) -> None:
    """
    Do what L{work} does, in asyncio.
    """
    # Workers that are stopped or lose their listener say so.
    logging.disable()
    names = options.pop("names", ())
    description = f"portlisten:{path}:retry=0.005"
    if names:
        description += f":name={','.join(names)}"
    description += "".join(f":{name}={value}" for name, value in options.items())
    adopted: Callable[[Any], None] = partial(note, book)
    if "first" in options:
        adopted = noteEarlier(adopted)
    asyncio_worker.work(description, loop, adopted)


def noteEarlier(note: Callable[[Any], None]) -> Callable[[Any], None]:
    """
    Note adopted connections before their first bytes are read.  The server's protocol
    is made after that, when the worker may have been killed.

    @return: what the server's protocol calls instead.
    """

    class Noted(FirstBytes):
        def connection_made(self, transport: Any) -> None:
            note(transport.get_extra_info("peername"))
            super().connection_made(transport)

    MonkeyPatcher((connections, "FirstBytes", Noted)).patch()
    return lambda peer: None


def forkWorker(path: str, book: int, wire: str, loop: str = "", **options: Any) -> int:
    """
    Fork a worker.

    @param loop: of asyncio or uvloop; empty for Twisted.
    @param options: the worker's.
    @return: its process id.
    """
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            if loop:
                workInAsyncio(path, book, loop, **options)
            else:
                work(path, book, wire, **options)
            status = 0
        finally:
            os._exit(status)
    return pid
