"""
Tests for GIVEN in L{portlisten._wire.worker_session} and
L{portlisten._wire.listener_session}.
"""

from __future__ import annotations

from dataclasses import replace

from twisted.trial.unittest import SynchronousTestCase

from portlisten._model import Port, UnixAddress
from portlisten._wire import worker_events as events
from portlisten._wire.codec import FROM_WORKER, Decoder, encode
from portlisten._wire.frames import (
    Bye,
    Drain,
    Frame,
    Given,
    ListenerHello,
    Offer,
    Revoked,
    WorkerHello,
)
from portlisten._wire.listener_session import Joined, ListenerSession
from portlisten._wire.session import Broken
from portlisten._wire.worker_session import WorkerSession

PORT = Port(0, UnixAddress(b"/run/www"))
HELLO = ListenerHello(8, (PORT,), honoursLimit=True, frames=frozenset([Given.TYPE]))


class WorkerTests(SynchronousTestCase):
    """
    The worker's session.
    """

    def setUp(self) -> None:
        self.session: WorkerSession[str] = WorkerSession(limit=3, gives=True)
        self.decoder = Decoder(FROM_WORKER)

    def said(self, data: bytes) -> list[Frame]:
        """
        Return the frames in what the session writes.
        """
        return list(self.decoder.feed(data))

    def test_announced(self) -> None:
        """
        The worker announces GIVEN only if it gives.
        """
        for gives in (True, False):
            session: WorkerSession[str] = WorkerSession(gives=gives)
            (hello,) = Decoder(FROM_WORKER).feed(session.hello())
            assert isinstance(hello, WorkerHello)
            self.assertEqual(Given.TYPE in hello.frames, gives)

    def test_given(self) -> None:
        """
        GIVEN is written at once.
        """
        self.said(self.session.hello())
        self.session.receive(encode(HELLO))
        self.session.descriptorArrived(PORT.kind, 7, "token")
        self.session.receive(encode(Offer(5, 0, 7)))
        self.said(self.session.outgoing())
        self.session.flushed()
        self.assertEqual(self.said(self.session.given(5)), [Given((5,))])

    def test_unknown(self) -> None:
        """
        A listener that does not know GIVEN is not told.
        """
        session: WorkerSession[str] = WorkerSession()
        session.receive(encode(replace(HELLO, frames=frozenset())))
        self.assertEqual(session.given(5), b"")

    def test_listenerDied(self) -> None:
        """
        After the end, it is known whether the listener is dead, and has no copies.
        """
        for frames, hungUp, died in (
            ([], True, True),
            ([], False, False),
            ([Bye("stops")], True, True),
            ([Bye("hangs"), Revoked()], True, False),
            ([Revoked()], False, False),
        ):
            self.setUp()
            self.session.receive(b"".join(map(encode, [HELLO, *frames])))
            self.session.channelEnded(hungUp)
            self.assertEqual(self.session.listenerDied, died)

    def test_older(self) -> None:
        """
        The worker leaves a listener that does not know GIVEN, or does not keep to the
        limit.
        """
        for hello in (
            replace(HELLO, frames=frozenset()),
            replace(HELLO, honoursLimit=False),
        ):
            self.setUp()
            self.said(self.session.hello())
            why = "it is older than this worker: restart it"
            self.assertEqual(self.session.receive(encode(hello)), [Broken(why)])
            self.assertTrue(self.session.broken)
            frames = self.said(self.session.outgoing())
            self.session.flushed()
            frames += self.said(self.session.outgoing())
            self.assertEqual([type(frame) for frame in frames], [Drain, Bye])

    def test_otherWorkers(self) -> None:
        """
        Any other worker takes such a listener.
        """
        session: WorkerSession[str] = WorkerSession(limit=3)
        told = session.receive(encode(ListenerHello(8, (PORT,))))
        self.assertEqual(told, [events.Joined((PORT,))])


class ListenerTests(SynchronousTestCase):
    """
    The listener's session.
    """

    def test_events(self) -> None:
        """
        The driver learns that the worker gives, and what.
        """
        session = ListenerSession(HELLO)
        hello = WorkerHello(8, frames=frozenset([Given.TYPE]))
        frames: list[Frame] = [hello, Given((1, 2)), Drain(), Given((3,))]
        told = session.receive(b"".join(map(encode, frames)))
        self.assertEqual(told[0], Joined(8, (PORT,), gives=True))
        self.assertEqual([told[1], told[3]], [Given((1, 2)), Given((3,))])
