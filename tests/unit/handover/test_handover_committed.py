"""
Tests for L{portlisten._handover.handover}: nobody accepts.
"""

from __future__ import annotations

import socket

from portlisten._handover.handover import (
    LOOK_SECONDS,
    RUNNING_SECONDS,
    State,
)
from portlisten._handover.messages import (
    Running,
    Stopping,
    encode,
)
from tests.support.handovers import (
    COMMIT,
    READY,
    HandoverTestCase,
    sendDescriptor,
)

RUNNING = Running(4711)


class CommittedTests(HandoverTestCase):
    """
    Nobody accepts.
    """

    def test_commit(self) -> None:
        """
        When the successor is ready, the predecessor accepts no more, and says so.
        """
        self.commit()
        self.assertEqual(self.host.calls, ["suspend"])
        self.assertEqual(self.lines()[1:], [encode(COMMIT)])
        self.assertIs(self.handover.state, State.COMMITTED)

    def test_successorDies(self) -> None:
        """
        If the successor dies, the predecessor accepts again.
        """
        self.commit()
        self.peer.shutdown(socket.SHUT_RDWR)
        self.assertGoesOn("suspend", "resume")

    def test_tooLate(self) -> None:
        """
        If RUNNING does not come in time, it cannot be written any more.
        """
        self.commit()
        self.clock.advance(RUNNING_SECONDS - 0.1)
        self.assertIs(self.handover.state, State.COMMITTED)
        self.clock.advance(0.2)
        self.assertGoesOn("suspend", "resume")
        self.assertIn(b"it does not go on within 5 s", self.lines()[-1])
        self.assertRaises(OSError, self.write, RUNNING)

    def test_atTheLastMoment(self) -> None:
        """
        If RUNNING was written before the time is over, it counts, and the predecessor
        does not accept again while the successor lives.
        """
        self.commit()
        self.write(RUNNING)
        self.clock.advance(RUNNING_SECONDS)
        self.assertEqual(self.host.calls, ["suspend", "retire"])
        self.assertIs(self.handover.state, State.RETIRING)
        for _ in range(3):
            self.turn()
        self.assertEqual(self.host.calls, ["suspend", "retire"])
        self.assertEqual(self.errors(), [])

    def test_cancelTooLate(self) -> None:
        """
        If RUNNING was written before the predecessor is told to stop, it counts.
        """
        self.commit()
        self.write(RUNNING)
        self.assertIs(self.handover.cancel("told to stop"), True)
        for _ in range(3):
            self.turn()
        self.assertEqual(self.host.calls, ["suspend", "retire"])

    def test_cancel(self) -> None:
        """
        If the predecessor is told to stop, it accepts again for what it still does.
        """
        self.commit()
        self.assertIs(self.handover.cancel("told to stop"), False)
        self.assertGoesOn("suspend", "resume")
        self.assertRaises(OSError, self.write, RUNNING)

    def test_diesAtTheLastMoment(self) -> None:
        """
        If the successor has written RUNNING and died before the time is over, the
        predecessor takes back.
        """
        self.commit()
        self.write(RUNNING)
        self.peer.close()
        self.clock.advance(RUNNING_SECONDS)
        self.turn()
        self.assertEqual(self.host.calls, ["suspend", "retire", "takeBack", "ended"])

    def test_diesAfterTheLastMoment(self) -> None:
        """
        If RUNNING counted at the last moment, the predecessor still finds out when the
        successor dies, though it can read no end.
        """
        self.commit()
        self.write(RUNNING)
        self.clock.advance(RUNNING_SECONDS)
        self.clock.advance(3 * LOOK_SECONDS)
        self.assertEqual(self.host.calls, ["suspend", "retire"])
        self.peer.close()
        self.clock.advance(2 * LOOK_SECONDS)
        self.assertEqual(self.host.calls, ["suspend", "retire", "takeBack", "ended"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_retiredAfterTheLastMoment(self) -> None:
        """
        If RUNNING counted at the last moment, the handover ends as any other.
        """
        self.commit()
        self.write(RUNNING)
        self.clock.advance(RUNNING_SECONDS)
        self.handover.retired()
        self.turn()
        self.assertEqual(self.host.calls, ["suspend", "retire"])
        self.assertTrue(self.hasEnded())
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stopsAtTheLastMoment(self) -> None:
        """
        RUNNING and STOPPING may both be found when the time is over.
        """
        self.commit()
        self.write(RUNNING, Stopping())
        self.clock.advance(RUNNING_SECONDS)
        self.assertEqual(self.host.calls, ["suspend", "retire", "stop"])
        self.assertEqual(len(self.lines()), 2)
        self.handover.retired()
        self.turn()

    def test_descriptorAtTheLastMoment(self) -> None:
        """
        A descriptor that is found when the time is over ends the handover, and no
        message that it came with counts.
        """
        self.commit()
        sendDescriptor(self.peer, encode(RUNNING))
        self.clock.advance(RUNNING_SECONDS)
        self.assertGoesOn("suspend", "resume")
        self.assertIn(b"it sent a descriptor", self.lines()[-1])

    def test_wrongAtTheLastMoment(self) -> None:
        """
        The successor hears one reason, and not two.
        """
        self.commit()
        self.write(READY)
        self.clock.advance(RUNNING_SECONDS)
        self.assertGoesOn("suspend", "resume")
        self.assertEqual(len(self.lines()), 3)

    def test_readyAgain(self) -> None:
        """
        READY may not come again.
        """
        self.commit()
        self.say(READY)
        self.assertGoesOn("suspend", "resume")
        self.assertIn(b"ready at a wrong time", self.lines()[-1])

    def test_stopping(self) -> None:
        """
        STOPPING may not come yet.
        """
        self.commit()
        self.say(Stopping())
        self.assertGoesOn("suspend", "resume")
        self.assertIn(b"stopping at a wrong time", self.lines()[-1])

    def test_descriptor(self) -> None:
        """
        A descriptor ends the handover.
        """
        self.commit()
        sendDescriptor(self.peer, encode(RUNNING))
        self.clock.read()
        self.assertGoesOn("suspend", "resume")

    def test_bug(self) -> None:
        """
        If the predecessor cannot suspend for a bug, it goes on.
        """
        self.host.failing = "suspend"
        self.begin()
        self.say(READY)
        self.assertGoesOn("suspend", "resume")
        self.assertIn(b"an internal error", self.lines()[-1])
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_ended(self) -> None:
        """
        What comes after the end of the handover is not read.
        """
        self.begin()
        self.say(b"\n", READY)
        self.assertGoesOn()
