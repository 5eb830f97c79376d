"""
Tests for L{portlisten._policy.source_limits}.
"""

from __future__ import annotations

from collections import deque
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from portlisten._policy.source_limits import Limits, Rate, Source, SourceLimits
from tests.support.settings import SETTINGS


class Bucket:
    """
    A bucket of tokens, as one would explain it.
    """

    def __init__(self, rate: Rate | None) -> None:
        self.rate = rate
        self.tokens = Fraction(0 if rate is None else rate.burst)
        self.then = Fraction(0)

    def has(self, now: Fraction) -> bool:
        """
        Whether a token is there.
        """
        if self.rate is None:
            return True
        came = (now - self.then) * Fraction(self.rate.perSecond)
        self.tokens = min(Fraction(self.rate.burst), self.tokens + came)
        self.then = now
        return self.tokens >= 1

    def take(self) -> None:
        """
        Take a token.
        """
        if self.rate is not None:
            self.tokens -= 1


class Model:
    """
    The limits, as one would explain them: with a list of what is alive, and a bucket of
    tokens for each source.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.alive: list[str] = []
        self.buckets: dict[str, Bucket] = {}
        self.bucket = Bucket(limits.rate)

    def reached(self, key: str, now: Fraction) -> str:
        """
        Which limit a source has reached.
        """
        own = self.buckets.setdefault(key, Bucket(self.limits.ratePerSource))
        mine, all = own.has(now), self.bucket.has(now)
        if self.limits.most is not None and len(self.alive) >= self.limits.most:
            return "max"
        most = self.limits.maxPerSource
        if most is not None and self.alive.count(key) >= most:
            return "max-per-source"
        return "" if mine and all else "rate" if mine else "rate-per-source"

    def admit(self, key: str) -> None:
        """
        Let one in.
        """
        self.alive.append(key)
        self.buckets[key].take()
        self.bucket.take()


rates = st.none() | st.builds(
    Rate, st.sampled_from([0.25, 0.5, 1.0, 2.0, 4.0]), st.integers(1, 4)
)
few = st.none() | st.integers(1, 4)
someLimits = st.builds(
    Limits, maxPerSource=few, ratePerSource=rates, most=few, rate=rates
)
#: A source and what happens: an arrival, an end, or how many eighths of a second pass.
events = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from(["come", "end", 1, 3, 8, 40])),
    max_size=60,
)


class SourceLimitsTests(SynchronousTestCase):
    """
    Tests for L{SourceLimits}.
    """

    @SETTINGS
    @given(someLimits, events)
    def test_model(self, limits: Limits, happens: list[tuple[str, str | int]]) -> None:
        """
        It lets in what the model lets in, and names the same limit.
        """
        table, model = SourceLimits(limits), Model(limits)
        now = Fraction(0)
        for key, what in happens:
            if isinstance(what, int):
                now += Fraction(what, 8)
            elif what == "come":
                expected = model.reached(key, now)
                source, reason = table.arrive(key, float(now))
                self.assertEqual((source.key, reason), (key, expected))
                if not reason:
                    model.admit(key)
            elif key in model.alive:
                model.alive.remove(key)
                table.find(key, float(now)).depart()
            self.assertEqual(table.alive, len(model.alive))

    @SETTINGS
    @given(someLimits, events)
    def test_parked(self, limits: Limits, happens: list[tuple[str, str | int]]) -> None:
        """
        What is parked comes in as soon as no limit keeps it out, in the order of its
        source.
        """
        table = SourceLimits(limits)
        now = 0.0
        parked: dict[str, deque[int]] = {key: deque() for key in "abc"}
        alive: list[Source] = []
        for number, (key, what) in enumerate(happens):
            if isinstance(what, int):
                now += what / 8
            elif what == "come":
                source, reason = table.arrive(key, now)
                if reason:
                    table.park(source, (key, number))
                    parked[key].append(number)
                else:
                    alive.append(source)
            elif mine := [each for each in alive if each.key == key]:
                alive.remove(mine[0])
                mine[0].depart()
            table.now = now
            for owner, which in table.released(isinstance(what, int)):
                self.assertEqual(which, parked[owner].popleft())
                alive.append(table.find(owner, now))
            self.assertEqual(table.parked, sum(map(len, parked.values())))
            self.assertEqual(table.alive, len(alive))
            if isinstance(what, int):
                for owner, waiting in parked.items():
                    found = table.find(owner, now)
                    self.assertTrue(not waiting or table.reached(found, now))
        table.releaseAll()
        self.assertEqual(table.parked, 0)

    def test_unpark(self) -> None:
        """
        What waits no more does not come in.
        """
        table = SourceLimits(Limits(maxPerSource=1))
        source, _ = table.arrive("a", 0.0)
        for each in "xyz":
            table.park(source, each)
        table.unpark(source, "x")
        source.depart()
        self.assertEqual(table.released(), ["y"])
        table.unpark(source, "z")
        source.depart()
        self.assertEqual((table.released(), table.parked), ([], 0))

    def test_turns(self) -> None:
        """
        If all together may have a few, sources take turns.
        """
        table = SourceLimits(Limits(most=1))
        first, _ = table.arrive("first", 0.0)
        for number, key in enumerate("aab"):
            source, _ = table.arrive(key, 0.0)
            table.park(source, (key, number))
        order = []
        source = first
        while table.parked:
            source.depart()
            [(key, _)] = table.released()
            order.append(key)
            source = table.find(key, 0.0)
        self.assertEqual(order, ["a", "b", "a"])

    def test_kept(self) -> None:
        """
        A connection that only the kernel knows of counts until the kernel says that it
        has ended, and once.
        """
        table = SourceLimits(Limits(maxPerSource=1))
        source, _ = table.arrive("a", 0.0)
        table.keep(source, 7)
        table.count(source)
        table.keep(source, 7)
        self.assertEqual((source.kept, source.alive), (1, 1))
        table.gone([8])
        self.assertEqual(table.arrive("a", 0.0)[1], "max-per-source")
        table.gone([7, 7])
        self.assertEqual((source.kept, source.alive, table.kept), (0, 0, {}))
        self.assertEqual(table.arrive("a", 0.0)[1], "")

    def test_bounded(self) -> None:
        """
        The table is bounded, and the sources that are forgotten first are those of
        which there is nothing to know.
        """
        limits = Limits(maxPerSource=1, ratePerSource=Rate(1.0, 1))
        table = SourceLimits(limits, most=100)
        busy = [table.arrive(("busy", n), 0.0)[0] for n in range(5)]
        for number in range(10_000):
            source, _ = table.arrive(number, number * 10.0)
            source.depart()
            self.assertTrue(len(table.sources) <= 100)
            for each in busy:
                # They try again and again.
                self.assertEqual(
                    table.arrive(each.key, number * 10.0), (each, "max-per-source")
                )
        self.assertEqual(table.alive, 5)

    def test_boundedWithoutMercy(self) -> None:
        """
        If all sources have connections, some are forgotten: the number of all
        connections stays right.
        """
        table = SourceLimits(Limits(maxPerSource=1), most=100)
        sources = [table.arrive(number, 0.0)[0] for number in range(1000)]
        self.assertEqual(len(table.sources), 100)
        self.assertEqual(table.alive, 1000)
        for each in sources:
            each.depart()
        self.assertEqual(table.alive, 0)

    def test_refuse(self) -> None:
        """
        What is refused is counted, by reason and source.
        """
        table = SourceLimits(Limits())
        source = table.find("a", 0.0)
        table.refuse(source, "max")
        table.refuse(None, "denied")
        table.refuse(source, "max")
        self.assertEqual(table.refusals, {"max": 2, "denied": 1})
        self.assertEqual(source.refused, 2)
