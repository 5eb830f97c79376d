"""
Tests for L{portlisten._policy.ledger}.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from random import Random
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from portlisten._policy.ledger import (
    Decision,
    GiveUp,
    HandOff,
    Ledger,
    LetGo,
    Reason,
    Revoke,
)
from portlisten.errors import ProtocolError

PORT = 3
QUEUE = 10
BUDGET = 100
PATIENCE = 60.0
HOLD = 1.0
TIMEOUT = 5.0
PAUSE = 0.1
NAMES = ("web", "mail")

UNCLAIMED = "an offer unclaimed for 5 s"


def offers(channel: str, **connections: int) -> list[Decision]:
    """
    Expect that connections are offered to a worker, under these ids.
    """
    return [
        HandOff(channel, id, connection, PORT) for connection, id in connections.items()
    ]


def letsGo(connections: str) -> list[Decision]:
    """
    Expect that these copies are closed.
    """
    return [LetGo(connection) for connection in connections]


def givesUp(connections: str, reason: Reason) -> list[Decision]:
    """
    Expect that these connections are closed.
    """
    return [GiveUp(connection, reason) for connection in connections]


class LedgerTestCase(SynchronousTestCase):
    """
    A test with a book.  Connections are letters, and channels are words.

    @ivar now: the time.
    """

    def setUp(self) -> None:
        """
        Open the book.
        """
        self.now = 1000.0
        self.ledger = self.open()

    def open(self, **options: Any) -> Ledger:
        """
        Open a book that differs from the usual one in these options.
        """
        usual: dict[str, Any] = {
            "queue": QUEUE,
            "budget": BUDGET,
            "patience": PATIENCE,
            "hold": HOLD,
            "claimTimeout": TIMEOUT,
            "pause": PAUSE,
        }
        return Ledger(**{**usual, **options})

    def accept(
        self, connections: str, witness: bool = True, name: str = ""
    ) -> list[Decision]:
        """
        Have connections come in.
        """
        return self.ledger.accepted(PORT, connections, self.now, witness, name)

    def join(self, channel: str, window: int = 8, *names: str) -> list[Decision]:
        """
        Have a worker join, which wants these names, or whatever there is.
        """
        wanted = names or ("", *NAMES)
        return self.ledger.joined(channel, window, self.now, wanted)

    def claim(self, channel: str, *ids: int) -> list[Decision]:
        """
        Have a worker claim offers.
        """
        return self.ledger.claimed(channel, ids, self.now)

    def refuse(self, channel: str, *ids: int) -> list[Decision]:
        """
        Have a worker refuse offers.
        """
        return self.ledger.refused(channel, ids, self.now)

    def close(self, channel: str, *ids: int) -> list[Decision]:
        """
        Have a worker report that connections have ended.
        """
        return self.ledger.closed(channel, ids, self.now)

    def die(self, channel: str, touched: str = "") -> list[Decision]:
        """
        Have a worker die, which had touched some of its copies.
        """
        return self.ledger.died(channel, touched, self.now)

    def part(self, channel: str) -> list[Decision]:
        """
        Have a worker leave.
        """
        return self.ledger.parted(channel, self.now)

    def tick(self, seconds: float = 0) -> list[Decision]:
        """
        Have time pass.
        """
        self.now += seconds
        return self.ledger.ticked(self.now)

    def assertCounted(self, **expected: int) -> None:
        """
        Check all counters: those that are not given are zero.
        """
        counted = asdict(self.ledger.counters)
        self.assertEqual({n: c for n, c in counted.items() if c}, expected)


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
            self.ledger.accepted(port, [connection], self.now)
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


class ChoiceTests(LedgerTestCase):
    """
    Tests for which worker is offered a connection.
    """

    def test_tiesInTurn(self) -> None:
        """
        Among workers that have the same, the one whose turn was the longest
        ago is next.
        """
        for channel in ("x", "y", "z"):
            self.join(channel)
        self.assertEqual(
            self.accept("abcdefg"),
            [
                *offers("x", a=1),
                *offers("y", b=1),
                *offers("z", c=1),
                *offers("x", d=2),
                *offers("y", e=2),
                *offers("z", f=2),
                *offers("x", g=3),
            ],
        )

    def test_turnAfterTie(self) -> None:
        """
        Whoever is as idle as others but had its turn just now comes after
        them.
        """
        self.join("x")
        self.join("y")
        self.assertEqual(self.accept("a"), offers("x", a=1))
        self.claim("x", 1)
        self.close("x", 1)
        self.assertEqual(self.accept("b"), offers("y", b=1))
        self.claim("y", 1)
        self.close("y", 1)
        self.assertEqual(self.accept("c"), offers("x", c=2))

    def test_leastOutstanding(self) -> None:
        """
        The worker that has the fewest connections is next.
        """
        self.join("x")
        self.accept("abc")
        self.join("y")
        self.assertEqual(
            self.accept("defg"),
            [*offers("y", d=1, e=2, f=3), *offers("x", g=4)],
        )

    def test_claimedCount(self) -> None:
        """
        A worker has what it claimed, whether its copy is held or not, until it
        says CLOSED.
        """
        self.join("x")
        self.accept("ab")
        self.claim("x", 1, 2)
        self.ledger.witnessed("a")
        self.join("y")
        self.assertEqual(self.ledger.outstanding("x"), 2)
        self.assertEqual(self.accept("cd"), offers("y", c=1, d=2))
        self.close("x", 1, 2)
        self.assertEqual(self.ledger.outstanding("x"), 0)
        self.assertEqual(self.accept("ef"), offers("x", e=3, f=4))

    def test_outstanding(self) -> None:
        """
        What is offered counts as well, and a stranger has nothing.
        """
        self.join("x")
        self.accept("abc")
        self.claim("x", 2)
        self.assertEqual(self.ledger.outstanding("x"), 3)
        self.assertEqual(self.ledger.outstanding("y"), 0)

    def test_roundRobin(self) -> None:
        """
        With round robin, each has its turn whatever it has.
        """
        self.ledger = self.open(roundRobin=True)
        self.join("x")
        self.accept("abc")
        self.join("y")
        self.assertEqual(
            self.accept("defg"),
            [
                *offers("y", d=1),
                *offers("x", e=4),
                *offers("y", f=2),
                *offers("x", g=5),
            ],
        )

    def test_window(self) -> None:
        """
        No worker has more unclaimed offers than its window, and each claim
        makes room.
        """
        self.join("x", 2)
        self.assertEqual(self.accept("abcd"), offers("x", a=1, b=2))
        self.assertEqual(self.tick(), [])
        self.assertEqual(self.claim("x", 2), offers("x", c=3))
        self.assertEqual(self.claim("x", 1, 3), offers("x", d=4))

    def test_fullWindow(self) -> None:
        """
        A worker without room is passed over, however little it has.
        """
        self.join("x", 1)
        self.join("y", 8)
        self.assertEqual(
            self.accept("abcd"), [*offers("x", a=1), *offers("y", b=1, c=2, d=3)]
        )

    def test_draining(self) -> None:
        """
        A draining worker is offered nothing more, and may claim what it was
        offered.
        """
        self.join("x")
        self.accept("a")
        self.ledger.draining("x")
        self.assertEqual(self.accept("b"), [])
        self.assertEqual(self.claim("x", 1), [])
        self.assertEqual(self.join("y"), offers("y", b=1))

    def test_workers(self) -> None:
        """
        Workers are those that take offers.
        """
        self.assertEqual(self.ledger.workers, 0)
        for channel in ("x", "y", "z"):
            self.join(channel)
        self.ledger.draining("x")
        self.part("y")
        self.assertEqual(self.ledger.workers, 1)


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

    def test_noWitness(self) -> None:
        """
        Where the kernel cannot tell what is pristine, the claim lets the copy
        go.
        """
        self.accept("de", witness=False)
        self.assertEqual(self.claim("x", 5, 1, 4), letsGo("ed"))
        self.assertEqual(self.ledger.copies(), ["a"])
        self.assertEqual(self.close("x", 4, 5), [])

    def test_witnessed(self) -> None:
        """
        Copies that are not pristine any more are let go, and no others.
        """
        self.claim("x", 1, 2, 3)
        self.assertEqual(self.ledger.witnessed(["c", "a"]), letsGo("ac"))
        self.assertEqual(self.ledger.copies(), ["b"])
        self.assertEqual(self.ledger.copiesOf("x"), ["b"])
        self.assertEqual(self.ledger.witnessed([]), [])
        self.assertEqual(self.ledger.witnessed(["a"]), [])

    def test_hold(self) -> None:
        """
        A copy that stays pristine is let go a while after the claim.
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
        self.ledger.witnessed("a")
        self.assertEqual(self.close("x", 1, 2), letsGo("b"))

    def test_gone(self) -> None:
        """
        GONE is like CLOSED, and is counted.
        """
        self.claim("x", 1, 2)
        self.assertEqual(self.ledger.gone("x", (2, 1), self.now), letsGo("ba"))
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
        A share is never less than the window, however many workers there are:
        if all that a worker was offered turns out to be claimed when it is dead,
        others get it.
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
        self.ledger.draining("x")
        self.claim("x", 2)
        self.claim("y", 1, 2)
        self.ledger.draining("y")
        self.accept("f")

    def state(self) -> object:
        """
        All that the book tells.
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
        What is not on offer can be neither claimed nor refused, nor can what
        stands beside it: ids that never were, ids claimed already, ids given
        twice, and what is on offer to another.
        """
        for event, name in (
            (self.ledger.claimed, "CLAIM"),
            (self.ledger.refused, "REFUSE"),
        ):
            text = f"{name} of a connection that is not on offer to it"
            for ids in ((9,), (0,), (2,), (1, 2), (1, 9), (1, 3, 1)):
                self.assertRefused(event, "x", ids, text)
            self.assertRefused(event, "y", (3,), text)
            self.assertRefused(event, "y", (1,), text)

    def test_notInService(self) -> None:
        """
        What is not in service cannot be reported as ended: ids that never
        were, ids on offer, ids given twice, and what another serves.
        """
        text = "CLOSED of a connection that it does not serve"
        for event in (self.ledger.closed, self.ledger.gone):
            for ids in ((9,), (1,), (2, 1), (2, 2)):
                self.assertRefused(event, "x", ids, text)
            self.assertRefused(event, "y", (1, 3), text)

    def test_closedTwice(self) -> None:
        """
        What was reported as ended cannot be so again.
        """
        self.close("x", 2)
        text = "CLOSED of a connection that it does not serve"
        self.assertRefused(self.ledger.closed, "x", (2,), text)

    def test_refusedTwice(self) -> None:
        """
        What was refused can be neither refused nor claimed.
        """
        self.refuse("x", 1)
        for event, name in (
            (self.ledger.claimed, "CLAIM"),
            (self.ledger.refused, "REFUSE"),
        ):
            text = f"{name} of a connection that is not on offer to it"
            self.assertRefused(event, "x", (1,), text)

    def test_stranger(self) -> None:
        """
        A channel that has no part in the work cannot say anything, and neither
        can one that had and left.
        """
        text = "it has no part in the work yet"
        self.part("x")
        for channel in ("x", "z"):
            for event in (
                self.ledger.claimed,
                self.ledger.refused,
                self.ledger.closed,
                self.ledger.gone,
            ):
                self.assertRefused(event, channel, (1,), text)
            error = self.assertRaises(ProtocolError, self.ledger.draining, channel)
            self.assertEqual(str(error), text)

    def test_failureChangesNothing(self) -> None:
        """
        After something wrong, a worker can go on with what is right.
        """
        for event in (self.ledger.claimed, self.ledger.refused, self.ledger.closed):
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
        After the largest id comes 1 again, and what is in use is passed over.
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
        self.ledger.accepted(PORT, range(20), self.now)
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
        self.ledger.draining("x")
        self.refuse("x", 1)
        self.assertEqual(self.tick(PAUSE), [])
        self.assertEqual(self.join("y"), offers("y", a=1))


class DeathTests(LedgerTestCase):
    """
    Tests for workers that die.
    """

    def setUp(self) -> None:
        """
        Have a worker that was offered six connections.
        """
        super().setUp()
        self.join("x", 6)
        self.accept("abcdef")

    def test_offered(self) -> None:
        """
        What was offered goes to another worker.
        """
        self.join("y")
        self.assertEqual(self.die("x"), offers("y", a=1, b=2, c=3, d=4, e=5, f=6))
        self.assertCounted(accepted=6, offered=12, redispatched=6)

    def test_pristine(self) -> None:
        """
        What was claimed and is pristine goes to another worker, along with the
        rest, the oldest first.
        """
        self.claim("x", 4, 2)
        self.join("y")
        self.assertEqual(self.die("x"), offers("y", a=1, b=2, c=3, d=4, e=5, f=6))
        self.assertEqual((self.ledger.copies(), self.ledger.unclaimed), ([], 6))
        self.assertCounted(accepted=6, offered=12, claimed=2, redispatched=6)

    def test_beforeWaiting(self) -> None:
        """
        It goes ahead of younger connections that wait, and behind older ones.
        """
        self.accept("g")
        self.refuse("x", 1, 3)
        self.assertEqual(self.ledger.waiting, 3)
        self.assertEqual(self.die("x"), [])
        self.assertEqual(self.join("y"), offers("y", a=1, b=2, c=3, d=4, e=5, f=6, g=7))

    def test_touched(self) -> None:
        """
        What was claimed and is not pristine ends, and is counted.
        """
        self.claim("x", 1, 2, 3)
        self.join("y")
        self.assertEqual(
            self.die("x", touched="ac"),
            [
                *givesUp("ac", Reason.LOST_IN_SERVICE),
                *offers("y", b=1, d=2, e=3, f=4),
            ],
        )
        self.assertEqual(self.ledger.held, 4)
        self.assertCounted(
            accepted=6, offered=10, claimed=3, redispatched=4, lostInService=2
        )

    def test_inItsHands(self) -> None:
        """
        What was in the worker's hands dies with it, and is counted; what had
        ended before is not.
        """
        self.claim("x", 1, 2, 3)
        self.ledger.witnessed("ab")
        self.close("x", 1)
        self.assertEqual(self.die("x"), [])
        self.assertEqual((self.ledger.waiting, self.ledger.held), (4, 4))
        self.assertCounted(
            accepted=6, offered=6, claimed=3, redispatched=4, lostInService=1
        )

    def test_noWitness(self) -> None:
        """
        What was claimed counts as lost where the kernel is no witness.
        """
        self.ledger = self.open()
        self.join("x")
        self.accept("ab", witness=False)
        self.claim("x", 1)
        self.join("y")
        self.assertEqual(self.die("x"), offers("y", b=1))
        self.assertEqual(self.claim("y", 1), letsGo("b"))
        self.assertEqual(self.ledger.counters.lostInService, 1)

    def test_others(self) -> None:
        """
        Nothing changes for the connections of other workers.
        """
        self.join("y", 1)
        self.accept("g")
        self.claim("y", 1)
        self.claim("x", 1)
        self.ledger.draining("y")
        self.die("x")
        self.assertEqual(self.ledger.copies(), ["g"])
        self.assertEqual(self.ledger.outstanding("y"), 1)

    def test_claimAgain(self) -> None:
        """
        The next worker may claim what the dead one had claimed, and it is held
        for as long as ever.
        """
        self.claim("x", 1)
        self.now += HOLD / 2
        self.die("x")
        self.join("y", 1)
        self.now += HOLD
        self.claim("y", 1)
        self.assertEqual(self.tick(HOLD / 2), [])
        self.assertEqual(self.tick(HOLD / 2), letsGo("a"))


class DefaultTests(LedgerTestCase):
    """
    Tests for what holds unless a book is told otherwise.
    """

    def setUp(self) -> None:
        """
        Open a book that is told as little as can be, and have a worker.
        """
        super().setUp()
        self.ledger = Ledger(QUEUE, BUDGET, PATIENCE)
        self.join("x")

    def test_claimed(self) -> None:
        """
        The kernel is a witness, and the hold is one second.
        """
        self.ledger.accepted(PORT, "a", self.now)
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


class PartTests(LedgerTestCase):
    """
    Tests for workers that leave and go on serving.
    """

    def test_parted(self) -> None:
        """
        What it claimed is its own, and its copies are held for as long as any; what
        it did not claim goes to another, the oldest first; and nothing is lost.
        """
        self.join("x", 5)
        self.accept("abcde")
        self.claim("x", 4, 2, 1)
        self.ledger.witnessed("a")
        self.join("y")
        self.assertEqual(self.part("x"), offers("y", c=1, e=2))
        self.assertEqual((self.ledger.copies(), self.ledger.held), (["d", "b"], 4))
        self.assertEqual(self.tick(1.0), letsGo("db"))
        self.assertEqual((self.ledger.copies(), self.ledger.held), ([], 2))
        self.assertCounted(accepted=5, offered=7, claimed=3, redispatched=2)

    def test_ends(self) -> None:
        """
        If its process ends, others get what it had claimed and not touched.
        """
        self.join("x", 5)
        self.accept("abc")
        self.claim("x", 1, 2)
        self.assertEqual(self.part("x"), [])
        self.join("y")
        self.assertEqual(self.ledger.copiesOf("x"), ["a", "b"])
        self.assertEqual(
            self.ledger.ended("x", ["b"], self.now),
            [GiveUp("b", Reason.LOST_IN_SERVICE), *offers("y", a=2)],
        )
        self.assertEqual(self.ledger.ended("x", [], self.now), [])
        self.assertCounted(
            accepted=3, offered=5, claimed=2, redispatched=2, lostInService=1
        )

    def test_asleep(self) -> None:
        """
        As long as it stands still, its copies are not timed.
        """
        self.join("x", 5)
        self.accept("ab")
        self.claim("x", 1, 2)
        self.ledger.parted("x", self.now, asleep=True)
        self.assertEqual(self.tick(100.0), [])
        self.assertEqual((self.ledger.copies(), self.ledger.held), (["a", "b"], 2))
        self.assertEqual(self.ledger.witnessed("a"), letsGo("a"))
        self.ledger.awoke("x", self.now)
        self.ledger.awoke("x", self.now + 5)
        self.assertEqual(self.tick(0.9), [])
        self.assertEqual(self.tick(0.1), letsGo("b"))
        self.assertEqual(self.ledger.held, 0)

    def test_manyAsleep(self) -> None:
        """
        No more of them are held than a quarter of the budget.
        """
        self.ledger = self.open(budget=40)
        self.join("x", 20)
        self.accept("abcdefghijklmnopqrst")
        self.claim("x", *range(1, 21))
        copies = self.ledger.copies()
        decisions = self.ledger.parted("x", self.now, asleep=True)
        gone = [each.connection for each in decisions if isinstance(each, LetGo)]
        self.assertEqual(gone + self.ledger.copies(), copies)
        self.assertEqual(len(self.ledger.copies()), 10)


class DepartureTests(LedgerTestCase):
    """
    Tests for clients that leave while they wait.
    """

    def test_left(self) -> None:
        """
        They are given up, and their places are free; the others keep their order.
        """
        self.accept("abcd")
        self.assertEqual(self.ledger.waits(), list("abcd"))
        room = self.ledger.room()
        self.assertEqual(
            self.ledger.left("ac"), [GiveUp("a", Reason.GONE), GiveUp("c", Reason.GONE)]
        )
        self.assertEqual(self.ledger.room(), room + 2)
        self.assertEqual(self.ledger.left("ac"), [])
        self.assertEqual(self.join("x"), offers("x", b=1, d=2))
        self.assertCounted(accepted=4, offered=2, goneBeforeAdoption=2)

    def test_halfClosed(self) -> None:
        """
        Those that may have left take no place, and are offered all the same; after a
        while they are given up.
        """
        self.accept("abcd")
        room = self.ledger.room()
        self.assertEqual(self.ledger.halfClosed("abc", self.now), [])
        self.assertEqual(self.ledger.halfClosed("abc", self.now), [])
        self.assertEqual((self.ledger.room(), self.ledger.waiting), (room + 3, 4))
        self.assertEqual(self.join("x", 1), offers("x", a=1))
        self.assertEqual(self.ledger.room(), room + 3)
        self.assertEqual(self.ledger.halfClosed("bc", self.now + 4.9), [])
        self.assertEqual(
            self.ledger.halfClosed("bc", self.now + 5),
            [GiveUp("b", Reason.GONE), GiveUp("c", Reason.GONE)],
        )
        self.assertEqual(self.ledger.room(), room + 3)
        self.refuse("x", 1)
        self.assertEqual(self.ledger.room(), room + 2)

    def test_crowded(self) -> None:
        """
        They are given up at once if most of the budget is in use.
        """
        self.ledger = self.open(budget=8)
        self.accept("abcde")
        self.assertEqual(self.ledger.halfClosed("a", self.now), [])
        self.accept("f")
        self.assertEqual(
            self.ledger.halfClosed("a", self.now), [GiveUp("a", Reason.GONE)]
        )


class BlockTests(LedgerTestCase):
    """
    Tests for workers that are given nothing for now.
    """

    def test_block(self) -> None:
        """
        A blocked worker gets no offers until it is blocked no more.
        """
        self.join("x")
        self.ledger.block("x", True)
        self.ledger.block("y", True)
        self.assertEqual(self.accept("a"), [])
        self.ledger.block("x", False)
        self.assertEqual(self.tick(), offers("x", a=1))


class RevocationTests(LedgerTestCase):
    """
    Tests for workers that hang.
    """

    def test_timeout(self) -> None:
        """
        A worker that leaves an offer unclaimed for too long is revoked, once.
        """
        self.join("x")
        self.accept("a")
        self.assertEqual(self.tick(TIMEOUT - 0.01), [])
        self.assertEqual(self.tick(0.01), [Revoke("x", UNCLAIMED)])
        self.assertEqual(self.tick(TIMEOUT), [])
        self.assertCounted(accepted=1, offered=1, revoked=1)

    def test_noMore(self) -> None:
        """
        A revoked worker is offered nothing more, not even at that moment.
        """
        self.join("x", 1)
        self.accept("ab")
        self.assertEqual(self.tick(TIMEOUT), [Revoke("x", UNCLAIMED)])
        self.assertEqual(self.ledger.workers, 0)
        self.assertEqual(self.claim("x", 1), [])
        self.assertEqual(self.ledger.waiting, 1)

    def test_thenParted(self) -> None:
        """
        What it had claimed up to the end is its own, and the rest goes to
        another worker only then.
        """
        self.join("x")
        self.accept("abc")
        self.now += TIMEOUT
        self.join("y")
        self.assertEqual(self.tick(), [Revoke("x", UNCLAIMED)])
        self.assertEqual(self.claim("x", 2), [])
        self.assertEqual(self.part("x"), offers("y", a=1, c=2))
        self.assertEqual(self.ledger.copies(), ["b"])

    def test_oldest(self) -> None:
        """
        It is the oldest offer that counts, even if younger ones were claimed.
        """
        self.join("x")
        self.accept("a")
        self.now += TIMEOUT - HOLD / 2
        self.accept("b")
        self.claim("x", 2)
        self.assertEqual(self.tick(HOLD / 2), [Revoke("x", UNCLAIMED)])

    def test_claimedInTime(self) -> None:
        """
        Claiming the oldest gives the next one its own time.
        """
        self.join("x")
        self.accept("a")
        self.now += 1
        self.accept("b")
        self.claim("x", 1)
        self.assertEqual(self.tick(TIMEOUT - 1), letsGo("a"))
        self.assertEqual(self.tick(1), [Revoke("x", UNCLAIMED)])

    def test_sinceOffered(self) -> None:
        """
        Time that a connection waited, or was on offer to another, does not
        count.
        """
        self.accept("a")
        self.now += TIMEOUT
        self.join("x")
        self.now += TIMEOUT - 1
        self.join("y")
        self.assertEqual(self.die("x"), offers("y", a=1))
        self.assertEqual(self.tick(TIMEOUT - 0.01), [])
        self.assertEqual(self.tick(0.01), [Revoke("y", UNCLAIMED)])

    def test_draining(self) -> None:
        """
        A draining worker has to answer as well.
        """
        self.join("x")
        self.accept("a")
        self.ledger.draining("x")
        self.assertEqual(self.tick(TIMEOUT), [Revoke("x", UNCLAIMED)])

    def test_several(self) -> None:
        """
        Each worker that hangs is revoked, and no other.
        """
        for channel in ("x", "y", "z"):
            self.join(channel)
        self.accept("abc")
        self.claim("y", 1)
        self.assertEqual(
            self.tick(TIMEOUT),
            [LetGo("b"), Revoke("x", UNCLAIMED), Revoke("z", UNCLAIMED)],
        )
        self.assertEqual(self.ledger.workers, 1)

    def test_idle(self) -> None:
        """
        A worker that was offered nothing does not hang.
        """
        self.join("x")
        self.assertEqual(self.tick(TIMEOUT * 2), [])


class RoomTests(LedgerTestCase):
    """
    Tests for how many connections may be accepted.
    """

    def test_queue(self) -> None:
        """
        Without workers it is what fits in the queue.
        """
        self.assertEqual(self.ledger.room(), QUEUE)
        self.accept("abc")
        self.assertEqual(self.ledger.room(), QUEUE - 3)

    def test_windows(self) -> None:
        """
        What fits in the windows of the workers comes on top.
        """
        self.join("x", 4)
        self.join("y", 2)
        self.assertEqual(self.ledger.room(), QUEUE + 6)
        self.accept("abc")
        self.assertEqual(self.ledger.room(), QUEUE + 3)
        self.claim("x", 1)
        self.assertEqual(self.ledger.room(), QUEUE + 4)

    def test_draining(self) -> None:
        """
        The window of a draining worker does not count.
        """
        self.join("x", 4)
        self.ledger.draining("x")
        self.assertEqual(self.ledger.room(), QUEUE)

    def test_refused(self) -> None:
        """
        What a worker does not get of its window does not count: nothing while it
        pauses, and half of it then.
        """
        self.join("x", 4)
        self.join("y", 1)
        self.accept("a")
        self.refuse("x", 1)
        self.assertEqual(self.ledger.room(), QUEUE)
        self.tick(PAUSE)
        self.assertEqual(self.ledger.room(), QUEUE + 2)

    def test_shrunk(self) -> None:
        """
        A worker that holds more than what it gets now has no room, and takes
        none from others.
        """
        self.join("x", 8)
        self.accept("abcdefgh")
        self.join("y", 3)
        self.refuse("x", 1)
        self.assertEqual(self.ledger.unclaimed, 8)
        self.assertEqual(self.ledger.room(), QUEUE + 2)

    def test_crowded(self) -> None:
        """
        More may wait than the queue is for, when a worker dies: there is no
        room then, and not less than none.
        """
        self.ledger = self.open(queue=1)
        self.join("x", 4)
        self.accept("abcd")
        self.assertEqual(self.ledger.room(), 1)
        self.die("x")
        self.assertEqual((self.ledger.waiting, self.ledger.room()), (4, 0))

    def test_budget(self) -> None:
        """
        All that is held counts towards the budget: what waits, what is
        offered, and copies.
        """
        self.ledger = self.open(budget=9)
        self.join("x", 2)
        self.assertEqual(self.ledger.room(), 9)
        self.accept("abcde")
        self.claim("x", 1)
        self.assertEqual(
            (self.ledger.waiting, self.ledger.unclaimed, len(self.ledger.copies())),
            (2, 2, 1),
        )
        self.assertEqual((self.ledger.held, self.ledger.room()), (5, 4))
        self.ledger.witnessed("a")
        self.assertEqual((self.ledger.held, self.ledger.room()), (4, 5))

    def test_busy(self) -> None:
        """
        All are busy who have something to claim, if there is anybody.
        """
        self.assertFalse(self.busy())
        self.join("x", 4)
        self.join("y", 4)
        self.assertFalse(self.busy())
        self.accept("a")
        self.assertFalse(self.busy())
        self.accept("b")
        self.assertTrue(self.busy())
        self.claim("x", 1)
        self.assertFalse(self.busy())

    def test_busyForLong(self) -> None:
        """
        One that has not claimed for a while may hang, and is not waited for.
        """
        self.join("x", 4)
        self.accept("a")
        self.now += 0.5
        self.accept("b")
        self.assertTrue(self.busy(0.75))
        self.assertFalse(self.busy(0.5))

    def test_busyElsewhere(self) -> None:
        """
        Those that have no room, or want none of this name, do not count.
        """
        self.ledger = self.open(names=NAMES)
        self.join("x", 1)
        self.join("y", 4, "mail")
        self.accept("a", name="web")
        self.assertFalse(self.busy(name="web"))
        self.assertFalse(self.busy(name="mail"))
        self.join("z", 4)
        self.accept("b", name="web")
        self.assertTrue(self.busy(name="web"))
        self.assertFalse(self.busy(name="mail"))

    def busy(self, patience: float = 0.02, name: str = "") -> bool:
        """
        Ask whether all are busy, and not for longer than this.
        """
        return self.ledger.busy(name, self.now, self.now - patience)

    def test_overBudget(self) -> None:
        """
        Beyond the budget there is no room, and not less than none.
        """
        self.ledger = self.open(budget=2)
        self.accept("abc")
        self.assertEqual(self.ledger.room(), 0)


class NameTests(LedgerTestCase):
    """
    Tests for ports with names, and workers that want only some.
    """

    def setUp(self) -> None:
        """
        Open a book with two names.
        """
        super().setUp()
        self.ledger = self.open(names=NAMES)

    def test_wanted(self) -> None:
        """
        A worker is offered what came in by ports of its name, and nothing else.
        """
        self.join("x", 8, "web")
        self.join("y", 8, "mail")
        self.assertEqual(self.accept("ab", name="mail"), offers("y", a=1, b=2))
        self.assertEqual(self.accept("cd", name="web"), offers("x", c=1, d=2))

    def test_all(self) -> None:
        """
        A worker that names all is offered everything.
        """
        self.ledger = self.open(names=NAMES)
        self.join("x", 8, *NAMES)
        self.assertEqual(self.accept("a", name="mail"), offers("x", a=1))
        self.assertEqual(self.accept("b", name="web"), offers("x", b=2))

    def test_none(self) -> None:
        """
        A worker that wants no connections, since all its ports are shared, is
        offered none, is no reason to wait at the end, and may go at any time.
        """
        self.ledger = self.open(names=NAMES)
        self.assertEqual(self.ledger.joined("x", 8, self.now, ()), [])
        self.assertEqual(self.accept("a", name="mail"), [])
        self.assertFalse(self.ledger.hasTakers)
        self.assertEqual(self.ledger.died("x", (), self.now), [])
        self.assertEqual(self.join("y", 8, "mail"), offers("y", a=1))

    def test_noNames(self) -> None:
        """
        A book with no names takes in nothing, and workers come and go.
        """
        self.ledger = self.open(names=())
        self.assertEqual(self.ledger.joined("x", 8, self.now, ()), [])
        self.assertEqual(self.ledger.parted("x", self.now), [])

    def test_nameless(self) -> None:
        """
        A worker that names something is not offered what has no name.
        """
        self.ledger = self.open(names=("", "web"))
        self.join("x", 8, "web")
        self.assertEqual(self.accept("a"), [])
        self.assertEqual(self.join("y"), offers("y", a=1))

    def test_absent(self) -> None:
        """
        What waits for a pool that is away does not hold up what came later for
        another, and is there for the first when it comes.
        """
        self.accept("abc", name="mail")
        self.assertEqual(self.join("x", 8, "web"), [])
        self.assertEqual(self.accept("de", name="web"), offers("x", d=1, e=2))
        self.assertEqual(self.join("y", 8, "mail"), offers("y", a=1, b=2, c=3))

    def test_oldestFirst(self) -> None:
        """
        A worker that wants several names is offered the oldest first, whatever
        its name.
        """
        self.accept("a", name="mail")
        self.accept("b", name="web")
        self.accept("c", name="mail")
        self.accept("d", name="web")
        self.assertEqual(self.join("x", 3), offers("x", a=1, b=2, c=3))

    def test_oldestFirstForEach(self) -> None:
        """
        So it is when others are passed over because nobody has room for them.
        """
        self.accept("a", name="mail")
        self.accept("b", name="web")
        self.accept("c", name="mail")
        self.accept("d", name="web")
        self.join("x", 1, "mail")
        self.assertEqual(self.join("y", 2), offers("y", b=1, c=2))
        self.assertEqual(self.claim("y", 1), offers("y", d=3))

    def test_leastOfThoseThatWant(self) -> None:
        """
        Of the workers that want a name the one with the fewest connections is
        next, and one that has still fewer and does not want it is not.
        """
        self.join("x", 8, "mail")
        self.join("y", 8, "web")
        self.accept("ab", name="web")
        self.join("z", 8)
        self.assertEqual(self.accept("cd", name="web"), offers("z", c=1, d=2))
        self.assertEqual(self.accept("e", name="web"), offers("y", e=3))
        self.assertEqual(self.accept("f", name="mail"), offers("x", f=1))

    def test_again(self) -> None:
        """
        What a dead worker had, and what one refused, goes to one that wants it.
        """
        self.join("x", 8, "web")
        self.accept("ab", name="web")
        self.join("y", 8, "mail")
        self.join("z", 8, "web")
        self.assertEqual(self.refuse("x", 2), offers("z", b=1))
        self.assertEqual(self.die("x"), offers("z", a=2))
        self.assertEqual(self.die("z"), [])
        self.assertEqual(self.join("w", 8, "web"), offers("w", a=1, b=2))

    def test_queues(self) -> None:
        """
        Each name has a queue of its own.
        """
        self.accept("abc", name="mail")
        self.assertEqual(self.ledger.room("mail"), QUEUE - 3)
        self.assertEqual(self.ledger.room("web"), QUEUE)
        self.ledger.accepted(PORT, range(7), self.now, True, "mail")
        self.assertEqual(self.ledger.room("mail"), 0)
        self.assertEqual(self.ledger.room("web"), QUEUE)
        self.assertEqual(self.ledger.waiting, 10)

    def test_windows(self) -> None:
        """
        The windows that count for a name are those of the workers that want it.
        """
        self.join("x", 4, "web")
        self.join("y", 2)
        self.assertEqual(self.ledger.room("web"), QUEUE + 6)
        self.assertEqual(self.ledger.room("mail"), QUEUE + 2)

    def test_queuesAndBudget(self) -> None:
        """
        All queues but one take at most a quarter of the budget between them, so
        that a name is served though nobody serves the others.
        """
        for names, expected in ((1, QUEUE), (2, QUEUE), (3, 6), (4, 4), (60, 0)):
            named = [f"name{number}" for number in range(names)]
            self.ledger = self.open(budget=50, names=named)
            for name in named:
                self.assertEqual(self.ledger.room(name), expected)

    def test_sameName(self) -> None:
        """
        Names are given for each port, and ports of one name share its queue.
        """
        self.ledger = self.open(budget=50, names=["web", "web", "mail", "mail"])
        self.accept("abc", name="web")
        self.assertEqual(self.ledger.room("web"), QUEUE - 3)

    def test_budget(self) -> None:
        """
        All that is held counts towards the budget, whatever its name.
        """
        self.ledger = self.open(queue=3, budget=12, names=NAMES)
        self.join("x", 8, "web")
        self.accept("abcdefgh", name="web")
        self.accept("ijk", name="mail")
        self.assertEqual((self.ledger.room("web"), self.ledger.room("mail")), (1, 0))
        self.accept("l", name="web")
        self.assertEqual((self.ledger.room("web"), self.ledger.room("mail")), (0, 0))

    def test_patience(self) -> None:
        """
        What waits for a pool that is away runs out of patience, and so does what
        waits for another.
        """
        self.accept("a", name="mail")
        self.now += 10
        self.accept("b", name="web")
        self.assertEqual(self.tick(PATIENCE - 10), givesUp("a", Reason.TIMED_OUT))
        self.assertEqual(self.tick(10), givesUp("b", Reason.TIMED_OUT))

    def test_hasTakers(self) -> None:
        """
        There is a worker for what waits if one wants it and takes offers, though
        it has no room.
        """
        self.assertFalse(self.ledger.hasTakers)
        self.accept("a", name="mail")
        self.join("x", 1, "web")
        self.assertFalse(self.ledger.hasTakers)
        self.join("y", 1, "mail")
        self.assertFalse(self.ledger.hasTakers)
        self.accept("b", name="mail")
        self.assertTrue(self.ledger.hasTakers)
        self.ledger.draining("y")
        self.assertFalse(self.ledger.hasTakers)

    def test_stopped(self) -> None:
        """
        At the end what waits is closed, whatever its name.
        """
        self.accept("a", name="mail")
        self.accept("b", name="web")
        self.assertEqual(self.ledger.stopped(), givesUp("ba", Reason.STOPPED))
        self.assertEqual(self.ledger.waiting, 0)


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
    Tests for L{Ledger.stopped}.
    """

    def test_stopped(self) -> None:
        """
        What waits is closed, the oldest first; what was offered is its
        worker's, and the copies are let go.
        """
        self.join("x", 4)
        self.join("y", 2)
        self.accept("abcdef")
        self.claim("x", 3, 1)
        self.claim("y", 1)
        self.ledger.witnessed("a")
        self.ledger.draining("x")
        self.ledger.draining("y")
        self.accept("g")
        self.refuse("x", 2)
        self.assertEqual(
            self.ledger.stopped(),
            [*givesUp("cg", Reason.STOPPED), *letsGo("fedb")],
        )
        self.assertEqual(self.ledger.counters.stopped, 2)

    def test_empty(self) -> None:
        """
        Nothing is left in the book, and stopping again decides nothing.
        """
        self.join("x", 2)
        self.accept("abcd")
        self.claim("x", 1)
        self.ledger.stopped()
        self.assertEqual((self.ledger.held, self.ledger.workers), (0, 0))
        self.assertEqual(self.ledger.copies(), [])
        self.assertEqual(self.ledger.stopped(), [])
        self.assertEqual(self.tick(PATIENCE), [])


class CounterTests(LedgerTestCase):
    """
    Tests for L{portlisten._policy.ledger.Counters}.
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
            " lostInService 0, timedOut 0, goneBeforeAdoption 0, stopped 0",
        )


class Walk:
    """
    A listener whose events are drawn by lot, and what has to follow from them.

    @ivar waiting: the connections that wait.
    @ivar offered: those on offer, by channel and id.
    @ivar serving: those in service, by channel and id.
    @ivar copies: those of them whose copy is held.
    @ivar over: those that ended in the listener, or whose copy it let go.
    @ivar windows: of the workers, by channel.
    @ivar wants: the names that they want, by channel.
    @ivar closing: the workers that must not be offered anything.
    @ivar departed: what those claimed that have left, by channel.
    """

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.ledger = Ledger(
            queue=5,
            budget=24,
            patience=4.0,
            hold=1.0,
            claimTimeout=2.0,
            pause=0.1,
            roundRobin=bool(seed % 2),
            names=NAMES,
        )
        self.now = 0.0
        self.count = 0
        self.channels = 0
        self.waiting: set[int] = set()
        self.offered: dict[tuple[int, int], int] = {}
        self.serving: dict[tuple[int, int], int] = {}
        self.copies: set[int] = set()
        self.over: list[int] = []
        self.windows: dict[int, int] = {}
        self.wants: dict[int, tuple[str, ...]] = {}
        self.closing: set[int] = set()
        self.departed: dict[int, set[int]] = {}

    def run(self) -> None:
        """
        Have 150 events, and the end.
        """
        common = [self.accept] * 5 + [self.claim] * 5 + [self.tick] * 4
        common += [self.close] * 3 + [self.refuse, self.witness, self.leave]
        rare = [self.join, self.join, self.drain, self.die, self.part]
        rare += [self.wake, self.end]
        for _ in range(150):
            events = common if self.random.randrange(5) else rare
            self.random.choice(events)()
            self.check()
        self.copies.update(self.offered.values())
        self.decided(self.ledger.stopped())
        assert not self.waiting
        assert not self.copies

    def check(self) -> None:
        """
        Check what the book tells.
        """
        ledger = self.ledger
        assert ledger.waiting == len(self.waiting)
        assert ledger.unclaimed == len(self.offered)
        assert sorted(ledger.copies()) == sorted(self.copies)
        assert ledger.held == ledger.waiting + ledger.unclaimed + len(self.copies) <= 24
        assert ledger.workers == len(self.windows.keys() - self.closing)
        for channel in self.windows:
            own = [key for key in (*self.offered, *self.serving) if key[0] == channel]
            assert ledger.outstanding(channel) == len(own)

    def decided(self, decisions: list[Decision]) -> None:
        """
        Carry out decisions, and check that each was due.
        """
        for decision in decisions:
            if isinstance(decision, HandOff):
                connection, channel = decision.connection, decision.channel
                name = self.name(connection)
                alike = [each for each in self.waiting if self.name(each) == name]
                assert connection == min(alike), "not the oldest"
                self.waiting.remove(connection)
                assert name in self.wants[channel]
                assert channel not in self.closing
                key = (channel, decision.id)
                assert key not in self.offered
                assert key not in self.serving
                self.offered[key] = connection
                unclaimed = [key for key in self.offered if key[0] == channel]
                assert len(unclaimed) <= self.windows[channel]
            elif isinstance(decision, LetGo):
                self.copies.remove(decision.connection)
                self.over.append(decision.connection)
            elif isinstance(decision, GiveUp):
                self.waiting.remove(decision.connection)
                self.over.append(decision.connection)
            else:
                assert decision.channel not in self.closing or any(
                    channel == decision.channel for channel, _ in self.offered
                )
                self.closing.add(decision.channel)

    def name(self, connection: int) -> str:
        """
        The name of the port that a connection came in by.
        """
        return NAMES[connection % 2]

    def channel(self) -> int:
        """
        Pick a worker; if there is none, have one join.
        """
        if not self.windows:
            self.join()
        return self.random.choice(list(self.windows))

    def some(self, book: dict[tuple[int, int], int], channel: int) -> list[int]:
        """
        Pick some ids of a worker's.
        """
        own = [id for each, id in book if each == channel]
        return self.random.sample(own, self.random.randint(0, len(own)))

    def forget(self, channel: int) -> list[int]:
        """
        A worker is gone: what was offered to it waits.

        @return: the connections that it served.
        """
        del self.windows[channel]
        self.closing.discard(channel)
        for key in [key for key in self.offered if key[0] == channel]:
            self.waiting.add(self.offered.pop(key))
        served = [key for key in self.serving if key[0] == channel]
        return [self.serving.pop(key) for key in served]

    def accept(self) -> None:
        """
        As many connections come in as there is room for, or fewer.
        """
        for _ in range(self.random.randint(0, 12)):
            name = self.name(self.count)
            if self.ledger.room(name):
                self.waiting.add(self.count)
                new = [self.count]
                self.count += 1
                self.decided(self.ledger.accepted(PORT, new, self.now, True, name))

    def join(self) -> None:
        """
        A worker joins, if there are not many.
        """
        if len(self.windows) < 4:
            self.channels += 1
            window = self.random.randint(1, 6)
            names = self.random.choice([(), ("web",), ("mail",), NAMES])
            self.windows[self.channels] = window
            self.wants[self.channels] = names
            self.decided(self.ledger.joined(self.channels, window, self.now, names))

    def claim(self) -> None:
        """
        A worker claims some offers.
        """
        channel = self.channel()
        ids = self.some(self.offered, channel)
        for id in ids:
            connection = self.offered.pop((channel, id))
            self.serving[channel, id] = connection
            self.copies.add(connection)
        self.decided(self.ledger.claimed(channel, ids, self.now))

    def refuse(self) -> None:
        """
        A worker refuses some offers.
        """
        channel = self.channel()
        ids = self.some(self.offered, channel)
        self.waiting.update(self.offered.pop((channel, id)) for id in ids)
        self.decided(self.ledger.refused(channel, ids, self.now))

    def close(self) -> None:
        """
        Some connections of a worker end.
        """
        channel = self.channel()
        ids = self.some(self.serving, channel)
        ended = {self.serving.pop((channel, id)) for id in ids}
        self.decided(self.ledger.closed(channel, ids, self.now))
        assert not ended & self.copies

    def witness(self) -> None:
        """
        Some connections are seen not to be pristine.
        """
        touched = {copy for copy in self.copies if self.random.randrange(2)}
        self.decided(self.ledger.witnessed(touched))
        assert not touched & self.copies

    def tick(self) -> None:
        """
        Time passes.
        """
        self.now += self.random.choice([0.02, 0.1, 0.5])
        self.decided(self.ledger.ticked(self.now))

    def drain(self) -> None:
        """
        A worker wants no more.
        """
        channel = self.channel()
        self.closing.add(channel)
        self.ledger.draining(channel)

    def die(self) -> None:
        """
        A worker dies, which had touched some of its copies.
        """
        channel = self.channel()
        copies = self.copies.intersection(self.forget(channel))
        self.bury(copies, partial(self.ledger.died, channel))

    def bury(
        self,
        copies: set[int],
        dies: Callable[[set[int], float], list[Decision]],
    ) -> None:
        """
        A worker's process is dead.

        @param copies: those of its connections whose copies are held.
        """
        touched = {copy for copy in copies if self.random.randrange(2)}
        self.copies -= copies
        self.waiting |= copies
        decisions = dies(touched, self.now)
        lost = [each.connection for each in decisions if isinstance(each, GiveUp)]
        assert set(lost) == touched
        self.decided(
            sorted(decisions, key=lambda decision: isinstance(decision, HandOff))
        )

    def part(self) -> None:
        """
        A worker leaves, and goes on serving, or stands still.
        """
        channel = self.channel()
        self.departed[channel] = set(self.forget(channel))
        asleep = bool(self.random.randrange(2))
        self.decided(self.ledger.parted(channel, self.now, asleep))

    def wake(self) -> None:
        """
        A worker that has left goes on.
        """
        if self.departed:
            self.ledger.awoke(self.random.choice(list(self.departed)), self.now)

    def end(self) -> None:
        """
        The process of a worker that has left ends, which had touched some of its
        copies.
        """
        if self.departed:
            channel = self.random.choice(list(self.departed))
            served = self.departed.pop(channel)
            self.bury(self.copies & served, partial(self.ledger.ended, channel))

    def leave(self) -> None:
        """
        Some clients do not wait any longer.
        """
        gone = {each for each in self.waiting if not self.random.randrange(4)}
        self.decided(self.ledger.left(gone))
        assert not gone & self.waiting


class WalkTests(SynchronousTestCase):
    """
    Tests for what holds whatever happens.
    """

    def test_connections(self) -> None:
        """
        Each connection is in one place at a time, is let go or given up exactly
        once, and is offered when it is the oldest of its name, to a worker that
        wants it and has room; and no more descriptors are held than the budget
        allows.
        """
        ends: set[object] = set()
        for seed in range(200):
            walk = Walk(seed)
            walk.run()
            self.assertEqual(sorted(walk.over), list(range(walk.count)), seed)
            ends.update(
                name for name, count in asdict(walk.ledger.counters).items() if count
            )
        self.assertEqual(ends, asdict(walk.ledger.counters).keys())
