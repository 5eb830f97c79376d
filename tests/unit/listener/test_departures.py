"""
Tests for L{portlisten._listener.departures}.
"""

from __future__ import annotations

import select
import socket
import struct

from twisted.trial.unittest import SynchronousTestCase

from portlisten._listener.departures import INTERVAL, SLICE, Departures
from tests.support.channels import tcpPair
from tests.support.descriptors import watchDescriptors


class Waiting:
    """
    A connection that waits.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock


class DeparturesTests(SynchronousTestCase):
    """
    Looking after clients that wait.
    """

    def setUp(self) -> None:
        watchDescriptors(self)
        self.departures = Departures()
        self.clients: list[socket.socket] = []
        self.waiting: list[Waiting] = []

    def connect(self, count: int) -> None:
        """
        Have clients wait.
        """
        for _ in range(count):
            client, accepted = tcpPair()
            self.addCleanup(client.close)
            self.addCleanup(accepted.close)
            self.clients.append(client)
            self.waiting.append(Waiting(accepted))

    def leave(self, number: int, reset: bool) -> None:
        """
        Have a client leave, and wait for that to arrive.
        """
        if reset:
            linger = struct.pack("ii", 1, 0)
            self.clients[number].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.clients[number].close()
        poll = select.poll()
        poll.register(self.waiting[number].socket, select.POLLRDHUP)
        assert poll.poll(10_000)

    def test_found(self) -> None:
        """
        It tells those that have left from those that may have, once in a while.
        """
        self.connect(3)
        self.leave(0, reset=True)
        self.leave(2, reset=False)
        self.assertEqual(self.departures.look(self.waiting, 0.0), ([], []))
        found = self.departures.look(self.waiting, INTERVAL)
        self.assertEqual(found, ([self.waiting[0]], [self.waiting[2]]))
        found = self.departures.look(self.waiting, INTERVAL * 1.9)
        self.assertEqual(found, ([], []))
        found = self.departures.look(self.waiting, INTERVAL * 2)
        self.assertEqual(found, ([self.waiting[0]], [self.waiting[2]]))

    def test_slices(self) -> None:
        """
        If there are many, it looks at a part of them at a time, and goes on with the
        next part at once.
        """
        self.connect(SLICE + 2)
        for number in (0, SLICE - 1, SLICE, SLICE + 1):
            self.leave(number, reset=True)
        gone, _ = self.departures.look(self.waiting, INTERVAL)
        self.assertEqual(gone, [self.waiting[0], self.waiting[SLICE - 1]])
        gone, _ = self.departures.look(self.waiting, INTERVAL)
        self.assertEqual(gone, self.waiting[SLICE:])
        self.assertEqual(self.departures.look(self.waiting, INTERVAL), ([], []))

    def test_fewer(self) -> None:
        """
        If fewer wait by the next turn, it begins anew.
        """
        self.connect(1)
        self.leave(0, reset=True)
        self.departures.look(self.waiting * (SLICE + 1), INTERVAL)
        self.assertEqual(self.departures.look(self.waiting, INTERVAL), ([], []))
        gone, _ = self.departures.look(self.waiting, INTERVAL * 2)
        self.assertEqual(gone, self.waiting)
