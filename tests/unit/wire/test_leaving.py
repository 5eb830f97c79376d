"""
Tests for LEAVE and SERVING in L{portlisten._wire.worker_session} and
L{portlisten._wire.listener_session}, and for the items of HELLO there.
"""

from __future__ import annotations

from dataclasses import replace

from twisted.trial.unittest import SynchronousTestCase

from portlisten._model import Port, UnixAddress
from portlisten._wire import worker_events as events
from portlisten._wire.codec import FROM_LISTENER, FROM_WORKER, Decoder, encode
from portlisten._wire.frames import (
    Claim,
    Closed,
    Drain,
    Drained,
    Frame,
    Leave,
    ListenerHello,
    Offer,
    Refuse,
    Revoked,
    Serving,
    WorkerHello,
)
from portlisten._wire.listener_session import Draining, Joined, ListenerSession, Ours
from portlisten._wire.worker_session import WorkerSession

PORT = Port(0, UnixAddress(b"/run/www"))
HELLO = ListenerHello(
    8, (PORT,), False, True, True, frozenset([Serving.TYPE]), claimTimeout=2500
)
OLD_HELLO = ListenerHello(8, (PORT,))


class WorkerTests(SynchronousTestCase):
    """
    The worker's session.
    """

    def setUp(self) -> None:
        self.session: WorkerSession[str] = WorkerSession(leaves=True)
        self.decoder = Decoder(FROM_WORKER)

    def said(self) -> list[Frame]:
        """
        Return the frames that the session writes now, and count them as written.
        """
        frames = list(self.decoder.feed(self.session.outgoing()))
        self.session.flushed()
        return frames

    def hello(self) -> WorkerHello:
        """
        Return the worker's HELLO.
        """
        (hello,) = self.decoder.feed(self.session.hello())
        assert isinstance(hello, WorkerHello)
        return hello

    def hear(self, *frames: Frame) -> list[events.Event[str]]:
        """
        Let frames come in.
        """
        return self.session.receive(b"".join(map(encode, frames)))

    def serve(self, *ids: int) -> None:
        """
        Let connections be offered, claimed, and adopted.
        """
        for id in ids:
            self.session.descriptorArrived(PORT.kind, id, f"token {id}")
        self.hear(*(Offer(id, 0, id) for id in ids))
        self.said()

    def test_hello(self) -> None:
        """
        HELLO says what the worker was given.  Its window is never above its limit, and
        the time of its clients never above what fits.
        """
        self.assertEqual(self.hello(), WorkerHello(128, frames=frozenset([Leave.TYPE])))
        for first, milliseconds in [(2.0, 2000), (0.0001, 1), (1000.0, 65535)]:
            self.session = WorkerSession(8, limit=3, label="web-1", first=first)
            self.decoder = Decoder(FROM_WORKER)
            self.assertEqual(
                self.hello(),
                WorkerHello(3, limit=3, label="web-1", first=milliseconds),
            )

    def test_joined(self) -> None:
        """
        The driver learns what the listener honours.
        """
        self.hello()
        self.assertEqual(self.hear(HELLO), [events.Joined((PORT,), True, True, 2.5)])
        self.session = WorkerSession()
        self.assertEqual(
            self.hear(OLD_HELLO), [events.Joined((PORT,), False, False, None)]
        )

    def test_leave(self) -> None:
        """
        LEAVE is an event each time that it comes, and the session says nothing by
        itself.
        """
        self.hello()
        self.hear(HELLO)
        self.assertEqual(self.hear(Leave(), Leave()), [events.LeaveRequested()] * 2)
        self.assertEqual(self.said(), [])
        self.session.drain()
        self.assertEqual(self.said(), [Drain()])
        self.assertEqual(
            self.hear(Drained(), Leave()),
            [events.DrainConfirmed(), events.LeaveRequested()],
        )
        self.assertFalse(self.session.ended)

    def test_serving(self) -> None:
        """
        A number is reported once, and again when it has changed.
        """
        self.hello()
        self.hear(HELLO)
        for number in (0, 0, 3, 3, 0):
            self.session.serving(number)
        self.assertEqual(self.said(), [Serving(0)])
        self.session.serving(0)
        self.assertEqual(self.said(), [])
        self.session.serving(2)
        self.assertEqual(self.said(), [Serving(2)])

    def test_servingInOrder(self) -> None:
        """
        SERVING goes before DRAIN, and before any claim.
        """
        self.hello()
        self.hear(HELLO)
        self.session.descriptorArrived(PORT.kind, 7, "token")
        self.hear(Offer(1, 0, 7))
        self.session.serving(1)
        self.assertEqual(self.said(), [Serving(1), Claim((1,))])
        self.session.serving(2)
        self.session.drain()
        self.assertEqual(self.said(), [Serving(2), Drain()])

    def test_servingUnknown(self) -> None:
        """
        A listener that does not know SERVING is sent none, and nobody is before HELLO.
        """
        self.hello()
        self.session.serving(1)
        self.assertEqual(self.said(), [])
        self.hear(OLD_HELLO)
        self.session.serving(1)
        self.assertEqual(self.said(), [])

    def test_inService(self) -> None:
        """
        Connections of this channel are in service from their adoption to their report.
        """
        self.hello()
        self.hear(HELLO)
        self.serve(1, 2, 3)
        self.assertEqual(self.session.inService, 3)
        self.session.closed(1)
        self.session.clientGone(3)
        self.assertEqual(self.session.inService, 1)
        self.session.drain()
        self.session.descriptorArrived(PORT.kind, 4, "token 4")
        self.hear(Offer(4, 0, 4))
        self.assertIn(Refuse(2, (4,)), self.said())
        self.assertEqual(self.session.inService, 1)

    def test_ended(self) -> None:
        """
        A session that has ended reports nothing.
        """
        self.hello()
        self.hear(HELLO)
        self.serve(1)
        self.session.channelEnded(True)
        self.session.closed(1)
        self.session.serving(5)
        self.assertEqual(self.session.outgoing(), b"")


class ListenerTests(SynchronousTestCase):
    """
    The listener's session.
    """

    def join(self, hello: WorkerHello) -> list[object]:
        """
        Let a worker say HELLO.
        """
        self.session = ListenerSession(HELLO)
        self.decoder = Decoder(FROM_LISTENER)
        self.assertEqual(list(self.decoder.feed(self.session.hello())), [HELLO])
        return self.session.receive(encode(hello))

    def test_joined(self) -> None:
        """
        The driver learns what the worker says of itself.
        """
        hello = WorkerHello(
            8,
            limit=5,
            frames=frozenset([Leave.TYPE]),
            label="web-1",
            first=2000,
        )
        self.assertEqual(self.join(hello), [Joined(8, (PORT,), 5, 2.0, "web-1", True)])
        self.assertEqual(
            self.join(WorkerHello(8)), [Joined(8, (PORT,), None, None, "", False)]
        )

    def test_leave(self) -> None:
        """
        LEAVE is sent to a worker that knows it, and as long as the channel is open.
        """
        hello = WorkerHello(8, frames=frozenset([Leave.TYPE]))
        self.join(hello)
        self.assertEqual(list(self.decoder.feed(self.session.leave())), [Leave()])
        self.session.revoke("it hangs")
        self.assertEqual(self.session.leave(), b"")
        self.assertIs(self.session.ours, Ours.REVOKING)
        self.assertIn(Revoked(), self.decoder.feed(self.session.revocation()))
        for other in (frozenset[int](), frozenset([Serving.TYPE, 45])):
            self.join(replace(hello, frames=other))
            self.assertEqual(self.session.leave(), b"")

    def test_serving(self) -> None:
        """
        SERVING is an event, before DRAIN and after.
        """
        self.join(WorkerHello(8))
        frames: list[Frame] = [Serving(3), Drain(), Closed((1,)), Serving(0)]
        self.assertEqual(
            self.session.receive(b"".join(map(encode, frames))),
            [Serving(3), Draining(), Closed((1,)), Serving(0)],
        )
