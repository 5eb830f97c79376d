"""
Tests for L{portlisten._handover.lines}.
"""

from __future__ import annotations

import os
import socket
import time

from twisted.trial.unittest import SynchronousTestCase

from portlisten._control.convert import ControlError
from portlisten._handover.lines import LineReader
from portlisten.errors import ToldToStop
from tests.support.channels import PATIENCE
from tests.support.descriptors import watchDescriptors


class LineTests(SynchronousTestCase):
    """
    Tests for L{LineReader}.
    """

    def setUp(self) -> None:
        watchDescriptors(self)
        self.near, self.far = socket.socketpair()
        self.addCleanup(self.near.close)
        self.addCleanup(self.far.close)
        self.stop = False
        self.reader = LineReader(self.near, 10, 2, lambda: self.stop)
        self.addCleanup(self.reader.close)

    def read(self, seconds: float = PATIENCE) -> bytes | None:
        """
        Read a line.
        """
        return self.reader.read(time.monotonic() + seconds)

    def test_lines(self) -> None:
        """
        Each line comes alone, without its end.
        """
        self.far.send(b"one\ntwo\nth")
        self.assertEqual([self.read(), self.read()], [b"one", b"two"])
        self.far.send(b"ree\n")
        self.assertEqual(self.read(), b"three")

    def test_end(self) -> None:
        """
        The other end may close: what came of a line is dropped.
        """
        self.far.send(b"one\ntw")
        self.far.close()
        self.assertEqual([self.read(), self.read()], [b"one", None])

    def test_reset(self) -> None:
        """
        That may look like a reset.
        """
        self.near.send(b"unread")
        self.far.close()
        self.assertIsNone(self.read())

    def test_time(self) -> None:
        """
        A line must come in time.
        """
        self.far.send(b"one")
        self.assertRaises(TimeoutError, self.read, 0.01)

    def test_interrupted(self) -> None:
        """
        The process may be told to stop meanwhile.
        """
        self.stop = True
        self.assertRaises(ToldToStop, self.read)

    def test_long(self) -> None:
        """
        A line has a limit.
        """
        self.far.send(b"x" * 11)
        self.assertRaises(ControlError, self.read)

    def test_descriptors(self) -> None:
        """
        Descriptors are kept until they are taken or closed.
        """
        with open(os.devnull) as file:
            socket.send_fds(self.far, [b"one\n"], [file.fileno()])
        self.assertEqual(self.read(), b"one")
        (descriptor,) = self.reader.descriptors
        self.assertTrue(os.fstat(descriptor))
        self.assertFalse(os.get_inheritable(descriptor))
        self.reader.close()
        self.assertRaises(OSError, os.fstat, descriptor)
        self.reader.close()

    def test_manyDescriptors(self) -> None:
        """
        Their number has a limit.
        """
        with open(os.devnull) as file:
            socket.send_fds(self.far, [b"one\n"], [file.fileno()] * 3)
        self.assertRaises(ControlError, self.read)
