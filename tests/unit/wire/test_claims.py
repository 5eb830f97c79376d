"""
Tests for L{portlisten._wire.claims}.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from random import Random

from twisted.trial.unittest import SynchronousTestCase

from portlisten._wire.claims import Claims
from portlisten._wire.codec import encode
from portlisten._wire.frames import (
    DRAINING,
    MAXIMUM_IDS,
    MISSING_DESCRIPTOR,
    Claim,
    ClientGone,
    Closed,
    Drain,
    Frame,
    Offer,
    Refuse,
)
from portlisten.errors import ProtocolError

WINDOW = 4


def offer(id: int) -> Offer:
    """
    Make an offer.  Its cookie is no other's, and not its id.
    """
    return Offer(id, 7, 1000 + id)


def mine(*ids: int) -> list[tuple[Offer, str]]:
    """
    The connections that may be touched once these are claimed.
    """
    return [(offer(id), f"token {id}") for id in ids]


def tokens(*ids: int) -> list[str]:
    """
    The descriptors of these offers.
    """
    return [f"token {id}" for id in ids]


class ClaimsTestCase(SynchronousTestCase):
    """
    A test with L{Claims}.
    """

    def setUp(self) -> None:
        """
        Begin with none.
        """
        self.claims: Claims[str] = Claims(WINDOW)

    def arrive(self, *ids: int) -> None:
        """
        Have the descriptors of these offers come in.
        """
        for id in ids:
            self.assertEqual(
                self.claims.descriptorArrived(1000 + id, f"token {id}"), []
            )

    def offer(self, *ids: int) -> None:
        """
        Have these offers come in, with their descriptors.
        """
        for id in ids:
            self.arrive(id)
            self.assertEqual(self.claims.offered(offer(id)), [])

    def claim(self, *ids: int) -> None:
        """
        Have these offers come in, and begin to claim them.
        """
        self.offer(*ids)
        self.assertSays(Claim(ids))

    def assertSays(self, *frames: Frame) -> None:
        """
        Check what is to be written now.
        """
        self.assertEqual(self.claims.outgoing(), list(frames))

    def assertFlushed(self, *ids: int) -> None:
        """
        Have the write come to its end, and check what may be touched then.
        """
        self.assertEqual(self.claims.flushed(), mine(*ids))


class ClaimTests(ClaimsTestCase):
    """
    Tests for what is claimed, and when it may be touched.
    """

    def test_nothing(self) -> None:
        """
        There is nothing to say at first, and nothing is being written.
        """
        self.assertSays()
        self.assertFalse(self.claims.writing)
        self.assertEqual(self.claims.pending, 0)

    def test_claimBeforeTouch(self) -> None:
        """
        An offer is claimed, and is not to be touched before the claim is in
        the kernel.
        """
        self.offer(1)
        self.assertSays(Claim((1,)))
        self.assertTrue(self.claims.writing)
        self.assertFlushed(1)
        self.assertFalse(self.claims.writing)

    def test_once(self) -> None:
        """
        What was claimed is neither claimed nor to be touched a second time.
        """
        self.claim(1)
        self.assertFlushed(1)
        self.assertSays()
        self.assertFlushed()

    def test_batch(self) -> None:
        """
        All offers are claimed in one frame, the oldest first.
        """
        self.claim(3, 1, 2)
        self.assertFlushed(3, 1, 2)

    def test_oneWriteAtATime(self) -> None:
        """
        Frames that are added during a write wait for its end.
        """
        self.claim(1)
        self.offer(2)
        self.claims.closed(8)
        self.claims.clientGone(9)
        self.claims.draining()
        self.assertSays()
        self.assertFlushed(1)
        self.assertSays(Refuse(DRAINING, (2,)), Closed((8,)), ClientGone((9,)), Drain())

    def test_notClaimedInAnEarlierWrite(self) -> None:
        """
        The end of a write says nothing of offers that came in during it.
        """
        self.claims.closed(9)
        self.assertSays(Closed((9,)))
        self.offer(1)
        self.assertFlushed()
        self.assertSays(Claim((1,)))
        self.assertFlushed(1)

    def test_claimLast(self) -> None:
        """
        The claim is the last frame that is written.
        """
        self.offer(1)
        self.claims.closed(8)
        self.claims.clientGone(9)
        self.claims.offered(offer(2))
        self.assertSays(
            Refuse(MISSING_DESCRIPTOR, (2,)),
            Closed((8,)),
            ClientGone((9,)),
            Claim((1,)),
        )
        self.assertFlushed(1)

    def test_descriptorsAhead(self) -> None:
        """
        Descriptors may come before the offers that name them, in another order.
        """
        self.arrive(1, 2, 3)
        self.assertSays()
        for id in (3, 1):
            self.assertEqual(self.claims.offered(offer(id)), [])
        self.assertSays(Claim((3, 1)))
        self.assertFlushed(3, 1)
        self.assertEqual(self.claims.pending, 1)

    def test_pending(self) -> None:
        """
        Tokens count from when they come until they are given back.
        """
        self.claim(1)
        self.offer(2)
        self.arrive(3)
        self.assertEqual(self.claims.pending, 3)
        self.assertFlushed(1)
        self.assertEqual(self.claims.pending, 2)

    def test_idUsedAgain(self) -> None:
        """
        The listener may use an id again once its connection was claimed.
        """
        self.claim(1)
        self.assertFlushed(1)
        self.claim(1)
        self.assertFlushed(1)


class SomeTests(ClaimsTestCase):
    """
    Tests for claims of which one write has only some.
    """

    def setUp(self) -> None:
        super().setUp()
        self.claims = Claims(WINDOW, most=2)

    def test_some(self) -> None:
        """
        The oldest offers are claimed, and the others with the next write, together with
        what came meanwhile.
        """
        self.offer(1, 2, 3)
        self.assertSays(Claim((1, 2)))
        self.offer(4)
        self.assertSays()
        self.assertFlushed(1, 2)
        self.assertSays(Claim((3, 4)))
        self.assertFlushed(3, 4)
        self.assertSays()

    def test_refused(self) -> None:
        """
        A worker that drains refuses those that it has not claimed.
        """
        self.offer(1, 2, 3)
        self.assertSays(Claim((1, 2)))
        self.assertEqual(self.claims.draining(), tokens(3))
        self.assertFlushed(1, 2)
        self.assertSays(Refuse(DRAINING, (3,)), Drain())

    def test_revoked(self) -> None:
        """
        If they are revoked, only those are served whose claim is written.
        """
        self.offer(1, 2, 3)
        self.assertSays(Claim((1, 2)))
        self.assertEqual(self.claims.revoked(), tokens(3))
        self.assertFlushed(1, 2)
        self.assertSays()

    def test_listenerDied(self) -> None:
        """
        If the listener dies, all are served.
        """
        self.offer(1, 2, 3)
        self.assertSays(Claim((1, 2)))
        mine, loose = self.claims.listenerDied()
        self.assertEqual([offer.id for offer, _ in mine], [1, 2, 3])
        self.assertEqual(loose, [])


class AskedTests(ClaimsTestCase):
    """
    Tests for claims that are made one by one, as they are asked for.
    """

    def setUp(self) -> None:
        super().setUp()
        self.claims = Claims(WINDOW, claimsAll=False)

    def test_waits(self) -> None:
        """
        An offer is not claimed before it is asked for.
        """
        self.offer(1, 2)
        self.assertSays()
        self.assertEqual(self.claims.claimable, 2)

    def test_oldestFirst(self) -> None:
        """
        The oldest offers are claimed, as many as were asked for.
        """
        self.offer(1, 2, 3)
        self.claims.claim()
        self.claims.claim()
        self.assertEqual(self.claims.claimable, 1)
        self.assertSays(Claim((1, 2)))
        self.assertFlushed(1, 2)
        self.assertSays()

    def test_noneWaits(self) -> None:
        """
        Asking while no offer waits claims nothing, now or later.
        """
        self.claims.claim()
        self.offer(1)
        self.claims.claim()
        self.claims.claim()
        self.offer(2)
        self.assertSays(Claim((1,)))

    def test_takenBack(self) -> None:
        """
        What was asked for and not written is not claimed after DRAIN or REVOKED.
        """
        self.offer(1)
        self.claims.claim()
        self.assertEqual(self.claims.draining(), tokens(1))
        self.assertEqual(self.claims.claimable, 0)
        self.assertSays(Refuse(DRAINING, (1,)), Drain())
        self.claims = Claims(WINDOW, claimsAll=False)
        self.offer(1)
        self.claims.claim()
        self.assertEqual(self.claims.revoked(), tokens(1))
        self.assertSays()

    def test_listenerDied(self) -> None:
        """
        When the listener has died, all offers belong to the worker.
        """
        self.offer(1, 2)
        self.claims.claim()
        mine, loose = self.claims.listenerDied()
        self.assertEqual([offer.id for offer, _ in mine], [1, 2])
        self.assertEqual(loose, [])


class ReportTests(ClaimsTestCase):
    """
    Tests for what is said of connections that have ended.
    """

    def test_closed(self) -> None:
        """
        Closed connections are reported once, all in one frame.
        """
        self.claims.closed(2)
        self.claims.closed(1)
        self.assertSays(Closed((2, 1)))
        self.assertFlushed()
        self.assertSays()

    def test_gone(self) -> None:
        """
        Connections whose clients had left are reported once, all in one frame.
        """
        self.claims.clientGone(2)
        self.claims.clientGone(1)
        self.assertSays(ClientGone((2, 1)))
        self.assertFlushed()
        self.assertSays()

    def test_many(self) -> None:
        """
        More than a frame can hold are reported in several.
        """
        ids = tuple(range(1, 2 * MAXIMUM_IDS + 2))
        for report, frame in (
            (self.claims.closed, Closed),
            (self.claims.clientGone, ClientGone),
        ):
            for id in ids:
                report(id)
            said = self.claims.outgoing()
            self.assertEqual(
                said,
                [
                    frame(ids[:MAXIMUM_IDS]),
                    frame(ids[MAXIMUM_IDS : 2 * MAXIMUM_IDS]),
                    frame(ids[2 * MAXIMUM_IDS :]),
                ],
            )
            for each in said:
                encode(each)
            self.assertFlushed()

    def test_full(self) -> None:
        """
        As many as a frame can hold are reported in one.
        """
        for id in range(MAXIMUM_IDS):
            self.claims.closed(id)
        self.assertSays(Closed(tuple(range(MAXIMUM_IDS))))


class RefusalTests(ClaimsTestCase):
    """
    Tests for offers that are not claimed.
    """

    def test_missing(self) -> None:
        """
        An offer whose descriptor is not there is refused, and there is nothing
        to close.
        """
        self.assertEqual(self.claims.offered(offer(1)), [])
        self.assertSays(Refuse(MISSING_DESCRIPTOR, (1,)))
        self.assertFlushed()
        self.assertSays()

    def test_cookie(self) -> None:
        """
        An offer is not claimed with the descriptor of another one.
        """
        self.arrive(1, 3)
        for id in (1, 2, 3):
            self.claims.offered(offer(id))
        self.assertSays(Refuse(MISSING_DESCRIPTOR, (2,)), Claim((1, 3)))
        self.assertFlushed(1, 3)

    def test_afterDrain(self) -> None:
        """
        An offer that was on its way is refused, and its descriptor is to be
        closed.
        """
        self.claims.draining()
        self.assertSays(Drain())
        self.assertFlushed()
        self.arrive(1)
        self.assertEqual(self.claims.offered(offer(1)), tokens(1))
        self.assertSays(Refuse(DRAINING, (1,)))
        self.assertEqual(self.claims.pending, 0)

    def test_reasons(self) -> None:
        """
        Each reason has a frame of its own.
        """
        self.claims.draining()
        self.claims.offered(offer(1))
        self.arrive(2)
        self.claims.offered(offer(2))
        self.claims.offered(offer(3))
        self.assertSays(
            Refuse(MISSING_DESCRIPTOR, (1, 3)), Refuse(DRAINING, (2,)), Drain()
        )

    def test_sameConnectionTwice(self) -> None:
        """
        Of two descriptors of a connection the older one is to be closed, and
        the newer one is for the offer.
        """
        self.arrive(1)
        self.assertEqual(self.claims.descriptorArrived(1001, "newer"), tokens(1))
        self.assertEqual(self.claims.pending, 1)
        self.claims.offered(offer(1))
        self.assertSays(Claim((1,)))
        self.assertEqual(self.claims.flushed(), [(offer(1), "newer")])


class DrainTests(ClaimsTestCase):
    """
    Tests for L{Claims.draining}.
    """

    def test_drain(self) -> None:
        """
        DRAIN is said once, however often it is wanted.
        """
        self.assertEqual(self.claims.draining(), [])
        self.assertSays(Drain())
        self.assertFlushed()
        self.assertEqual(self.claims.draining(), [])
        self.assertSays()

    def test_unclaimed(self) -> None:
        """
        Offers that are not claimed yet are refused, and their descriptors are
        to be closed.
        """
        self.offer(1, 2)
        self.assertEqual(self.claims.draining(), tokens(1, 2))
        self.assertSays(Refuse(DRAINING, (1, 2)), Drain())
        self.assertFlushed()
        self.assertEqual(self.claims.pending, 0)

    def test_duringClaim(self) -> None:
        """
        Offers that are being claimed are not given back.
        """
        self.claim(1)
        self.offer(2)
        self.assertEqual(self.claims.draining(), tokens(2))
        self.assertFlushed(1)
        self.assertSays(Refuse(DRAINING, (2,)), Drain())

    def test_reportsAfter(self) -> None:
        """
        Connections in service may end after DRAIN, and are still reported.
        """
        self.claims.draining()
        self.assertSays(Drain())
        self.assertFlushed()
        self.claims.closed(1)
        self.assertSays(Closed((1,)))

    def test_loose(self) -> None:
        """
        A descriptor whose offer is still to come is kept for it.
        """
        self.arrive(1)
        self.assertEqual(self.claims.draining(), [])
        self.assertEqual(self.claims.offered(offer(1)), tokens(1))


class EndTests(ClaimsTestCase):
    """
    Tests for the ends of a channel.
    """

    def setUp(self) -> None:
        """
        Have one offer that is being claimed, one that is not, and a descriptor
        without its offer.
        """
        super().setUp()
        self.claim(1)
        self.offer(2)
        self.arrive(3)

    def test_revokedThenFlushed(self) -> None:
        """
        What was being claimed when the offers were revoked is ours if the
        write comes to its end, and nothing else is.
        """
        self.assertEqual(self.claims.revoked(), tokens(2, 3))
        self.assertTrue(self.claims.writing)
        self.assertSays()
        self.assertFlushed(1)
        self.assertSays()
        self.assertEqual(self.claims.channelEndedAfterRevoke(), [])

    def test_revokedThenAbandoned(self) -> None:
        """
        What was being claimed when the offers were revoked is to be closed if
        the channel is gone before the end of the write.
        """
        self.assertEqual(self.claims.revoked(), tokens(2, 3))
        self.assertEqual(self.claims.pending, 1)
        self.assertEqual(self.claims.channelEndedAfterRevoke(), tokens(1))
        self.assertEqual(self.claims.pending, 0)
        self.assertEqual(self.claims.flushed(), [])

    def test_revokedTwice(self) -> None:
        """
        Revoking again gives nothing back again.
        """
        self.claims.revoked()
        self.assertEqual(self.claims.revoked(), [])

    def test_abandoned(self) -> None:
        """
        All that is held is to be closed.
        """
        self.assertEqual(self.claims.channelEndedAfterRevoke(), tokens(1, 2, 3))
        self.assertEqual(self.claims.pending, 0)
        self.assertEqual(self.claims.channelEndedAfterRevoke(), [])

    def test_abandonedAfterClaim(self) -> None:
        """
        Connections that were claimed are not closed afterwards.
        """
        self.assertFlushed(1)
        self.assertEqual(self.claims.channelEndedAfterRevoke(), tokens(2, 3))

    def test_orphaned(self) -> None:
        """
        With the listener dead, all offers are ours, claimed or not, and a
        descriptor without an offer is to be closed.
        """
        self.assertEqual(self.claims.listenerDied(), (mine(1, 2), tokens(3)))
        self.assertEqual(self.claims.pending, 0)
        self.assertEqual(self.claims.listenerDied(), ([], []))

    def test_orphanedAfterClaim(self) -> None:
        """
        Connections that were claimed are not given again when the listener dies.
        """
        self.assertFlushed(1)
        self.assertEqual(self.claims.listenerDied(), (mine(2), tokens(3)))

    def test_orphanedAfterDrain(self) -> None:
        """
        Refused offers are not taken when the listener dies.
        """
        self.assertEqual(self.claims.draining(), tokens(2))
        self.assertEqual(self.claims.listenerDied(), (mine(1), tokens(3)))


class BoundsTests(ClaimsTestCase):
    """
    Tests for listeners that do not keep to what was agreed.
    """

    def assertMalformed(
        self, text: str, what: Callable[..., object], *args: object
    ) -> None:
        """
        Check that something is against the protocol.
        """
        error = self.assertRaises(ProtocolError, what, *args)
        self.assertEqual(str(error), text)

    def test_window(self) -> None:
        """
        As many offers as the window are claimed.
        """
        self.claim(1, 2, 3, 4)

    def test_tooManyOffers(self) -> None:
        """
        One unclaimed offer more than the window is against the protocol.  Its
        descriptor is held.
        """
        self.offer(1, 2, 3, 4)
        self.arrive(5)
        self.assertMalformed(
            "more than 4 unclaimed offers", self.claims.offered, offer(5)
        )
        self.assertEqual(self.claims.channelEndedAfterRevoke(), tokens(1, 2, 3, 4, 5))

    def test_duringClaim(self) -> None:
        """
        Offers that are being claimed do not count.
        """
        self.claim(1, 2, 3, 4)
        self.offer(5, 6, 7, 8)
        self.arrive(9)
        self.assertMalformed(
            "more than 4 unclaimed offers", self.claims.offered, offer(9)
        )
        self.assertEqual(self.claims.pending, 9)

    def test_tooManyDescriptors(self) -> None:
        """
        One descriptor without its offer more than the window is against the
        protocol.  It is held.
        """
        self.arrive(1, 2, 3, 4)
        self.assertMalformed(
            "more than 4 descriptors without their offers",
            self.claims.descriptorArrived,
            1005,
            "token 5",
        )
        self.assertEqual(self.claims.channelEndedAfterRevoke(), tokens(1, 2, 3, 4, 5))

    def test_sameConnectionAtWindow(self) -> None:
        """
        A second descriptor of a connection takes the place of the first, and
        is not one too many.
        """
        self.arrive(1, 2, 3, 4)
        self.assertEqual(self.claims.descriptorArrived(1002, "newer"), tokens(2))

    def test_secondOffer(self) -> None:
        """
        Another offer with the id of one that is not claimed is against the
        protocol.  Both descriptors are held.
        """
        self.offer(1)
        self.claims.descriptorArrived(2000, "other")
        self.assertMalformed(
            "a second OFFER of 1", self.claims.offered, Offer(1, 7, 2000)
        )
        self.assertEqual(self.claims.channelEndedAfterRevoke(), ["token 1", "other"])

    def test_secondOfferDuringClaim(self) -> None:
        """
        The same is true while the first one is being claimed, which it is
        still.
        """
        self.claim(1)
        self.claims.descriptorArrived(2000, "other")
        self.assertMalformed(
            "a second OFFER of 1", self.claims.offered, Offer(1, 7, 2000)
        )
        self.assertFlushed(1)
        self.assertEqual(self.claims.channelEndedAfterRevoke(), ["other"])


class Walk:
    """
    A channel whose events are drawn by lot.

    @ivar given: all tokens that were put into the claims.
    @ivar back: those that came out, to be closed or touched.
    @ivar touched: the ids of the latter.
    @ivar written: the ids whose claims are in the kernel.
    """

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.claims: Claims[int] = Claims(WINDOW)
        self.cookies: list[int] = []
        self.given = 0
        self.id = 0
        self.back: list[int] = []
        self.touched: list[int] = []
        self.claiming: tuple[int, ...] = ()
        self.written: list[int] = []
        self.answered: list[int] = []
        self.broken = False

    def run(self) -> None:
        """
        Have up to 80 events, and the channel's end.
        """
        events = [self.arrive] * 6 + [self.offer] * 6 + [self.missing]
        events += [self.write] * 4 + [self.flush] * 3 + [self.again]
        for _ in range(self.random.randrange(80)):
            try:
                self.random.choice(events)()
            except ProtocolError:
                self.broken = True
                self.close(self.claims.draining())
            if not self.random.randrange(60):
                self.close(self.claims.draining())
        end = self.random.randrange(3)
        if end == 0:
            mine, loose = self.claims.listenerDied()
            self.touch(mine)
            self.close(loose)
        else:
            if end == 1:
                self.close(self.claims.revoked())
                self.flush()
            self.close(self.claims.channelEndedAfterRevoke())

    def arrive(self) -> None:
        """
        A descriptor comes in.
        """
        self.given += 1
        self.cookies.append(self.given)
        self.close(self.claims.descriptorArrived(self.given, self.given))

    def again(self) -> None:
        """
        A second descriptor of one connection.
        """
        if self.cookies and not self.broken:
            self.given += 1
            self.close(self.claims.descriptorArrived(self.cookies[-1], self.given))

    def offer(self) -> None:
        """
        The offer of a descriptor comes in.
        """
        if self.cookies:
            self.id += 1
            cookie = self.cookies.pop(self.random.randrange(len(self.cookies)))
            self.close(self.claims.offered(Offer(self.id, 0, cookie)))

    def missing(self) -> None:
        """
        An offer comes in without its descriptor.
        """
        self.id += 1
        self.close(self.claims.offered(Offer(self.id, 0, 0)))

    def write(self) -> None:
        """
        What there is to say is written.
        """
        frames = self.claims.outgoing()
        assert not (frames and self.claiming), "a write during a write"
        for frame in frames:
            if isinstance(frame, (Claim, Refuse)):
                self.answered += frame.ids
            if isinstance(frame, Claim):
                assert frame is frames[-1], "the claim is not at the end"
                self.claiming = frame.ids

    def flush(self) -> None:
        """
        The write that is under way comes to its end.
        """
        if self.claims.writing:
            self.written += self.claiming
            self.claiming = ()
            mine = self.claims.flushed()
            assert {offer.id for offer, _ in mine} <= set(self.written)
            self.touch(mine)

    def close(self, tokens: list[int]) -> None:
        """
        Take what is to be closed.
        """
        self.back += tokens

    def touch(self, mine: list[tuple[Offer, int]]) -> None:
        """
        Take what may be touched.
        """
        self.back += [token for _, token in mine]
        self.touched += [offer.id for offer, _ in mine]


class WalkTests(SynchronousTestCase):
    """
    Tests for the rules that hold in every history.
    """

    def test_tokens(self) -> None:
        """
        Each token is given back exactly once, each offer is answered at most
        once, and what is claimed in the kernel is touched.
        """
        broken = 0
        for seed in range(500):
            walk = Walk(seed)
            walk.run()
            self.assertEqual(sorted(walk.back), list(range(1, walk.given + 1)), seed)
            self.assertEqual(walk.claims.pending, 0)
            self.assertEqual(max(Counter(walk.answered).values(), default=1), 1)
            self.assertEqual(max(Counter(walk.touched).values(), default=1), 1)
            self.assertLessEqual(set(walk.written), set(walk.touched))
            broken += walk.broken
        self.assertTrue(0 < broken < 500)
