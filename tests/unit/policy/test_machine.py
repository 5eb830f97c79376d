"""
Stateful tests of L{portlisten._policy.ledger} and L{portlisten._wire.claims}: each book
alone against a model of it, and then both of them together, as a listener and
its workers, in a world where anybody may be killed or stopped at any point.

C{PORTLISTEN_EXAMPLES} says how many histories each machine tries.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from twisted.trial.unittest import SynchronousTestCase

from portlisten._policy.ledger import (
    Counters,
    Decision,
    GiveUp,
    HandOff,
    Ledger,
    LetGo,
    Reason,
    Revoke,
)
from portlisten._wire.claims import Claims
from portlisten._wire.frames import (
    MAXIMUM_PAYLOAD,
    Bye,
    Claim,
    ClientGone,
    Closed,
    Drain,
    Drained,
    Frame,
    Offer,
    Refuse,
    Revoked,
    WorkerHello,
    encode,
)
from portlisten.errors import ProtocolError
from tests.support import SETTINGS

PATIENCE = 60.0
HOLD = 1.0
CLAIM_TIMEOUT = 5.0
PAUSE = 0.1

#: What the ports are called, by their numbers.
NAMES = ("web", "mail", "web")

#: Chooses one of however many there are, or a few of them.
one = st.integers(0, 7)
some = st.sets(one, min_size=1, max_size=4)
stages = st.integers(0, 8)
few = st.sampled_from([2, 0, 1, 4, 6])
mostly = st.sampled_from([True, True, True, False])
sizes = st.integers(1, 4)
wants = st.sampled_from([(), ("web",), ("mail",), ("mail", "web")])
crews = st.lists(st.tuples(sizes, wants), min_size=1, max_size=3)
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
    claim: int = 0
    ended: float | None = None

    @property
    def port(self) -> int:
        return self.number % 3

    @property
    def name(self) -> str:
        return NAMES[self.port]


@dataclass(eq=False)
class Side:
    """
    What the ledger should know of one channel.
    """

    window: int
    limit: int
    names: tuple[str, ...]
    offered: dict[int, Connection] = field(default_factory=dict)
    serving: dict[int, Connection] = field(default_factory=dict)
    copies: list[Connection] = field(default_factory=list)
    open: bool = True
    revoked: bool = False
    asleep: bool = False
    resume: float = 0.0
    turn: int = 0

    def wants(self, name: str) -> bool:
        return name in self.names

    def room(self, now: float) -> int:
        """
        How many it may be offered more.
        """
        if not self.open or self.resume > now:
            return 0
        return max(0, self.limit - len(self.offered))

    @property
    def outstanding(self) -> int:
        return len(self.offered) + len(self.serving)


class LedgerMachine(RuleBasedStateMachine):
    """
    The listener's book, told what may happen in any order in which it may.
    """

    @initialize(
        queue=st.integers(0, 5),
        budget=st.integers(1, 20),
        roundRobin=st.booleans(),
        crew=crews,
        clients=few,
    )
    def begin(
        self,
        queue: int,
        budget: int,
        roundRobin: bool,
        crew: list[tuple[int, tuple[str, ...]]],
        clients: int,
    ) -> None:
        self.ledger = Ledger(
            queue, budget, PATIENCE, HOLD, CLAIM_TIMEOUT, PAUSE, roundRobin, NAMES
        )
        self.queue = min(queue, budget // 4)
        self.budget = budget
        self.roundRobin = roundRobin
        self.now = 0.0
        self.turn = 0
        self.last = 0
        self.claims = 0
        self.waiting: list[Connection] = []
        self.sides: list[Side] = []
        self.departed: list[Side] = []
        self.counters = Counters()
        for window, names in crew:
            self.join(window, names)
        self.accept(clients)

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
        assert not any(map(self.ready, NAMES)), "somebody waits for no reason"

    def ready(self, name: str) -> list[Side]:
        """
        The workers that a connection of this name may go to, if any waits.
        """
        return [
            side
            for side in self.sides
            if side.room(self.now) and side.wants(name) and self.queued(name)
        ]

    def queued(self, name: str) -> list[Connection]:
        return [each for each in self.waiting if each.name == name]

    def room(self, name: str) -> int:
        room = sum(side.room(self.now) for side in self.sides if side.wants(name))
        room += self.queue - len(self.queued(name))
        room += min(len(self.placeless(name)), self.queue // 2)
        return max(0, min(room, self.budget - self.ledger.held))

    def placeless(self, name: str) -> list[Connection]:
        return [each for each in self.queued(name) if each.ended is not None]

    def rooms(self) -> list[int]:
        """
        The ports that something may come in by.
        """
        return [port for port, name in enumerate(NAMES) if self.room(name)]

    def handOff(self, decision: HandOff) -> None:
        side = decision.channel
        oldest = min(
            (each for each in self.waiting if self.ready(each.name)),
            key=lambda each: each.number,
        )
        assert decision.connection is oldest, "another one waits longer"
        first = min(
            self.ready(oldest.name),
            key=lambda each: (0 if self.roundRobin else each.outstanding, each.turn),
        )
        assert side is first, "another worker had less, or a longer wait"
        assert decision.port == oldest.port
        assert decision.id not in side.offered
        assert decision.id not in side.serving
        self.waiting.remove(oldest)
        self.turn += 1
        side.turn = self.turn
        oldest.since = self.now
        side.offered[decision.id] = oldest
        self.counters.offered += 1

    def share(self, side: Side) -> int:
        return max(side.window, self.budget // 2 // len(self.sides))

    def copies(self) -> list[Connection]:
        return [*self.timed(), *self.sleeping()]

    def timed(self) -> list[Connection]:
        """
        The copies that are let go after a while.
        """
        return self.copiesOf([*self.sides, *self.departed], False)

    def sleeping(self) -> list[Connection]:
        """
        Those of workers that have left and stand still.
        """
        return self.copiesOf(self.departed, True)

    def copiesOf(self, sides: list[Side], asleep: bool) -> list[Connection]:
        found = [
            copy for side in sides if side.asleep is asleep for copy in side.copies
        ]
        return sorted(found, key=lambda copy: copy.claim)

    def claimAnew(self, copies: list[Connection]) -> None:
        """
        Put copies at the end of the order.
        """
        for copy in copies:
            self.claims += 1
            copy.claim = self.claims

    def letGo(self, connections: Collection[Connection]) -> list[LetGo]:
        for side in [*self.sides, *self.departed]:
            side.copies = [copy for copy in side.copies if copy not in connections]
        self.departed = [side for side in self.departed if side.copies]
        return [LetGo(connection) for connection in connections]

    def again(self, connections: Collection[Connection]) -> None:
        for connection in connections:
            connection.ended = None
        self.counters.redispatched += len(connections)
        self.waiting.extend(connections)

    def having(self, what: str) -> list[Side]:
        return [side for side in self.sides if getattr(side, what)]

    # What happens

    @rule(count=few, witness=mostly)
    def accept(self, count: int, witness: bool = True) -> None:
        for _ in range(count):
            self.last += 1
            connection = Connection(self.last, self.now, witness)
            if self.room(connection.name):
                self.waiting.append(connection)
                self.counters.accepted += 1
                self.obey(
                    self.ledger.accepted(
                        connection.port,
                        [connection],
                        self.now,
                        witness,
                        connection.name,
                    )
                )

    @precondition(lambda self: self.rooms())
    @rule(which=one)
    def acceptAll(self, which: int) -> None:
        """
        As many as there is room for, and of one port.
        """
        port = pick(which, self.rooms())
        name = NAMES[port]
        first = self.last - self.last % 3 + 3 + port
        batch = [
            Connection(first + 3 * each, self.now, True)
            for each in range(self.room(name))
        ]
        self.last = batch[-1].number
        self.waiting.extend(batch)
        self.counters.accepted += len(batch)
        self.obey(self.ledger.accepted(port, batch, self.now, True, name))
        assert self.ledger.room(name) == 0
        assert len(self.queued(name)) <= self.queue * 3 // 2

    @precondition(lambda self: len(self.sides) < 4)
    @rule(window=sizes, names=wants)
    def join(self, window: int, names: tuple[str, ...]) -> None:
        side = Side(window, window, names)
        self.sides.append(side)
        self.obey(self.ledger.joined(side, window, self.now, names))

    @precondition(lambda self: self.having("offered"))
    @rule(which=one, what=some, before=few)
    def claim(self, which: int, what: set[int], before: int = 0) -> None:
        self.accept(before)
        side = pick(which, self.having("offered"))
        ids = pickSome(what, side.offered)
        side.limit = min(side.window, side.limit + 1)
        expected = []
        for id in ids:
            connection = side.serving[id] = side.offered.pop(id)
            if connection.witness:
                self.claims += 1
                connection.since, connection.claim = self.now, self.claims
                side.copies.append(connection)
            else:
                expected.append(LetGo(connection))
        excess = side.copies[: max(0, len(side.copies) - self.share(side))]
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
        back = [side.offered.pop(id) for id in ids]
        for connection in back:
            connection.ended = None
        self.waiting.extend(back)
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
        its own ones: none of that counts.
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
        stranger = Side(1, 1, NAMES)
        for event in (self.ledger.claimed, self.ledger.refused, self.ledger.closed):
            assert refuses(lambda: event(stranger, [1], self.now))  # noqa: B023
        assert refuses(lambda: self.ledger.draining(stranger))
        assert refuses(lambda: self.ledger.revoking(stranger))
        assert self.ledger.outstanding(stranger) == 0
        assert self.ledger.copiesOf(stranger) == []

    @precondition(lambda self: self.sides)
    @rule(which=one)
    def drain(self, which: int) -> None:
        side = pick(which, self.sides)
        side.open = False
        self.ledger.draining(side)

    @precondition(lambda self: self.sides)
    @rule(which=one)
    def cutOff(self, which: int) -> None:
        side = pick(which, self.sides)
        self.counters.revoked += not side.revoked
        side.open, side.revoked = False, True
        self.ledger.revoking(side)

    @precondition(lambda self: self.sides)
    @rule(which=one, claims=st.sets(one), touches=st.sets(one), before=few)
    def die(self, which: int, claims: set[int], touches: set[int], before: int) -> None:
        self.accept(before)
        if claims and self.having("offered"):
            self.claim(which, claims)
        side = pick(which, self.having("copies") or self.sides)
        touched = pickSome(touches, side.copies) if side.copies else []
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
    @rule(which=one, before=few, asleep=st.booleans())
    def part(self, which: int, before: int, asleep: bool) -> None:
        self.accept(before)
        side = pick(which, self.sides)
        self.sides.remove(side)
        side.open, side.asleep = False, asleep
        if side.copies:
            self.departed.append(side)
        if asleep:
            self.claimAnew(side.copies)
        sleeping = self.sleeping()
        excess = sleeping[: max(0, len(sleeping) - self.budget // 4)]
        self.again(list(side.offered.values()))
        side.offered.clear()
        decisions = self.ledger.parted(side, self.now, asleep)
        self.obey(decisions, *self.letGo(excess if asleep else []))

    @precondition(lambda self: self.departed)
    @rule(which=one)
    def wake(self, which: int) -> None:
        side = pick(which, self.departed)
        if side.asleep:
            side.asleep = False
            self.claimAnew(side.copies)
            for copy in side.copies:
                copy.since = self.now
        self.ledger.awoke(side, self.now)

    @precondition(lambda self: self.departed)
    @rule(which=one, touches=st.sets(one))
    def end(self, which: int, touches: set[int]) -> None:
        """
        The process of a worker that has left is dead.
        """
        side = pick(which, self.departed)
        self.departed.remove(side)
        touched = pickSome(touches, side.copies)
        self.counters.lostInService += len(touched)
        self.again([copy for copy in side.copies if copy not in touched])
        self.obey(
            self.ledger.ended(side, touched, self.now),
            *(GiveUp(each, Reason.LOST_IN_SERVICE) for each in touched),
        )
        assert self.ledger.ended(side, [], self.now) == []

    @precondition(lambda self: self.waiting)
    @rule(what=some)
    def clientsLeave(self, what: set[int]) -> None:
        gone = sorted(pickSome(what, self.waiting), key=self.order)
        self.waiting = [each for each in self.waiting if each not in gone]
        self.counters.goneBeforeAdoption += len(gone)
        decisions = self.ledger.left(gone)
        assert set(decisions) == {GiveUp(each, Reason.GONE) for each in gone}
        assert len(decisions) == len(gone)

    @precondition(lambda self: self.copies())
    @rule(what=some)
    def witness(self, what: set[int]) -> None:
        touched = pickSome(what, self.copies())
        decisions = self.ledger.witnessed(touched)
        assert set(decisions) == set(self.letGo(touched))
        assert len(decisions) == len(touched)

    @precondition(lambda self: self.waiting)
    @rule(what=some)
    def clientsEndTheirSide(self, what: set[int]) -> None:
        ended = pickSome(what, self.waiting)
        crowded = self.ledger.held >= self.budget * 3 // 4
        for each in ended:
            each.ended = self.now if each.ended is None else each.ended
        gone: list[Connection] = []
        for name in dict.fromkeys(NAMES):
            many = len(self.placeless(name)) - self.queue // 2
            for each in sorted(ended, key=self.order):
                if each.name == name and (
                    crowded or self.now - each.ended >= SILENCE or many > 0
                ):
                    many -= 1
                    gone.append(each)
        self.waiting = [each for each in self.waiting if each not in gone]
        self.counters.goneBeforeAdoption += len(gone)
        decisions = self.ledger.halfClosed(ended, self.now)
        assert set(decisions) == {GiveUp(each, Reason.GONE) for each in gone}
        assert len(decisions) == len(gone)

    @rule(delay=delays)
    def tick(self, delay: float) -> None:
        self.now += delay
        over = [each for each in self.waiting if self.now - each.accepted >= PATIENCE]
        over.sort(key=self.order)
        self.waiting = [each for each in self.waiting if each not in over]
        self.counters.timedOut += len(over)
        silent = [copy for copy in self.timed() if self.now - copy.since >= HOLD]
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

    def order(self, connection: Connection) -> tuple[int, int]:
        """
        The order in which connections are given up: name by name.
        """
        return NAMES.index(connection.name), connection.number

    def teardown(self) -> None:
        if not hasattr(self, "ledger"):
            return
        self.waiting.sort(key=self.order)
        expected: list[Decision] = [
            GiveUp(each, Reason.STOPPED) for each in self.waiting
        ]
        for side in [*self.sides, *self.departed]:
            expected.extend(map(LetGo, [*side.offered.values(), *side.copies]))
        self.counters.stopped += len(self.waiting)
        assert self.ledger.stopped() == expected
        assert self.ledger.held == self.ledger.workers == 0
        assert self.ledger.counters == self.counters

    # What always holds

    @invariant()
    def theBookIsRight(self) -> None:
        ledger = self.ledger
        assert ledger.counters == self.counters
        assert ledger.waiting == len(self.waiting)
        assert ledger.unclaimed == sum(len(side.offered) for side in self.sides)
        assert ledger.copies() == self.copies()
        assert ledger.held == ledger.waiting + ledger.unclaimed + len(self.copies())
        assert ledger.workers == sum(side.open for side in self.sides)
        assert ledger.timed == bool(
            ledger.held or any(side.resume > self.now for side in self.sides)
        )
        assert ledger.hasTakers == any(
            side.open and side.wants(each.name)
            for side in self.sides
            for each in self.waiting
        )
        for side in self.sides:
            assert ledger.outstanding(side) == side.outstanding
            assert ledger.copiesOf(side) == side.copies
        for side in self.departed:
            assert ledger.outstanding(side) == 0
            assert ledger.copiesOf(side) == side.copies

    @invariant()
    def theLimitsHold(self) -> None:
        for name in NAMES:
            assert self.ledger.room(name) == self.room(name)
        for side in self.sides:
            assert len(side.offered) <= side.window
            assert all(side.wants(each.name) for each in side.offered.values())


# The claims alone

Arrivals = list[tuple[bool, bool, int]]
arrivals: st.SearchStrategy[Arrivals] = st.lists(
    st.tuples(mostly, mostly, st.integers(0, 4)), max_size=5
)


class ClaimsMachine(RuleBasedStateMachine):
    """
    The worker's book, told what may happen in any order in which it may.  A
    descriptor is a number here, and so is the cookie of its connection.
    """

    def __init__(self) -> None:
        super().__init__()
        self.tokens = 0
        self.held: set[int] = set()

    @initialize(window=st.integers(1, 4))
    def begin(self, window: int) -> None:
        self.claims: Claims[int] = Claims(window)
        self.window = window
        self.ids = 0
        self.loose: dict[int, int] = {}
        self.unclaimed: dict[int, int] = {}
        self.claiming: dict[int, int] = {}
        self.serving: set[int] = set()
        self.unsaid: set[tuple[type[Frame], int]] = set()
        self.draining = False
        self.drains = 0
        self.written: list[Frame] = []
        self.revoked = False
        self.cutOff = False

    # What comes of it

    def close(self, tokens: list[int]) -> None:
        """
        Each descriptor is given back once.
        """
        for token in tokens:
            self.held.remove(token)

    def serve(self, mine: list[tuple[Offer, int]], expected: dict[int, int]) -> None:
        assert {offer.id: token for offer, token in mine} == expected
        self.close([token for _, token in mine])
        self.serving.update(expected)

    def said(self, frame: Frame) -> None:
        if isinstance(frame, Drain):
            self.drains += 1
            assert self.draining
            assert self.drains == 1
        else:
            assert isinstance(frame, Claim | Refuse | Closed | ClientGone)
            for id in frame.ids:
                self.unsaid.remove((type(frame), id))

    # What happens

    @rule(arrivals=arrivals)
    def come(self, arrivals: Arrivals) -> None:
        """
        Descriptors and offers come in, often one after the other.
        """
        for descriptor, offer, cookie in arrivals:
            if descriptor and not self.revoked:
                self.descriptorComes(cookie)
            if offer and not self.revoked:
                self.offerComes(cookie)

    def descriptorComes(self, cookie: int) -> None:
        self.tokens += 1
        self.held.add(self.tokens)
        old = self.loose.pop(cookie, None)
        self.loose[cookie] = self.tokens
        if old is None and len(self.loose) > self.window:
            assert refuses(lambda: self.claims.arrived(cookie, self.tokens))
            self.cutOff = True
        else:
            tokens = self.claims.arrived(cookie, self.tokens)
            assert tokens == ([] if old is None else [old])
            self.close(tokens)

    def offerComes(self, cookie: int) -> None:
        self.ids += 1
        offer = Offer(self.ids, 0, cookie)
        token = self.loose.pop(cookie, None)
        if token is None or self.draining:
            tokens = self.claims.offered(offer)
            assert tokens == ([] if token is None else [token])
            self.close(tokens)
            self.unsaid.add((Refuse, offer.id))
            return
        self.unclaimed[offer.id] = token
        self.unsaid.add((Claim, offer.id))
        if len(self.unclaimed) > self.window:
            assert refuses(lambda: self.claims.offered(offer))
            self.cutOff = True
        else:
            assert self.claims.offered(offer) == []

    @precondition(lambda self: self.unclaimed or self.claiming)
    @rule(which=one, cookie=one)
    def offerComesAgain(self, which: int, cookie: int) -> None:
        id = pick(which, [*self.unclaimed, *self.claiming])
        assert refuses(lambda: self.claims.offered(Offer(id, 0, cookie)))
        self.cutOff = True

    @precondition(lambda self: self.serving)
    @rule(which=one, left=st.booleans())
    def connectionEnds(self, which: int, left: bool) -> None:
        id = pick(which, self.serving)
        self.serving.remove(id)
        if left:
            self.claims.clientGone(id)
        else:
            self.claims.closed(id)
        self.unsaid.add((ClientGone if left else Closed, id))

    @rule(arrivals=arrivals)
    def drain(self, arrivals: Arrivals) -> None:
        self.come(arrivals)
        tokens = self.claims.draining()
        self.draining = True
        assert sorted(tokens) == sorted(self.unclaimed.values())
        self.close(tokens)
        for id in self.unclaimed:
            self.unsaid.remove((Claim, id))
            self.unsaid.add((Refuse, id))
        self.unclaimed.clear()

    @rule(arrivals=arrivals, flushes=st.booleans())
    def write(self, arrivals: Arrivals, flushes: bool) -> None:
        self.come(arrivals)
        frames = self.claims.outgoing()
        if self.written:
            assert frames == []
        else:
            self.claiming, self.unclaimed = self.unclaimed, {}
            self.saidAtOnce(frames)
        if flushes:
            self.flush()

    def saidAtOnce(self, frames: list[Frame]) -> None:
        for frame in frames:
            self.said(frame)
            assert len(encode(frame)) <= 4 + MAXIMUM_PAYLOAD
        assert not self.unsaid, "something is kept back"
        assert self.drains == self.draining
        assert not any(isinstance(frame, Claim) for frame in frames[:-1])
        self.written = frames

    @rule()
    def flush(self) -> None:
        self.written = []
        self.serve(self.claims.flushed(), self.claiming)
        self.claiming = {}

    @rule(arrivals=arrivals)
    def revoke(self, arrivals: Arrivals) -> None:
        self.come(arrivals)
        self.revoked = True
        tokens = self.claims.revoked()
        assert sorted(tokens) == sorted(
            [*self.unclaimed.values(), *self.loose.values()]
        )
        self.close(tokens)
        self.unsaid -= {(Claim, id) for id in self.unclaimed}
        self.unclaimed.clear()
        self.loose.clear()

    @rule(window=st.integers(1, 4), arrivals=arrivals)
    def loseChannel(self, window: int, arrivals: Arrivals) -> None:
        """
        And find the listener again, with a new book.
        """
        self.come(arrivals)
        if self.revoked or self.draining or self.cutOff:
            self.close(self.claims.channelEndedAfterRevoke())
        else:
            mine, loose = self.claims.listenerDied()
            self.serve(mine, {**self.claiming, **self.unclaimed})
            assert sorted(loose) == sorted(self.loose.values())
            self.close(loose)
        assert not self.held
        assert self.claims.pending == 0
        self.begin(window)

    def teardown(self) -> None:
        if hasattr(self, "claims"):
            self.loseChannel(1, [])

    # What always holds

    @invariant()
    def everyDescriptorIsSomewhere(self) -> None:
        assert self.claims.pending == len(self.held)
        assert self.held == {
            *self.loose.values(),
            *self.unclaimed.values(),
            *self.claiming.values(),
        }

    @invariant()
    def oneWriteAtATime(self) -> None:
        assert self.claims.writing == bool(self.written)


# Both together

LISTENER = "the listener"
QUEUE = 4
BUDGET = 12
SILENCE = 5.0


class Client:
    """
    A client and its connection, as the kernel keeps them.

    @ivar port: the port that it came in by.
    @ivar descriptors: how many there are, by who holds them; those on their way
        belong to the L{Wire}.
    @ivar users: the workers that read or wrote something.
    @ivar answers: how many times it was answered.
    @ivar left: whether it went away.
    @ivar excuse: why it may be reset without an answer, if it may.
    @ivar channel: whom the listener has handed it to.
    @ivar claimed: when the listener heard it claimed.
    """

    def __init__(self, number: int, port: int, accepted: float, witness: bool) -> None:
        self.number = number
        self.port = port
        self.accepted = accepted
        self.witness = witness
        self.descriptors: Counter[Any] = Counter()
        self.users: set[Worker] = set()
        self.answers = 0
        self.left = False
        self.excuse = ""
        self.channel: Channel | None = None
        self.claimed: float | None = None

    def __repr__(self) -> str:
        return f"client {self.number}"

    @property
    def pristine(self) -> bool:
        return not self.users and not self.left

    @property
    def ended(self) -> bool:
        return not +self.descriptors

    def open(self, holder: Any) -> None:
        self.descriptors[holder] += 1

    def close(self, holder: Any) -> None:
        assert self.descriptors[holder] > 0, f"{self} is closed once too often"
        self.descriptors[holder] -= 1
        if self.ended:
            assert self.answers or self.left or self.excuse, f"{self} is reset"

    def use(self, worker: Worker) -> None:
        self.users.add(worker)
        assert len(self.users) == 1, f"{self} is served by two"

    def answer(self, worker: Worker) -> None:
        self.use(worker)
        self.answers += 1
        assert self.answers == 1, f"{self} is answered twice"


class Wire:
    """
    A channel, as the kernel keeps it: what is in it outlives who wrote it, but
    not who should read it.

    @ivar toWorker: frames, and descriptors, which are L{Client}s here.
    @ivar shut: whether the listener shut its reading side.
    """

    def __init__(self) -> None:
        self.toWorker: deque[Frame | Client] = deque()
        self.toListener: deque[Frame] = deque()
        self.listenerOpen = True
        self.workerOpen = True
        self.workerDied = False
        self.shut = False

    def closeWorker(self) -> None:
        self.workerOpen = False
        while self.toWorker:
            item = self.toWorker.popleft()
            if isinstance(item, Client):
                item.close(self)

    def closeListener(self) -> None:
        self.listenerOpen = False
        self.toListener.clear()


class Worker:
    """
    A worker's process: its book, and what L{portlisten._channel.protocol.WorkerChannel}
    does about it.

    @ivar unwritten: what it has said and the kernel has not taken.
    @ivar serving: what it has adopted, by id.
    @ivar offers: what it has of the listener and may not touch yet, by id.
    @ivar ended: whether it has done with the channel, but for its last words.
    """

    def __init__(
        self, world: PairMachine, window: int, names: tuple[str, ...], wire: Wire
    ) -> None:
        self.world = world
        self.wire = wire
        self.names = names or NAMES
        self.claims: Claims[Client] = Claims(window)
        self.unwritten: list[Frame] = [WorkerHello(window, names)]
        self.serving: dict[int, Client] = {}
        self.offers: dict[int, Client] = {}
        self.claimed: set[int] = set()
        self.alive = True
        self.draining = False
        self.drained = False
        self.revoked = False
        self.farewell = False
        self.ended = False

    @property
    def mayRead(self) -> bool:
        wire = self.wire
        return wire.workerOpen and bool(wire.toWorker or not wire.listenerOpen)

    @property
    def mayWrite(self) -> bool:
        return self.wire.workerOpen and bool(self.unwritten or self.ended)

    # What it hears

    def readStarved(self) -> None:
        self.read(starved=True)

    def readAll(self) -> None:
        while self.mayRead:
            self.read()

    def read(self, starved: bool = False) -> None:
        """
        Take in one thing.

        @param starved: whether there is no descriptor to spare.
        """
        if self.wire.toWorker:
            self.take(starved)
        else:
            self.lose()

    def writeAll(self) -> None:
        while self.mayWrite:
            self.write()

    def take(self, starved: bool = False) -> None:
        item = self.wire.toWorker.popleft()
        if isinstance(item, Client):
            if not starved:
                item.open(self)
                if self.ended or self.revoked:
                    self.discard([item])
                else:
                    self.discard(self.claims.arrived(item.number, item))
            elif not self.world.alive:
                item.excuse = "it came to a worker without descriptors to spare"
            item.close(self.wire)
        elif not self.ended:
            self.hear(item)
            self.pump()

    def hear(self, frame: Frame) -> None:
        if isinstance(frame, Offer):
            assert not self.drained, "an offer after DRAINED"
            client = self.world.clients[frame.cookie]
            assert NAMES[client.port] in self.names, "nobody asked for it"
            assert frame.port == client.port
            before = client.descriptors[self]
            closed = self.claims.offered(frame)
            if before and not closed:
                self.offers[frame.id] = client
            self.discard(closed)
        elif isinstance(frame, Drained):
            self.drained = True
        elif isinstance(frame, Revoked):
            self.revoked = True
            self.discard(self.claims.revoked())

    # What it does

    def pump(self) -> None:
        if self.ended:
            return
        frames = self.claims.outgoing()
        if frames:
            assert not self.unwritten or self.greeting, "two writes at a time"
            self.unwritten.extend(frames)
        elif not self.claims.writing:
            if self.farewell:
                self.unwritten.append(Bye("enough"))
            self.ended = self.farewell or self.revoked

    @property
    def greeting(self) -> bool:
        return isinstance(self.unwritten[0], WorkerHello)

    def write(self, count: int = 9) -> None:
        """
        Have the kernel take some frames, and all of them if there are fewer.
        """
        wire = self.wire
        if self.unwritten and (wire.shut or not wire.listenerOpen):
            self.lose()
            return
        now, self.unwritten = self.unwritten[:count], self.unwritten[count:]
        wire.toListener.extend(now)
        for frame in now:
            if isinstance(frame, Claim):
                self.claimed.update(frame.ids)
        if self.unwritten:
            return
        for offer, client in self.claims.flushed():
            assert offer.id in self.claimed, f"{client} is touched unclaimed"
            self.adopt(offer, client)
        if self.ended:
            self.close()
        else:
            self.pump()

    def adopt(self, offer: Offer, client: Client) -> None:
        assert self.offers.pop(offer.id) is client
        if client.left:
            client.close(self)
            if not self.ended:
                self.claims.clientGone(offer.id)
                self.pump()
        else:
            self.serving[offer.id] = client

    def useOne(self) -> None:
        if self.serving:
            pick(0, self.serving.values()).use(self)

    def finishOne(self) -> None:
        if self.serving:
            self.finish(pick(0, self.serving))

    def finish(self, id: int) -> None:
        client = self.serving.pop(id)
        if not client.left:
            client.answer(self)
        client.close(self)
        if not self.ended:
            self.claims.closed(id)
            self.pump()

    def drain(self) -> None:
        self.draining = True
        self.discard(self.claims.draining())
        self.pump()

    def bye(self) -> None:
        self.farewell = True
        self.drain()

    def lose(self) -> None:
        """
        The channel is broken: read what is left of it, and judge.
        """
        while self.wire.toWorker:
            self.take()
        self.close()

    def close(self) -> None:
        self.ended = True
        self.unwritten = []
        while self.wire.toWorker:
            self.take()
        self.wire.closeWorker()
        if self.revoked or self.farewell:
            self.discard(self.claims.channelEndedAfterRevoke())
        else:
            assert not self.world.alive, "the listener lives"
            mine, loose = self.claims.listenerDied()
            assert {offer.id: client for offer, client in mine} == self.offers
            for offer, client in mine:
                self.adopt(offer, client)
            self.discard(loose)
        assert self.claims.pending == 0

    def entitledTo(self, client: Client) -> bool:
        """
        Whether it has what it takes to serve a client without the listener.
        """
        wire = self.wire
        if client in self.serving.values():
            return True
        if self.ended or self.revoked or Revoked() in wire.toWorker:
            return False
        if client in self.offers.values():
            return True
        held = client.descriptors[self] + client.descriptors[wire] > 0
        coming = {each.cookie for each in wire.toWorker if isinstance(each, Offer)}
        return held and client.number in coming and not self.draining

    def discard(self, clients: list[Client]) -> None:
        for client in clients:
            self.offers = {
                id: each for id, each in self.offers.items() if each is not client
            }
            if not self.world.alive:
                client.excuse = "it came to a worker that takes no more"
            client.close(self)

    def kill(self) -> None:
        self.alive = False
        self.ended = True
        self.wire.workerDied = True
        for client in self.world.clients.values():
            copies = client.descriptors[LISTENER]
            if self in client.users:
                client.excuse = "its worker died in service"
            elif not copies and self.mayServe(client):
                client.excuse = "its worker died, and the copy was let go"
            for _ in range(client.descriptors[self]):
                client.close(self)
        if self.wire.workerOpen:
            self.wire.closeWorker()

    def mayServe(self, client: Client) -> bool:
        """
        Whether it is the one that the listener has handed it to.
        """
        return client.channel is not None and client.channel.wire is self.wire


class Channel:
    """
    The listener's end of a channel, which does what
    L{portlisten._channel.protocol.ListenerChannel} does.

    @ivar clients: what it was offered, by id.
    @ivar due: descriptors to be sent with the next bytes.
    @ivar outbox: frames that the kernel has not taken.
    """

    def __init__(self, world: PairMachine, window: int, wire: Wire) -> None:
        self.world = world
        self.window = window
        self.wire = wire
        self.clients: dict[int, Client] = {}
        self.due: list[Client] = []
        self.outbox: deque[Frame] = deque()
        self.joined = False
        self.revoking = False
        self.wordSaid = False
        self.ended = False
        self.departed = False
        self.asleep = False

    @property
    def readable(self) -> bool:
        wire = self.wire
        return not self.ended and bool(wire.toListener or not wire.workerOpen)

    @property
    def writable(self) -> bool:
        return not self.ended and bool(self.outbox or self.due)

    @property
    def shuttable(self) -> bool:
        return not self.ended and self.wordSaid

    def offer(self, id: int, port: int, client: Client) -> None:
        assert self.joined
        assert not self.revoking
        assert client.channel is None, f"{client} is handed to two"
        client.channel, client.claimed = self, None
        self.clients[id] = client
        self.due.append(client)
        self.outbox.append(Offer(id, port, client.number))

    def write(self, count: int = 9) -> None:
        if not self.wire.workerOpen:
            self.lose()
            return
        for client in self.due:
            assert client.descriptors[LISTENER], f"{client} is closed before it is sent"
            client.open(self.wire)
            self.wire.toWorker.append(client)
        self.due = []
        for _ in range(min(count, len(self.outbox))):
            self.wire.toWorker.append(self.outbox.popleft())
        if self.revoking and not self.outbox:
            self.sayRevoked()

    def read(self) -> None:
        """
        Take in one frame, or find that there will be no more.
        """
        if self.wire.toListener:
            self.hear(self.wire.toListener.popleft())
        elif not self.wire.workerOpen:
            self.lose()

    def readAll(self) -> None:
        while self.readable:
            self.read()

    def writeAll(self) -> None:
        while self.writable:
            self.write()

    def hear(self, frame: Frame) -> None:
        world, ledger = self.world, self.world.ledger
        if isinstance(frame, WorkerHello):
            self.joined = True
            names = frame.names or NAMES
            world.run(ledger.joined(self, frame.window, world.now, names))
        elif isinstance(frame, Claim):
            self.claimed(frame.ids)
        elif isinstance(frame, Refuse):
            for id in frame.ids:
                self.clients.pop(id).channel = None
            world.run(ledger.refused(self, frame.ids, world.now))
        elif isinstance(frame, Closed | ClientGone):
            event = ledger.closed if isinstance(frame, Closed) else ledger.gone
            world.run(event(self, frame.ids, world.now), self.named(frame.ids))
        elif isinstance(frame, Drain):
            ledger.draining(self)
            if not self.revoking:
                self.outbox.append(Drained())
        elif isinstance(frame, Bye):
            self.part()

    def claimed(self, ids: Iterable[int]) -> None:
        world, ledger = self.world, self.world.ledger
        for client in self.named(ids):
            client.claimed = world.now
        decisions = ledger.claimed(self, tuple(ids), world.now)
        joined = sum(channel.joined for channel in world.channels)
        full = len(ledger.copiesOf(self)) == max(self.window, BUDGET // 2 // joined)
        earlier = [
            client
            for client in self.having(claimed=True)
            if client not in self.named(ids)
        ]
        unseen = [client for client in self.named(ids) if not client.witness]
        world.run(decisions, [*(earlier if full else []), *unseen])

    def named(self, ids: Iterable[int]) -> list[Client]:
        return [self.clients[id] for id in ids]

    def having(self, claimed: bool) -> list[Client]:
        return [
            client
            for client in self.clients.values()
            if client.channel is self and (client.claimed is not None) == claimed
        ]

    def revoke(self) -> None:
        self.revoking = True
        self.world.ledger.revoking(self)
        if not self.outbox:
            self.sayRevoked()

    def sayRevoked(self) -> None:
        if self.wire.workerOpen and not self.wordSaid:
            self.wire.toWorker.append(Revoked())
            self.wordSaid = True

    def shut(self) -> None:
        self.wire.shut = True
        while self.wire.toListener and not self.ended:
            self.hear(self.wire.toListener.popleft())
        self.part()

    def part(self) -> None:
        if self.ended:
            return
        self.end()
        for client in self.having(claimed=False):
            client.channel = None
        world = self.world
        self.departed = True
        self.asleep = bool(self.wire.toWorker)
        world.run(
            world.ledger.parted(self, world.now, self.asleep), self.having(claimed=True)
        )

    def look(self) -> None:
        """
        See what became of a worker that has left.
        """
        if not self.departed:
            return
        ledger, now = self.world.ledger, self.world.now
        copies = ledger.copiesOf(self)
        if self.wire.workerDied:
            self.departed = False
            touched = [client for client in copies if not client.pristine]
            for client in copies:
                if client not in touched:
                    client.channel = None
            self.world.run(ledger.ended(self, touched, now))
        elif self.asleep and not self.wire.toWorker:
            self.asleep = False
            for client in copies:
                client.claimed = now
            ledger.awoke(self, now)

    def lose(self) -> None:
        """
        The worker is gone: read what is left of it, and judge.  It is not dead
        for sure if it may have heard that it is revoked.
        """
        while self.wire.toListener and not self.ended:
            self.hear(self.wire.toListener.popleft())
        if self.wordSaid:
            self.part()
        if self.ended:
            return
        joined = self.joined
        self.end()
        if not joined:
            return
        world = self.world
        copies = world.ledger.copiesOf(self)
        touched = [client for client in copies if not client.pristine]
        for client in [*self.having(claimed=False), *copies]:
            if client not in touched:
                client.channel = None
        world.run(world.ledger.died(self, touched, world.now))

    def end(self) -> None:
        self.ended = True
        self.joined = False
        self.due = []
        self.outbox.clear()
        self.wire.closeListener()


class PairMachine(RuleBasedStateMachine):
    """
    A listener and its workers: both books, joined by a small model of what the
    kernel does.  Whoever is not chosen for a while hangs.

    @ivar alive: whether the listener is.
    """

    @initialize(
        roundRobin=st.booleans(),
        crew=crews,
    )
    def begin(self, roundRobin: bool, crew: list[tuple[int, tuple[str, ...]]]) -> None:
        self.ledger = Ledger(
            QUEUE, BUDGET, PATIENCE, HOLD, CLAIM_TIMEOUT, PAUSE, roundRobin, NAMES
        )
        self.port = 0
        self.now = 0.0
        self.alive = True
        self.clients: dict[int, Client] = {}
        self.workers: list[Worker] = []
        self.channels: list[Channel] = []
        self.givenUp: Counter[Reason] = Counter()
        for window, names in crew:
            self.join(window, names)
            self.workers[-1].writeAll()
            self.channels[-1].readAll()

    # What comes of it

    def run(self, decisions: list[Decision], mayLetGo: Collection[Client] = ()) -> None:
        """
        Do as the ledger says.

        @param mayLetGo: the only connections that it may now let go while they
            are pristine.
        """
        for decision in decisions:
            if isinstance(decision, Revoke):
                decision.channel.revoke()
                continue
            client = decision.connection
            assert client.descriptors[LISTENER] == 1
            if isinstance(decision, HandOff):
                decision.channel.offer(decision.id, decision.port, client)
            elif isinstance(decision, LetGo):
                assert not client.pristine or client in mayLetGo
                if client.channel.wire.workerDied:
                    client.excuse = client.excuse or "the copy was let go"
                client.close(LISTENER)
            else:
                self.giveUp(client, decision.reason)

    def giveUp(self, client: Client, reason: Reason) -> None:
        if reason is Reason.TIMED_OUT:
            assert self.now - client.accepted >= PATIENCE
            client.excuse = "its patience ran out"
        else:
            assert reason is Reason.LOST_IN_SERVICE
            assert not client.pristine
        self.givenUp[reason] += 1
        client.close(LISTENER)

    def living(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.alive]

    def open(self) -> list[Worker]:
        """
        The workers that may still say something.
        """
        return [each for each in self.living() if not (each.ended or each.farewell)]

    def able(self, what: str) -> list[Any]:
        """
        The living workers of which something is so, or the channels.
        """
        ends: list[Any] = [*self.living(), *self.channels]
        return [end for end in ends if getattr(end, what, False)]

    # What happens

    @rule(clients=few, witness=mostly, stages=stages)
    def allGetOn(self, clients: int, witness: bool, stages: int) -> None:
        """
        Clients connect, and the listener and its workers do what there is to do
        up to some point.
        """
        self.accept(clients, witness)
        for worker in self.living():
            self.getOn(worker, stages)

    @precondition(lambda self: self.living())
    @rule(clients=few, witness=mostly, which=one, stages=stages)
    def oneGetsOn(self, clients: int, witness: bool, which: int, stages: int) -> None:
        """
        Likewise, but all other workers hang.
        """
        self.accept(clients, witness)
        self.getOn(pick(which, self.living()), stages)

    @precondition(lambda self: self.living())
    @rule(clients=few, witness=mostly, which=one, stages=stages)
    def oneIsKilled(self, clients: int, witness: bool, which: int, stages: int) -> None:
        """
        Likewise, and this one is killed there.
        """
        worker = pick(which, self.living())
        self.accept(clients, witness)
        self.getOn(worker, stages)
        worker.kill()

    @precondition(lambda self: self.alive and self.living())
    @rule(clients=few, which=one, stages=stages)
    def oneHangs(self, clients: int, which: int, stages: int) -> None:
        """
        Likewise, and this one hangs there for too long.
        """
        worker = pick(which, self.living())
        others = [other for other in self.living() if other is not worker]
        self.accept(clients, True)
        self.getOn(worker, stages)
        for other in others:
            self.getOn(other, 8)
        self.passTime(CLAIM_TIMEOUT, True)
        for channel in self.able("shuttable"):
            channel.shut()
        for other in others:
            self.getOn(other, 8)

    def getOn(self, worker: Worker, stages: int) -> None:
        channel = self.channels[self.workers.index(worker)]
        for stage in (
            worker.writeAll,
            channel.readAll,
            channel.writeAll,
            worker.readAll,
            worker.writeAll,
            channel.readAll,
            worker.useOne,
            worker.finishOne,
        )[:stages]:
            stage()

    @rule(
        what=st.sampled_from(
            [
                ("readable", Channel.read),
                ("writable", Channel.write),
                ("shuttable", Channel.shut),
                ("mayRead", Worker.read),
                ("mayRead", Worker.readStarved),
                ("mayWrite", Worker.write),
                ("serving", Worker.useOne),
                ("serving", Worker.finishOne),
            ]
        ),
        which=one,
        times=st.integers(1, 6),
    )
    def takeSteps(self, what: tuple[str, Any], which: int, times: int) -> None:
        """
        Somebody takes a few steps of one kind.
        """
        who, step = what
        for _ in range(times):
            if there := self.able(who):
                step(pick(which, there))

    @precondition(lambda self: self.alive)
    @rule(delay=delays, sweeps=st.booleans())
    def passTime(self, delay: float, sweeps: bool) -> None:
        self.now += delay
        if sweeps:
            self.sweep()
        self.tick()

    @precondition(lambda self: self.alive and len(self.living()) < 5)
    @rule(window=sizes, names=wants)
    def join(self, window: int, names: tuple[str, ...] = ()) -> None:
        wire = Wire()
        self.workers.append(Worker(self, window, names, wire))
        self.channels.append(Channel(self, window, wire))

    @precondition(lambda self: self.open())
    @rule(which=one)
    def workerDrains(self, which: int) -> None:
        pick(which, self.open()).drain()

    @precondition(lambda self: self.open())
    @rule(which=one)
    def workerParts(self, which: int) -> None:
        pick(which, self.open()).bye()

    @precondition(lambda self: self.clients)
    @rule(which=st.integers(0, 30))
    def clientLeaves(self, which: int) -> None:
        client = pick(which, self.clients.values())
        client.left = client.left or not client.ended

    @precondition(lambda self: self.alive and len(self.clients) > 3)
    @rule(sure=st.sampled_from([False, False, False, True]))
    def listenerDies(self, sure: bool) -> None:
        if not sure:
            return
        self.alive = False
        for client in self.clients.values():
            if not any(worker.entitledTo(client) for worker in self.able("alive")):
                client.excuse = client.excuse or "the listener died"
            for _ in range(client.descriptors[LISTENER]):
                client.close(LISTENER)
        for channel in self.channels:
            channel.end()

    # What the listener does

    def accept(self, count: int, witness: bool) -> None:
        """
        Accept from the ports in turn.
        """
        self.port = (self.port + 1) % len(NAMES)
        name = NAMES[self.port]
        batch = []
        for _ in range(min(count, self.ledger.room(name) if self.alive else 0)):
            client = Client(len(self.clients), self.port, self.now, witness)
            client.open(LISTENER)
            self.clients[client.number] = client
            batch.append(client)
        if batch:
            self.run(self.ledger.accepted(self.port, batch, self.now, witness, name))

    def tick(self) -> None:
        for channel in self.channels:
            channel.look()
        silent = [
            client
            for client in self.ledger.copies()
            if self.now - client.claimed >= HOLD
        ]
        self.run(self.ledger.ticked(self.now), silent)

    def sweep(self) -> None:
        touched = [client for client in self.ledger.copies() if not client.pristine]
        self.run(self.ledger.witnessed(touched))
        assert all(client.pristine for client in self.ledger.copies())

    # The end

    def teardown(self) -> None:
        """
        From now on nobody dies or hangs, and there is somebody to serve.
        """
        if not hasattr(self, "ledger"):
            return
        for _ in range(300):
            if self.quiet():
                break
            self.goOn()
        else:
            raise AssertionError("something is stuck")
        self.everythingIsSettled()

    def quiet(self) -> bool:
        return all(client.ended for client in self.clients.values()) and not any(
            self.able(what) for what in ("mayRead", "mayWrite", "readable", "writable")
        )

    def goOn(self) -> None:
        if self.alive and self.ledger.waiting and not self.ledger.hasTakers:
            self.join(4)
        for channel in self.channels:
            channel.writeAll()
        for worker in self.living():
            worker.readAll()
            worker.writeAll()
            while worker.serving:
                worker.finishOne()
        for channel in self.channels:
            channel.readAll()
            if channel.shuttable:
                channel.shut()
        if self.alive:
            self.passTime(PAUSE, True)

    def everythingIsSettled(self) -> None:
        for client in self.clients.values():
            assert client.answers or client.left or client.excuse
        for worker in self.living():
            assert worker.claims.pending == 0
        if not self.alive:
            return
        ledger, counters = self.ledger, self.ledger.counters
        assert ledger.held == 0
        assert counters.accepted == len(self.clients)
        assert counters.timedOut == self.givenUp[Reason.TIMED_OUT]
        assert counters.lostInService >= self.givenUp[Reason.LOST_IN_SERVICE]
        ends = counters.claimed - counters.redispatched + counters.timedOut
        assert ends <= counters.accepted
        assert counters.offered <= (
            counters.accepted + counters.refused + counters.redispatched
        )

    # What always holds

    @invariant()
    def noCopyLeaks(self) -> None:
        held = sum(client.descriptors[LISTENER] for client in self.clients.values())
        assert held == (self.ledger.held if self.alive else 0)
        assert held <= BUDGET

    @invariant()
    def noDescriptorLeaks(self) -> None:
        for worker in self.workers:
            held = sum(client.descriptors[worker] for client in self.clients.values())
            expected = worker.claims.pending + len(worker.serving)
            assert held == (expected if worker.alive else 0)

    @invariant()
    def nobodyHasTwoWorkers(self) -> None:
        served = Counter(
            client for worker in self.living() for client in worker.serving.values()
        )
        assert not served or max(served.values()) == 1

    @invariant()
    def theWindowsHold(self) -> None:
        for channel in self.channels:
            assert len(channel.having(claimed=False)) <= channel.window


class MachineTests(SynchronousTestCase):
    """
    Each machine, through many histories.
    """

    def test_ledger(self) -> None:
        """
        Whatever the order of events, the listener's book is right, and keeps to
        its limits and its order, and to what each worker wants.
        """
        run_state_machine_as_test(LedgerMachine, settings=SETTINGS)

    def test_claims(self) -> None:
        """
        Whatever the order of events, the worker's book gives each descriptor
        back once, and says each thing once, the claims last.
        """
        run_state_machine_as_test(ClaimsMachine, settings=SETTINGS)

    def test_pair(self) -> None:
        """
        Whoever is killed or hangs, and whenever: nothing lost, nothing doubled,
        nothing offered to whom it is not for, no descriptor leaked.
        """
        run_state_machine_as_test(PairMachine, settings=SETTINGS)
