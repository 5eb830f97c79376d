"""
What tests of acceptors have in common.
"""

from __future__ import annotations

import _socket
import errno
import os
import socket
import struct
import time
from typing import Any

from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from portlisten._ports.accepting import Accepted, Acceptor
from tests.support.descriptors import watchDescriptors

RETRY = 0.25


# linux/include/uapi/linux/tcp.h: of a listening socket, tcpi_unacked is how
# many connections wait to be accepted.
QUEUED = struct.Struct("=24xI")


def queued(sock: socket.socket) -> int:
    """
    How many connections wait to be accepted.
    """
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, QUEUED.size)
    count: int = QUEUED.unpack(info)[0]
    return count


class Scripted:
    """
    A listening socket whose accept(2) gives prepared connections and errors.  After
    them, no connection waits.
    """

    def __init__(self, *results: socket.socket | int) -> None:
        self.results = list(results)
        self.closed = False

    def fileno(self) -> int:
        """
        Return a number that is no open descriptor.
        """
        return 12345

    family = socket.AF_UNIX
    proto = 0

    def getsockopt(self, *args: object) -> bytes:
        """
        Fail, as the socket is not TCP.
        """
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    def _accept(self) -> tuple[int, str]:
        """
        See L{socket.socket.accept}.
        """
        result = self.results.pop(0) if self.results else errno.EAGAIN
        if isinstance(result, int):
            raise OSError(result, os.strerror(result))
        return result.detach(), "somebody"

    def close(self) -> None:
        """
        See L{socket.socket.close}.
        """
        self.closed = True


class AcceptorTestCase(SynchronousTestCase):
    """
    A test with an L{Acceptor}.

    @ivar capacity: how many connections may be accepted.
    @ivar busy: whether to wait although connections fit.
    @ivar batches: the addresses of the clients of each accepted batch.
    """

    def setUp(self) -> None:
        """
        Watch over descriptors.
        """
        watchDescriptors(self)
        self.reactor = MemoryReactorClock()
        self.capacity = 100
        self.busy = False
        self.batches: list[list[Any]] = []
        self.sockets: list[_socket.socket] = []

    def accepted(self, batch: list[Accepted]) -> None:
        """
        Take a batch.
        """
        self.batches.append([address for _, address in batch])
        self.capacity -= len(batch)
        for sock, _ in batch:
            self.addCleanup(sock.close)
            self.sockets.append(sock)

    def acceptor(self, sock: Any) -> Acceptor:
        """
        Make the acceptor, and let it resume.
        """
        acceptor = Acceptor(
            self.reactor,
            sock,
            "tcp:here",
            lambda: self.capacity,
            self.accepted,
            RETRY,
            lambda: self.busy,
        )
        self.addCleanup(acceptor.close)
        acceptor.resume()
        return acceptor

    def scripted(self, *results: socket.socket | int) -> tuple[Scripted, Acceptor]:
        """
        Make an acceptor of a scripted socket.
        """
        sock = Scripted(*results)
        return sock, self.acceptor(sock)

    def connection(self) -> socket.socket:
        """
        Make a socket to be accepted.
        """
        sock = socket.socket()
        self.addCleanup(sock.close)
        return sock

    def assertReading(self, acceptor: Acceptor, reading: bool) -> None:
        """
        Expect that the reactor looks at the acceptor, or does not.
        """
        readers: list[object] = list(self.reactor.getReaders())
        self.assertEqual(readers, [acceptor] if reading else [])


class ListeningTestCase(AcceptorTestCase):
    """
    A test with a real listening socket.
    """

    def setUp(self) -> None:
        """
        Listen.
        """
        super().setUp()
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(self.socket.close)
        self.socket.setblocking(False)
        self.target = self.socket.getsockname()
        # The other holder, such as systemd.
        self.other = self.socket.dup()
        self.addCleanup(self.other.close)
        self.listener = self.acceptor(self.socket)

    def connect(self, count: int = 1) -> list[socket.socket]:
        """
        Connect clients, and wait until they can be accepted.
        """
        before = queued(self.other)
        clients = [socket.create_connection(self.target) for _ in range(count)]
        for client in clients:
            self.addCleanup(client.close)
        deadline = time.monotonic() + 30
        while queued(self.other) < before + count:
            self.assertLess(time.monotonic(), deadline)
        return clients

    def connectFrom(self, count: int) -> list[Any]:
        """
        Connect clients, and return their addresses.
        """
        return [client.getsockname() for client in self.connect(count)]
