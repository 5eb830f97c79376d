"""
Tests for L{portlisten._handover.handover}: the successor serves.
"""

from __future__ import annotations

import socket
from typing import Any

from portlisten._handover.handover import (
    LOOK_SECONDS,
    READY_SECONDS,
    State,
)
from portlisten._handover.messages import (
    MAXIMUM_LINE_BYTES,
    Running,
    Stopping,
    encode,
)
from tests.support.handovers import (
    READY,
    HandoverTestCase,
    closed,
    sendDescriptor,
)

RUNNING = Running(4711)


class RetiringTests(HandoverTestCase):
    """
    The successor serves.
    """

    def test_retire(self) -> None:
        """
        The predecessor hands over what waits, for as long as it likes.
        """
        self.retire()
        self.assertEqual(self.host.calls, ["suspend", "retire"])
        self.assertEqual(self.host.ready, READY)
        self.clock.advance(10 * READY_SECONDS)
        self.assertIs(self.handover.state, State.RETIRING)
        self.assertEqual(self.errors(), [])

    def test_transfer(self) -> None:
        """
        What is written to the transfer comes to the successor.
        """
        self.retire()
        self.lines()
        transfer: Any = self.host.transfer
        transfer.send(b"offer")
        own = socket.socket(fileno=self.descriptors.pop())
        self.addCleanup(own.close)
        self.assertEqual(own.recv(10), b"offer")

    def test_atOnce(self) -> None:
        """
        READY and RUNNING may come at once: a successor need not wait for the answer.
        """
        self.begin()
        self.say(READY, RUNNING)
        self.assertEqual(self.host.calls, ["suspend", "retire"])

    def test_successorDies(self) -> None:
        """
        If the successor dies, the predecessor takes back.
        """
        self.retire()
        self.peer.close()
        self.turn()
        self.assertEqual(self.host.calls, ["suspend", "retire", "takeBack", "ended"])
        self.assertTrue(closed(self.sock))
        self.assertIn("process 4711 does not take over: it has ended", self.errors()[0])

    def test_stopping(self) -> None:
        """
        If the successor is told to stop, the predecessor stops, and takes nothing back.
        """
        self.retire()
        self.write(Stopping())
        self.peer.close()
        self.turn()
        self.assertEqual(self.host.calls, ["suspend", "retire", "stop"])

    def test_retired(self) -> None:
        """
        When all is handed over, the connection ends, and nothing is taken back.
        """
        self.retire()
        self.handover.retired()
        self.turn()
        self.assertEqual(self.host.calls, ["suspend", "retire"])
        self.assertTrue(self.hasEnded())

    def test_cancel(self) -> None:
        """
        The handover cannot be cancelled any more.
        """
        self.retire()
        self.assertIs(self.handover.cancel("told to stop"), True)
        self.assertIs(self.handover.state, State.RETIRING)
        self.assertEqual(self.host.calls, ["suspend", "retire"])

    def breaksTheRules(self, *data: bytes) -> None:
        """
        The successor breaks the rules.  It serves, so the predecessor only logs that,
        and still finds out when it dies.
        """
        self.retire()
        for each in data:
            self.handover.dataReceived(each)
        self.turn()
        self.assertEqual(self.host.calls, ["suspend", "retire"])
        (error,) = self.errors()
        self.assertIn("process 4711, which has taken over, breaks the rules", error)
        self.peer.close()
        self.turn()
        self.assertEqual(self.host.calls[2:], ["takeBack", "ended"])

    def test_wrongMessage(self) -> None:
        """
        A message at a wrong time changes nothing.
        """
        self.breaksTheRules(encode(RUNNING))

    def test_manyWrongMessages(self) -> None:
        """
        Only the first of them is logged.
        """
        self.breaksTheRules(b"\n" * 1000, b"\n")

    def test_tooLong(self) -> None:
        """
        Neither does a line that is too long.
        """
        self.breaksTheRules(b"x" * (MAXIMUM_LINE_BYTES + 1))

    def test_descriptor(self) -> None:
        """
        A descriptor is not read, and changes nothing.
        """
        self.retire()
        sendDescriptor(self.peer, encode(RUNNING))
        self.turn()
        self.turn()
        self.assertEqual(self.host.calls, ["suspend", "retire"])
        self.assertIn("it sent a descriptor", self.errors()[0])
        self.peer.close()
        self.clock.advance(2 * LOOK_SECONDS)
        self.assertEqual(self.host.calls[2:], ["takeBack", "ended"])

    def test_bug(self) -> None:
        """
        If the predecessor cannot retire for a bug, the log says so.
        """
        self.host.failing = "retire"
        self.retire()
        self.assertIs(self.handover.state, State.RETIRING)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
