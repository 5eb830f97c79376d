"""
Workers for C{python -m tests.kills}: they note each connection that they adopt.

C{python -m tests.support.noting_worker stream BOOK DESCRIPTION} serves connections:
it reads a number, and answers it with its process's number a moment later.
C{python -m tests.support.noting_worker datagram}, under C{portlisten exec}, answers
each datagram.  Both add the word in the environment's C{GENERATION}.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import time
from contextlib import suppress
from typing import Any

#: How long a request takes, in seconds.
SERVICE_SECONDS = 0.01

#: How long the server of datagrams takes to stop, in seconds.  It has its socket until
#: then.
STOP_SECONDS = 2.5


def stream(book: str, description: str) -> None:
    """
    Serve connections.
    """
    from twisted.internet import epollreactor

    epollreactor.install()
    from twisted.internet import reactor as anyReactor
    from twisted.internet.endpoints import serverFromString
    from twisted.internet.protocol import Factory, Protocol

    from tests.support.storm_workers import note

    reactor: Any = anyReactor
    descriptor = os.open(book, os.O_WRONLY | os.O_APPEND)
    generation = os.environ["GENERATION"].encode()

    class Answer(Protocol):
        def connectionMade(self) -> None:
            self.line = b""
            transport: Any = self.transport
            peer = transport.getPeer()
            note(descriptor, (peer.host, peer.port))

        def dataReceived(self, data: bytes) -> None:
            self.line += data
            if self.line.endswith(b"\n"):
                reactor.callLater(SERVICE_SECONDS, self.answer)

        def answer(self) -> None:
            transport: Any = self.transport
            last = generation if self.line == b"generation\n" else b"%d" % os.getpid()
            transport.write(b"%s %s\n" % (self.line[:-1], last))
            transport.loseConnection()

    factory = Factory.forProtocol(Answer)
    factory.noisy = False
    listening = serverFromString(reactor, description).listen(factory)
    listening.addErrback(lambda failure: failure.printTraceback() or os._exit(1))
    reactor.run()


def datagram() -> None:
    """
    Answer datagrams on descriptor 3.
    """
    sock = socket.socket(fileno=3)
    readable = select.poll()
    readable.register(sock, select.POLLIN)

    def stop(*_: object) -> None:
        time.sleep(STOP_SECONDS)
        sys.exit(0)

    signal.signal(signal.SIGTERM, stop)
    generation = os.environ["GENERATION"].encode()
    while True:
        readable.poll()
        # Another process may have taken it.
        with suppress(BlockingIOError):
            _, address = sock.recvfrom(100)
            sock.sendto(generation, address)


def main() -> None:
    """
    Run the command.
    """
    if sys.argv[1] == "stream":
        stream(*sys.argv[2:])
    else:
        datagram()


if __name__ == "__main__":
    main()
