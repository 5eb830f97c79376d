"""
Tests for L{portlisten._handover.handover}: the successor gets the sockets.
"""

from __future__ import annotations

import errno
import json
import os
import socket

from portlisten import _kernel
from portlisten._handover.handover import (
    READY_SECONDS,
    Handed,
    State,
)
from portlisten._handover.messages import (
    MAXIMUM_LINE_BYTES,
    Message,
    Running,
    Stopping,
    encode,
)
from tests.support.handovers import (
    COMMIT,
    READY,
    HandoverTestCase,
    closed,
    sendDescriptor,
)
from tests.support.sockets import listening

RUNNING = Running(4711)


class OfferedTests(HandoverTestCase):
    """
    The successor gets the sockets, and the predecessor serves.
    """

    def test_manifest(self) -> None:
        """
        The successor gets each socket with its role, and one end of the transfer.
        """
        port, path = listening(self), listening(self)
        self.begin(Handed(port, "port"), Handed(path, "channel"))
        (line,) = self.lines()
        manifest = json.loads(line)
        self.assertEqual(manifest["handover"], 1)
        self.assertEqual(manifest["pid"], os.getpid())
        roles = [each["role"] for each in manifest["sockets"]]
        self.assertEqual(roles, ["port", "channel", "transfer"])
        inodes = [os.fstat(each).st_ino for each in self.descriptors]
        own = [os.fstat(each.fileno()).st_ino for each in (port, path)]
        self.assertEqual(inodes[:2], own)
        self.assertEqual(len(inodes), 3)
        self.assertIs(self.handover.state, State.OFFERED)
        self.assertEqual(self.host.calls, [])

    def test_manySockets(self) -> None:
        """
        More sockets go than fit into one message of the kernel.
        """
        port = listening(self)
        count = 2 * _kernel.MAXIMUM_DESCRIPTORS + 1
        self.begin(*[Handed(port, "port")] * count)
        for _ in range(10):
            self.lines()
            self.turn()
        self.assertEqual(len(self.lines()), 1)
        self.assertEqual(len(self.descriptors), count + 1)

    def test_transferEndCloses(self) -> None:
        """
        The predecessor keeps only its own end of the transfer.
        """
        before = len(os.listdir("/proc/self/fd"))
        self.begin()
        self.assertEqual(len(os.listdir("/proc/self/fd")), before + 1)
        self.handover.stopProducing()

    def test_noSocket(self) -> None:
        """
        If no transfer can be made, the connection is closed, and the caller knows.
        """

        def fail() -> None:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        self.patch(socket, "socketpair", fail)
        self.assertRaises(OSError, self.begin)
        self.assertTrue(closed(self.sock))
        self.assertEqual(self.host.calls, [])

    def test_successorDies(self) -> None:
        """
        If the successor dies, the predecessor goes on.
        """
        self.begin()
        self.peer.shutdown(socket.SHUT_RDWR)
        self.assertGoesOn()
        self.assertEqual(
            self.errors(),
            [
                f"process {os.getpid()} does not take over: it has ended; this listener"
                " goes on"
            ],
        )

    def test_successorIsDeadAlready(self) -> None:
        """
        The successor may be dead before the sockets are sent.
        """
        self.peer.shutdown(socket.SHUT_RDWR)
        self.begin()
        self.assertGoesOn()

    def test_successorTakesTooLong(self) -> None:
        """
        If the successor does not become ready in time, it hears so, and may not go on.
        """
        self.begin()
        self.clock.advance(READY_SECONDS - 0.1)
        self.assertEqual(self.host.calls, [])
        self.clock.advance(0.2)
        self.assertGoesOn()
        self.assertIn(b"it does not go on within 60 s", self.lines()[-1])
        self.assertRaises(OSError, self.write, READY)

    def test_readyAtTheLastMoment(self) -> None:
        """
        If READY is in the kernel when the time is over, it counts as nothing: the
        predecessor goes on, whatever had come.
        """
        self.begin()
        self.write(b"\n")
        self.clock.advance(READY_SECONDS)
        self.assertGoesOn()

    def refuses(self, message: Message | bytes, reason: bytes) -> None:
        """
        A message ends the handover.
        """
        self.begin()
        self.say(message)
        self.assertGoesOn()
        self.assertIn(reason, self.lines()[-1])

    def test_running(self) -> None:
        """
        RUNNING may not come first.
        """
        self.refuses(RUNNING, b"it sends the message running at a wrong time")

    def test_stopping(self) -> None:
        """
        STOPPING may not come first.
        """
        self.refuses(Stopping(), b"it sends the message stopping at a wrong time")

    def test_commit(self) -> None:
        """
        COMMIT is the predecessor's to say.
        """
        self.refuses(COMMIT, b"it sends the message commit at a wrong time")

    def test_malformed(self) -> None:
        """
        A line that is no message ends the handover.
        """
        self.refuses(b"\xff\n", b"is no JSON")

    def test_unknown(self) -> None:
        """
        So does a message that is not known.
        """
        self.refuses(b'{"handover": "x"}\n', b"of no known kind")

    def test_refused(self) -> None:
        """
        The successor may say why it ends the handover.
        """
        self.begin()
        self.say(b'{"error": "no port"}\n')
        self.assertGoesOn()
        self.assertIn("does not take over: no port;", self.errors()[0])

    def test_tooLong(self) -> None:
        """
        A line has a limit, whether its end comes or not.
        """
        self.begin()
        self.handover.dataReceived(b"x" * MAXIMUM_LINE_BYTES)
        self.assertIs(self.handover.state, State.OFFERED)
        self.handover.dataReceived(b"x")
        self.assertGoesOn()
        self.assertIn(b"it sends too long a line", self.lines()[-1])

    def test_inPieces(self) -> None:
        """
        A message may come in pieces.
        """
        self.begin()
        data = encode(READY)
        self.say(data[:10])
        self.assertIs(self.handover.state, State.OFFERED)
        self.say(data[10:])
        self.assertIs(self.handover.state, State.COMMITTED)

    def test_descriptor(self) -> None:
        """
        A descriptor ends the handover.
        """
        self.begin()
        sendDescriptor(self.peer, encode(READY))
        self.clock.read()
        self.assertGoesOn()
        self.assertIn(b"it sent a descriptor", self.lines()[-1])

    def test_cancel(self) -> None:
        """
        If the predecessor is told to stop, the handover ends.
        """
        self.begin()
        self.assertIs(self.handover.cancel("told to stop"), False)
        self.assertGoesOn()
        self.assertIn(b"told to stop", self.lines()[-1])
        self.assertIs(self.handover.cancel("told to stop"), False)

    def test_cancelUnbegun(self) -> None:
        """
        A handover that has not begun has nothing to cancel.
        """
        self.assertIs(self.handover.cancel("told to stop"), False)
        self.assertEqual(self.host.calls, [])
