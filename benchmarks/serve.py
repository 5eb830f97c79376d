"""
The server of every contestant: it speaks one of the protocols below, on an endpoint
or on an inherited socket.

C{python -m benchmarks.serve PROTOCOL DESCRIPTION [COUNT]} runs COUNT processes.  With
C{inherited:PORT} as the description, the processes share one listening socket.  With
C{reuseport:PORT}, each binds a socket of its own.  If one of several processes is
killed by SIGKILL, another is started.  SIGTERM ends the server.  Each process then
prints how many connections it served.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

from twisted.internet import epollreactor
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Factory, Protocol
from zope.interface import implementer

from portlisten._commands.hellofdpass import Hello

STRING = b"hello, world\n"

#: How many bytes are sent in each direction to measure the throughput.
AMOUNT = 2 << 30

BLOCK = bytes(1 << 17)


def burn(seconds: float) -> None:
    """
    Use processor time.
    """
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


class Busy(Hello):
    """
    Computes before it says hello: for 1 ms, and once in twenty times for 20 ms.
    """

    served = 0

    def connectionMade(self) -> None:
        Busy.served += 1
        burn(0.020 if Busy.served % 20 == 0 else 0.001)
        super().connectionMade()


class Kept(Protocol):
    """
    Computes for 1 ms and says hello, at first and for each request, until the client
    closes.
    """

    def connectionMade(self) -> None:
        self.dataReceived(b"")

    def dataReceived(self, data: bytes) -> None:
        transport: Any = self.transport
        burn(0.001)
        transport.write(STRING)


class Short(Protocol):
    """
    Says hello and closes, with as little work as possible.
    """

    def connectionMade(self) -> None:
        transport: Any = self.transport
        transport.write(STRING)
        transport.loseConnection()


class Stay(Protocol):
    """
    Says which process serves, and leaves the rest to the client.
    """

    def connectionMade(self) -> None:
        transport: Any = self.transport
        transport.write(b"pid %d\n" % os.getpid())


class Held(Protocol):
    """
    Says hello, and leaves the rest to the client.
    """

    def connectionMade(self) -> None:
        transport: Any = self.transport
        transport.write(STRING)


@implementer(IPushProducer)
class Bulk(Protocol):
    """
    Sends bytes, or receives them.  The client's first byte says which.  When all bytes
    are received, the protocol confirms.
    """

    def connectionMade(self) -> None:
        self._left = -1
        self._taken = 0

    def dataReceived(self, data: bytes) -> None:
        transport: Any = self.transport
        if self._left < 0:
            self._amount = int(data[1:9], 16)
            self._left = self._amount if data[:1] == b"D" else 0
            data = data[9:]
            if self._left:
                transport.registerProducer(self, True)
                self.resumeProducing()
                return
        self._taken += len(data)
        if not self._left and self._taken >= self._amount > 0:
            transport.write(b"!")
            transport.loseConnection()

    def resumeProducing(self) -> None:
        transport: Any = self.transport
        self._paused = False
        while self._left and not self._paused:
            block = BLOCK[: self._left]
            self._left -= len(block)
            transport.write(block)
        if not self._left:
            transport.unregisterProducer()
            transport.loseConnection()

    def pauseProducing(self) -> None:
        self._paused = True

    def stopProducing(self) -> None:
        self._left = 0


def protocols(reactor: Any) -> dict[str, Callable[[], Protocol]]:
    """
    Return the protocols by their names.
    """
    return {
        "hello": lambda: Hello(reactor, STRING),
        "busy": lambda: Busy(reactor, STRING),
        "kept": Kept,
        "held": Held,
        "short": Short,
        "stay": Stay,
        "bulk": Bulk,
    }


class Counting(Factory):
    """
    Counts.
    """

    noisy = False

    def __init__(self, make: Callable[[], Protocol]) -> None:
        self._make = make
        self.served = 0

    def buildProtocol(self, addr: Any) -> Protocol:
        self.served += 1
        return self._make()


def serve(name: str, where: str | socket.socket) -> None:
    """
    Serve until SIGTERM.
    """
    epollreactor.install()
    from twisted.internet import reactor as _reactor

    reactor: Any = _reactor
    factory = Counting(protocols(reactor)[name])

    def ready(_: object = None) -> None:
        os.write(1, b"ready\n")

    if isinstance(where, str):
        serverFromString(reactor, where).listen(factory).addCallback(ready)
    else:
        reactor.adoptStreamPort(where.fileno(), where.family, factory)
        where.close()
        reactor.callWhenRunning(ready)
    reactor.run()
    os.write(1, b"served %d\n" % factory.served)


def bind(port: int, reuse: bool) -> socket.socket:
    """
    Bind a port, with a backlog as long as a listener's.
    """
    sock = socket.create_server(("127.0.0.1", port), backlog=16384, reuse_port=reuse)
    sock.setblocking(False)
    return sock


def fork(count: int, run: Callable[[], None]) -> None:
    """
    Run a function in COUNT processes, and end when they have ended.  In the place of a
    process that SIGKILL ends, start another.
    """
    children: set[int] = set()
    ending = False

    def start() -> None:
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            run()
            os._exit(0)
        children.add(pid)

    def end(*_: Any) -> None:
        nonlocal ending
        ending = True
        for child in children:
            os.kill(child, signal.SIGTERM)

    for _ in range(count):
        start()
    signal.signal(signal.SIGTERM, end)
    while children:
        pid, status = os.wait()
        children.remove(pid)
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        if killed and not ending:
            start()


def main() -> None:
    """
    Serve as the command line says.
    """
    if not 3 <= len(sys.argv) <= 4:
        raise SystemExit(__doc__)
    name, where, *more = sys.argv[1:]
    count = int(more[0]) if more else 1
    kind, _, rest = where.partition(":")
    if kind == "inherited":
        sock = bind(int(rest), False)
        fork(count, lambda: serve(name, sock))
    elif kind == "reuseport":
        fork(count, lambda: serve(name, bind(int(rest), True)))
    elif count > 1:
        fork(count, lambda: serve(name, where))
    else:
        serve(name, where)


if __name__ == "__main__":
    main()
