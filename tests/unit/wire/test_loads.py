"""
Tests for LOADS, with both sessions.
"""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from portlisten._model import Kind, Port, UnixAddress
from portlisten._wire.codec import FROM_LISTENER, Decoder, encode
from portlisten._wire.frames import (
    Frame,
    ListenerHello,
    Loads,
    Revoked,
    WorkerHello,
)
from portlisten._wire.listener_session import Joined as WorkerJoined
from portlisten._wire.listener_session import ListenerSession
from portlisten._wire.session import Broken
from portlisten._wire.worker_events import CloseMemory, Left, ShareLoads
from portlisten._wire.worker_session import MAXIMUM_MEMORIES, WorkerSession

PORT = Port(0, UnixAddress(b"/run/www"), "", Kind.LISTENER)
HELLO = ListenerHello(8, (PORT,))
LOADS = Loads(3, 1, 71, 72)


class WorkerTests(SynchronousTestCase):
    """
    The worker's end.
    """

    def setUp(self) -> None:
        """
        Join.
        """
        self.session: WorkerSession[str] = WorkerSession(
            takes=[Kind.CONNECTIONS, Kind.LISTENER], balances=True
        )
        self.session.hello()
        self.hear(HELLO)

    def hear(self, *frames: Frame) -> list[Any]:
        """
        Let frames come in.
        """
        return self.session.receive(b"".join(map(encode, frames)))

    def arrive(self, *numbers: int) -> list[Any]:
        """
        Let memory come in.
        """
        events: list[Any] = []
        for number in numbers:
            events += self.session.memoryArrived(number, 100 + number)
        return events

    def test_shared(self) -> None:
        """
        The memory is used when its frame is there, in whichever order it came.
        """
        for numbers in ((71, 72), (72, 71)):
            self.setUp()
            self.assertEqual(self.arrive(*numbers), [])
            self.assertEqual(self.session.pending, 2)
            self.assertEqual(self.hear(LOADS), [ShareLoads(3, 1, 171, 172)])
            self.assertEqual(self.session.pending, 0)

    def test_lost(self) -> None:
        """
        If a descriptor got lost, the other is closed, and the worker goes on.
        """
        self.assertEqual(self.hear(LOADS), [])
        for number in (71, 72):
            self.setUp()
            self.arrive(number)
            self.assertEqual(self.hear(LOADS), [CloseMemory(100 + number)])
            self.assertFalse(self.session.broken)

    def test_twice(self) -> None:
        """
        The older of two descriptors is closed; what has no frame, at the end.
        """
        self.arrive(71)
        self.assertEqual(self.arrive(71), [CloseMemory(171)])
        self.assertEqual(
            self.session.channelEnded(False), [CloseMemory(171), Left(None)]
        )

    def test_oneMemory(self) -> None:
        """
        The parts are different memories, and the frame comes once.
        """
        reason = "a second LOADS, or one memory twice"
        self.assertEqual(self.hear(Loads(0, 1, 71, 71)), [Broken(reason)])
        self.setUp()
        self.arrive(71, 72)
        self.hear(LOADS)
        self.arrive(73, 74)
        self.assertEqual(self.hear(Loads(3, 1, 73, 74)), [Broken(reason)])
        self.assertEqual(
            self.session.channelEnded(False),
            [CloseMemory(173), CloseMemory(174), Left(reason)],
        )

    def test_tooMany(self) -> None:
        """
        No more are held than a frame has.
        """
        reason = "more than 2 memories without their frame"
        self.assertEqual(MAXIMUM_MEMORIES, 2)
        self.assertEqual(self.arrive(1, 2, 3), [Broken(reason)])

    def test_unwanted(self) -> None:
        """
        A worker that has not announced the frame takes no memory, nor one that is
        revoked.
        """
        other: WorkerSession[str] = WorkerSession()
        self.assertFalse(other.wantsMemories)
        self.assertEqual(other.memoryArrived(71, 171), [CloseMemory(171)])
        self.assertTrue(self.session.wantsMemories)
        self.hear(Revoked())
        self.assertFalse(self.session.wantsMemories)


class ListenerTests(SynchronousTestCase):
    """
    The listener's end.
    """

    def test_share(self) -> None:
        """
        The listener learns who knows the frame, and says nothing more after it has
        revoked.
        """
        for knows in (False, True):
            session = ListenerSession(HELLO)
            decoder = Decoder(FROM_LISTENER)
            list(decoder.feed(session.hello()))
            hello = WorkerHello(
                8,
                takes=frozenset([Kind.LISTENER]),
                frames=frozenset([Loads.TYPE] * knows),
            )
            (event,) = session.receive(encode(hello))
            assert isinstance(event, WorkerJoined)
            self.assertEqual(event.balances, knows)
            self.assertEqual(
                list(decoder.feed(session.shareLoads(3, 1, 71, 72))), [LOADS]
            )
            session.revoke("it hangs")
            self.assertEqual(session.shareLoads(3, 1, 71, 72), b"")
