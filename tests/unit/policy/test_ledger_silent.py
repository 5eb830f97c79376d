"""
Tests for L{portlisten._policy.ledger}: limits of workers, and silent connections.
"""

from __future__ import annotations

from portlisten._policy.decisions import HandOff, Reason
from tests.support.ledgers import (
    PATIENCE,
    PAUSE,
    QUEUE,
    LedgerTestCase,
    givesUp,
    offers,
    watches,
)

#: How long the workers want silent connections to be kept, in seconds.
FIRST = 2.0


class LimitTests(LedgerTestCase):
    """
    Workers with a limit.
    """

    def test_limit(self) -> None:
        """
        A worker has no more connections than its limit, offered or claimed.
        """
        self.join("one", limit=2)
        self.assertEqual(self.accept("abc"), offers("one", a=1, b=2))
        self.assertEqual(self.claim("one", 1, 2), [])
        self.assertEqual(self.ledger.capacity(), QUEUE - 1)
        self.assertEqual(self.close("one", 1)[1:], offers("one", c=3))
        self.assertEqual(self.ledger.outstanding("one"), 2)

    def test_window(self) -> None:
        """
        A window below the limit still counts.
        """
        self.join("one", 1, limit=2)
        self.assertEqual(self.accept("abc"), offers("one", a=1))
        self.assertEqual(self.claim("one", 1), offers("one", b=2))
        self.assertEqual(self.claim("one", 2), [])

    def test_others(self) -> None:
        """
        While a worker is at its limit, others get what comes.
        """
        self.join("one", limit=1)
        self.join("two")
        self.assertEqual(
            self.accept("abc"), offers("one", a=1) + offers("two", b=1, c=2)
        )

    def test_roundRobin(self) -> None:
        """
        That is so as well if each has its turn.
        """
        self.ledger = self.open(roundRobin=True)
        self.join("one", limit=1)
        self.join("two")
        self.assertEqual(
            self.accept("abc"), offers("one", a=1) + offers("two", b=1, c=2)
        )

    def test_busy(self) -> None:
        """
        A worker at its limit has no capacity, so it does not count as busy.
        """
        self.join("one", limit=1)
        self.accept("a")
        self.assertFalse(self.ledger.busy("", self.now, self.now - 1))


class SilentTests(LedgerTestCase):
    """
    Connections from whose clients nothing has come, and workers whose clients speak
    first.
    """

    def test_kept(self) -> None:
        """
        A silent connection is watched, and offered when something comes.
        """
        self.join("one", first=FIRST)
        self.assertEqual(self.accept("a", silent="a"), watches("a"))
        self.assertEqual((self.ledger.waiting, self.ledger.silent), (1, 1))
        self.assertEqual(self.tick(FIRST - 0.1), [])
        self.assertEqual(self.speak("a"), offers("one", a=1))
        self.assertEqual((self.ledger.waiting, self.ledger.silent), (0, 0))

    def test_spokeAtOnce(self) -> None:
        """
        A connection is offered at once if its client has spoken, although older ones
        are silent.
        """
        self.join("one", first=FIRST)
        self.assertEqual(
            self.accept("abc", silent="ac"), offers("one", b=1) + watches("ac")
        )

    def test_keptForLongEnough(self) -> None:
        """
        A silent connection is offered when it was kept for as long as the worker wants.
        """
        self.join("one", first=FIRST)
        self.accept("a", silent="a")
        self.now += 1
        self.accept("b", silent="b")
        self.assertEqual(self.tick(FIRST - 1), offers("one", a=1))
        self.assertEqual(self.tick(1), offers("one", b=2))

    def test_longerThanPatience(self) -> None:
        """
        A worker may want silent connections to be kept for longer than any connection
        may wait.  They are offered when their patience is over.
        """
        self.join("one", first=PATIENCE + 1)
        self.accept("ab", silent="ab")
        self.assertEqual(self.tick(PATIENCE), offers("one", a=1, b=2))

    def test_noDescriptors(self) -> None:
        """
        If no descriptor is left, the oldest is offered before its time, one at each
        event.
        """
        self.ledger = self.open(queue=100, budget=3)
        self.join("one", first=FIRST)
        self.accept("abc", silent="abc")
        self.assertEqual((self.ledger.silent, self.ledger.capacity()), (2, 0))
        self.assertEqual(self.tick(), offers("one", b=2))

    def test_shortest(self) -> None:
        """
        If several workers want different times, the shortest counts.
        """
        self.join("one", first=FIRST)
        self.join("two", first=FIRST / 2)
        self.assertTrue(self.ledger.keeps("", self.now))
        self.accept("a", silent="a")
        self.assertEqual(self.tick(FIRST / 2), offers("one", a=1))

    def test_nobodyKeeps(self) -> None:
        """
        Nothing is kept if there is no worker, or if one of the workers does not say
        that its clients speak first.
        """
        self.assertFalse(self.ledger.keeps("", self.now))
        self.join("one", first=FIRST)
        self.assertTrue(self.ledger.keeps("", self.now))
        self.join("two")
        self.assertFalse(self.ledger.keeps("", self.now))
        self.assertEqual(self.accept("a"), offers("one", a=1))

    def test_otherJoins(self) -> None:
        """
        If a worker joins whose clients need not speak first, the silent connections
        are offered.
        """
        self.join("one", first=FIRST)
        self.accept("ab", silent="ab")
        self.assertEqual(self.join("two"), offers("one", a=1) + offers("two", b=1))

    def test_names(self) -> None:
        """
        The workers of one name do not matter for another.
        """
        self.ledger = self.open(names=("web", "mail"))
        self.join("one", 8, "web", first=FIRST)
        self.join("two", 8, "mail")
        self.assertTrue(self.ledger.keeps("web", self.now))
        self.assertFalse(self.ledger.keeps("mail", self.now))
        self.assertEqual(self.accept("a", name="web", silent="a"), watches("a"))
        self.assertEqual(self.accept("b", name="mail"), offers("two", b=1))

    def test_bothNames(self) -> None:
        """
        If connections of two names are due, the oldest comes first.
        """
        self.ledger = self.open(names=("web", "mail"))
        self.join("one", 1, "web", "mail", first=FIRST)
        self.accept("a", name="mail", silent="a")
        self.accept("b", name="web", silent="b")
        self.assertEqual(self.tick(FIRST), offers("one", a=1))
        self.assertEqual(self.claim("one", 1), offers("one", b=2))

    def test_becomeSilent(self) -> None:
        """
        If the first worker whose clients speak first joins, those that wait become
        silent: nobody has checked what came from their clients.  They are kept from
        then on.
        """
        self.accept("ab")
        self.now += 10
        self.assertEqual(self.join("one", first=FIRST), watches("ab"))
        self.assertEqual(self.speak("b"), offers("one", b=1))
        self.assertEqual(self.tick(FIRST), offers("one", a=2))

    def test_lastOtherDrains(self) -> None:
        """
        That is so as well if the last worker drains whose clients need not speak first.
        """
        self.join("one", 1, first=FIRST)
        self.join("two", 1)
        self.accept("abc")
        self.ledger.drain("two")
        self.assertEqual(self.tick(), watches("c"))

    def test_otherUndrained(self) -> None:
        """
        If a worker is undrained whose clients need not speak first, silent connections
        are kept no longer.
        """
        self.join("one", first=FIRST)
        self.join("two", 4)
        self.ledger.drain("two")
        self.assertEqual(self.accept("ab", silent="ab"), watches("ab"))
        self.ledger.undrain("two")
        taken = [each for each in self.tick() if isinstance(each, HandOff)]
        self.assertEqual([each.connection for each in taken], ["a", "b"])

    def test_full(self) -> None:
        """
        If the queue is full, the oldest silent connections are offered.
        """
        self.join("one", first=FIRST)
        self.assertEqual(
            self.accept("abcdefghijk", silent="abcdefghijk"),
            offers("one", a=1, b=2) + watches("cdefghijk"),
        )

    def test_speakersBefore(self) -> None:
        """
        Ready connections are offered before silent ones.
        """
        self.join("one", 1, first=FIRST)
        self.accept("ab", silent="a")
        self.accept("c", silent="")
        self.now += FIRST
        self.assertEqual(self.claim("one", 1), offers("one", c=2))
        self.assertEqual(self.claim("one", 2), offers("one", a=3))

    def test_patience(self) -> None:
        """
        The patience of the oldest connection counts, silent or not.
        """
        self.join("one", first=FIRST)
        self.ledger.block("one", True)
        self.accept("abc", silent="b")
        self.assertFalse(self.ledger.overdue(self.now + PATIENCE - 1))
        self.assertTrue(self.ledger.overdue(self.now + PATIENCE))
        self.assertEqual(self.tick(PATIENCE), givesUp("acb", Reason.TIMED_OUT))

    def test_silentPatience(self) -> None:
        """
        Patience counts as well if all are silent.
        """
        self.join("one", first=FIRST)
        self.accept("ab", silent="ab")
        self.ledger.block("one", True)
        self.assertFalse(self.ledger.overdue(self.now + PATIENCE - 1))
        self.assertEqual(self.tick(PATIENCE), givesUp("ab", Reason.TIMED_OUT))

    def test_clientsLeft(self) -> None:
        """
        If a silent client has left, its connection is given up.
        """
        self.join("one", first=FIRST)
        self.accept("ab", silent="ab")
        self.assertEqual(self.ledger.waitingConnections(), [])
        self.assertEqual(self.ledger.clientsLeft("a"), givesUp("a", Reason.GONE))
        self.assertEqual(self.speak("ab"), offers("one", b=1))

    def test_halfClosed(self) -> None:
        """
        If a silent client has ended its side, it is silent no more.
        """
        self.join("one", first=FIRST)
        self.accept("a", silent="a")
        self.assertEqual(self.ledger.clientsHalfClosed("a", self.now), [])
        self.assertEqual(self.ledger.silent, 0)
        self.assertEqual(self.tick(), offers("one", a=1))

    def test_stop(self) -> None:
        """
        Before the end, silent connections are offered like others; at the end, those
        that still wait are given up.
        """
        self.join("one", 1, limit=1, first=FIRST)
        self.accept("ab", silent="ab")
        self.assertEqual(self.ledger.keepNoSilent(self.now), offers("one", a=1))
        self.assertEqual(self.accept("c"), [])
        self.assertEqual(self.ledger.stop()[:2], givesUp("bc", Reason.STOPPED))
        self.assertCounted(accepted=3, offered=1, stopped=2, leftWithWorker=1)


class SilentAgainTests(LedgerTestCase):
    """
    Silent connections that come back from a worker.
    """

    def test_died(self) -> None:
        """
        If the worker of silent connections dies, they are silent again, since nobody
        knows what has come meanwhile.  Those that had spoken are ready.
        """
        self.join("one", first=FIRST)
        self.join("two", 1, first=FIRST)
        self.accept("xy", silent="")
        self.accept("a", silent="a")
        self.assertEqual(self.tick(FIRST), offers("one", a=2))
        self.claim("one", 2)
        self.assertEqual(self.die("one"), watches("a"))
        self.assertEqual(self.ledger.waitingConnections(), ["x"])
        self.assertEqual(self.speak("a"), [])
        self.assertEqual(self.claim("two", 1), offers("two", x=2))
        self.assertEqual(self.claim("two", 2), offers("two", a=3))

    def test_refused(self) -> None:
        """
        That is so as well if the worker refuses it.
        """
        self.join("one", first=FIRST)
        self.accept("a", silent="a")
        self.tick(FIRST)
        self.assertEqual(self.refuse("one", 1), watches("a"))
        self.assertEqual(self.tick(PAUSE), offers("one", a=2))

    def test_spokenBefore(self) -> None:
        """
        A connection that has spoken is never silent again.
        """
        self.join("one", first=FIRST)
        self.accept("a", silent="a")
        self.speak("a")
        self.assertEqual(self.refuse("one", 1), [])
        self.assertEqual(self.ledger.waitingConnections(), ["a"])


class HalfOfTheLimitTests(LedgerTestCase):
    """
    Silent connections at workers with a limit.
    """

    def setUp(self) -> None:
        super().setUp()
        self.join("one", limit=4, first=FIRST)

    def test_half(self) -> None:
        """
        Silent connections take at most half of the limit, so one that speaks finds a
        place.
        """
        self.accept("abcd", silent="abcd")
        self.assertEqual(self.tick(FIRST), offers("one", a=1, b=2))
        self.claim("one", 1, 2)
        self.assertEqual(self.tick(), [])
        self.assertEqual(self.accept("e", silent=""), offers("one", e=3))
        self.assertEqual(self.speak("d"), offers("one", d=4))

    def test_closed(self) -> None:
        """
        When one of them ends, the next is offered.
        """
        self.accept("abc", silent="abc")
        self.tick(FIRST)
        self.claim("one", 1)
        self.assertEqual(self.close("one", 1)[1:], offers("one", c=3))

    def test_refused(self) -> None:
        """
        When one of them is refused, there is a place again.
        """
        self.accept("abc", silent="abc")
        self.tick(FIRST)
        self.refuse("one", 1)
        self.assertEqual(self.tick(PAUSE), offers("one", a=3))

    def test_otherWorker(self) -> None:
        """
        Another worker gets more of them.
        """
        self.accept("abcd", silent="abcd")
        self.tick(FIRST)
        self.assertEqual(self.join("two", limit=2, first=FIRST), offers("two", c=1))

    def test_one(self) -> None:
        """
        A worker that has one connection at a time gets no silent one.
        """
        self.die("one")
        self.join("one", limit=1, first=FIRST)
        self.accept("ab", silent="ab")
        self.assertEqual(self.tick(PATIENCE - 1), [])
        self.assertEqual(self.speak("a"), offers("one", a=1))
        self.claim("one", 1)
        self.close("one", 1)
        # No lack of workers: a listener that ends at a time-out goes on.
        self.assertEqual(self.tick(1), givesUp("b", Reason.SILENT))

    def test_full(self) -> None:
        """
        If they have taken half, and the queue is full, the oldest is given up if it was
        kept for long enough, and no other.
        """
        self.accept("ab", silent="ab")
        self.tick(FIRST)
        self.assertEqual(len(self.accept("cdefghijkl", silent="cdefghijkl")), QUEUE)
        self.assertEqual(self.ledger.capacity(), 2)
        self.assertEqual(self.tick(FIRST - 0.1), [])
        self.assertEqual(self.tick(0.1), givesUp("c", Reason.SILENT))
        self.assertEqual(self.ledger.capacity(), 3)
        self.assertCounted(accepted=12, offered=2, silentTooLong=1)

    def test_unwatched(self) -> None:
        """
        One that came back is not given up before it is watched: its client may have
        spoken meanwhile.
        """
        self.accept("ab", silent="ab")
        self.tick(FIRST)
        self.join("two", limit=2, first=FIRST)
        self.accept("c", silent="c")
        self.assertEqual(self.tick(FIRST), offers("two", c=1))
        self.accept("defghijklm", silent="defghijklm")
        self.assertEqual(self.die("one"), watches("ab"))
        self.assertEqual(self.tick(), [])
        self.assertEqual(self.speak("a"), offers("two", a=2))
        self.claim("two", 1, 2)
        self.ledger.watched("b")
        self.assertEqual(self.close("two", 2)[1:], givesUp("b", Reason.SILENT))

    def test_noDescriptors(self) -> None:
        """
        That is so as well if the queue has places, and no descriptor is left.
        """
        self.ledger = self.open(queue=100, budget=QUEUE)
        self.join("one", limit=4, first=FIRST)
        self.accept("abcdefghij", silent="abcdefghij")
        self.assertEqual(self.ledger.capacity(), 0)
        self.tick(FIRST - 0.1)
        self.claim("one", 1, 2)
        self.assertEqual(self.tick(0.1), givesUp("c", Reason.SILENT))
        self.assertEqual(self.ledger.capacity(), 1)

    def test_fullAndBusy(self) -> None:
        """
        None is given up if the worker has no place for any connection.
        """
        self.accept("wxyz", silent="")
        self.accept("abcdefghij", silent="abcdefghij")
        self.assertEqual(self.tick(FIRST), [])
        self.assertEqual(self.ledger.silent, QUEUE)
