"""
Tests for L{portlisten._listener.silent_clients}.
"""

from __future__ import annotations

import errno
import os
import select
import socket
from typing import Any

from twisted.internet.interfaces import IReadDescriptor
from twisted.logger import capturedLogs
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from portlisten import _kernel
from portlisten._listener.connection import AcceptedConnection
from portlisten._listener.interfaces import IConnection
from portlisten._listener.silent_clients import SilentClients
from tests.support.channels import tcpPair, texts
from tests.support.clocks import ReadingClock
from tests.support.descriptors import watchDescriptors
from tests.support.sockets import failing, reset


class SilentClientsTests(SynchronousTestCase):
    """
    Tests for L{SilentClients}.

    @ivar spoken: the connections of which something has come.
    @ivar gone: the connections whose clients have left.
    """

    def setUp(self) -> None:
        watchDescriptors(self)
        logs = capturedLogs()
        self.logged = logs.__enter__()
        self.addCleanup(logs.__exit__, None, None, None)
        self.clock = ReadingClock()
        self.spoken: list[IConnection] = []
        self.gone: list[IConnection] = []
        self.silent = SilentClients(self.clock, self.come)
        self.addCleanup(self.silent.close)

    def come(self, spoken: list[IConnection], gone: list[IConnection]) -> None:
        """
        Note what the object under test reports.
        """
        self.spoken += spoken
        self.gone += gone

    def connect(self) -> tuple[socket.socket, AcceptedConnection]:
        """
        Make a connection.

        @return: the client's end, and the accepted connection.
        """
        client, accepted = tcpPair()
        self.addCleanup(client.close)
        connection = AcceptedConnection(accepted, client.getsockname())
        self.addCleanup(connection.closeCopy)
        return client, connection

    def watched(self) -> tuple[socket.socket, AcceptedConnection]:
        """
        Make a connection that is watched.
        """
        client, connection = self.connect()
        self.assertTrue(self.silent.watch(connection))
        return client, connection

    def test_interface(self) -> None:
        """
        The reactor can read from it.
        """
        verifyObject(IReadDescriptor, self.silent)
        self.assertEqual(self.silent.fileno(), -1)
        self.watched()
        self.assertGreater(self.silent.fileno(), -1)
        self.assertEqual(self.silent.logPrefix(), "portlisten")

    def test_find(self) -> None:
        """
        Connections are silent if nothing has come.
        """
        client, first = self.connect()
        _, second = self.connect()
        client.send(b"x")
        self.assertEqual(self.silent.find([first, second]), {second})

    def test_findFails(self) -> None:
        """
        If the kernel does not tell, all count as silent.
        """
        client, connection = self.connect()
        client.send(b"x")
        self.patch(_kernel, "silent", failing(errno.ENOMEM))
        self.assertEqual(self.silent.find([connection]), {connection})

    def test_nobody(self) -> None:
        """
        As long as nothing is watched, nothing is opened.
        """
        self.silent.discard(self.connect()[1])
        self.silent.close()
        self.assertEqual(self.clock.readers, [])

    def test_speak(self) -> None:
        """
        When something comes, that is reported, and the connection is watched no more.
        """
        client, connection = self.watched()
        _, other = self.watched()
        self.clock.read()
        self.assertEqual(self.spoken, [])
        client.send(b"x")
        self.clock.read()
        self.assertEqual((self.spoken, self.gone), ([connection], []))
        self.assertEqual([*self.silent.watched.values()], [other])
        client.send(b"y")
        self.clock.read()
        self.assertEqual(self.spoken, [connection])

    def test_end(self) -> None:
        """
        A client that ends its side has said something.
        """
        client, connection = self.watched()
        client.close()
        self.clock.read()
        self.assertEqual((self.spoken, self.gone), ([connection], []))

    def test_left(self) -> None:
        """
        A client that resets its connection has left.
        """
        client, connection = self.watched()
        reset(client)
        self.clock.read()
        self.assertEqual((self.spoken, self.gone), ([], [connection]))

    def test_leftUnix(self) -> None:
        """
        If a client on a Unix socket has sent something and then left, it may want to be
        served.
        """
        connections = []
        for data in (b"", b"x"):
            client, accepted = socket.socketpair()
            connection = AcceptedConnection(accepted, "")
            self.addCleanup(connection.closeCopy)
            self.silent.watch(connection)
            client.send(data)
            client.close()
            connections.append(connection)
        self.clock.read()
        self.assertEqual((self.spoken, self.gone), (connections[1:], connections[:1]))

    def test_leftUnknown(self) -> None:
        """
        If the kernel does not tell, a client counts as having spoken.
        """
        client, connection = self.watched()
        reset(client)
        self.patch(_kernel, "departed", failing(errno.ENOMEM))
        self.clock.read()
        self.assertEqual((self.spoken, self.gone), ([connection], []))

    def test_discard(self) -> None:
        """
        A connection that is discarded and closed is not reported, although another
        process holds it, and although a new one has its number.
        """
        client, connection = self.watched()
        number = connection.fileno()
        other = os.dup(number)
        self.addCleanup(os.close, other)
        self.silent.discard(connection)
        self.silent.discard(connection)
        connection.closeCopy()
        _, new = self.connect()
        os.dup2(new.fileno(), number, inheritable=False)
        again = AcceptedConnection(socket.socket(fileno=number), "")
        self.addCleanup(again.closeCopy)
        self.silent.watch(again)
        client.send(b"x")
        self.clock.read()
        self.assertEqual(self.spoken, [])

    def test_many(self) -> None:
        """
        More clients speak than are reported at a time.
        """
        self.patch(_kernel.first_bytes, "MAXIMUM_EVENTS", 2)
        pairs = [self.watched() for _ in range(5)]
        for client, _ in pairs:
            client.send(b"x")
        for _ in range(3):
            self.clock.read()
        self.assertEqual(set(self.spoken), {connection for _, connection in pairs})

    def test_noWatch(self) -> None:
        """
        If the kernel has no watch left, that is logged.
        """
        _, connection = self.connect()
        self.patch(_kernel.FirstBytes, "add", failing(errno.ENOSPC))
        self.assertFalse(self.silent.watch(connection))
        self.assertEqual(
            texts(self.logged, "error"),
            [
                f"the connection of {connection.peer} is offered before its client"
                " speaks, since it cannot be watched: No space left on device"
            ],
        )
        self.silent.discard(connection)

    def test_noDescriptor(self) -> None:
        """
        If there is no descriptor, that is so as well.  Later there may be one.
        """
        _, connection = self.connect()
        with self.patched(select, "epoll", errno.EMFILE):
            self.assertFalse(self.silent.watch(connection))
        self.assertTrue(self.silent.watch(connection))

    def test_noReader(self) -> None:
        """
        If the reactor cannot read, that is so as well.
        """
        client, connection = self.connect()
        with self.patched(self.clock, "addReader", errno.ENOMEM):
            self.assertFalse(self.silent.watch(connection))
        self.assertEqual(self.silent.fileno(), -1)
        self.assertTrue(self.silent.watch(connection))
        client.send(b"x")
        self.clock.read()
        self.assertEqual(self.spoken, [connection])

    def patched(self, owner: Any, name: str, number: int) -> Any:
        """
        Make a function fail for a while.
        """
        return _Patched(owner, name, failing(number))

    def test_close(self) -> None:
        """
        At the end, nothing stays open, and nothing is reported.
        """
        client, connection = self.watched()
        self.silent.close()
        client.send(b"x")
        self.assertEqual(self.clock.readers, [])
        self.silent.discard(connection)
        self.assertEqual(self.spoken, [])

    def test_connectionLost(self) -> None:
        """
        If the reactor cannot poll any more, all clients count as having spoken, and
        others can be watched.
        """
        _, first = self.watched()
        _, second = self.watched()
        self.silent.connectionLost(Failure(OSError(errno.EBADF, "bad")))
        self.assertEqual(self.spoken, [first, second])
        [line] = texts(self.logged, "critical")
        self.assertIn("2 connections are offered", line)
        client, third = self.watched()
        client.send(b"x")
        self.clock.read()
        self.assertEqual(self.spoken[2:], [third])


class _Patched:
    """
    Replaces an attribute inside a C{with} statement.
    """

    def __init__(self, owner: Any, name: str, value: Any) -> None:
        self.owner, self.name, self.value = owner, name, value

    def __enter__(self) -> None:
        self.before = getattr(self.owner, self.name)
        setattr(self.owner, self.name, self.value)

    def __exit__(self, *exception: Any) -> None:
        setattr(self.owner, self.name, self.before)
