"""
Tests for L{portlisten._policy.tallies}, and for what the ledger counts there.
"""

from __future__ import annotations

from dataclasses import asdict

from twisted.trial.unittest import SynchronousTestCase

from portlisten._policy.claim_times import BOUNDS
from portlisten._policy.counters import Counters
from portlisten._policy.tallies import COUNTED, Tallies, Tally
from tests.support.ledgers import HOLD, PATIENCE, LedgerTestCase


class TallyTests(SynchronousTestCase):
    """
    Tests for L{Tally} and L{Tallies}.
    """

    def test_claim(self) -> None:
        """
        A time that is equal to a bound is within it.
        """
        tally = Tally()
        for each in (0.0, BOUNDS[0], BOUNDS[0] * 1.1, BOUNDS[-1], BOUNDS[-1] + 1):
            tally.claim(each)
        self.assertEqual(tally.claimTimes, [2, 1, *[0] * (len(BOUNDS) - 3), 1, 1])
        self.assertAlmostEqual(tally.claimSeconds, 121.00021)
        self.assertEqual(tally.claimed, 5)

    def test_sum(self) -> None:
        """
        The sum has all counters.
        """
        tallies = Tallies(("http", "https"))
        for number, name in enumerate(COUNTED):
            setattr(tallies.by["http"], name, number)
            setattr(tallies.by["https"], name, 100)
        tallies.revoked = 7
        found = asdict(tallies.sum())
        self.assertEqual(found.keys(), asdict(Counters()).keys())
        self.assertEqual(found.pop("revoked"), 7)
        self.assertEqual([*found.values()], [100 + n for n in range(len(COUNTED))])


class NameTests(LedgerTestCase):
    """
    The ledger counts by the names of the ports.
    """

    def setUp(self) -> None:
        super().setUp()
        self.ledger = self.open(names=("web", "mail"))

    def assertTallied(self, name: str, **expected: int) -> None:
        """
        Check all counters of a name.  Counters that are not given are zero.
        """
        tally = self.ledger.tallies.by[name]
        counted = {each: getattr(tally, each) for each in COUNTED}
        self.assertEqual({n: c for n, c in counted.items() if c}, expected)

    def test_names(self) -> None:
        """
        Each connection counts for the name of its port, however it ends.
        """
        self.join("one")
        self.accept("abcd", name="web")
        self.accept("vwxyz", name="mail")
        self.claim("one", 1, 2, 5, 6, 7)
        self.close("one", 5)
        self.refuse("one", 8)
        # The copies of these are closed, so the worker has them for good.
        self.ledger.closeTouched("bw")
        self.die("one", touched="a")
        self.ledger.clientsLeft("yz")
        self.ledger.stop()
        common = {"offered": 4, "claimed": 2, "redispatched": 2, "stopped": 2}
        self.assertTallied("web", accepted=4, lostInService=2, **common)
        self.assertTallied(
            "mail",
            accepted=5,
            offered=5,
            claimed=3,
            refused=1,
            redispatched=2,
            finished=1,
            lostInService=1,
            goneBeforeAdoption=2,
            stopped=1,
        )

    def test_givenUp(self) -> None:
        """
        So it is if they are given up.
        """
        self.join("one", 1, "mail", limit=2, first=2.0)
        self.accept("ab", name="web")
        self.accept("xyz", name="mail", silent="xyz")
        self.tick(2.0)
        self.ledger.refuse("one", [1], self.now, unusable="x")
        self.tick(PATIENCE)
        self.assertTallied("web", accepted=2, timedOut=2)
        self.assertTallied(
            "mail", accepted=3, offered=2, refused=1, unusable=1, timedOut=1
        )

    def test_leaves(self) -> None:
        """
        So it is if the worker leaves, and if it has given connections away.
        """
        self.join("one", gives=True)
        self.accept("ab", name="web")
        self.accept("yz", name="mail")
        self.claim("one", 1, 2, 3, 4)
        self.ledger.give("one", [1, 3])
        self.part("one")
        self.tick(HOLD)
        self.assertTallied(
            "web", accepted=2, offered=2, claimed=2, given=1, leftWithWorker=1
        )
        self.assertTallied(
            "mail", accepted=2, offered=2, claimed=2, given=1, leftWithWorker=1
        )


class ClaimTimeTests(LedgerTestCase):
    """
    The ledger knows how long connections waited until they were claimed.
    """

    def assertWaited(self, *seconds: float) -> None:
        """
        Check how long the connections waited that were claimed so far.
        """
        expected = Tally()
        for each in seconds:
            expected.claim(each)
        found = self.ledger.tallies.by[""]
        self.assertEqual(found.claimTimes, expected.claimTimes)
        self.assertAlmostEqual(found.claimSeconds, expected.claimSeconds)

    def test_accepted(self) -> None:
        """
        The time begins when a connection is accepted.
        """
        self.accept("ab")
        self.now += 0.3
        self.join("one")
        self.now += 0.02
        self.claim("one", 1)
        self.now += 3
        self.claim("one", 2)
        self.assertWaited(0.32, 3.32)

    def test_again(self) -> None:
        """
        If the worker dies, and another one claims the connection, that is a claim of
        its own.  The client has waited since it was accepted.
        """
        self.join("one")
        self.accept("a")
        self.claim("one", 1)
        self.now += 0.5
        self.die("one")
        self.join("two")
        self.now += 0.2
        self.claim("two", 1)
        self.assertWaited(0.0, 0.7)

    def test_firstByte(self) -> None:
        """
        If the client speaks first, the time begins with its first byte.
        """
        self.join("one", first=2.0)
        self.accept("a", silent="a")
        self.now += 1.5
        self.speak("a")
        self.now += 0.04
        self.claim("one", 1)
        self.assertWaited(0.04)

    def test_spokeAtOnce(self) -> None:
        """
        If the first byte came with the connection, the two are the same.
        """
        self.join("one", first=2.0)
        self.accept("a", silent="")
        self.now += 0.04
        self.claim("one", 1)
        self.assertWaited(0.04)

    def test_silent(self) -> None:
        """
        If the first byte does not come, the time begins when the listener does not wait
        for it any more, though no worker may have capacity then.
        """
        self.join("one", 1, first=2.0)
        self.accept("ab", silent="ab")
        self.tick(2.0)
        self.now += 0.3
        self.claim("one", 1)
        self.now += 0.2
        self.claim("one", 2)
        self.assertWaited(0.3, 0.5)

    def test_crowded(self) -> None:
        """
        So it is if it stops to wait early, since the queue is full.
        """
        self.ledger = self.open(queue=1)
        self.join("one", first=2.0)
        self.now += 1.0
        self.accept("a", silent="a")
        self.now += 0.4
        self.accept("b", silent="b")
        self.now += 0.1
        self.claim("one", 1)
        self.assertWaited(0.5)

    def test_nobodyWaits(self) -> None:
        """
        If the workers whose clients speak first have left, nobody waits for a byte.
        """
        self.join("one", first=2.0)
        self.accept("a", silent="a")
        self.part("one")
        self.now += 1.0
        self.join("two")
        self.now += 0.25
        self.claim("two", 1)
        self.assertWaited(1.25)
