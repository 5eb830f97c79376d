"""
Tests for L{portlisten._handover.takeover}, with a predecessor that has said everything
before it is asked.
"""

from __future__ import annotations

import json
import os
import resource
import socket
from collections.abc import Sequence

from twisted.trial.unittest import SynchronousTestCase

from portlisten import _kernel
from portlisten._control.convert import prepare
from portlisten._control.messages import (
    HandedSocket,
    Manifest,
    Replace,
    encodeAnswer,
    encodeError,
    parseRequest,
)
from portlisten._handover import takeover
from portlisten._handover.messages import (
    Commit,
    Ready,
    Running,
    Stopping,
    decode,
    encode,
)
from portlisten._handover.takeover import Takeover, Transfer
from portlisten.errors import CannotTakeOver, ToldToStop
from tests.support.channels import PATIENCE
from tests.support.descriptors import watchDescriptors

COMMIT = Commit(False, ())


class TakeoverTests(SynchronousTestCase):
    """
    Tests for L{Takeover}.
    """

    def setUp(self) -> None:
        watchDescriptors(self)
        self.patch(takeover, "ANSWER_SECONDS", PATIENCE)
        ours, self.other = socket.socketpair()
        self.addCleanup(self.other.close)
        self.port = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(self.port.close)
        self.stop = False
        self.takeover = Takeover(ours, "the listener at /s", lambda: self.stop)
        self.addCleanup(self.takeover.close)

    def manifest(
        self, *roles: str, sockets: Sequence[socket.socket] | None = None
    ) -> None:
        """
        Send a manifest.

        @param sockets: what comes with it; by default, what fits.
        """
        answer = Manifest(1, 4711, tuple(map(HandedSocket, roles)))
        if sockets is None:
            sockets = [self.port] * len(roles)
        descriptors = [each.fileno() for each in sockets]
        _kernel.send(self.other, encodeAnswer(answer), descriptors)

    def said(self) -> list[bytes]:
        """
        Read the lines that the takeover has said.
        """
        return self.other.recv(65536).splitlines()

    def fails(self) -> str:
        """
        Ask, which fails.  Everything is closed then.

        @return: why.
        """
        error = self.assertRaises(CannotTakeOver, self.takeover.ask)
        self.assertTrue(str(error).startswith("cannot take over from the listener"))
        self.assertTrue(str(error).endswith("; it goes on"))
        self.assertEqual(self.takeover.link.fileno(), -1)
        return str(error)

    def test_all(self) -> None:
        """
        The sockets come by their roles, and the takeover goes on to its end.
        """
        near, far = socket.socketpair()
        with near, far:
            self.manifest(
                "port", "control", "new", "transfer", sockets=[self.port] * 3 + [far]
            )
            self.assertTrue(self.takeover.ask())
            (line,) = self.said()
            self.assertEqual(parseRequest(line), Replace(("1",)))
            for role in ("port", "control"):
                (sock,) = self.takeover.take(role)
                self.assertEqual(_kernel.cookie(sock), _kernel.cookie(self.port))
                sock.close()
                self.assertEqual(self.takeover.take(role), [])
            self.other.send(encode(COMMIT))
            self.assertEqual(self.takeover.commit([5], ["", "web", ""]), COMMIT)
            (line,) = self.said()
            self.assertEqual(decode(line), Ready((5,), ("", "web")))
            transfer = self.takeover.run()
            (line,) = self.said()
            self.assertEqual(decode(line), Running(os.getpid()))
            assert transfer is not None
            self.assertEqual(transfer.pid, 4711)
            near.send(b"hello")
            self.assertEqual(transfer.channel.recv(9), b"hello")
            transfer.sayStopping()
            (line,) = self.said()
            self.assertEqual(decode(line), Stopping())
            transfer.close()
            self.assertEqual(self.other.recv(9), b"")

    def test_dead(self) -> None:
        """
        A predecessor that ends before it has answered is dead.
        """
        self.other.close()
        self.assertFalse(self.takeover.ask())
        self.assertEqual(self.takeover.link.fileno(), -1)

    def test_deadAfterwards(self) -> None:
        """
        So is one that ends without an answer to READY.
        """
        self.manifest("transfer")
        self.assertTrue(self.takeover.ask())
        self.other.close()
        self.assertIsNone(self.takeover.commit([], []))

    def test_deadAtLast(self) -> None:
        """
        So is one that ends before RUNNING.
        """
        self.manifest("transfer")
        self.assertTrue(self.takeover.ask())
        self.other.send(encode(COMMIT))
        self.takeover.commit([], [])
        self.other.close()
        self.assertIsNone(self.takeover.run())

    def test_tooLate(self) -> None:
        """
        One that says why it goes on is not dead.
        """
        self.manifest("transfer")
        self.assertTrue(self.takeover.ask())
        self.other.send(encode(COMMIT))
        self.takeover.commit([], [])
        self.other.send(encodeError("too late"))
        self.other.close()
        error = self.assertRaises(CannotTakeOver, self.takeover.run)
        self.assertIn("(pid 4711): too late; it goes on", str(error))

    def test_refused(self) -> None:
        """
        It may refuse.
        """
        self.other.send(encodeError("another one takes over"))
        self.assertIn("at /s: another one takes over;", self.fails())

    def test_older(self) -> None:
        """
        It may not know the request.
        """
        self.other.send(encodeError('unknown command "replace": there are workers'))
        self.assertIn("start this one without --replace", self.fails())

    def test_refusedLater(self) -> None:
        """
        It may end the handover while this one binds.
        """
        self.manifest("transfer")
        self.assertTrue(self.takeover.ask())
        self.other.send(encodeError("it stops"))
        error = self.assertRaises(CannotTakeOver, self.takeover.commit, [], [])
        self.assertIn("it stops", str(error))

    def test_wrongMessages(self) -> None:
        """
        It may say something else.
        """
        self.manifest("transfer")
        self.assertTrue(self.takeover.ask())
        self.other.send(encode(Running(3)))
        error = self.assertRaises(CannotTakeOver, self.takeover.commit, [], [])
        self.assertIn("a wrong message", str(error))

    def test_nonsense(self) -> None:
        """
        It may say nonsense.
        """
        for line in [b"hello", json.dumps({"version": 2}).encode()]:
            self.other.send(line + b"\n")
        self.assertIn("is no JSON", self.fails())

    def test_hangs(self) -> None:
        """
        It may not answer.
        """
        self.patch(takeover, "ANSWER_SECONDS", 0.01)
        self.assertIn("does not answer within 0.01 s", self.fails())

    def test_doesNotRead(self) -> None:
        """
        It may not read.
        """
        self.takeover.link.setblocking(False)
        try:
            while True:
                self.takeover.link.send(bytes(65536))
        except BlockingIOError:
            pass
        self.assertIn("does not read", self.fails())

    def test_stop(self) -> None:
        """
        This process may be told to stop.
        """
        self.stop = True
        self.assertRaises(ToldToStop, self.takeover.ask)
        self.assertEqual(self.takeover.link.fileno(), -1)

    def test_fewSockets(self) -> None:
        """
        All sockets must come.
        """
        self.manifest("port", "transfer", sockets=[self.port])
        self.assertIn("1 of its 2 sockets came", self.fails())

    def test_fewDescriptors(self) -> None:
        """
        If this process has too few descriptors for them, it says so.
        """
        prepare()
        self.manifest(*["port"] * 9, "transfer")
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        free = os.dup(0)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free + 4, limits[1]))
        try:
            error = self.fails()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        self.assertIn("too few descriptors", error)

    def test_noTransfer(self) -> None:
        """
        The transfer must be among them.
        """
        self.manifest("port")
        self.assertIn("no socket for what waits", self.fails())

    def test_noSocket(self) -> None:
        """
        Each must be a socket.
        """
        answer = Manifest(1, 4711, (HandedSocket("transfer"),))
        with open(os.devnull) as file:
            _kernel.send(self.other, encodeAnswer(answer), [file.fileno()])
        self.assertIn("leads to no socket", self.fails())


class TransferTests(SynchronousTestCase):
    """
    Tests for L{Transfer}.
    """

    def test_ended(self) -> None:
        """
        The predecessor may have ended.
        """
        watchDescriptors(self)
        link, other = socket.socketpair()
        other.close()
        channel = socket.socket()
        transfer = Transfer(link, channel, 1)
        transfer.sayStopping()
        transfer.close()
