"""
Tests for L{portlisten._ports.turns}.
"""

from __future__ import annotations

import os
import socket
from unittest import mock

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from portlisten import _kernel
from portlisten._policy.fairness import (
    CLOSED,
    LATELY,
    LOADS_BYTES,
    MOMENT,
    LoadTable,
    membersBytes,
)
from portlisten._ports.turns import Board, Turns
from tests.support.descriptors import watchDescriptors


class BoardTestCase(SynchronousTestCase):
    """
    A listener's memory, with two workers: this process's has slot 0.
    """

    def setUp(self) -> None:
        """
        Make the memory.
        """
        watchDescriptors(self)
        self.loads = _kernel.createMemory("loads", LOADS_BYTES, True)
        self.addCleanup(self.loads.close)
        self.members = _kernel.createMemory("members", membersBytes(1), False)
        self.addCleanup(self.members.close)
        self.table = LoadTable(self.loads.view, self.members.view)
        for slot in (0, 1):
            self.table.add(slot, [0])

    def board(self, slot: int = 0) -> Board:
        """
        Make a worker's end.
        """
        board = Board(
            slot, 1, os.dup(self.loads.descriptor), os.dup(self.members.descriptor)
        )
        self.addCleanup(board.close)
        return board


class BoardTests(BoardTestCase):
    """
    Tests for L{Board}.
    """

    def test_write(self) -> None:
        """
        What it writes, the others read, until it is closed.
        """
        board = self.board()
        board.write(5)
        self.assertEqual(self.table.entry(0), 5 << 8 | 0)
        board.look()
        self.assertEqual(self.table.entry(0), 5 << 8 | 1)
        board.close()
        board.close()
        self.assertEqual(self.table.entry(0), CLOSED << 8 | 1)
        board.write(6)
        self.assertEqual(self.table.entry(0), CLOSED << 8 | 1)

    def test_fairness(self) -> None:
        """
        Where the listener does not want it, there is none.
        """
        board = self.board()
        self.assertIsNotNone(board.fairness(0))
        self.assertIsNone(board.fairness(1))
        self.table.remove(0)
        self.assertIsNone(board.fairness(0))
        board.close()
        self.assertIsNone(board.fairness(0))

    def test_wrongMemory(self) -> None:
        """
        If either memory is wrong, neither stays open.
        """
        for loads, members in (
            (self.members, self.members),
            (self.loads, self.loads),
        ):
            self.assertRaises(
                _kernel.WrongMemory,
                Board,
                0,
                1,
                os.dup(loads.descriptor),
                os.dup(members.descriptor),
            )

    def test_notWritable(self) -> None:
        """
        So it is if the loads cannot be written.
        """
        sealed = _kernel.createMemory("sealed", LOADS_BYTES, False)
        self.addCleanup(sealed.close)
        self.assertRaises(
            OSError,
            Board,
            0,
            1,
            os.dup(sealed.descriptor),
            os.dup(self.members.descriptor),
        )


class TurnsTests(BoardTestCase):
    """
    Tests for L{Turns}.
    """

    def setUp(self) -> None:
        """
        Make a socket with turns.
        """
        super().setUp()
        self.port = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(self.port.close)
        self.begin(self.port)

    def begin(self, port: socket.socket) -> None:
        """
        Take turns at a socket.
        """
        self.clock = Clock()
        self.calls: list[object] = []
        self.mayWatch = True
        self.own = self.board()
        self.own.write(5)
        fairness = self.own.fairness(0)
        assert fairness is not None
        self.turns = Turns(
            self.clock,
            port,
            self.own,
            fairness,
            self.watch,
            lambda: self.calls.append("accept"),
        )

    def watch(self, watched: bool) -> bool:
        """
        Note whether to watch the socket.
        """
        self.calls.append(watched)
        return watched and self.mayWatch

    def connect(self, port: socket.socket) -> socket.socket:
        """
        Let a client come.
        """
        client = socket.socket(port.family)
        self.addCleanup(client.close)
        client.connect(port.getsockname())
        return client

    def other(self, load: int) -> None:
        """
        Write the other worker's load.
        """
        self.table.write(1, load, 0)

    def test_none(self) -> None:
        """
        If nobody waits, there is nothing to accept, and the socket stays watched.
        """
        self.other(0)
        self.assertEqual(self.turns.next(), 0)
        self.assertEqual(self.calls, [])
        self.assertEqual(self.table.entry(0), 5 << 8 | 1)

    def test_own(self) -> None:
        """
        If this worker has no more than the other, it accepts.
        """
        self.other(5)
        self.connect(self.port)
        self.assertEqual(self.turns.next(), 1)
        self.assertFalse(self.turns.waiting)

    def test_others(self) -> None:
        """
        If it has more, it does not watch the socket for a moment, and accepts then, if
        the client is still there.
        """
        self.other(0)
        self.connect(self.port)
        self.assertEqual(self.turns.next(), 0)
        self.assertTrue(self.turns.waiting)
        self.assertEqual(self.calls, [False])
        self.assertEqual(self.turns.next(), 0)
        self.clock.advance(MOMENT)
        self.assertFalse(self.turns.waiting)
        self.assertEqual(self.calls, [False, True, "accept"])
        self.assertEqual(self.turns.next(), 1)

    def test_busy(self) -> None:
        """
        A worker that has just accepted a client takes the next one as well, and some
        time later leaves it.
        """
        self.other(5)
        self.connect(self.port)
        self.assertEqual(self.turns.next(), 1)
        self.own.write(9)
        self.assertEqual(self.turns.next(), 1)
        self.clock.advance(LATELY)
        self.assertEqual(self.turns.next(), 0)

    def test_taken(self) -> None:
        """
        If the other has taken the client meanwhile, it only watches again.
        """
        self.other(0)
        self.connect(self.port)
        self.turns.next()
        self.port.accept()[0].close()
        self.clock.advance(MOMENT)
        self.assertEqual(self.calls, [False, True])

    def test_stop(self) -> None:
        """
        It may be stopped while it waits.
        """
        self.other(0)
        self.connect(self.port)
        self.turns.next()
        self.turns.stop()
        self.clock.advance(MOMENT)
        self.assertEqual(self.calls, [False])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_shutDown(self) -> None:
        """
        If somebody has shut the socket down, accepting finds out, whatever the others
        have.
        """
        self.other(0)
        self.port.shutdown(socket.SHUT_RDWR)
        self.assertGreater(self.turns.next(), 0)

    def test_pausesMeanwhile(self) -> None:
        """
        A worker that pauses meanwhile does not accept.
        """
        self.other(0)
        self.connect(self.port)
        self.turns.next()
        self.mayWatch = False
        self.clock.advance(MOMENT)
        self.assertEqual(self.calls, [False, True])

    def test_noMemory(self) -> None:
        """
        If there is no memory when it has waited, the socket is watched all the same.
        """
        self.other(0)
        self.connect(self.port)
        self.turns.next()
        self.patch(_kernel, "queueLength", mock.Mock(side_effect=MemoryError))
        self.assertRaises(MemoryError, self.clock.advance, MOMENT)
        self.assertEqual(self.calls, [False, True])
        self.assertFalse(self.turns.waiting)

    def test_unix(self) -> None:
        """
        The kernel does not tell how many wait at a Unix socket.
        """
        port = socket.socket(socket.AF_UNIX)
        self.addCleanup(port.close)
        port.bind(b"")
        port.listen()
        self.begin(port)
        self.other(7)
        self.connect(port)
        self.assertEqual(self.turns.next(), 4)
        self.clock.advance(LATELY)
        self.other(0)
        self.assertEqual(self.turns.next(), 0)
        self.clock.advance(MOMENT)
        self.assertEqual(self.calls, [False, True, "accept"])
