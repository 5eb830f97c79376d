"""
Tests for L{portlisten._policy.ledger}: which worker gets a connection, and how
many may be accepted.
"""

from __future__ import annotations

from portlisten._policy.decisions import Reason
from tests.support.ledgers import (
    NAMES,
    PATIENCE,
    PAUSE,
    PORT,
    QUEUE,
    LedgerTestCase,
    givesUp,
    offers,
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
        Among equally idle workers, the one whose turn was the last comes last.
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
        A claimed connection counts for its worker until CLOSED, with or without a copy.
        """
        self.join("x")
        self.accept("ab")
        self.claim("x", 1, 2)
        self.ledger.closeTouched("a")
        self.join("y")
        self.assertEqual(self.ledger.outstanding("x"), 2)
        self.assertEqual(self.accept("cd"), offers("y", c=1, d=2))
        self.close("x", 1, 2)
        self.assertEqual(self.ledger.outstanding("x"), 0)
        self.assertEqual(self.accept("ef"), offers("x", e=3, f=4))

    def test_outstanding(self) -> None:
        """
        Offered connections count as well, and an unknown worker has none.
        """
        self.join("x")
        self.accept("abc")
        self.claim("x", 2)
        self.assertEqual(self.ledger.outstanding("x"), 3)
        self.assertEqual(self.ledger.outstanding("y"), 0)

    def test_roundRobin(self) -> None:
        """
        With round robin, each worker has its turn, with few connections or many.
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
        A draining worker gets no more offers, and may claim those that it has.
        """
        self.join("x")
        self.accept("a")
        self.ledger.drain("x")
        self.assertEqual(self.accept("b"), [])
        self.assertEqual(self.claim("x", 1), [])
        self.assertEqual(self.join("y"), offers("y", b=1))

    def test_undrained(self) -> None:
        """
        An undrained worker gets offers again.
        """
        self.join("x")
        self.ledger.drain("x")
        self.assertEqual(self.ledger.workers, 0)
        self.assertEqual(self.accept("a"), [])
        self.ledger.undrain("x")
        self.assertEqual(self.ledger.workers, 1)
        self.assertEqual(self.accept("b"), offers("x", a=1, b=2))

    def test_workers(self) -> None:
        """
        Only workers that take offers are counted.
        """
        self.assertEqual(self.ledger.workers, 0)
        for channel in ("x", "y", "z"):
            self.join(channel)
        self.ledger.drain("x")
        self.part("y")
        self.assertEqual(self.ledger.workers, 1)


class CapacityTests(LedgerTestCase):
    """
    Tests for how many connections may be accepted.
    """

    def test_queue(self) -> None:
        """
        Without workers it is what fits in the queue.
        """
        self.assertEqual(self.ledger.capacity(), QUEUE)
        self.accept("abc")
        self.assertEqual(self.ledger.capacity(), QUEUE - 3)

    def test_windows(self) -> None:
        """
        What fits in the windows of the workers comes on top.
        """
        self.join("x", 4)
        self.join("y", 2)
        self.assertEqual(self.ledger.capacity(), QUEUE + 6)
        self.accept("abc")
        self.assertEqual(self.ledger.capacity(), QUEUE + 3)
        self.claim("x", 1)
        self.assertEqual(self.ledger.capacity(), QUEUE + 4)

    def test_draining(self) -> None:
        """
        The window of a draining worker does not count.
        """
        self.join("x", 4)
        self.ledger.drain("x")
        self.assertEqual(self.ledger.capacity(), QUEUE)

    def test_refused(self) -> None:
        """
        What a worker does not get of its window does not count: nothing while it
        pauses, and half of it then.
        """
        self.join("x", 4)
        self.join("y", 1)
        self.accept("a")
        self.refuse("x", 1)
        self.assertEqual(self.ledger.capacity(), QUEUE)
        self.tick(PAUSE)
        self.assertEqual(self.ledger.capacity(), QUEUE + 2)

    def test_shrunk(self) -> None:
        """
        A worker that has more offers than its present limit has no capacity, and takes
        none from others.
        """
        self.join("x", 8)
        self.accept("abcdefgh")
        self.join("y", 3)
        self.refuse("x", 1)
        self.assertEqual(self.ledger.unclaimed, 8)
        self.assertEqual(self.ledger.capacity(), QUEUE + 2)

    def test_crowded(self) -> None:
        """
        If a worker dies, more connections may wait than the queue has places.  Then the
        capacity is 0, and not negative.
        """
        self.ledger = self.open(queue=1)
        self.join("x", 4)
        self.accept("abcd")
        self.assertEqual(self.ledger.capacity(), 1)
        self.die("x")
        self.assertEqual((self.ledger.waiting, self.ledger.capacity()), (4, 0))

    def test_budget(self) -> None:
        """
        All held descriptors count towards the budget: connections that wait or are
        offered, and copies.
        """
        self.ledger = self.open(budget=9)
        self.join("x", 2)
        self.assertEqual(self.ledger.capacity(), 9)
        self.accept("abcde")
        self.claim("x", 1)
        self.assertEqual(
            (self.ledger.waiting, self.ledger.unclaimed, len(self.ledger.copies())),
            (2, 2, 1),
        )
        self.assertEqual((self.ledger.held, self.ledger.capacity()), (5, 4))
        self.ledger.closeTouched("a")
        self.assertEqual((self.ledger.held, self.ledger.capacity()), (4, 5))

    def test_busy(self) -> None:
        """
        Workers are busy if each has an unclaimed offer, and at least one has capacity.
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
        A worker that has not claimed for a while may hang, and is not waited for.
        """
        self.join("x", 4)
        self.accept("a")
        self.now += 0.5
        self.accept("b")
        self.assertTrue(self.busy(0.75))
        self.assertFalse(self.busy(0.5))

    def test_busyElsewhere(self) -> None:
        """
        Workers without capacity, or that do not want this name, do not count.
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
        Beyond the budget, the capacity is 0, and not negative.
        """
        self.ledger = self.open(budget=2)
        self.accept("abc")
        self.assertEqual(self.ledger.capacity(), 0)


class NameTests(LedgerTestCase):
    """
    Tests for ports with names, and workers that want only some.
    """

    def setUp(self) -> None:
        """
        Make a ledger with two names.
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
        self.assertEqual(self.ledger.addWorker("x", 8, self.now, ()), [])
        self.assertEqual(self.accept("a", name="mail"), [])
        self.assertFalse(self.ledger.hasTakers)
        self.assertEqual(self.ledger.workerDied("x", (), self.now), [])
        self.assertEqual(self.join("y", 8, "mail"), offers("y", a=1))

    def test_noNames(self) -> None:
        """
        A ledger with no names takes in nothing, and workers come and go.
        """
        self.ledger = self.open(names=())
        self.assertEqual(self.ledger.addWorker("x", 8, self.now, ()), [])
        self.assertEqual(self.ledger.workerLeft("x", self.now), [])

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
        A worker that wants several names is offered the oldest connection of all of
        them.
        """
        self.accept("a", name="mail")
        self.accept("b", name="web")
        self.accept("c", name="mail")
        self.accept("d", name="web")
        self.assertEqual(self.join("x", 3), offers("x", a=1, b=2, c=3))

    def test_oldestFirstForEach(self) -> None:
        """
        The same holds if connections are skipped that no worker can take.
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
        Among the workers that want a name, the one with the fewest connections is next,
        even if another has fewer and does not want the name.
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
        The connections of a dead worker, and refused connections, go to a worker that
        wants them.
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
        self.assertEqual(self.ledger.capacity("mail"), QUEUE - 3)
        self.assertEqual(self.ledger.capacity("web"), QUEUE)
        self.ledger.addConnections(PORT, range(7), self.now, True, "mail")
        self.assertEqual(self.ledger.capacity("mail"), 0)
        self.assertEqual(self.ledger.capacity("web"), QUEUE)
        self.assertEqual(self.ledger.waiting, 10)

    def test_windows(self) -> None:
        """
        Only the windows of workers that want a name count for the name.
        """
        self.join("x", 4, "web")
        self.join("y", 2)
        self.assertEqual(self.ledger.capacity("web"), QUEUE + 6)
        self.assertEqual(self.ledger.capacity("mail"), QUEUE + 2)

    def test_queuesAndBudget(self) -> None:
        """
        All queues but one take at most a quarter of the budget together.  So a name is
        served even if no worker serves the others.
        """
        for names, expected in ((1, QUEUE), (2, QUEUE), (3, 6), (4, 4), (60, 0)):
            named = [f"name{number}" for number in range(names)]
            self.ledger = self.open(budget=50, names=named)
            for name in named:
                self.assertEqual(self.ledger.capacity(name), expected)

    def test_sameName(self) -> None:
        """
        Names are given for each port, and ports of one name share its queue.
        """
        self.ledger = self.open(budget=50, names=["web", "web", "mail", "mail"])
        self.accept("abc", name="web")
        self.assertEqual(self.ledger.capacity("web"), QUEUE - 3)

    def test_budget(self) -> None:
        """
        All held descriptors count towards the budget, with any name.
        """
        self.ledger = self.open(queue=3, budget=12, names=NAMES)
        self.join("x", 8, "web")
        self.accept("abcdefgh", name="web")
        self.accept("ijk", name="mail")
        self.assertEqual(
            (self.ledger.capacity("web"), self.ledger.capacity("mail")), (1, 0)
        )
        self.accept("l", name="web")
        self.assertEqual(
            (self.ledger.capacity("web"), self.ledger.capacity("mail")), (0, 0)
        )

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
        A connection that waits has a taker if a worker wants it and takes offers, even
        without capacity.
        """
        self.assertFalse(self.ledger.hasTakers)
        self.accept("a", name="mail")
        self.join("x", 1, "web")
        self.assertFalse(self.ledger.hasTakers)
        self.join("y", 1, "mail")
        self.assertFalse(self.ledger.hasTakers)
        self.accept("b", name="mail")
        self.assertTrue(self.ledger.hasTakers)
        self.ledger.drain("y")
        self.assertFalse(self.ledger.hasTakers)

    def test_stopped(self) -> None:
        """
        At the end, the connections of all names that wait are closed.
        """
        self.accept("a", name="mail")
        self.accept("b", name="web")
        self.assertEqual(self.ledger.stop(), givesUp("ba", Reason.STOPPED))
        self.assertEqual(self.ledger.waiting, 0)


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
