"""
Tests that feed L{portlisten._wire.worker_session} and
L{portlisten._wire.listener_session} what no honest peer would write.

C{PORTLISTEN_FUZZ} says how many mutated streams there are; a session, which is slower
than a decoder, is fed a tenth of them.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from portlisten._model import Kind
from portlisten._wire.codec import (
    FROM_LISTENER,
    FROM_WORKER,
    Decoder,
    encode,
)
from portlisten._wire.frames import (
    Bye,
    Claim,
    Drained,
    Frame,
    Listener,
    ListenerHello,
    Offer,
    Revoked,
    Withdraw,
)
from portlisten._wire.listener_session import UNREAD, ListenerSession, Ours
from portlisten._wire.session import MAXIMUM_MISTAKES, Broken, Session
from portlisten._wire.worker_events import Adopt, Close, Left, UseSocket
from portlisten._wire.worker_session import WorkerSession
from tests.support.streams import COUNT, PORTS, SEED, STREAMS, mutate, pieces

#: What a listener that shares says.
SHARING: list[Frame] = [
    ListenerHello(16, PORTS),
    Listener(0, 81),
    Offer(1, 0, 77),
    Listener(1, 82),
    Offer(2, 1, 78),
    Withdraw(81),
    Offer(3, 0, 79),
    Drained(),
    Revoked(),
    Bye("the listener stops"),
]

TAKES = (Kind.CONNECTIONS, Kind.LISTENER)


def valid(vocabulary: object) -> list[bytes]:
    """
    The streams of one direction.
    """
    streams = [frames for words, frames in STREAMS if words is vocabulary]
    if vocabulary is FROM_LISTENER:
        streams.append(SHARING)
    return [b"".join(map(encode, frames)) for frames in streams]


class SessionFuzzTests(SynchronousTestCase):
    """
    Sessions that are fed streams that were valid once.
    """

    def feed(self, session: Session, parts: Iterable[bytes]) -> list[Any]:
        """
        Feed a session.

        @return: its events.
        """
        events: list[Any] = []
        for part in parts:
            events += session.receive(part)
        broken = [event for event in events if isinstance(event, Broken)]
        self.assertEqual([event.bug for event in broken], [None] * len(broken))
        self.assertLessEqual(len(broken), MAXIMUM_MISTAKES + 1)
        return events

    def test_worker(self) -> None:
        """
        Whatever a listener says, and in whatever pieces, a worker's session makes the
        same events of it and gives back each descriptor once.
        """
        source = random.Random(SEED)
        streams = valid(FROM_LISTENER)
        broken = 0
        for number in range(max(1, COUNT // 10)):
            data = mutate(streams[number % len(streams)], source)
            identified = bool(number % 2)
            whole, session = self.work([data], identified)
            cut, _ = self.work(pieces(data, source), identified)
            if cut != whole:
                self.fail(f"it depends on the pieces: {data.hex()}")
            broken += session.broken
            ending = self.endWork(session, source)
            tokens = [
                event.token
                for event in whole + ending
                if isinstance(event, Adopt | Close | UseSocket)
            ]
            self.assertEqual(sorted(tokens), sorted(self.cookies))
            self.assertIsInstance(ending[-1], Left)
        self.assertGreater(broken, 0)

    cookies = (*range(8), 77, 78, 79, 81, 82)

    def work(
        self, parts: Iterable[bytes], identified: bool
    ) -> tuple[list[Any], WorkerSession[int]]:
        """
        Feed a new worker's session, to which descriptors have come already.

        @param identified: whether it was told what they are.
        """

        def identify(cookie: int) -> tuple[Kind, int]:
            return Kind.LISTENER if cookie > 80 else Kind.CONNECTIONS, cookie

        session: WorkerSession[int] = WorkerSession(
            16, takes=TAKES, hasCookie=int.__eq__, identify=identify
        )
        events: list[Any] = []
        for cookie in self.cookies:
            if identified:
                kind, _ = identify(cookie)
                events += session.descriptorArrived(kind, cookie, cookie)
            else:
                events += session.descriptorCame(cookie)
        return events + self.feed(session, parts), session

    def endWork(self, session: WorkerSession[int], source: random.Random) -> list[Any]:
        """
        Write some of what it says, and end the channel.
        """
        said = session.hello()
        events: list[Any] = []
        for _ in range(source.randint(0, 4)):
            said += session.outgoing()
            if source.random() < 0.8:
                events += session.flushed()
        # It never says what a worker must not.
        list(Decoder(FROM_WORKER).feed(said))
        return events + session.channelEnded(source.random() < 0.5)

    def test_listener(self) -> None:
        """
        Whatever a worker says, and in whatever pieces, a listener's session makes the
        same events of it, and no claim of what the worker cannot have read.
        """
        source = random.Random(SEED)
        streams = valid(FROM_WORKER)
        broken = 0
        for number in range(max(1, COUNT // 10)):
            data = mutate(streams[number % len(streams)], source)
            sent = source.randint(1, 20)
            whole = self.listen([data], sent)
            if self.listen(pieces(data, source), sent) != whole:
                self.fail(f"it depends on the pieces: {data.hex()}")
            broken += Broken(UNREAD) in whole
            claimed = {
                id for event in whole if isinstance(event, Claim) for id in event.ids
            }
            self.assertFalse(claimed & set(range(sent + 1, 21)))
        self.assertGreater(broken, 0)

    def listen(self, parts: Iterable[bytes], read: int) -> list[Any]:
        """
        Feed a new listener's session that made 20 offers.

        @param read: how many of them the worker has read.
        """
        session = ListenerSession(ListenerHello(16, PORTS), lambda size: size <= limit)
        said = session.hello()
        frames = [session.offer([(id, 0, id)]) for id in range(1, 21)]
        limit = len(said) + len(b"".join(frames[:read]))
        events = self.feed(session, parts)
        session.revoke("it hangs")
        said += b"".join(frames) + session.revocation()
        self.assertIs(session.ours, Ours.REVOKED)
        list(Decoder(FROM_LISTENER).feed(said))
        return events
