"""
Tests for L{portlisten._handover.successors}.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable

from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from portlisten._handover.successors import Successors
from tests.support.channels import texts
from tests.support.clocks import ReadingClock
from tests.support.descriptors import watchDescriptors
from tests.support.handovers import closed, sendDescriptor
from tests.support.sockets import pair


class SuccessorsTests(SynchronousTestCase):
    """
    Tests for L{Successors}.
    """

    def setUp(self) -> None:
        """
        Connect to a supervisor.
        """
        watchDescriptors(self)
        logs = capturedLogs()
        self.logged = logs.__enter__()
        self.addCleanup(logs.__exit__, None, None, None)
        self.clock = ReadingClock()
        self.served: list[socket.socket] = []
        self.failure: OSError | None = None
        self.sock, self.supervisor = pair(self)
        Successors(self.serve).listen(self.clock, self.sock)

    def serve(self, sock: socket.socket, ended: Callable[[], None]) -> None:
        """
        Take a connection, as L{ControlServer.serve} does.
        """
        self.served.append(sock)
        self.addCleanup(sock.close)
        if self.failure is not None:
            sock.close()
            raise self.failure
        ended()

    def test_successors(self) -> None:
        """
        Each connection that comes is served.
        """
        others = []
        for _ in range(2):
            one, other = pair(self)
            socket.send_fds(self.supervisor, [b"x"], [one.fileno()])
            others.append(other)
        self.clock.read()
        for served, other in zip(self.served, others, strict=True):
            other.send(b"hello")
            self.assertEqual(served.recv(10), b"hello")
        self.assertEqual(texts(self.logged, "error"), [])

    def test_noSocket(self) -> None:
        """
        A descriptor that leads to no socket is closed.
        """
        sendDescriptor(self.supervisor, b"x")
        self.clock.read()
        self.assertEqual(self.served, [])

    def test_cannotServe(self) -> None:
        """
        If a connection cannot be served, the log says so, and the next one is.
        """
        self.failure = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        socket.send_fds(self.supervisor, [b"x"], [pair(self)[0].fileno()])
        self.clock.read()
        self.assertEqual(
            texts(self.logged, "error"),
            [f"the next listener cannot be answered: {os.strerror(errno.EMFILE)}"],
        )
        self.failure = None
        socket.send_fds(self.supervisor, [b"x"], [pair(self)[0].fileno()])
        self.clock.read()
        self.assertEqual([closed(each) for each in self.served], [True, False])

    def test_supervisorEnds(self) -> None:
        """
        If the supervisor ends, so does this.
        """
        self.supervisor.close()
        self.clock.read()
        self.assertTrue(closed(self.sock))
        self.assertEqual(self.clock.readers, [])
