"""
Tests for L{portlisten._policy.ledger}: what becomes of one connection.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

from portlisten._policy.decisions import HandOff, Reason, Revoke
from portlisten._policy.ledger import Ledger
from portlisten.errors import ProtocolError
from tests.support.ledgers import (
    BUDGET,
    HOLD,
    PATIENCE,
    PAUSE,
    PORT,
    QUEUE,
    UNCLAIMED,
    LedgerTestCase,
    givesUp,
    letsGo,
    offers,
)


class WaitingTests(LedgerTestCase):
    """
    Tests for connections that no worker has room for.
    """

    def test_noWorker(self) -> None:
        """
        Without workers, connections wait.
        """
        self.assertEqual(self.accept("ab"), [])
        self.assertEqual(self.tick(), [])
        self.assertEqual((self.ledger.waiting, self.ledger.held), (2, 2))
        self.assertCounted(accepted=2)

    def test_atOnce(self) -> None:
        """
        With room in a worker's window, none waits, not even where time begins.
        """
        self.now = 0.0
        self.assertEqual(self.join("x"), [])
        self.assertEqual(self.accept("ab"), offers("x", a=1, b=2))
        self.assertEqual((self.ledger.waiting, self.ledger.unclaimed), (0, 2))
        self.assertCounted(accepted=2, offered=2)

    def test_oldestFirst(self) -> None:
        """
        A worker that joins is offered what waits, the oldest first, as from
        the ports where it came in.
        """
        for port, connection in enumerate("abc"):
            self.ledger.addConnections(port, [connection], self.now)
        self.assertEqual(
            self.join("x"),
            [HandOff("x", 1, "a", 0), HandOff("x", 2, "b", 1), HandOff("x", 3, "c", 2)],
        )

    def test_patience(self) -> None:
        """
        A connection that has waited for as long as its patience is given up.
        """
        self.accept("ab")
        self.now += 10
        self.accept("c")
        self.assertEqual(self.tick(PATIENCE - 10.01), [])
        self.assertEqual(self.tick(0.01), givesUp("ab", Reason.TIMED_OUT))
        self.assertEqual(self.ledger.waiting, 1)
        self.assertEqual(self.tick(10), givesUp("c", Reason.TIMED_OUT))
        self.assertEqual(self.ledger.held, 0)
        self.assertCounted(accepted=3, timedOut=3)

    def test_patienceSinceAccepted(self) -> None:
        """
        Having been offered in between does not give a connection more time.
        """
        self.accept("a")
        self.now += PATIENCE - 1
        self.assertEqual(self.join("x"), offers("x", a=1))
        self.assertEqual(self.die("x"), [])
        self.assertEqual(self.tick(0.99), [])
        self.assertEqual(self.tick(0.01), givesUp("a", Reason.TIMED_OUT))

    def test_patienceOfOffers(self) -> None:
        """
        A connection that a worker has does not run out of patience.
        """
        self.ledger = self.open(patience=1.0)
        self.join("x")
        self.accept("ab")
        self.claim("x", 1)
        self.assertEqual(self.tick(1), letsGo("a"))
        self.assertEqual((self.ledger.unclaimed, self.ledger.waiting), (1, 0))

    def test_patienceBeforeOffers(self) -> None:
        """
        What runs out of patience is given up and not offered, even if a worker
        has room again at that moment.
        """
        self.join("x")
        self.accept("a")
        self.now += PATIENCE - PAUSE
        self.refuse("x", 1)
        self.accept("b")
        self.assertEqual(
            self.tick(PAUSE),
            [*givesUp("a", Reason.TIMED_OUT), *offers("x", b=2)],
        )


class ClaimTests(LedgerTestCase):
    """
    Tests for the copies of claimed connections.
    """

    def setUp(self) -> None:
        """
        Have a worker that was offered three connections.
        """
        super().setUp()
        self.join("x")
        self.accept("abc")

    def test_kept(self) -> None:
        """
        The copies of claimed connections are kept, in the order of the claims.
        """
        self.assertEqual(self.claim("x", 2), [])
        self.assertEqual(self.claim("x", 1), [])
        self.assertEqual(self.ledger.copies(), ["b", "a"])
        self.assertEqual(self.ledger.copiesOf("x"), ["b", "a"])
        self.assertEqual((self.ledger.unclaimed, self.ledger.held), (1, 3))
        self.assertCounted(accepted=3, offered=3, claimed=2)

    def test_copiesOf(self) -> None:
        """
        Each worker has its own copies, and a stranger has none.
        """
        self.join("y")
        self.accept("d")
        self.claim("x", 1)
        self.claim("y", 1)
        self.assertEqual(self.ledger.copies(), ["a", "d"])
        self.assertEqual(self.ledger.copiesOf("y"), ["d"])
        self.assertEqual(self.ledger.copiesOf("z"), [])

    def test_cannotCheck(self) -> None:
        """
        If the kernel cannot tell whether connections are untouched, the claim closes
        the copy.
        """
        self.accept("de", canCheck=False)
        self.assertEqual(self.claim("x", 5, 1, 4), letsGo("ed"))
        self.assertEqual(self.ledger.copies(), ["a"])
        self.assertEqual(self.close("x", 4, 5), [])

    def test_touched(self) -> None:
        """
        Copies that were touched are let go, and no others.
        """
        self.claim("x", 1, 2, 3)
        self.assertEqual(self.ledger.closeTouched(["c", "a"]), letsGo("ac"))
        self.assertEqual(self.ledger.copies(), ["b"])
        self.assertEqual(self.ledger.copiesOf("x"), ["b"])
        self.assertEqual(self.ledger.closeTouched([]), [])
        self.assertEqual(self.ledger.closeTouched(["a"]), [])

    def test_hold(self) -> None:
        """
        A copy that stays untouched is let go a while after the claim.
        """
        self.now += 2
        self.claim("x", 2)
        self.now += 0.5
        self.claim("x", 1, 3)
        self.assertEqual(self.tick(HOLD - 0.51), [])
        self.assertEqual(self.tick(0.01), letsGo("b"))
        self.assertEqual(self.tick(0.49), [])
        self.assertEqual(self.tick(0.01), letsGo("ac"))
        self.assertEqual(self.ledger.held, 0)

    def test_closed(self) -> None:
        """
        CLOSED lets the copy go.
        """
        self.claim("x", 1, 2, 3)
        self.assertEqual(self.close("x", 3, 1), letsGo("ca"))
        self.assertEqual(self.ledger.copies(), ["b"])
        self.assertEqual(self.ledger.outstanding("x"), 1)

    def test_closedLater(self) -> None:
        """
        CLOSED of a connection whose copy was let go already decides nothing.
        """
        self.claim("x", 1, 2)
        self.ledger.closeTouched("a")
        self.assertEqual(self.close("x", 1, 2), letsGo("b"))

    def test_gone(self) -> None:
        """
        GONE is like CLOSED, and is counted.
        """
        self.claim("x", 1, 2)
        self.assertEqual(self.ledger.clientGone("x", (2, 1), self.now), letsGo("ba"))
        self.assertEqual(self.ledger.outstanding("x"), 1)
        self.assertCounted(accepted=3, offered=3, claimed=2, goneBeforeAdoption=2)

    def test_share(self) -> None:
        """
        Copies are at most half of the budget: a worker that claims more has
        its oldest let go.
        """
        self.ledger = self.open(budget=8)
        self.join("x", 4)
        self.accept("abcdef")
        self.assertEqual(self.claim("x", 1, 2, 3, 4), offers("x", e=5, f=6))
        self.assertEqual(self.claim("x", 6, 5), letsGo("ab"))
        self.assertEqual(self.ledger.copies(), ["c", "d", "f", "e"])

    def test_shares(self) -> None:
        """
        Each worker has an equal share, and its claims do not touch the copies
        of others.
        """
        self.ledger = self.open(budget=12)
        self.join("x", 3)
        self.join("y", 3)
        self.accept("abcdefg")
        self.assertEqual(self.claim("x", 1, 2), offers("x", g=4))
        self.assertEqual(self.claim("y", 1, 2, 3), [])
        self.assertEqual(self.accept("h"), offers("y", h=4))
        self.assertEqual(self.claim("x", 3, 4), letsGo("a"))
        self.assertEqual(self.claim("y", 4), letsGo("b"))
        self.assertEqual(self.ledger.copies(), ["c", "d", "f", "e", "g", "h"])

    def test_smallestShare(self) -> None:
        """
        A share is never less than the window, even with many workers.  So if a worker
        dies after it claimed all its offers, others get them.
        """
        self.ledger = self.open(budget=6)
        for channel in ("x", "y", "z"):
            self.join(channel, 1 + (channel == "x"))
        self.accept("abcde")
        self.assertEqual(self.claim("y", 1), offers("y", e=2))
        self.assertEqual(self.claim("x", 1, 2), [])
        self.assertEqual(self.ledger.copies(), ["b", "a", "d"])
        self.assertEqual(self.claim("y", 2), letsGo("b"))
        self.assertEqual(self.die("x"), offers("y", a=3))
        self.assertEqual(self.claim("y", 3), [*letsGo("e"), *offers("y", d=4)])


class IdTests(LedgerTestCase):
    """
    Tests for ids, which a worker may get wrong.
    """

    def setUp(self) -> None:
        """
        Have two workers: C{x} was offered C{a}, C{b} and C{c}, and has claimed
        C{b}; C{y} was offered C{d} and C{e}, and has claimed both.  C{f} waits
        for C{y}.
        """
        super().setUp()
        self.join("x", 3)
        self.accept("abc")
        self.join("y", 2)
        self.accept("de")
        self.ledger.drain("x")
        self.claim("x", 2)
        self.claim("y", 1, 2)
        self.ledger.drain("y")
        self.accept("f")

    def state(self) -> object:
        """
        All that the ledger tells.
        """
        ledger = self.ledger
        return (
            asdict(ledger.counters),
            ledger.waiting,
            ledger.unclaimed,
            ledger.copies(),
            [
                (ledger.outstanding(channel), ledger.copiesOf(channel))
                for channel in ("x", "y")
            ],
        )

    def assertRefused(
        self,
        event: Callable[..., object],
        channel: str,
        ids: tuple[int, ...],
        text: str,
    ) -> None:
        """
        Check that an event raises an error and changes nothing.
        """
        before = self.state()
        error = self.assertRaises(ProtocolError, event, channel, ids, self.now)
        self.assertEqual(str(error), text)
        self.assertEqual(self.state(), before)

    def test_notOnOffer(self) -> None:
        """
        An id that is not on offer can be neither claimed nor refused, nor can the
        others in the same frame.  Such ids were never used, are claimed already, are
        given twice, or are on offer to another worker.
        """
        for event, name in (
            (self.ledger.claim, "CLAIM"),
            (self.ledger.refuse, "REFUSE"),
        ):
            text = f"{name} of a connection that is not on offer to it"
            for ids in ((9,), (0,), (2,), (1, 2), (1, 9), (1, 3, 1)):
                self.assertRefused(event, "x", ids, text)
            self.assertRefused(event, "y", (3,), text)
            self.assertRefused(event, "y", (1,), text)

    def test_notInService(self) -> None:
        """
        An id that is not in service cannot be reported as CLOSED.  Such ids were never
        used, are on offer, are given twice, or are in service at another worker.
        """
        text = "CLOSED of a connection that it does not serve"
        for event in (self.ledger.close, self.ledger.clientGone):
            for ids in ((9,), (1,), (2, 1), (2, 2)):
                self.assertRefused(event, "x", ids, text)
            self.assertRefused(event, "y", (1, 3), text)

    def test_closedTwice(self) -> None:
        """
        A connection that was reported as CLOSED cannot be reported again.
        """
        self.close("x", 2)
        text = "CLOSED of a connection that it does not serve"
        self.assertRefused(self.ledger.close, "x", (2,), text)

    def test_refusedTwice(self) -> None:
        """
        A refused connection can be neither refused nor claimed.
        """
        self.refuse("x", 1)
        for event, name in (
            (self.ledger.claim, "CLAIM"),
            (self.ledger.refuse, "REFUSE"),
        ):
            text = f"{name} of a connection that is not on offer to it"
            self.assertRefused(event, "x", (1,), text)

    def test_stranger(self) -> None:
        """
        A channel whose worker has not joined, or has left, can report nothing.
        """
        text = "it has no part in the work yet"
        self.part("x")
        for channel in ("x", "z"):
            for event in (
                self.ledger.claim,
                self.ledger.refuse,
                self.ledger.close,
                self.ledger.clientGone,
            ):
                self.assertRefused(event, channel, (1,), text)
            error = self.assertRaises(ProtocolError, self.ledger.drain, channel)
            self.assertEqual(str(error), text)

    def test_failureChangesNothing(self) -> None:
        """
        After a wrong frame, the worker can go on with right ones.
        """
        for event in (self.ledger.claim, self.ledger.refuse, self.ledger.close):
            self.assertRaises(ProtocolError, event, "x", (1, 2, 3, 9), self.now)
        self.assertEqual(self.claim("x", 1, 3), [])
        self.assertEqual(self.close("x", 1, 2, 3), letsGo("abc"))

    def test_notAgain(self) -> None:
        """
        Ids are not used again soon.
        """
        self.ledger = self.open()
        self.join("x", 1)
        for id, connection in enumerate("abc", 1):
            self.assertEqual(self.accept(connection), offers("x", **{connection: id}))
            self.claim("x", id)
            self.close("x", id)

    def test_roundAgain(self) -> None:
        """
        After the largest id, 1 is next, and ids in use are skipped.
        """
        self.ledger = self.open()
        self.join("x")
        self.accept("abcd")
        self.claim("x", 2)
        self.refuse("x", 4)
        self.ledger._workers["x"].nextId = 0xFFFFFFFF
        self.assertEqual(self.tick(PAUSE), offers("x", d=0xFFFFFFFF))
        self.claim("x", 0xFFFFFFFF)
        self.assertEqual(self.accept("ef"), offers("x", e=4, f=5))
        self.ledger._workers["x"].nextId = 0xFFFFFFFF
        self.assertEqual(self.accept("g"), offers("x", g=6))


class RefusalTests(LedgerTestCase):
    """
    Tests for offers that a worker will not touch.
    """

    def full(self) -> int:
        """
        Have more connections come in after the pause than the workers get, and
        find out how many that is.
        """
        self.now += PAUSE
        self.ledger.addConnections(PORT, range(20), self.now)
        return self.ledger.unclaimed

    def test_another(self) -> None:
        """
        What one worker refused is offered to another, ahead of what waits,
        the oldest first.
        """
        self.join("x", 3)
        self.accept("abcdef")
        self.refuse("x", 3, 1)
        self.assertEqual(self.join("y", 3), offers("y", a=1, c=2, d=3))
        self.assertCounted(accepted=6, offered=6, refused=2)

    def test_sameAgain(self) -> None:
        """
        The worker that refused it may have it again, but not at once, and
        under another id.
        """
        self.join("x", 4)
        self.accept("ab")
        self.assertEqual(self.refuse("x", 1), [])
        self.assertEqual(self.tick(PAUSE - 0.01), [])
        self.assertEqual(self.tick(0.01), offers("x", a=3))

    def test_pause(self) -> None:
        """
        During its pause a worker gets nothing new either, and others do.
        """
        self.join("x", 4)
        self.join("y", 1)
        self.accept("a")
        self.assertEqual(self.refuse("x", 1), offers("y", a=1))
        self.assertEqual(self.accept("b"), [])
        self.assertEqual(self.tick(PAUSE), offers("x", b=2))

    def test_halved(self) -> None:
        """
        Each refusal halves what a worker gets of its window, down to one.
        """
        for window, expected in ((8, 4), (3, 1), (1, 1)):
            self.ledger = self.open()
            self.join("x", window)
            self.accept("a")
            self.refuse("x", 1)
            self.assertEqual(self.full(), expected)

    def test_halvedAgain(self) -> None:
        """
        Several offers refused in one frame count as one, and the next frame
        halves it again.
        """
        self.join("x", 8)
        self.accept("abc")
        self.refuse("x", 1, 2)
        self.refuse("x", 3)
        self.assertEqual(self.full(), 2)

    def test_recovers(self) -> None:
        """
        Each claim gives it one more again, up to its window.
        """
        self.join("x", 4)
        self.accept("a")
        self.refuse("x", 1)
        unclaimed = [self.full()]
        for id in range(2, 7):
            self.claim("x", id)
            unclaimed.append(self.ledger.unclaimed)
        self.assertEqual(unclaimed, [2, 3, 4, 4, 4, 4])

    def test_draining(self) -> None:
        """
        What a draining worker refuses does not come back to it.
        """
        self.join("x")
        self.accept("a")
        self.ledger.drain("x")
        self.refuse("x", 1)
        self.assertEqual(self.tick(PAUSE), [])
        self.assertEqual(self.join("y"), offers("y", a=1))


class TimedTests(LedgerTestCase):
    """
    Tests for whether time makes a difference.
    """

    def test_held(self) -> None:
        """
        It does while anything is held.
        """
        self.assertFalse(self.ledger.timed)
        self.accept("a")
        self.assertTrue(self.ledger.timed)
        self.join("x")
        self.claim("x", 1)
        self.assertTrue(self.ledger.timed)
        self.close("x", 1)
        self.assertFalse(self.ledger.timed)

    def test_pausing(self) -> None:
        """
        It does while a worker pauses that refused something, though another has
        taken that.
        """
        self.join("x")
        self.accept("a")
        self.join("y")
        self.refuse("x", 1)
        self.claim("y", 1)
        self.close("y", 1)
        self.assertEqual(self.ledger.held, 0)
        self.assertTrue(self.ledger.timed)
        self.tick(PAUSE)
        self.assertFalse(self.ledger.timed)


class StopTests(LedgerTestCase):
    """
    Tests for L{Ledger.stop}.
    """

    def test_stopped(self) -> None:
        """
        Connections that wait are closed, the oldest first.  Offered connections are
        their workers', and the copies are closed.
        """
        self.join("x", 4)
        self.join("y", 2)
        self.accept("abcdef")
        self.claim("x", 3, 1)
        self.claim("y", 1)
        self.ledger.closeTouched("a")
        self.ledger.drain("x")
        self.ledger.drain("y")
        self.accept("g")
        self.refuse("x", 2)
        self.assertEqual(
            self.ledger.stop(),
            [*givesUp("cg", Reason.STOPPED), *letsGo("fedb")],
        )
        self.assertEqual(self.ledger.counters.stopped, 2)

    def test_empty(self) -> None:
        """
        Nothing is left in the ledger, and stopping again decides nothing.
        """
        self.join("x", 2)
        self.accept("abcd")
        self.claim("x", 1)
        self.ledger.stop()
        self.assertEqual((self.ledger.held, self.ledger.workers), (0, 0))
        self.assertEqual(self.ledger.copies(), [])
        self.assertEqual(self.ledger.stop(), [])
        self.assertEqual(self.tick(PATIENCE), [])


class CounterTests(LedgerTestCase):
    """
    Tests for L{portlisten._policy.counters.Counters}.
    """

    def test_text(self) -> None:
        """
        They read as a line of the log.
        """
        self.join("x")
        self.accept("ab")
        self.claim("x", 1)
        self.assertEqual(
            str(self.ledger.counters),
            "accepted 2, offered 2, claimed 1, refused 0, redispatched 0, revoked 0,"
            " finished 0, lostInService 0, unusable 0, timedOut 0, silentTooLong 0,"
            " goneBeforeAdoption 0, given 0, leftWithWorker 0, handedOver 0,"
            " stopped 0",
        )


class DefaultTests(LedgerTestCase):
    """
    Tests for the defaults of a ledger.
    """

    def setUp(self) -> None:
        """
        Make a ledger with as few parameters as possible, and a worker.
        """
        super().setUp()
        self.ledger = Ledger(QUEUE, BUDGET, PATIENCE)
        self.join("x")

    def test_claimed(self) -> None:
        """
        The kernel is asked, and the hold is one second.
        """
        self.ledger.addConnections(PORT, "a", self.now)
        self.assertEqual(self.claim("x", 1), [])
        self.assertEqual(self.tick(0.99), [])
        self.assertEqual(self.tick(0.01), letsGo("a"))

    def test_unclaimed(self) -> None:
        """
        A worker hangs after five seconds.
        """
        self.accept("a")
        self.assertEqual(self.tick(4.99), [])
        self.assertEqual(self.tick(0.01), [Revoke("x", UNCLAIMED)])

    def test_refused(self) -> None:
        """
        A worker that refused something has a pause of a tenth of a second.
        """
        self.accept("a")
        self.refuse("x", 1)
        self.assertEqual(self.tick(0.09), [])
        self.assertEqual(self.tick(0.01), offers("x", a=2))

    def test_leastOutstanding(self) -> None:
        """
        Workers do not merely have their turns.
        """
        self.accept("ab")
        self.join("y")
        self.assertEqual(self.accept("cd"), offers("y", c=1, d=2))
