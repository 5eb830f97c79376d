"""
Tests for L{portlisten._handover.lines}.
"""

from __future__ import annotations

import os
import select
import socket
import time

from twisted.trial.unittest import SynchronousTestCase

from portlisten import _kernel
from portlisten._control.convert import ControlError
from portlisten._handover.lines import LineReader
from portlisten.errors import ToldToStop
from tests.support.descriptors import watchDescriptors
from tests.support.handovers import sendDescriptor
from tests.support.sockets import pair, reset

#: More than any of these tests takes, in seconds.
LONG = 60.0


class LineReaderTests(SynchronousTestCase):
    """
    Tests for L{LineReader}.
    """

    def setUp(self) -> None:
        """
        Connect both ends.
        """
        watchDescriptors(self)
        self.sock, self.peer = pair(self)
        self.told = False
        self.reader = LineReader(self.sock, 10, 2, lambda: self.told)
        self.addCleanup(self.reader.close)

    def read(self, seconds: float = LONG) -> bytes | None:
        """
        Read a line.
        """
        return self.reader.read(time.monotonic() + seconds)

    def test_lines(self) -> None:
        """
        Lines may come at once, and in pieces.
        """
        self.peer.send(b"one\ntwo\nth")
        self.assertEqual(self.read(), b"one")
        self.assertEqual(self.read(), b"two")
        self.peer.send(b"ree\n\n")
        self.assertEqual(self.read(), b"three")
        self.assertEqual(self.read(), b"")

    def test_end(self) -> None:
        """
        If the other end closes the connection, no line comes any more.
        """
        self.peer.send(b"one\nrest")
        self.peer.close()
        self.assertEqual(self.read(), b"one")
        self.assertIsNone(self.read())

    def test_broken(self) -> None:
        """
        So it is if the connection breaks.
        """
        self.sock.send(b"unread")
        reset(self.peer)
        self.assertIsNone(self.read())

    def test_timeout(self) -> None:
        """
        If no line comes in time, the reader says so.
        """
        self.peer.send(b"half")
        self.assertRaises(TimeoutError, self.read, 0.01)
        self.assertRaises(TimeoutError, self.read, 0)
        self.peer.send(b"\n")
        self.assertEqual(self.read(), b"half")

    def test_interrupted(self) -> None:
        """
        The wait ends if the process is told to stop.
        """
        self.told = True
        self.assertRaises(ToldToStop, self.read)

    def test_checksOften(self) -> None:
        """
        While it waits, the reader checks often whether it is told to stop.
        """
        asked = 0

        def interrupted() -> bool:
            nonlocal asked
            asked += 1
            return asked > 2

        self.reader = LineReader(self.sock, 10, 2, interrupted)
        began = time.monotonic()
        self.assertRaises(ToldToStop, self.read)
        self.assertEqual(asked, 3)
        self.assertLess(time.monotonic() - began, LONG / 2)

    def test_longestLine(self) -> None:
        """
        A line may have as many bytes as the limit says.
        """
        self.peer.send(b"0123456789\n")
        self.assertEqual(self.read(), b"0123456789")

    def test_tooLong(self) -> None:
        """
        A line has a limit, whether its end comes or not.
        """
        self.peer.send(b"0123456789x")
        error = self.assertRaises(ControlError, self.read)
        self.assertEqual(str(error), "a line of more than 10 bytes")

    def test_tooLongAtOnce(self) -> None:
        """
        The limit holds if the line comes at once.
        """
        self.peer.send(b"0123456789x\n")
        self.assertRaises(ControlError, self.read)

    def test_descriptors(self) -> None:
        """
        Descriptors come in their order, and are the caller's to take.
        """
        ends = os.pipe()
        for each in ends:
            socket.send_fds(self.peer, [b"x"], [each])
        self.peer.send(b"\n")
        self.assertEqual(self.read(), b"xx")
        found = [os.fstat(each).st_ino for each in self.reader.descriptors]
        self.assertEqual(found, [os.fstat(each).st_ino for each in ends])
        for each in ends:
            os.close(each)

    def test_closeTwice(self) -> None:
        """
        The reader closes the descriptors that came, once.
        """
        sendDescriptor(self.peer, b"x\n")
        self.read()
        (descriptor,) = self.reader.descriptors
        self.reader.close()
        self.assertRaises(OSError, os.fstat, descriptor)
        self.assertEqual(self.reader.descriptors, [])
        self.reader.close()

    def test_tooManyDescriptors(self) -> None:
        """
        Descriptors have a limit, and those beyond it are closed as well.
        """
        for _ in range(3):
            sendDescriptor(self.peer, b"x")
        error = self.assertRaises(ControlError, self.read)
        self.assertEqual(str(error), "too many descriptors came")

    def test_noneAllowed(self) -> None:
        """
        By default, no descriptor may come.
        """
        sendDescriptor(self.peer, b"x\n")
        self.reader = LineReader(self.sock, 10)
        self.assertRaises(ControlError, self.read)
        self.reader.close()

    def test_nothingCame(self) -> None:
        """
        If the kernel says that something has come, and there is nothing, the wait goes
        on.
        """
        receive = _kernel.receive
        tries: list[int] = []

        def first(sock: socket.socket, size: int = 65536) -> tuple[bytes, list[int]]:
            tries.append(1)
            if len(tries) == 1:
                raise BlockingIOError
            return receive(sock, size)

        self.patch(_kernel, "receive", first)
        self.peer.send(b"one\n")
        self.assertEqual(self.read(), b"one")
        self.assertEqual(len(tries), 2)

    def test_blocking(self) -> None:
        """
        The reader makes the socket non-blocking, so it never waits for ever.
        """
        self.assertEqual(self.sock.gettimeout(), 0)
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        self.assertEqual(poll.poll(0), [])
