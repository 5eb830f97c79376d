"""
Tests for L{portlisten._listener.proxied_clients}.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
from collections.abc import Callable
from unittest import mock

from twisted.internet.interfaces import IReadDescriptor
from twisted.logger import capturedLogs
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from portlisten._listener.connection import AcceptedConnection
from portlisten._listener.proxied_clients import TIMEOUT_SECONDS, ProxiedClients
from tests.support.channels import tcpPair, texts
from tests.support.clocks import ReadingClock
from tests.support.descriptors import watchDescriptors
from tests.support.sockets import arrived, failing, reset

LINE = b"PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\n"
BINARY = (
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11"
    + struct.pack("!H", 15)
    + socket.inet_aton("192.0.2.2")
    + socket.inet_aton("198.51.100.7")
    + struct.pack("!HH", 56324, 443)
)
UNKNOWN = b"PROXY UNKNOWN\r\n"


class ProxiedClientsTests(SynchronousTestCase):
    """
    Tests for L{ProxiedClients}.

    @ivar reports: what was reported, each time.
    """

    def setUp(self) -> None:
        watchDescriptors(self)
        logs = capturedLogs()
        self.logged = logs.__enter__()
        self.addCleanup(logs.__exit__, None, None, None)
        self.clock = ReadingClock()
        self.reports: list[list[tuple[AcceptedConnection, str | None]]] = []
        self.clients = ProxiedClients(self.clock, self.reports.append)
        self.addCleanup(self.clients.close)

    def connect(
        self, family: socket.AddressFamily = socket.AF_INET
    ) -> tuple[socket.socket, AcceptedConnection]:
        """
        Make a connection.

        @return: the proxy's end, and the accepted connection.
        """
        proxy, accepted = tcpPair(family)
        self.addCleanup(proxy.close)
        proxy.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = AcceptedConnection(accepted, proxy.getsockname())
        self.addCleanup(connection.closeCopy)
        return proxy, connection

    def held(self) -> tuple[socket.socket, AcceptedConnection]:
        """
        Make a connection whose header is waited for.
        """
        proxy, connection = self.connect()
        self.clients.add([connection])
        return proxy, connection

    def send(self, proxy: socket.socket, data: bytes) -> None:
        """
        Send bytes, and let the reactor read.
        """
        proxy.sendall(data)
        self.read()

    def read(self) -> None:
        """
        Wait until something has come, and let the reactor read.
        """
        arrived(self.clients)
        self.clock.read()

    def isReadable(self) -> bool:
        """
        Say whether the reactor would read.
        """
        poll = select.poll()
        poll.register(self.clients, select.POLLIN)
        return bool(poll.poll(0))

    def test_interface(self) -> None:
        """
        The reactor can read from it.
        """
        verifyObject(IReadDescriptor, self.clients)
        self.assertEqual(self.clients.fileno(), -1)
        self.held()
        self.assertGreater(self.clients.fileno(), -1)
        self.assertEqual(self.clients.logPrefix(), "portlisten")

    def test_atOnce(self) -> None:
        """
        Connections whose headers have come are reported at once, all together, and
        nothing is opened for them.
        """
        ends = [self.connect() for _ in range(3)]
        for (proxy, connection), data in zip(ends, (LINE, BINARY, b"GET"), strict=True):
            proxy.sendall(data)
            arrived(connection)
        connections = [connection for _, connection in ends]
        self.clients.add(connections)
        sources = ["192.0.2.1", "192.0.2.2", None]
        expected = [*zip(connections, sources, strict=True)]
        self.assertEqual(self.reports, [expected])
        self.assertEqual(self.clients.count, 0)
        self.assertEqual(self.clock.readers, [])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_later(self) -> None:
        """
        Connections are held until their headers come.  Those that come in one turn are
        reported together.
        """
        ends = [self.held() for _ in range(3)]
        self.clock.read()
        self.assertEqual(self.reports, [])
        self.assertEqual(self.clients.count, 3)
        for proxy, connection in ends[:2]:
            proxy.sendall(LINE)
            arrived(connection)
        self.read()
        [report] = self.reports
        expected = [(connection, "192.0.2.1") for _, connection in ends[:2]]
        self.assertCountEqual(report, expected)
        self.assertEqual(self.clients.count, 1)

    def test_untouched(self) -> None:
        """
        For the kernel, the connection is untouched after each look, and its bytes are
        all there.
        """
        for family in (socket.AF_INET, socket.AF_INET6):
            proxy, connection = self.connect(family)
            self.clients.add([connection])
            self.assertTrue(connection.untouched())
            self.send(proxy, BINARY[:20])
            self.assertTrue(connection.untouched())
            self.send(proxy, BINARY[20:] + b"GET")
            self.assertTrue(connection.untouched())
            self.assertEqual(self.reports.pop(), [(connection, "192.0.2.2")])
            proxy.shutdown(socket.SHUT_WR)
            arrived(connection, select.POLLRDHUP)
            self.assertTrue(connection.untouched())
            with socket.socket(fileno=os.dup(connection.fileno())) as sock:
                self.assertEqual(sock.recv(100), BINARY + b"GET")
            self.assertFalse(connection.untouched())

    def test_pieces(self) -> None:
        """
        A header may come in pieces of any size.  As long as nothing more comes, nothing
        is done.
        """
        for data in (LINE, BINARY):
            proxy, connection = self.held()
            for at in range(len(data) - 1):
                self.send(proxy, data[at : at + 1])
                self.assertFalse(self.isReadable())
            self.assertEqual(self.reports, [])
            self.send(proxy, data[-1:])
            [(reported, source)] = self.reports.pop()
            self.assertIs(reported, connection)
            self.assertTrue(source)

    def test_early(self) -> None:
        """
        Part of a header may be there when a connection is added.
        """
        proxy, connection = self.connect()
        proxy.sendall(LINE[:9])
        arrived(connection)
        self.clients.add([connection])
        self.read()
        self.assertFalse(self.isReadable())
        self.assertEqual(self.reports, [])
        self.send(proxy, LINE[9:])
        self.assertEqual(self.reports, [[(connection, "192.0.2.1")]])

    def test_own(self) -> None:
        """
        If the header leaves it to the connection, the source is the proxy.
        """
        for family, host in (
            (socket.AF_INET, "127.0.0.1"),
            (socket.AF_INET6, "::1"),
        ):
            proxy, connection = self.connect(family)
            self.clients.add([connection])
            self.send(proxy, UNKNOWN)
            self.assertEqual(self.reports.pop(), [(connection, host)])

    def test_noAddress(self) -> None:
        """
        If even that is unknown, there is no source.
        """
        proxy, accepted = tcpPair()
        connection = AcceptedConnection(accepted, None)
        self.addCleanup(proxy.close)
        self.addCleanup(connection.closeCopy)
        self.clients.add([connection])
        self.send(proxy, UNKNOWN)
        self.assertEqual(self.reports, [[(connection, None)]])

    def test_wrong(self) -> None:
        """
        Other bytes than a header are known at the first wrong one.
        """
        proxy, connection = self.held()
        self.send(proxy, b"PROXX")
        self.assertEqual(self.reports, [[(connection, None)]])

    def test_left(self) -> None:
        """
        If the client leaves, there is no source.
        """
        leaves: list[Callable[[socket.socket], None]] = [
            socket.socket.close,
            reset,
            lambda proxy: proxy.shutdown(socket.SHUT_WR),
        ]
        for leave in leaves:
            proxy, connection = self.held()
            leave(proxy)
            self.read()
            self.assertEqual(self.reports.pop(), [(connection, None)])

    def test_leftInside(self) -> None:
        """
        So it is if a part of the header has come.
        """
        proxy, connection = self.held()
        self.send(proxy, LINE[:9])
        reset(proxy)
        self.read()
        self.assertEqual(self.reports, [[(connection, None)]])

    def test_timeout(self) -> None:
        """
        A header that does not come in time is not waited for, nor is the rest of one.
        Each connection has its own time.
        """
        _, first = self.held()
        self.clock.advance(1)
        proxy, second = self.held()
        self.send(proxy, LINE[:-1])
        self.clock.advance(TIMEOUT_SECONDS - 1.1)
        self.assertEqual(self.reports, [])
        self.clock.advance(0.2)
        self.assertEqual(self.reports, [[(first, None)]])
        self.clock.advance(0.8)
        self.assertEqual(self.reports[1:], [])
        self.clock.advance(0.2)
        self.assertEqual(self.reports[1:], [[(second, None)]])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_timers(self) -> None:
        """
        There is one timer for all, and later ones get their own time if the first is
        known before its time is over.
        """
        proxy, _ = self.held()
        self.clock.advance(2)
        others = [self.held()[1] for _ in range(3)]
        self.send(proxy, LINE)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.clock.advance(TIMEOUT_SECONDS - 0.1)
        self.assertEqual(len(self.reports), 1)
        self.clock.advance(0.2)
        self.assertEqual(self.reports[1:], [[(each, None) for each in others]])

    def test_close(self) -> None:
        """
        At the end, the caller has the connections, and nothing stays open.
        """
        proxy, connection = self.held()
        other = self.held()[1]
        self.assertEqual(self.clients.close(), [connection, other])
        self.assertEqual(self.clients.count, 0)
        self.assertEqual(self.clock.readers, [])
        self.assertEqual(self.clock.getDelayedCalls(), [])
        proxy.sendall(LINE)
        self.clock.read()
        self.assertEqual(self.reports, [])
        self.assertEqual(self.clients.close(), [])

    def test_reported(self) -> None:
        """
        A connection that is reported is watched no more, even if another process holds
        it.
        """
        proxy, connection = self.held()
        with socket.socket(fileno=os.dup(connection.fileno())) as other:
            self.send(proxy, LINE)
            connection.closeCopy()
            other.recv(len(LINE))
            proxy.sendall(b"GET")
            arrived(other)
            self.assertFalse(self.isReadable())

    def test_noWatch(self) -> None:
        """
        If a connection cannot be watched, it is looked at when its time is over.
        """
        for owner, name, number in (
            (select, "epoll", errno.EMFILE),
            (self.clock, "addReader", errno.ENOMEM),
        ):
            with mock.patch.object(owner, name, failing(number)):
                proxy, connection = self.held()
            proxy.sendall(LINE)
            arrived(connection)
            self.clock.read()
            self.assertEqual(self.reports, [])
            *_, line = texts(self.logged, "error")
            self.assertIn(f"{connection.peer} cannot be watched", line)
            self.clock.advance(TIMEOUT_SECONDS)
            self.assertEqual(self.reports.pop(), [(connection, "192.0.2.1")])

    def test_connectionLost(self) -> None:
        """
        If the reactor cannot poll any more, connections are looked at when their time
        is over, and others can be watched.
        """
        proxy, first = self.held()
        self.clients.connectionLost(Failure(OSError(errno.EBADF, "bad")))
        [line] = texts(self.logged, "critical")
        self.assertIn("the PROXY headers of 1 are looked for after 3 s", line)
        other, second = self.held()
        proxy.sendall(LINE)
        arrived(first)
        self.send(other, BINARY)
        self.assertEqual(self.reports, [[(second, "192.0.2.2")]])
        self.clock.advance(TIMEOUT_SECONDS)
        self.assertEqual(self.reports[1:], [[(first, "192.0.2.1")]])
