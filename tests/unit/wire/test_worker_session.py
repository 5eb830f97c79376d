"""
Tests for L{portlisten._wire.worker_session}.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from portlisten._model import Kind, Port, UnixAddress
from portlisten._wire import worker_session
from portlisten._wire.codec import (
    FROM_LISTENER,
    FROM_WORKER,
    Decoder,
    encode,
)
from portlisten._wire.frames import (
    DRAINING,
    MISSING_DESCRIPTOR,
    Bye,
    Claim,
    ClientGone,
    Closed,
    Drain,
    Drained,
    Frame,
    Leave,
    Listener,
    ListenerHello,
    Loads,
    Offer,
    Refuse,
    Revoked,
    Withdraw,
    WorkerHello,
)
from portlisten._wire.session import MAXIMUM_MISTAKES, Broken, Do, Forbidden
from portlisten._wire.worker_events import (
    Adopt,
    ByeReceived,
    Close,
    DrainConfirmed,
    Joined,
    Left,
    UseSocket,
    Withdrawn,
)
from portlisten._wire.worker_session import Ours, Theirs, WorkerSession
from tests.support.tables import cellsOf, essay

PORT = Port(0, UnixAddress(b"/run/www"))
SHARED = Port(1, UnixAddress(b"/run/shared"), "shared", Kind.LISTENER)
HELLO = ListenerHello(4, (PORT, SHARED))
TAKES = frozenset([Kind.CONNECTIONS, Kind.LISTENER])

#: One frame of each type that a listener sends.
FRAMES: dict[type[Frame], Frame] = {
    ListenerHello: HELLO,
    Offer: Offer(1, 0, 1001),
    Listener: Listener(1, 2001),
    Withdraw: Withdraw(2001),
    Leave: Leave(),
    Loads: Loads(3, 2, 5001, 5002),
    Drained: Drained(),
    Revoked: Revoked(),
    Bye: Bye("enough"),
}

#: What a listener says to get into a state.
WAYS: dict[Theirs, list[Frame]] = {
    Theirs.GREETING: [],
    Theirs.OPEN: [HELLO],
    Theirs.DRAINED: [HELLO, Drained()],
    Theirs.REVOKED: [HELLO, Revoked()],
}


class SessionTestCase(SynchronousTestCase):
    """
    A session, whose listener is this test.
    """

    def setUp(self) -> None:
        self.session: WorkerSession[str] = WorkerSession(4, takes=TAKES)
        self.decoder = Decoder(FROM_WORKER)
        list(self.decoder.feed(self.session.hello()))

    def hear(self, *frames: Frame | bytes) -> list[Any]:
        """
        Have these frames come in.
        """
        return self.session.receive(
            b"".join(
                each if isinstance(each, bytes) else encode(each) for each in frames
            )
        )

    def arrive(self, *ids: int, kind: Kind = Kind.CONNECTIONS) -> list[Any]:
        """
        Have the descriptors of these offers come in.
        """
        events: list[Any] = []
        for id in ids:
            events += self.session.descriptorArrived(kind, 1000 + id, f"token {id}")
        return events

    def offer(self, *ids: int) -> list[Any]:
        """
        Have these offers come in, with their descriptors.
        """
        return self.arrive(*ids) + self.hear(*(Offer(id, 0, 1000 + id) for id in ids))

    def join(self) -> None:
        """
        Have the listener say HELLO.
        """
        self.assertEqual(self.hear(HELLO), [Joined((PORT, SHARED))])

    def said(self) -> list[Frame]:
        """
        The bytes that the session writes now.
        """
        return list(self.decoder.feed(self.session.outgoing()))

    def assertSays(self, *frames: Frame) -> None:
        """
        Check what is written now.
        """
        self.assertEqual(self.said(), list(frames))

    def assertAdopts(self, *ids: int) -> None:
        """
        Check what may be touched now that all is written.
        """
        self.assertEqual(self.session.flushed(), adopted(*ids))


def adopted(*ids: int) -> list[Adopt[str]]:
    """
    The events that give these connections to the worker.
    """
    return [Adopt(Offer(id, 0, 1000 + id), f"token {id}") for id in ids]


def closed(*ids: int) -> list[Close[str]]:
    """
    The events that close these connections' descriptors.
    """
    return [Close(f"token {id}") for id in ids]


class TableTests(SessionTestCase):
    """
    The session does what its table says, cell by cell.
    """

    def reach(self, state: Theirs) -> None:
        """
        Begin anew, and have the listener get to a state.
        """
        self.setUp()
        self.hear(*WAYS[state])
        self.assertIs(self.session.theirs, state)

    def test_complete(self) -> None:
        """
        Each frame that a listener may send has a cell in each state.
        """
        self.assertEqual(list(WorkerSession.table), list(Theirs))
        for row in WorkerSession.table.values():
            self.assertEqual(set(row), set(FRAMES))
            self.assertEqual({each.TYPE for each in row}, set(FROM_LISTENER))

    def test_essay(self) -> None:
        """
        The essay at the top of the module has the same table.
        """
        said = {
            state: [cell.replace("refused", "yes") for cell in cells]
            for state, cells in essay(worker_session.__doc__ or "").items()
        }
        del said["theirs"]
        self.assertEqual(
            {
                state.name: cellsOf(state, row, FRAMES)
                for state, row in WorkerSession.table.items()
                if row
            },
            said,
        )

    def test_forbidden(self) -> None:
        """
        A forbidden frame breaks the channel with the reason that the cell has, makes no
        other event, and has the worker leave.
        """
        count = 0
        for state, row in WorkerSession.table.items():
            for kind, cell in row.items():
                if isinstance(cell, Forbidden):
                    count += 1
                    self.reach(state)
                    self.assertEqual(self.hear(FRAMES[kind]), [Broken(cell.reason)])
                    self.assertIs(self.session.ours, Ours.LEAVING)
                    self.assertTrue(self.session.broken)
                    self.assertSays(Drain())
                    self.session.flushed()
                    self.assertSays(Bye(cell.reason))
                    self.assertTrue(self.session.ended)
        self.assertEqual(count, 10)

    def test_allowed(self) -> None:
        """
        An allowed frame does not break it, and leads to the state that the cell has.
        """
        for state, row in WorkerSession.table.items():
            for kind, cell in row.items():
                if isinstance(cell, Do) and kind is not Listener:
                    self.reach(state)
                    self.hear(FRAMES[kind])
                    self.assertFalse(self.session.broken, f"{state} {kind}")
                    self.assertIs(self.session.theirs, cell.then or state)

    def test_nothingAfterHelloOutOfPlace(self) -> None:
        """
        Nothing counts behind a frame on the wrong side of HELLO.
        """
        self.assertEqual(
            self.hear(Drained(), HELLO), [Broken("no HELLO to begin with")]
        )
        self.assertTrue(self.session.readsNoMore)
        self.assertEqual(self.hear(HELLO), [])


class GreetingTests(SessionTestCase):
    """
    How the worker meets its listener.
    """

    def test_hello(self) -> None:
        """
        The worker's HELLO says what it wants, and nothing waits for it.
        """
        session: WorkerSession[int] = WorkerSession(3, ["a", "b"], [Kind.DATAGRAMS])
        self.assertEqual(
            list(Decoder(FROM_WORKER).feed(session.hello())),
            [WorkerHello(3, ("a", "b"), frozenset([Kind.DATAGRAMS]))],
        )
        self.assertFalse(session.writing)
        self.assertEqual(session.takes, {Kind.DATAGRAMS})

    def test_joined(self) -> None:
        """
        The listener's HELLO tells what comes.
        """
        self.join()
        self.assertIs(self.session.ours, Ours.OPEN)
        self.assertSays()

    def test_onlyWhatIsTaken(self) -> None:
        """
        A port of a kind that the worker does not take is none of its ports.
        """
        udp = Port(2, UnixAddress(b""), "dns", Kind.DATAGRAMS)
        self.assertEqual(self.hear(ListenerHello(4, (PORT, udp))), [Joined((PORT,))])

    def test_unknownName(self) -> None:
        """
        A listener that has no port of the name is left, and never joined.
        """
        self.session = WorkerSession(4, ["smtp"])
        events = self.hear(HELLO)
        self.assertEqual(events, [Broken("no port is called 'smtp' here, only shared")])
        self.assertIs(self.session.theirs, Theirs.GREETING)

    def test_turnedAway(self) -> None:
        """
        A listener may say BYE instead.
        """
        reason = "the listener says: members only"
        self.assertEqual(self.hear(Bye("members only")), [ByeReceived(reason)])
        self.assertFalse(self.session.broken)
        self.assertEqual(self.session.channelEnded(True), [Left(reason)])

    def test_silence(self) -> None:
        """
        The driver may find that a listener cannot be used.
        """
        self.assertEqual(
            self.session.fail("no HELLO within 5 s"), [Broken("no HELLO within 5 s")]
        )
        self.assertSays(Drain())
        self.session.flushed()
        self.assertSays(Bye("no HELLO within 5 s"))
        self.assertEqual(self.session.channelEnded(True), [Left("no HELLO within 5 s")])


class ClaimTests(SessionTestCase):
    """
    Claim before touch.
    """

    def setUp(self) -> None:
        super().setUp()
        self.hear(HELLO)

    def test_claimFirst(self) -> None:
        """
        A connection is adopted when its claim is written.
        """
        self.assertEqual(self.offer(1, 2), [])
        self.assertEqual(self.session.pending, 2)
        self.assertSays(Claim((1, 2)))
        self.assertTrue(self.session.writing)
        self.assertAdopts(1, 2)
        self.assertEqual(self.session.pending, 0)

    def test_oneWriteAtATime(self) -> None:
        """
        An offer that comes during a write is claimed afterwards.
        """
        self.offer(1)
        self.assertSays(Claim((1,)))
        self.offer(2, 3)
        self.assertSays()
        self.assertAdopts(1)
        self.assertSays(Claim((2, 3)))

    def test_reports(self) -> None:
        """
        Ends are reported before the claims of the same write.
        """
        self.offer(1, 2)
        self.said()
        self.session.flushed()
        self.session.closed(1)
        self.session.clientGone(2)
        self.offer(3)
        self.assertSays(Closed((1,)), ClientGone((2,)), Claim((3,)))

    def test_missing(self) -> None:
        """
        An offer without its descriptor is refused.
        """
        self.hear(Offer(9, 0, 4711))
        self.assertSays(Refuse(MISSING_DESCRIPTOR, (9,)))

    def test_twice(self) -> None:
        """
        The older one of two descriptors of a connection is closed.
        """
        self.arrive(1)
        self.assertEqual(self.arrive(1), closed(1))

    def test_tooManyDescriptors(self) -> None:
        """
        More descriptors than the window allows break the channel.  They are closed
        when it ends.
        """
        events = self.arrive(1, 2, 3, 4, 5)
        reason = "more than 4 descriptors without their offers"
        self.assertEqual(events, [Broken(reason)])
        self.assertEqual(
            self.session.channelEnded(True), [*closed(1, 2, 3, 4, 5), Left(reason)]
        )

    def test_tooManyOffers(self) -> None:
        """
        More offers than the window allows break it, and none is claimed.
        """
        events = self.offer(1, 2, 3, 4) + self.offer(5)
        self.assertEqual(
            events, [Broken("more than 4 unclaimed offers"), *closed(1, 2, 3, 4, 5)]
        )
        self.assertSays(Refuse(DRAINING, (1, 2, 3, 4, 5)), Drain())

    def test_secondOffer(self) -> None:
        """
        A second offer of an id breaks it.
        """
        events = self.offer(1) + self.offer(1)
        self.assertEqual(events[0], Broken("a second OFFER of 1"))


class SharedSocketTests(SessionTestCase):
    """
    The sockets of shared ports.
    """

    def setUp(self) -> None:
        super().setUp()
        self.hear(HELLO)

    def test_used(self) -> None:
        """
        A socket is used when the frame is there that names it.
        """
        self.assertEqual(self.arrive(1, kind=Kind.LISTENER), [])
        self.assertEqual(self.session.pending, 1)
        self.assertEqual(self.hear(Listener(1, 1001)), [UseSocket(1, 1001, "token 1")])
        self.assertEqual(self.session.pending, 0)

    def test_missing(self) -> None:
        """
        A frame whose socket did not come breaks the channel.
        """
        self.assertEqual(
            self.hear(Listener(1, 1001)),
            [Broken("a shared socket got lost on its way")],
        )

    def test_withdrawn(self) -> None:
        """
        A socket may be withdrawn.
        """
        self.assertEqual(self.hear(Withdraw(5)), [Withdrawn(5)])

    def test_twice(self) -> None:
        """
        The older one of two descriptors of a socket is closed; the newer one when the
        channel ends without a frame that names it.
        """
        self.arrive(1, kind=Kind.LISTENER)
        self.assertEqual(self.arrive(1, kind=Kind.LISTENER), closed(1))
        self.assertEqual(self.session.channelEnded(True), [*closed(1), Left(None)])

    def test_tooMany(self) -> None:
        """
        Only so many are kept without their frames.
        """
        self.patch(worker_session, "MAXIMUM_SOCKETS", 2)
        reason = "more than 2 sockets without their frames"
        self.assertEqual(self.arrive(1, 2, 3, kind=Kind.LISTENER), [Broken(reason)])
        self.assertEqual(
            self.session.channelEnded(True), [*closed(1, 2, 3), Left(reason)]
        )

    def test_afterRevoked(self) -> None:
        """
        A socket that came before REVOKED may still be named after it.
        """
        self.arrive(1, kind=Kind.LISTENER)
        self.assertEqual(
            self.hear(Revoked(), Listener(1, 1001)), [UseSocket(1, 1001, "token 1")]
        )


class DrainTests(SessionTestCase):
    """
    A worker that wants no more.
    """

    def setUp(self) -> None:
        super().setUp()
        self.hear(HELLO)

    def test_drain(self) -> None:
        """
        DRAIN is said once, and the answer is an event.
        """
        self.assertEqual(self.session.drain() + self.session.drain(), [])
        self.assertSays(Drain())
        self.session.flushed()
        self.assertSays()
        self.assertEqual(self.hear(Drained()), [DrainConfirmed()])
        self.assertIs(self.session.ours, Ours.DRAINING)

    def test_givesBack(self) -> None:
        """
        What waits to be claimed goes back, and so does what comes later; what is
        being claimed is adopted.
        """
        self.offer(1)
        self.said()
        self.offer(2)
        self.assertEqual(self.session.drain(), closed(2))
        self.assertEqual(self.offer(3), closed(3))
        self.assertSays()
        self.assertAdopts(1)
        self.assertSays(Refuse(DRAINING, (2, 3)), Drain())

    def test_afterDrained(self) -> None:
        """
        DRAINED twice, and an offer after it, are no errors.
        """
        self.session.drain()
        self.assertEqual(self.hear(Drained(), Drained()), [DrainConfirmed()] * 2)
        self.assertEqual(self.offer(1), closed(1))
        self.assertSays(Refuse(DRAINING, (1,)), Drain())

    def test_unasked(self) -> None:
        """
        If the worker did not ask for DRAINED, it claims what comes after it.
        """
        self.hear(Drained())
        self.offer(1)
        self.assertSays(Claim((1,)))

    def test_leave(self) -> None:
        """
        BYE is the last word, and comes after the claims.
        """
        self.offer(1)
        self.said()
        self.assertEqual(self.session.leave("the worker stops"), [])
        self.assertEqual(self.session.leave("again"), [])
        self.assertSays()
        self.assertAdopts(1)
        self.assertSays(Drain())
        self.session.flushed()
        self.assertSays(Bye("the worker stops"))
        self.assertTrue(self.session.ended)
        self.assertFalse(self.session.broken)
        self.assertEqual(self.session.channelEnded(True), [Left("the worker stops")])

    def test_lostWhileLeaving(self) -> None:
        """
        A worker that is leaving serves nothing that it has not claimed.
        """
        self.offer(1)
        self.said()
        self.session.leave("the worker stops")
        self.assertEqual(self.session.finalBye(False), b"")
        self.assertEqual(
            self.session.channelEnded(True), [*closed(1), Left("the worker stops")]
        )


class RevokedTests(SessionTestCase):
    """
    A listener that takes its offers back.
    """

    def setUp(self) -> None:
        super().setUp()
        self.hear(HELLO)

    def test_idle(self) -> None:
        """
        If no claim is being written, the channel ends.
        """
        self.hear(Revoked())
        self.assertSays()
        self.assertTrue(self.session.ended)

    def test_unclaimed(self) -> None:
        """
        Unclaimed connections are closed, and so are descriptors that come later.
        """
        self.offer(1)
        self.arrive(2)
        self.assertEqual(self.hear(Revoked()), closed(1, 2))
        self.assertFalse(self.session.wantsDescriptors)
        self.assertEqual(self.arrive(3), closed(3))
        self.assertSays()
        self.assertTrue(self.session.ended)

    def test_claimArrives(self) -> None:
        """
        A claim that is written in spite of it holds.
        """
        self.offer(1)
        self.said()
        self.assertEqual(self.hear(Revoked()), [])
        self.assertSays()
        self.assertFalse(self.session.ended)
        self.assertAdopts(1)
        self.assertSays()
        self.assertTrue(self.session.ended)

    def test_claimFails(self) -> None:
        """
        A claim that is not written when the channel ends does not count.
        """
        self.offer(1)
        self.said()
        events = self.hear(Bye("you hang"), Revoked())
        reason = "the listener says: you hang"
        self.assertEqual(events, [ByeReceived(reason)])
        self.assertEqual(self.session.finalBye(False), b"")
        self.assertEqual(self.session.channelEnded(True), [*closed(1), Left(reason)])

    def test_offerAfter(self) -> None:
        """
        An offer after it is refused, if anything is written at all.
        """
        self.offer(1)
        self.said()
        self.assertEqual(self.hear(Revoked()) + self.offer(2), closed(2))
        self.assertAdopts(1)
        self.assertSays(Refuse(MISSING_DESCRIPTOR, (2,)))

    def test_byeAfter(self) -> None:
        """
        BYE after it says why.
        """
        self.hear(Revoked(), Bye("you hang"))
        self.assertEqual(
            self.session.channelEnded(True), [Left("the listener says: you hang")]
        )


class EndTests(SessionTestCase):
    """
    The end of a channel.
    """

    def setUp(self) -> None:
        super().setUp()
        self.hear(HELLO)

    def offerThree(self) -> None:
        """
        Have one offer being claimed, one not claimed, and a third without its frame.
        """
        self.offer(1)
        self.said()
        self.offer(2)
        self.arrive(3)

    def test_died(self) -> None:
        """
        The offers of a dead listener are the worker's, in order.
        """
        self.offerThree()
        self.assertEqual(self.session.finalBye(True), b"")
        self.assertEqual(
            self.session.channelEnded(True),
            [*closed(3), *adopted(1, 2), Left(None)],
        )
        self.assertEqual(self.session.pending, 0)
        self.assertTrue(self.session.ended)

    def test_byeIsNoRevocation(self) -> None:
        """
        Nor does BYE take anything back.
        """
        self.offer(1)
        self.hear(Bye("the listener stops"))
        self.assertEqual(
            self.session.channelEnded(True),
            [*adopted(1), Left("the listener says: the listener stops")],
        )

    def test_draining(self) -> None:
        """
        A worker that is draining serves what it was claiming.
        """
        self.offer(1)
        self.said()
        self.session.drain()
        self.assertEqual(self.session.channelEnded(True), [*adopted(1), Left(None)])

    def test_failed(self) -> None:
        """
        A listener that lives may give to others what is not claimed.  It is told that
        the worker lives.
        """
        self.offerThree()
        self.assertEqual(
            self.session.finalBye(False), encode(Bye("the channel failed"))
        )
        self.assertEqual(
            self.session.channelEnded(False, "Input/output error"),
            [*closed(1, 2, 3), Left("Input/output error")],
        )

    def test_reasonFirst(self) -> None:
        """
        A reason that a side gave takes precedence over the error.
        """
        self.hear(Bye("enough"))
        self.assertEqual(
            self.session.channelEnded(True, "Broken pipe"),
            [Left("the listener says: enough")],
        )

    def test_afterTheEnd(self) -> None:
        """
        Afterwards nothing happens any more.
        """
        self.session.channelEnded(True)
        self.session.closed(1)
        self.session.clientGone(2)
        events: Sequence[Any] = [
            *self.session.drain(),
            *self.session.leave("too late"),
            *self.hear(Drained()),
        ]
        self.assertEqual(events, [])
        self.assertEqual(self.arrive(1), closed(1))
        self.assertSays()


class MisconductTests(SessionTestCase):
    """
    A listener that breaks the protocol.
    """

    def setUp(self) -> None:
        super().setUp()
        self.hear(HELLO)

    def test_malformed(self) -> None:
        """
        Earlier offers are refused, and no later frame counts.
        """
        self.arrive(1)
        reason = "a frame of the unknown type 238"
        self.assertEqual(
            self.hear(Offer(1, 0, 1001), b"\xee\0\0\0", Drained()),
            [Broken(reason), *closed(1)],
        )
        self.assertEqual(self.hear(Drained()), [])
        self.assertSays(Refuse(DRAINING, (1,)), Drain())
        self.session.flushed()
        self.assertSays(Bye(reason))

    def test_goodAfterBad(self) -> None:
        """
        A frame that makes no sense does not undo what is behind it.
        """
        self.assertEqual(
            self.hear(Listener(1, 1), Withdraw(5)),
            [Broken("a shared socket got lost on its way"), Withdrawn(5)],
        )

    def test_firstReason(self) -> None:
        """
        The first reason is the one that the listener is told.
        """
        self.hear(Listener(1, 1), b"\xee\0\0\0")
        self.said()
        self.session.flushed()
        self.assertSays(Bye("a shared socket got lost on its way"))

    def test_tooMuch(self) -> None:
        """
        Only so many mistakes are read past.
        """
        events = self.hear(*[Listener(1, 1)] * 100, Withdraw(5))
        self.assertEqual(len(events), MAXIMUM_MISTAKES + 1)
        self.assertTrue(self.session.readsNoMore)
        self.assertEqual(self.hear(Withdraw(5)), [])

    def test_driversMistakes(self) -> None:
        """
        Errors that the driver finds count as well.
        """
        for _ in range(MAXIMUM_MISTAKES + 1):
            self.assertFalse(self.session.readsNoMore)
            self.session.mistake()
        self.assertTrue(self.session.readsNoMore)

    def test_bug(self) -> None:
        """
        A bug of ours ends this channel, and the driver gets the exception.
        """
        bug = ZeroDivisionError()

        def fail(*args: object) -> None:
            raise bug

        self.patch(self.session._claims, "offered", fail)
        self.assertEqual(
            self.hear(Offer(1, 0, 1), Withdraw(5)),
            [Broken("an internal error", bug), Withdrawn(5)],
        )
