"""
Stateful tests of L{portlisten._ledger} and L{portlisten._claims}: each book
alone against a model of it, and then both of them together, as a listener and
its workers, in a world where anybody may be killed or stopped at any point.

C{PORTLISTEN_EXAMPLES} says how many histories each machine tries.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from portlisten._frames import (
    ProtocolError,
)
from portlisten._ledger import (
    Counters,
    Decision,
    GiveUp,
    HandOff,
    Ledger,
    LetGo,
    Reason,
    Revoke,
)

PATIENCE = 60.0
HOLD = 1.0
CLAIM_TIMEOUT = 5.0
PAUSE = 0.1

SETTINGS = settings(
    max_examples=int(os.environ.get("PORTLISTEN_EXAMPLES", "300")),
    stateful_step_count=50,
    deadline=None,
    derandomize="CI" in os.environ,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)

#: Chooses one of however many there are, or a few of them.
one = st.integers(0, 7)
some = st.sets(one, min_size=1, max_size=4)
delays = st.sampled_from([0.02, 0.1, 0.5, 1.0, 5.0, 30.0])


def pick(index: int, things: Iterable[Any]) -> Any:
    """
    The chosen one of what there is.
    """
    there = list(things)
    return there[index % len(there)]


def pickSome(indices: Iterable[int], things: Iterable[Any]) -> list[Any]:
    """
    The chosen ones of what there is, each once.
    """
    there = list(things)
    return [there[at] for at in sorted({index % len(there) for index in indices})]


def refuses(event: Callable[[], Any]) -> bool:
    """
    Say whether an event is against the protocol.
    """
    try:
        event()
    except ProtocolError:
        return True
    return False


# The ledger alone


@dataclass(eq=False)
class Connection:
    """
    One that the ledger is told of.
    """

    number: int
    accepted: float
    witness: bool
    since: float = 0.0


@dataclass(eq=False)
class Side:
    """
    What the ledger should know of one channel.
    """

    window: int
    limit: int
    offered: dict[int, Connection] = field(default_factory=dict)
    serving: dict[int, Connection] = field(default_factory=dict)
    copies: list[Connection] = field(default_factory=list)
    open: bool = True
    revoked: bool = False
    resume: float = 0.0
    turn: int = 0

    def mayHave(self, now: float) -> bool:
        """
        Whether it may be offered one more.
        """
        return self.open and self.resume <= now and len(self.offered) < self.limit

    @property
    def outstanding(self) -> int:
        return len(self.offered) + len(self.serving)


class LedgerMachine(RuleBasedStateMachine):
    """
    The listener's book, told what may happen in any order in which it may.
    """

    @initialize(
        queue=st.integers(0, 5), budget=st.integers(1, 14), roundRobin=st.booleans()
    )
    def begin(self, queue: int, budget: int, roundRobin: bool) -> None:
        self.ledger = Ledger(
            queue, budget, PATIENCE, HOLD, CLAIM_TIMEOUT, PAUSE, roundRobin
        )
        self.queue = queue
        self.budget = budget
        self.roundRobin = roundRobin
        self.now = 0.0
        self.turn = 0
        self.accepts = 0
        self.waiting: list[Connection] = []
        self.sides: list[Side] = []
        self.counters = Counters()
        self.ended = False

    # What comes of it

    def obey(self, decisions: list[Decision], *expected: Decision) -> None:
        """
        Compare what was decided to what should be, but for the hand-offs, and
        hold these to their rules one by one.
        """
        others = [each for each in decisions if not isinstance(each, HandOff)]
        assert others == list(expected)
        for decision in decisions:
            if isinstance(decision, HandOff):
                self.handOff(decision)
        assert not self.waiting or not self.ready(), "somebody waits for no reason"

    def ready(self) -> list[Side]:
        return [side for side in self.sides if side.mayHave(self.now)]

    def handOff(self, decision: HandOff) -> None:
        side = decision.channel
        assert side in self.ready()
        first = min(
            self.ready(),
            key=lambda each: (0 if self.roundRobin else each.outstanding, each.turn),
        )
        assert side is first, "another worker had less, or a longer wait"
        oldest = min(self.waiting, key=lambda each: each.number)
        assert decision.connection is oldest, "another one waits longer"
        assert decision.port == oldest.number % 3
        assert decision.id not in side.offered
        assert decision.id not in side.serving
        self.waiting.remove(oldest)
        self.turn += 1
        side.turn = self.turn
        oldest.since = self.now
        side.offered[decision.id] = oldest
        self.counters.offered += 1

    def share(self) -> int:
        return max(1, self.budget // 2 // len(self.sides))

    def copies(self) -> list[Connection]:
        found = [copy for side in self.sides for copy in side.copies]
        return sorted(found, key=lambda copy: copy.since)

    def letGo(self, connections: Collection[Connection]) -> list[LetGo]:
        for side in self.sides:
            side.copies = [copy for copy in side.copies if copy not in connections]
        return [LetGo(connection) for connection in connections]

    def again(self, connections: Collection[Connection]) -> None:
        self.counters.redispatched += len(connections)
        self.waiting.extend(connections)

    def having(self, what: str) -> list[Side]:
        return [side for side in self.sides if getattr(side, what)]

    # What happens

    @precondition(lambda self: self.ledger.room)
    @rule(count=st.integers(1, 5), witness=st.booleans())
    def accept(self, count: int, witness: bool) -> None:
        for _ in range(min(count, self.ledger.room)):
            self.accepts += 1
            connection = Connection(self.accepts, self.now, witness)
            self.waiting.append(connection)
            self.obey(
                self.ledger.accepted(
                    connection.number % 3, [connection], self.now, witness
                )
            )

    @precondition(lambda self: self.ledger.room)
    @rule()
    def acceptAll(self) -> None:
        """
        As many as there is room for, and of one port.
        """
        self.accepts += -self.accepts % 3 + 1
        batch = [
            Connection(self.accepts + 3 * each, self.now, True)
            for each in range(self.ledger.room)
        ]
        self.accepts = batch[-1].number
        self.waiting.extend(batch)
        self.obey(self.ledger.accepted(1, batch, self.now))
        assert self.ledger.room == 0
        idle = sum(
            side.limit - len(side.offered)
            for side in self.sides
            if side.open and side.resume > self.now
        )
        assert len(self.waiting) <= self.queue + idle

    @precondition(lambda self: len(self.sides) < 4)
    @rule(window=st.integers(1, 4))
    def join(self, window: int) -> None:
        side = Side(window, window)
        self.sides.append(side)
        self.obey(self.ledger.joined(side, window, self.now))

    @precondition(lambda self: self.having("offered"))
    @rule(which=one, what=some)
    def claim(self, which: int, what: set[int]) -> None:
        side = pick(which, self.having("offered"))
        ids = pickSome(what, side.offered)
        side.limit = min(side.window, side.limit + 1)
        expected = []
        for id in ids:
            connection = side.serving[id] = side.offered.pop(id)
            if connection.witness:
                connection.since = self.now
                side.copies.append(connection)
            else:
                expected.append(LetGo(connection))
        excess = side.copies[: max(0, len(side.copies) - self.share())]
        self.counters.claimed += len(ids)
        decisions = self.ledger.claimed(side, ids, self.now)
        self.obey(decisions, *expected, *self.letGo(excess))

    @precondition(lambda self: self.having("offered"))
    @rule(which=one, what=some)
    def refuse(self, which: int, what: set[int]) -> None:
        side = pick(which, self.having("offered"))
        ids = pickSome(what, side.offered)
        side.limit = max(1, side.limit // 2)
        side.resume = self.now + PAUSE
        self.waiting.extend(side.offered.pop(id) for id in ids)
        self.counters.refused += len(ids)
        self.obey(self.ledger.refused(side, ids, self.now))

    @precondition(lambda self: self.having("serving"))
    @rule(which=one, what=some, left=st.booleans())
    def close(self, which: int, what: set[int], left: bool) -> None:
        side = pick(which, self.having("serving"))
        ids = pickSome(what, side.serving)
        ended = [side.serving.pop(id) for id in ids]
        expected = self.letGo([each for each in ended if each in side.copies])
        if left:
            self.counters.goneBeforeAdoption += len(ids)
        event = self.ledger.gone if left else self.ledger.closed
        self.obey(event(side, ids, self.now), *expected)

    @precondition(lambda self: self.sides)
    @rule(which=one, own=st.booleans())
    def lie(self, which: int, own: bool) -> None:
        """
        A worker names a connection twice, or one that is not its own, among
        its own ones: the ledger takes no notice of any of it.
        """
        side = pick(which, self.sides)
        for event, ids in (
            (self.ledger.claimed, side.offered),
            (self.ledger.refused, side.offered),
            (self.ledger.closed, side.serving),
            (self.ledger.gone, side.serving),
        ):
            wrong = [*ids, *ids] if own and ids else [*ids, 4711]
            assert refuses(lambda: event(side, wrong, self.now))  # noqa: B023

    @rule()
    def strangerSpeaks(self) -> None:
        """
        One with no part in the work has no say.
        """
        stranger = Side(1, 1)
        for event in (self.ledger.claimed, self.ledger.refused, self.ledger.closed):
            assert refuses(lambda: event(stranger, [1], self.now))  # noqa: B023
        assert refuses(lambda: self.ledger.draining(stranger))
        assert self.ledger.outstanding(stranger) == 0
        assert self.ledger.copiesOf(stranger) == []

    @precondition(lambda self: self.sides)
    @rule(which=one)
    def drain(self, which: int) -> None:
        side = pick(which, self.sides)
        side.open = False
        self.ledger.draining(side)

    @precondition(lambda self: self.sides)
    @rule(which=one, which2=st.sets(one))
    def die(self, which: int, which2: set[int]) -> None:
        side = pick(which, self.sides)
        touched = pickSome(which2, side.copies) if side.copies else []
        untouched = [copy for copy in side.copies if copy not in touched]
        self.counters.lostInService += (
            len(side.serving) - len(side.copies) + len(touched)
        )
        self.sides.remove(side)
        self.again([*untouched, *side.offered.values()])
        self.obey(
            self.ledger.died(side, touched, self.now),
            *(GiveUp(each, Reason.LOST_IN_SERVICE) for each in touched),
        )

    @precondition(lambda self: self.sides)
    @rule(which=one)
    def part(self, which: int) -> None:
        side = pick(which, self.sides)
        expected = self.letGo(list(side.copies))
        self.sides.remove(side)
        self.again(list(side.offered.values()))
        self.obey(self.ledger.parted(side, self.now), *expected)

    @precondition(lambda self: self.copies())
    @rule(what=some)
    def witness(self, what: set[int]) -> None:
        touched = pickSome(what, self.copies())
        decisions = self.ledger.witnessed(touched)
        assert set(decisions) == set(self.letGo(touched))
        assert len(decisions) == len(touched)

    @rule(delay=delays)
    def tick(self, delay: float) -> None:
        self.now += delay
        over = [each for each in self.waiting if self.now - each.accepted >= PATIENCE]
        over.sort(key=lambda each: each.number)
        self.waiting = [each for each in self.waiting if each not in over]
        self.counters.timedOut += len(over)
        silent = [copy for copy in self.copies() if self.now - copy.since >= HOLD]
        hung = [
            side
            for side in self.sides
            if not side.revoked
            and any(
                self.now - offer.since >= CLAIM_TIMEOUT
                for offer in side.offered.values()
            )
        ]
        for side in hung:
            side.open, side.revoked = False, True
        self.counters.revoked += len(hung)
        self.obey(
            self.ledger.ticked(self.now),
            *(GiveUp(each, Reason.TIMED_OUT) for each in over),
            *self.letGo(silent),
            *(Revoke(side, "an offer unclaimed for 5 s") for side in hung),
        )

    def teardown(self) -> None:
        if not hasattr(self, "ledger"):
            return
        self.waiting.sort(key=lambda each: each.number)
        expected: list[Decision] = [
            GiveUp(each, Reason.STOPPED) for each in self.waiting
        ]
        for side in self.sides:
            expected.extend(map(LetGo, [*side.offered.values(), *side.copies]))
        self.counters.stopped += len(self.waiting)
        assert self.ledger.stopped() == expected
        assert self.ledger.held == self.ledger.workers == 0
        assert self.ledger.counters == self.counters

    # What always holds

    @invariant()
    def theBookIsRight(self) -> None:
        ledger = self.ledger
        self.counters.accepted = ledger.counters.accepted
        assert ledger.counters == self.counters
        assert ledger.waiting == len(self.waiting)
        assert ledger.unclaimed == sum(len(side.offered) for side in self.sides)
        assert ledger.copies() == self.copies()
        assert ledger.held == ledger.waiting + ledger.unclaimed + len(self.copies())
        assert ledger.workers == sum(side.open for side in self.sides)
        for side in self.sides:
            assert ledger.outstanding(side) == side.outstanding
            assert ledger.copiesOf(side) == side.copies

    @invariant()
    def theLimitsHold(self) -> None:
        assert 0 <= self.ledger.room <= self.budget - self.ledger.held
        for side in self.sides:
            assert len(side.offered) <= side.window
