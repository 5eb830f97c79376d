"""
Tests for L{portlisten._handover.takeover}.  The predecessor's bytes are in the kernel
before they are read.
"""

from __future__ import annotations

import os
import socket
import time

from portlisten import _kernel
from portlisten._control.messages import (
    encodeError,
)
from portlisten._handover.messages import (
    Commit,
    Ready,
    Running,
    Stopping,
    decode,
)
from portlisten._handover.takeover import Transfer
from portlisten.errors import ToldToStop
from tests.support.sockets import pair
from tests.support.takeovers import COMMIT, TakeoverTestCase


class CommitTests(TakeoverTestCase):
    """
    Tests for L{Takeover.commit}.
    """

    def commit(self) -> Commit | None:
        """
        Commit.
        """
        return self.takeover.commit([1, 2], ["a", "", "a"])

    def test_commit(self) -> None:
        """
        The predecessor hears what this process has, each name once, and answers.
        """
        self.asked()
        self.say(COMMIT)
        self.assertEqual(self.commit(), COMMIT)
        (line,) = self.heard()
        self.assertEqual(decode(line), Ready((1, 2), ("a", "")))

    def test_died(self) -> None:
        """
        If the predecessor has died before, this process must serve.
        """
        self.asked()
        self.peer.close()
        self.assertIsNone(self.commit())

    def test_dies(self) -> None:
        """
        If the predecessor dies before it answers, this process must serve.
        """
        self.asked()
        self.peer.shutdown(socket.SHUT_WR)
        self.assertIsNone(self.commit())

    def test_refused(self) -> None:
        """
        If the predecessor has ended the handover, it goes on, and its end is closed.
        """
        self.asked()
        self.say(encodeError("too late"))
        self.peer.close()
        self.assertEqual(self.fails(self.commit), " (pid 4711): too late")

    def test_wrong(self) -> None:
        """
        Another message is an error.
        """
        self.asked()
        self.say(Stopping())
        self.assertEqual(
            self.fails(self.commit), " (pid 4711): it sends a wrong message"
        )

    def test_malformed(self) -> None:
        """
        So are bytes that are no message.
        """
        self.asked()
        self.say(b"\n")
        self.assertIn("is no JSON", self.fails(self.commit))

    def test_hangs(self) -> None:
        """
        The predecessor must answer in time.
        """
        self.asked()
        self.patience(0.02)
        self.assertIn("does not answer within 0.02 s", self.fails(self.commit))

    def test_told(self) -> None:
        """
        The wait ends if this process is told to stop.
        """
        self.asked()
        self.told = True
        self.assertRaises(ToldToStop, self.commit)


class RunTests(TakeoverTestCase):
    """
    Tests for L{Takeover.run}.
    """

    def committed(self) -> None:
        """
        Come so far that nobody accepts.
        """
        self.asked()
        self.say(COMMIT)
        self.takeover.commit([], [])
        self.heard()

    def run_(self) -> Transfer:
        """
        Take over.
        """
        transfer = self.takeover.run()
        self.addCleanup(transfer.close)
        return transfer

    def test_run(self) -> None:
        """
        RUNNING is one write, and the connections stay open.
        """
        self.committed()
        transfer = self.run_()
        (line,) = self.heard()
        self.assertEqual(decode(line), Running(os.getpid()))
        self.assertEqual(transfer.pid, 4711)
        self.takeover._closeGiven()
        self.assertNotEqual(transfer.link.fileno(), -1)
        self.assertNotEqual(transfer.channel.fileno(), -1)

    def test_doesNotWait(self) -> None:
        """
        Nothing is waited for after RUNNING.
        """
        self.committed()
        self.patience(0)
        self.told = True
        began = time.monotonic()
        self.run_()
        self.assertLess(time.monotonic() - began, 5)

    def test_unknownRoles(self) -> None:
        """
        Sockets that nobody has taken are closed.
        """
        later, other = pair(self)
        self.answer("transfer", "later", sockets=[pair(self)[0], later])
        self.takeover.ask()
        later.close()
        self.say(COMMIT)
        self.takeover.commit([], [])
        self.run_()
        self.assertEqual(other.recv(1), b"")

    def test_tooLate(self) -> None:
        """
        If the predecessor lets nothing more be written, it goes on.
        """
        self.committed()
        self.peer.shutdown(socket.SHUT_RD)
        self.say(encodeError("it does not go on within 5 s"))
        self.assertEqual(
            self.fails(self.takeover.run), " (pid 4711): it does not go on within 5 s"
        )

    def test_died(self) -> None:
        """
        If the predecessor has died without a word, this process serves.
        """
        self.committed()
        self.peer.close()
        transfer = self.run_()
        transfer.sayStopping()

    def test_wrong(self) -> None:
        """
        A message instead of a reason is an error.
        """
        self.committed()
        self.say(COMMIT)
        self.peer.close()
        self.assertIn("it sends a wrong message", self.fails(self.takeover.run))

    def test_doesNotRead(self) -> None:
        """
        If RUNNING does not fit the buffer, this process does not serve.
        """
        self.committed()
        self.patch(_kernel, "send", lambda sock, data, descriptors: 0)
        self.assertIn("does not read", self.fails(self.takeover.run))

    def test_stopping(self) -> None:
        """
        If this process is told to stop, the predecessor hears so.
        """
        self.committed()
        transfer = self.run_()
        self.heard()
        transfer.sayStopping()
        (line,) = self.heard()
        self.assertEqual(decode(line), Stopping())
        transfer.close()
        self.assertEqual(self.peer.recv(1), b"")
