"""
Tests for L{portlisten._control.connection.Detached}, and for how
L{portlisten._control.server} stops to accept.
"""

from __future__ import annotations

import errno
import os
import socket
import tempfile
from shutil import rmtree
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from portlisten import _kernel
from portlisten._control.connection import Detached
from portlisten._control.messages import (
    Answer,
    Replace,
    Workers,
    WorkersAnswer,
    encodeAnswer,
    encodeRequest,
)
from portlisten._control.place import bindControl
from portlisten._control.server import ControlServer
from tests.support.clocks import ReadingClock
from tests.support.descriptors import watchDescriptors

ASK = encodeRequest(Workers())
ANSWER = encodeAnswer(WorkersAnswer())
REPLACE = encodeRequest(Replace(("1",)))


class ServedTestCase(SynchronousTestCase):
    """
    A server with a path.
    """

    def setUp(self) -> None:
        """
        Start it.
        """
        watchDescriptors(self)
        folder = tempfile.mkdtemp()
        self.addCleanup(rmtree, folder)
        self.path = f"{folder}/s.ctl"
        self.clock = ReadingClock()
        self.later: Deferred[Answer] | None = None
        self.detached: list[socket.socket] = []
        self.server = ControlServer(
            self.clock,
            bindControl(f"{folder}/s", self.path),
            {Workers: lambda *_: WorkersAnswer(), Replace: self.replace},
            {os.geteuid()},
        )
        self.server.start()
        self.addCleanup(self.end)

    def end(self) -> None:
        """
        End it, and see that nothing is left.
        """
        self.server.close()
        self.turn()
        self.assertEqual(self.clock.readers, [])
        self.assertEqual(self.clock.getDelayedCalls(), [])
        for each in self.detached:
            each.close()

    def replace(
        self, request: Replace, client: _kernel.Credentials
    ) -> Answer | Deferred[Any]:
        """
        Take the connection.
        """
        return Detached(self.detached.append) if self.later is None else self.later

    def connect(self, *data: bytes) -> socket.socket:
        """
        Connect a client, and let it ask.
        """
        client = socket.socket(socket.AF_UNIX)
        self.addCleanup(client.close)
        client.connect(self.path)
        client.setblocking(False)
        for each in data:
            client.send(each)
        self.turn()
        return client

    def turn(self) -> None:
        """
        Let the server accept, read and write.
        """
        for _ in range(3):
            self.clock.read()
            self.clock.advance(0)

    def hears(self, client: socket.socket) -> bytes | None:
        """
        What has come to a client: nothing yet, or bytes, or the end.
        """
        try:
            return client.recv(65536)
        except BlockingIOError:
            return None


class DetachedTests(ServedTestCase):
    """
    A connection leaves the server.
    """

    def test_detached(self) -> None:
        """
        The server does not read, write or close it any more.
        """
        client = self.connect(REPLACE)
        (own,) = self.detached
        self.assertIsNone(self.hears(client))
        client.send(b"ready")
        self.turn()
        self.assertEqual(own.recv(10), b"ready")
        self.server.close()
        self.clock.advance(1000)
        own.send(b"commit")
        self.assertEqual(self.hears(client), b"commit")

    def test_noPlace(self) -> None:
        """
        It takes no client's place any more.
        """
        self.connect(REPLACE)
        self.assertEqual(self.server._clients, {})

    def test_afterAnswers(self) -> None:
        """
        The client may have had answers before.
        """
        client = self.connect(ASK)
        self.assertEqual(self.hears(client), ANSWER)
        client.send(REPLACE)
        self.turn()
        self.assertEqual(len(self.detached), 1)

    def test_later(self) -> None:
        """
        It may leave later.
        """
        self.later = Deferred()
        client = self.connect(REPLACE)
        self.later.callback(Detached(self.detached.append))
        self.turn()
        self.assertEqual(len(self.detached), 1)
        self.assertIsNone(self.hears(client))

    def test_gone(self) -> None:
        """
        If the server has ended the client meanwhile, nobody gets the connection.
        """
        self.later = Deferred()
        client = self.connect(REPLACE)
        self.server.close()
        self.turn()
        self.later.callback(Detached(self.detached.append))
        self.assertEqual(self.detached, [])
        self.assertEqual(self.hears(client), b"")

    def test_noDescriptor(self) -> None:
        """
        If no descriptor is free for it, the client hears so.
        """

        def fail(sock: socket.socket) -> None:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        self.patch(socket.socket, "dup", fail)
        client = self.connect(REPLACE)
        self.assertIn(
            b"this is impossible now: Too many open files", self.hears(client) or b""
        )
        self.assertEqual(self.detached, [])

    def test_lasting(self) -> None:
        """
        The connection of a supervisor leaves as well, and that is no end.
        """
        ended: list[int] = []
        client, theirs = socket.socketpair()
        self.addCleanup(client.close)
        self.server.serve(theirs, lambda: ended.append(1))
        client.send(REPLACE)
        self.turn()
        self.assertEqual(len(self.detached), 1)
        self.assertEqual(ended, [])


class SuspendTests(ServedTestCase):
    """
    Tests for L{ControlServer.suspend} and L{ControlServer.resume}.
    """

    def test_suspend(self) -> None:
        """
        New clients wait, and those that are connected get answers.
        """
        before = self.connect()
        self.server.suspend()
        new = self.connect(ASK)
        before.send(ASK)
        self.turn()
        self.assertEqual(self.hears(before), ANSWER)
        self.assertIsNone(self.hears(new))
        self.server.resume()
        self.turn()
        self.assertEqual(self.hears(new), ANSWER)

    def test_withoutPath(self) -> None:
        """
        If nobody can connect, there is nothing to suspend.
        """
        server = ControlServer(self.clock, None, {}, ())
        server.suspend()
        server.resume()
        self.assertIsNone(server.bound)

    def test_bound(self) -> None:
        """
        The socket and its path are the server's.
        """
        assert self.server.bound is not None
        self.assertEqual(self.server.bound.socket.getsockname(), self.path)
