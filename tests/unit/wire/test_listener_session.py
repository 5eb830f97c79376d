"""
Tests for L{portlisten._wire.listener_session}.
"""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from portlisten._model import InternetAddress, Kind, Port
from portlisten._wire import listener_session
from portlisten._wire.codec import (
    FROM_LISTENER,
    FROM_WORKER,
    Decoder,
    encode,
)
from portlisten._wire.frames import (
    DRAINING,
    Bye,
    Claim,
    ClientGone,
    Closed,
    Drain,
    Drained,
    Frame,
    Given,
    Listener,
    ListenerHello,
    Offer,
    Refuse,
    Revoked,
    Serving,
    Withdraw,
    WorkerHello,
)
from portlisten._wire.listener_session import (
    UNREAD,
    Draining,
    Joined,
    Left,
    ListenerSession,
    Ours,
    Refused,
    Theirs,
)
from portlisten._wire.session import MAXIMUM_MISTAKES, Broken, Do, Forbidden
from tests.support.tables import cellsOf, essay

HTTP = Port(0, InternetAddress("TCP", "192.0.2.1", 80), "http")
HTTPS = Port(1, InternetAddress("TCP", "192.0.2.1", 443), "https")
HELLO = ListenerHello(4, (HTTP, HTTPS))
GREETING = WorkerHello(3)

#: One frame of each type that a worker sends.
FRAMES: dict[type[Frame], Frame] = {
    WorkerHello: GREETING,
    Claim: Claim((1,)),
    Refuse: Refuse(DRAINING, (1,)),
    Closed: Closed((1,)),
    ClientGone: ClientGone((1,)),
    Serving: Serving(3),
    Given: Given((1,)),
    Drain: Drain(),
    Bye: Bye("enough"),
}

#: The events of these frames.
EVENTS: dict[type[Frame], Any] = {
    WorkerHello: Joined(3, (HTTP, HTTPS)),
    Claim: Claim((1,)),
    Refuse: Refused((1,), "the worker is draining"),
    Closed: Closed((1,)),
    ClientGone: ClientGone((1,)),
    Serving: Serving(3),
    Given: Given((1,)),
    Drain: Draining(),
    Bye: Left("it says: enough"),
}

#: What a worker says to get into a state.
WAYS: dict[Theirs, list[Frame]] = {
    Theirs.GREETING: [],
    Theirs.OPEN: [GREETING],
    Theirs.DRAINING: [GREETING, Drain()],
    Theirs.LEFT: [GREETING, Bye("enough")],
}


class SessionTestCase(SynchronousTestCase):
    """
    A session, whose worker is this test.

    @ivar read: how many bytes the worker has read.
    """

    def setUp(self) -> None:
        self.read = 1 << 20
        self.session = ListenerSession(HELLO, lambda size: size <= self.read)
        self.decoder = Decoder(FROM_LISTENER)
        self.hello = self.session.hello()
        list(self.decoder.feed(self.hello))

    def hear(self, *frames: Frame | bytes) -> list[Any]:
        """
        Have these frames come in.
        """
        return self.session.receive(
            b"".join(
                each if isinstance(each, bytes) else encode(each) for each in frames
            )
        )

    def assertSays(self, data: bytes, *frames: Frame) -> None:
        """
        Check what is written.
        """
        self.assertEqual(list(self.decoder.feed(data)), list(frames))


class TableTests(SessionTestCase):
    """
    The session does what its table says, cell by cell.
    """

    def reach(self, state: Theirs) -> None:
        """
        Begin anew, and have the worker get to a state.
        """
        self.setUp()
        self.hear(*WAYS[state])
        self.assertIs(self.session.theirs, state)

    def test_complete(self) -> None:
        """
        Each frame that a worker may send has a cell in each state but the last, in
        which nothing is read.
        """
        self.assertEqual(list(ListenerSession.table), list(Theirs))
        for state, row in ListenerSession.table.items():
            if state is not Theirs.LEFT:
                self.assertEqual(set(row), set(FRAMES))
                self.assertEqual({each.TYPE for each in row}, set(FROM_WORKER))

    def test_essay(self) -> None:
        """
        The essay at the top of the module has the same table.
        """
        said = essay(listener_session.__doc__ or "")
        del said["theirs"]
        self.assertEqual(
            {
                state.name: cellsOf(state, row, FRAMES)
                for state, row in ListenerSession.table.items()
                if row
            },
            said,
        )

    def test_forbidden(self) -> None:
        """
        A forbidden frame breaks the channel with the reason that the cell has, and
        makes no other event.
        """
        count = 0
        for state, row in ListenerSession.table.items():
            for kind, cell in row.items():
                if isinstance(cell, Forbidden):
                    count += 1
                    self.reach(state)
                    self.assertEqual(self.hear(FRAMES[kind]), [Broken(cell.reason)])
                    self.assertIs(self.session.theirs, state)
        self.assertEqual(count, 10)

    def test_allowed(self) -> None:
        """
        An allowed frame gives an event, and leads to the state that the cell has.
        """
        for state, row in ListenerSession.table.items():
            for kind, cell in row.items():
                if isinstance(cell, Do):
                    self.reach(state)
                    self.assertEqual(self.hear(FRAMES[kind]), [EVENTS[kind]])
                    self.assertIs(self.session.theirs, cell.then or state)

    def test_left(self) -> None:
        """
        Nothing is read behind BYE, neither at once nor later.
        """
        for before in ([], [GREETING]):
            self.setUp()
            events = self.hear(*before, Bye("enough"), Claim((1,)), b"\xee\0\0\0")
            self.assertEqual(events[-1], Left("it says: enough"))
            self.assertTrue(self.session.readsNoMore)
            self.assertEqual(self.hear(Claim((1,))), [])

    def test_nothingAfterHelloOutOfPlace(self) -> None:
        """
        Nothing counts behind a frame on the wrong side of HELLO.
        """
        self.assertEqual(
            self.hear(Claim((1,)), GREETING), [Broken("no HELLO to begin with")]
        )
        self.assertTrue(self.session.readsNoMore)


class JoiningTests(SessionTestCase):
    """
    How a worker joins.
    """

    def test_hello(self) -> None:
        """
        The listener says what it has.
        """
        self.assertEqual(self.hello, encode(HELLO))

    def test_largerWindow(self) -> None:
        """
        The smaller one of the windows counts.
        """
        self.assertEqual(self.hear(WorkerHello(5)), [Joined(4, (HTTP, HTTPS))])

    def test_names(self) -> None:
        """
        A worker that asks for names gets the ports of these.
        """
        self.assertEqual(self.hear(WorkerHello(1, ("https",))), [Joined(1, (HTTPS,))])

    def test_unknownName(self) -> None:
        """
        A worker that asks for another one has not joined.
        """
        reason = "no port is called 'smtp' here, only http, https"
        self.assertEqual(self.hear(WorkerHello(1, ("smtp",))), [Broken(reason)])
        self.assertIs(self.session.theirs, Theirs.GREETING)

    def test_wrongKind(self) -> None:
        """
        A worker that cannot take the port's kind does not join either.
        """
        hello = WorkerHello(1, ("http",), frozenset([Kind.DATAGRAMS]))
        (event,) = self.hear(hello)
        self.assertIn("is no UDP port", event.reason)


class AnswerTests(SessionTestCase):
    """
    Answers to offers.
    """

    def setUp(self) -> None:
        super().setUp()
        self.hear(GREETING)

    def offer(self, *ids: int) -> None:
        """
        Offer connections, in one write.
        """
        said = self.session.offer([(id, 0, 1000 + id) for id in ids])
        self.assertSays(said, *(Offer(id, 0, 1000 + id) for id in ids))

    def test_answered(self) -> None:
        """
        An offer is unanswered until it is claimed or refused.
        """
        self.offer(1, 2, 3)
        self.assertEqual(self.session.unanswered, (1, 2, 3))
        self.hear(Claim((1,)), Refuse(1, (3,)))
        self.assertEqual(self.session.unanswered, (2,))

    def test_unread(self) -> None:
        """
        The worker must not answer an offer that it cannot have read.
        """
        self.read = len(self.hello)
        self.offer(1)
        self.assertEqual(self.hear(Claim((1,)), Refuse(1, (1,))), [Broken(UNREAD)] * 2)
        self.assertEqual(self.session.unanswered, (1,))

    def test_upToWhatIsRead(self) -> None:
        """
        Where an offer ends is counted from the first byte, whatever is between.
        """
        self.offer(1)
        self.session.drained()
        self.session.withdraw(5)
        self.offer(2, 3)
        size = len(encode(Offer(1, 0, 1)))
        between = len(encode(Drained())) + len(encode(Withdraw(5)))
        self.read = len(self.hello) + between + 3 * size - 1
        self.assertEqual(self.hear(Claim((3,))), [Broken(UNREAD)])
        self.assertEqual(self.hear(Claim((1, 2))), [Claim((1, 2))])
        self.read += 1
        self.assertEqual(self.hear(Claim((3,))), [Claim((3,))])

    def test_unknownIds(self) -> None:
        """
        Whether an id fits is not for the session to say.
        """
        self.read = 0
        self.assertEqual(self.hear(Claim((66,))), [Claim((66,))])

    def test_reports(self) -> None:
        """
        Ends are no answers.
        """
        self.read = 0
        self.assertEqual(
            self.hear(Closed((1,)), ClientGone((2,))), [Closed((1,)), ClientGone((2,))]
        )

    def test_refusedForReasonsUnknown(self) -> None:
        """
        A reason that has no words is told as its number.
        """
        self.assertEqual(self.hear(Refuse(77, (2,))), [Refused((2,), "reason 77")])


class CommandTests(SessionTestCase):
    """
    Tests for the frames of the listener.
    """

    def setUp(self) -> None:
        super().setUp()
        self.hear(GREETING)

    def commands(self) -> list[bytes]:
        """
        Give those commands that may come too late.
        """
        return [
            self.session.shareSocket(1, 5),
            self.session.withdraw(5),
            self.session.drained(),
        ]

    def test_open(self) -> None:
        """
        Each is a frame.
        """
        self.assertSays(
            b"".join(self.commands()), Listener(1, 5), Withdraw(5), Drained()
        )

    def test_tooLate(self) -> None:
        """
        A worker that is being revoked, or parted with, is told none of it.
        """
        self.session.revoke("it hangs")
        self.assertEqual(self.commands(), [b""] * 3)
        self.session.revocation()
        self.assertEqual(self.commands(), [b""] * 3)
        self.session.shut()
        self.assertEqual(self.commands(), [b""] * 3)
        self.session.end()
        self.assertEqual(self.commands(), [b""] * 3)

    def test_revoke(self) -> None:
        """
        To revoke takes three steps, in each of which what comes counts.
        """
        self.assertFalse(self.session.revokedSent)
        for step, state, sent in (
            (lambda: self.session.revoke("it hangs"), Ours.REVOKING, False),
            (self.session.revocation, Ours.REVOKED, True),
            (self.session.shut, Ours.SHUT, True),
        ):
            step()
            self.assertIs(self.session.ours, state)
            self.assertIs(self.session.revokedSent, sent)
            self.assertEqual(self.hear(Claim((1,))), [Claim((1,))])
        self.session.end()
        self.assertIs(self.session.ours, Ours.ENDED)
        self.assertEqual(self.hear(Claim((1,))), [])

    def test_revocation(self) -> None:
        """
        The worker is told why; the first reason counts.
        """
        self.session.revoke("it hangs")
        self.session.revoke("it hangs still")
        self.assertEqual(self.session.reason, "it hangs")
        self.assertSays(self.session.revocation(), Revoked(), Bye("it hangs"))

    def test_channelFailed(self) -> None:
        """
        A channel that has ended may be revoked as well.
        """
        self.session.end()
        self.assertSays(
            self.session.revocation("the channel failed"),
            Revoked(),
            Bye("the channel failed"),
        )
        self.assertIs(self.session.ours, Ours.ENDED)

    def test_bye(self) -> None:
        """
        Nothing counts after BYE, and nothing can be revoked.
        """
        self.assertSays(self.session.bye("enough"), Bye("enough"))
        self.assertTrue(self.session.ended)
        self.session.revoke("too late")
        self.assertIs(self.session.ours, Ours.ENDED)
        self.assertEqual(self.hear(Claim((1,))), [])


class MisconductTests(SessionTestCase):
    """
    A worker that breaks the protocol.
    """

    def setUp(self) -> None:
        super().setUp()
        self.hear(GREETING)

    def test_malformed(self) -> None:
        """
        Frames before BYE count, and none after it.
        """
        self.assertEqual(
            self.hear(Claim((1,)), b"\xee\0\0\0", Claim((2,))),
            [Claim((1,)), Broken("a frame of the unknown type 238")],
        )
        self.assertEqual(self.hear(Claim((2,))), [])

    def test_goodAfterBad(self) -> None:
        """
        A frame that makes no sense does not undo what is behind it.
        """
        self.assertEqual(
            self.hear(Drain(), Drain(), Claim((1,))),
            [Draining(), Broken("a second DRAIN"), Claim((1,))],
        )

    def test_tooMuch(self) -> None:
        """
        Only so many mistakes are read past.
        """
        events = self.hear(Drain(), *[Drain()] * 100, Claim((1,)))
        self.assertEqual(len(events), 1 + MAXIMUM_MISTAKES + 1)
        self.assertTrue(self.session.readsNoMore)

    def test_bug(self) -> None:
        """
        A bug of ours ends this channel, and the driver gets the exception.
        """
        bug = ZeroDivisionError()

        def fail(size: int) -> bool:
            raise bug

        self.session._mayHaveRead = fail
        self.assertEqual(
            self.hear(Claim((1,)), Closed((1,))),
            [Broken("an internal error", bug), Closed((1,))],
        )
