"""
Tests for L{portlisten._listener.departed_clients}, and for what the dispatcher does
with it.
"""

from __future__ import annotations

import select
import socket
import struct

from twisted.trial.unittest import SynchronousTestCase

from portlisten._listener.copy_check import CHECK_SECONDS
from portlisten._listener.departed_clients import (
    CLIENT_CHECK_SECONDS,
    SLICE,
    DepartedClients,
)
from tests.support.channels import tcpPair, texts
from tests.support.descriptors import descriptors, watchDescriptors
from tests.support.dispatchers import (
    DispatcherTestCase,
)


class DepartedClientsTests(SynchronousTestCase):
    """
    Tests for L{DepartedClients}.
    """

    def setUp(self) -> None:
        watchDescriptors(self)
        self.departed = DepartedClients()
        self.clients: list[socket.socket] = []
        self.waiting: list[socket.socket] = []

    def connect(self, count: int) -> None:
        """
        Have clients wait.
        """
        for _ in range(count):
            client, accepted = tcpPair()
            self.addCleanup(client.close)
            self.addCleanup(accepted.close)
            self.clients.append(client)
            self.waiting.append(accepted)

    def leave(self, number: int, reset: bool) -> None:
        """
        Make a client leave, and wait until the kernel has noticed.
        """
        if reset:
            linger = struct.pack("ii", 1, 0)
            self.clients[number].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.clients[number].close()
        poll = select.poll()
        poll.register(self.waiting[number], select.POLLRDHUP)
        assert poll.poll(10_000)

    def test_found(self) -> None:
        """
        A check tells clients that have left from clients that may have left, once in a
        while.
        """
        self.connect(3)
        self.leave(0, reset=True)
        self.leave(2, reset=False)
        self.assertEqual(self.departed.check(lambda: self.waiting, 0.0), ([], []))
        found = self.departed.check(lambda: self.waiting, CLIENT_CHECK_SECONDS)
        self.assertEqual(found, ([self.waiting[0]], [self.waiting[2]]))
        found = self.departed.check(lambda: self.waiting, CLIENT_CHECK_SECONDS * 1.9)
        self.assertEqual(found, ([], []))
        found = self.departed.check(lambda: self.waiting, CLIENT_CHECK_SECONDS * 2)
        self.assertEqual(found, ([self.waiting[0]], [self.waiting[2]]))

    def test_notDue(self) -> None:
        """
        It asks which clients wait only if it is time to look.
        """
        asked: list[float] = []

        def waiting() -> list[socket.socket]:
            asked.append(now)
            return self.waiting

        self.connect(1)
        for now in (
            0.0,
            CLIENT_CHECK_SECONDS,
            CLIENT_CHECK_SECONDS * 1.5,
            CLIENT_CHECK_SECONDS * 2,
        ):
            self.departed.check(waiting, now)
        self.assertEqual(asked, [CLIENT_CHECK_SECONDS, CLIENT_CHECK_SECONDS * 2])

    def test_slices(self) -> None:
        """
        If the clients are many, each check covers a slice, and the next check covers
        the next slice at once.
        """
        self.connect(SLICE + 2)
        for number in (0, SLICE - 1, SLICE, SLICE + 1):
            self.leave(number, reset=True)
        gone, _ = self.departed.check(lambda: self.waiting, CLIENT_CHECK_SECONDS)
        self.assertEqual(gone, [self.waiting[0], self.waiting[SLICE - 1]])
        gone, _ = self.departed.check(lambda: self.waiting, CLIENT_CHECK_SECONDS)
        self.assertEqual(gone, self.waiting[SLICE:])
        self.assertEqual(
            self.departed.check(lambda: self.waiting, CLIENT_CHECK_SECONDS), ([], [])
        )

    def test_fewer(self) -> None:
        """
        If fewer wait by the next turn, it begins anew.
        """
        self.connect(1)
        self.leave(0, reset=True)
        self.departed.check(lambda: self.waiting * (SLICE + 1), CLIENT_CHECK_SECONDS)
        self.assertEqual(
            self.departed.check(lambda: self.waiting, CLIENT_CHECK_SECONDS), ([], [])
        )
        gone, _ = self.departed.check(lambda: self.waiting, CLIENT_CHECK_SECONDS * 2)
        self.assertEqual(gone, self.waiting)


class DispatcherTests(DispatcherTestCase):
    """
    What the dispatcher does if clients leave while they wait.
    """

    def leave(self, client: socket.socket, seconds: float = 0.0) -> None:
        """
        Make a client close its connection, and wait until the kernel has noticed.
        """
        by = {
            connection.address: connection
            for connection in self.ledger.waitingConnections()
        }
        accepted = by[client.getsockname()]
        client.close()
        poll = select.poll()
        poll.register(accepted, select.POLLRDHUP)
        assert poll.poll(10_000)

    def look(self) -> None:
        """
        Let the time pass until the clients are checked.
        """
        self.clock.advance(CLIENT_CHECK_SECONDS + 2 * CHECK_SECONDS)

    def test_closed(self) -> None:
        """
        If a client closes and has sent nothing, it takes no place any more.  After a
        while it is dropped, and counted as gone.
        """
        clients = self.accept(2)
        address = clients[0].getsockname()
        before = len(descriptors())
        self.assertEqual(self.dispatcher.capacity(""), 0)
        self.leave(clients[0])
        self.look()
        self.assertEqual((self.ledger.waiting, self.dispatcher.capacity("")), (2, 1))
        changes = self.roomChanges
        self.clock.advance(5)
        self.look()
        self.assertEqual(self.ledger.waiting, 1)
        self.assertEqual(self.ledger.counters.goneBeforeAdoption, 1)
        self.assertEqual(len(descriptors()), before - 2)
        self.assertGreater(self.roomChanges, changes)
        self.assertEqual(self.dispatcher.capacity(""), 1)
        self.assertIn(
            f"the connection of 127.0.0.1:{address[1]} is closed: its client left while"
            " it waited",
            texts(self.logged, "info"),
        )
        self.assertEqual(self.timeouts, 0)
        worker = self.join()
        self.assertEqual(len(worker.offers), 1)

    def test_reset(self) -> None:
        """
        If a client resets the connection, it is dropped at once, even if it had sent
        something.
        """
        [client] = self.accept()
        client.send(b"question")
        linger = struct.pack("ii", 1, 0)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.leave(client)
        self.look()
        self.assertEqual(self.ledger.waiting, 0)

    def test_closedAfterData(self) -> None:
        """
        What a client sent before it left may be wanted: it keeps its place.
        """
        [client] = self.accept()
        client.send(b"do this")
        self.leave(client)
        self.look()
        self.assertEqual(self.ledger.waiting, 1)
        self.assertEqual(len(self.join().offers), 1)

    def test_stays(self) -> None:
        """
        A client that waits silently stays.
        """
        self.accept()
        self.look()
        self.assertEqual(self.ledger.waiting, 1)
