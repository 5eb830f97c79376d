"""
Stateful tests of L{portlisten._policy.ledger}: the ledger alone, against a model of it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import astuple
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

from portlisten._policy.counters import Counters
from portlisten._policy.decisions import (
    CloseCopy,
    Decision,
    GiveUp,
    HandOff,
    Reason,
    Revoke,
    Watch,
)
from portlisten._policy.inventory import Holdings, QueueSummary, Whereabouts
from portlisten._policy.ledger import Ledger
from tests.support.ledger_model import Connection, Side, checkEnds, checkSides
from tests.support.machines import (
    CLAIM_TIMEOUT,
    HOLD,
    NAMES,
    PATIENCE,
    PAUSE,
    SILENCE,
    crews,
    delays,
    few,
    firsts,
    limits,
    mostly,
    one,
    pick,
    pickSome,
    refuses,
    sizes,
    some,
    spoils,
    waits,
    wants,
)
from tests.support.settings import SETTINGS


class LedgerMachine(RuleBasedStateMachine):
    """
    The ledger gets all possible events in any possible order.
    """

    LEDGER: Any = Ledger

    @initialize(
        queue=st.integers(0, 5),
        budget=st.integers(1, 20),
        roundRobin=st.booleans(),
        crew=crews,
        firsts=st.booleans(),
        clients=few,
    )
    def begin(
        self,
        queue: int,
        budget: int,
        roundRobin: bool,
        crew: list[tuple[int, tuple[str, ...], int | None, float | None]],
        firsts: bool,
        clients: int,
    ) -> None:
        self.ledger: Ledger = self.LEDGER(
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
        self.firsts = firsts
        self.keepsSilent = True
        self.holds = dict.fromkeys(NAMES, 0.0)
        self.holdsBegan = dict.fromkeys(NAMES, 0.0)
        for worker in crew:
            self.join(*worker)
        self.accept(clients, set())

    # What comes of it

    def obey(self, decisions: list[Decision], *expected: Decision) -> None:
        """
        Compare the decisions to the expected ones, except for those that come of
        offering, and check the rules for each of these.
        """
        self.updateHolds()
        # Silent ones are given up only after the offers.
        held = self.ledger.held + sum(
            isinstance(each, GiveUp) and each.connection.silent for each in decisions
        )
        self.crowded = held >= self.budget
        others = [each for each in decisions if not self.comesOfOffering(each)]
        assert others == list(expected)
        new = []
        for decision in decisions:
            if isinstance(decision, HandOff):
                self.handOff(decision)
            elif isinstance(decision, Watch):
                new.append(decision.connection)
                assert decision.connection.silent
                assert decision.connection in self.waiting
                assert not decision.connection.watched
                decision.connection.watched = True
            elif self.comesOfOffering(decision):
                assert isinstance(decision, GiveUp)
                self.giveUpSilent(decision.connection)
        assert not any(map(self.ready, NAMES)), "somebody waits for no reason"
        for each in self.due():
            assert not self.sidesForSilent(each), "a silent one is kept for no reason"
            assert each in new or not (self.mustGo(each) and self.sidesFor(each.name))
        self.ledger.watched(new)
        for each in self.waiting:
            assert each.watched == each.silent

    def comesOfOffering(self, decision: Decision) -> bool:
        if isinstance(decision, GiveUp):
            return decision.reason is Reason.SILENT
        return isinstance(decision, (HandOff, Watch))

    def updateHolds(self) -> None:
        """
        See how long silent ones are kept, and which ones become silent.
        """
        for name in self.holds:
            firsts = [
                side.first for side in self.sides if side.open and side.wants(name)
            ]
            kept = self.keepsSilent and firsts and None not in firsts
            hold = min(each or 0.0 for each in firsts) if kept else 0.0
            if hold and not self.holds[name]:
                self.holdsBegan[name] = self.now
                for each in self.queued(name):
                    each.silent = not each.heard
            self.holds[name] = hold

    def ready(self, name: str) -> list[Side]:
        """
        The workers that a ready connection of this name may go to, if any waits.
        """
        if all(each.silent for each in self.queued(name)):
            return []
        return self.sidesFor(name)

    def sidesFor(self, name: str) -> list[Side]:
        return [side for side in self.sides if side.room(self.now) and side.wants(name)]

    def sidesForSilent(self, connection: Connection) -> list[Side]:
        return [
            side
            for side in self.sidesFor(connection.name)
            if side.mayHaveSilent() or not self.holds[connection.name]
        ]

    def due(self) -> list[Connection]:
        """
        The silent ones that may be offered, one of each name.
        """
        return [
            oldest
            for name in dict.fromkeys(NAMES)
            if (silent := [each for each in self.queued(name) if each.silent])
            and (oldest := min(silent, key=self.order))
            and (self.full(name) or self.wasKept(oldest))
        ]

    def full(self, name: str) -> bool:
        return self.crowded or self.free(name) <= 0

    def mustGo(self, connection: Connection) -> bool:
        full = self.full(connection.name) and self.wasKept(connection)
        return full or self.isOver(connection)

    def isOver(self, connection: Connection) -> bool:
        return self.now - connection.accepted >= PATIENCE

    def wasKept(self, connection: Connection) -> bool:
        began = max(connection.accepted, self.holdsBegan[connection.name])
        kept = self.now - began >= self.holds[connection.name]
        return kept or self.isOver(connection)

    def queued(self, name: str) -> list[Connection]:
        return [each for each in self.waiting if each.name == name]

    def room(self, name: str) -> int:
        room = sum(side.room(self.now) for side in self.sides if side.wants(name))
        room += self.free(name)
        return max(0, min(room, self.budget - self.ledger.held))

    def free(self, name: str) -> int:
        placeless = min(len(self.placeless(name)), self.queue // 2)
        return self.queue - len(self.queued(name)) + placeless

    def placeless(self, name: str) -> list[Connection]:
        return [each for each in self.queued(name) if each.ended is not None]

    def rooms(self) -> list[int]:
        """
        The ports that something may come in by.
        """
        return [port for port, name in enumerate(NAMES) if self.room(name)]

    def handOff(self, decision: HandOff) -> None:
        side = decision.channel
        able = self.sidesFor(decision.connection.name)
        candidates = [
            each for each in self.waiting if not each.silent and self.ready(each.name)
        ]
        if decision.connection.silent:
            assert not candidates, "one that is ready is passed over"
            candidates = [each for each in self.due() if self.sidesForSilent(each)]
            able = self.sidesForSilent(decision.connection)
        assert candidates, "it is too early"
        oldest = min(candidates, key=lambda each: each.order)
        assert decision.connection is oldest, "another one waits longer"
        first = min(
            able,
            key=lambda each: (0 if self.roundRobin else each.load, each.turn),
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
        if oldest.silent and side.limit is not None and self.holds[oldest.name]:
            side.silent.add(decision.id)
        self.crowded = self.crowded and not oldest.silent
        oldest.silent = oldest.watched = False
        self.counters.offered += 1

    def giveUpSilent(self, connection: Connection) -> None:
        assert connection in self.due()
        assert self.mustGo(connection)
        assert self.sidesFor(connection.name)
        assert not self.sidesForSilent(connection)
        self.crowded = False
        self.waiting.remove(connection)
        self.counters.silentTooLong += 1

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
        The copies of workers that have left and stand still, and of those that say
        before others touch their connections.
        """
        return self.copiesOf([*self.sides, *self.departed], True)

    def tooManySleep(self) -> list[Connection]:
        sleeping = self.sleeping()
        return sleeping[: max(0, len(sleeping) - self.budget // 4)]

    def copiesOf(self, sides: list[Side], untimed: bool) -> list[Connection]:
        found = [
            copy for side in sides if side.untimed is untimed for copy in side.copies
        ]
        return sorted(found, key=lambda copy: copy.claim)

    def claimAnew(self, copies: list[Connection]) -> None:
        """
        Put copies at the end of the order.
        """
        for copy in copies:
            self.claims += 1
            copy.claim = self.claims

    def letGo(self, connections: Collection[Connection]) -> list[CloseCopy]:
        for side in self.departed:
            kept = [copy for copy in side.copies if copy in connections]
            self.counters.leftWithWorker += len(kept)
        for side in [*self.sides, *self.departed]:
            side.copies = [copy for copy in side.copies if copy not in connections]
        self.departed = [side for side in self.departed if side.copies]
        return [CloseCopy(connection) for connection in connections]

    def keepsOwn(self, side: Side) -> None:
        """
        A worker leaves, and keeps what it serves.
        """
        self.counters.given += len(side.given)
        self.counters.leftWithWorker += (
            len(side.serving) - len(side.copies) - len(side.given)
        )

    def spoil(self, offers: list[Connection], what: set[int]) -> list[Connection]:
        """
        A worker spoils some of its offers.

        @return: those of the offers that are spoiled.
        """
        if not offers or not what:
            return []
        spoiled = pickSome(what, offers)
        self.counters.unusable += len(spoiled)
        return [each for each in offers if each in spoiled]

    def again(self, connections: Collection[Connection]) -> None:
        self.counters.redispatched += len(connections)
        self.wait(connections)

    def wait(self, connections: Iterable[Connection]) -> None:
        for connection in connections:
            connection.ended = None
            connection.silent = not connection.heard and self.holds[connection.name] > 0
            self.waiting.append(connection)

    def having(self, what: str) -> list[Side]:
        return [side for side in self.sides if getattr(side, what)]

    # What happens

    @rule(count=few, speak=st.sets(one), witness=mostly, waited=waits)
    def accept(
        self,
        count: int,
        speak: set[int],
        witness: bool = True,
        waited: float = 0.0,
    ) -> None:
        """
        Connections come in, from clients, or from the listener before this one.
        """
        for _ in range(count):
            self.last += 1
            connection = Connection(self.last, self.now - waited, witness)
            if self.room(connection.name):
                spoken = [connection] if self.last % 8 in speak else []
                self.add(connection.port, [connection], spoken, witness, waited)

    def add(
        self,
        port: int,
        batch: list[Connection],
        spoken: list[Connection],
        witness: bool = True,
        waited: float = 0.0,
    ) -> None:
        """
        Connections come in.

        @param spoken: those from whose clients something has come.
        @param waited: how long they have waited at another listener, in seconds.
        """
        name = NAMES[port]
        self.updateHolds()
        keeps = self.ledger.keeps(name, self.now)
        assert keeps == (self.holds[name] > 0)
        for each in batch:
            each.heard = keeps and each in spoken
        silent = {each for each in batch if each not in spoken}
        self.counters.accepted += len(batch)
        self.wait(batch)
        self.obey(
            self.ledger.addConnections(
                port,
                batch,
                self.now,
                witness,
                name,
                silent if keeps else None,
                waited,
            )
        )

    @precondition(lambda self: self.rooms())
    @rule(which=one, speak=st.sets(one))
    def acceptAll(self, which: int, speak: set[int]) -> None:
        """
        As many connections as fit the capacity, all of one port.
        """
        port = pick(which, self.rooms())
        name = NAMES[port]
        first = self.last - self.last % 3 + 3 + port
        numbers = [first + 3 * each for each in range(self.room(name))]
        batch = [Connection(each, self.now, True) for each in numbers]
        self.last = batch[-1].number
        spoken = [each for each in batch if each.number % 8 in speak]
        room = sum(side.room(self.now) for side in self.sides if side.wants(name))
        given = self.counters.silentTooLong
        self.add(port, batch, spoken)
        given = self.counters.silentTooLong - given
        assert len(self.queued(name)) <= self.queue * 3 // 2 + room
        if len(spoken) == len(batch) or not self.holds[name]:
            assert self.ledger.capacity(name) <= given
            assert len(self.queued(name)) <= self.queue * 3 // 2

    @precondition(lambda self: len(self.sides) < 4)
    @rule(window=sizes, names=wants, limit=limits, first=firsts, gives=st.booleans())
    def join(
        self,
        window: int,
        names: tuple[str, ...],
        limit: int | None = None,
        first: float | None = None,
        gives: bool = False,
    ) -> None:
        first = first if self.firsts else None
        side = Side(window, window, names, limit, first, gives=gives)
        self.sides.append(side)
        self.obey(
            self.ledger.addWorker(
                side, window, self.now, names, limit=limit, first=first, gives=gives
            )
        )

    @precondition(lambda self: not any(side.takesOver for side in self.sides))
    @rule(window=sizes, names=wants)
    def beSucceeded(self, window: int, names: tuple[str, ...]) -> None:
        """
        The next listener joins as a worker.
        """
        side = Side(window, window, names, takesOver=True)
        self.sides.append(side)
        self.obey(self.ledger.addWorker(side, window, self.now, names, takesOver=True))

    @precondition(lambda self: self.sides)
    @rule(which=one, count=few)
    def serveOthers(self, which: int, count: int) -> None:
        """
        A worker says how many connections it has from another listener.
        """
        side = pick(which, self.sides)
        side.elsewhere = count
        self.obey(self.ledger.serving(side, count, self.now))

    @precondition(lambda self: self.waiting)
    @rule(what=some)
    def clientsSpeak(self, what: set[int]) -> None:
        """
        Something comes from some clients, whether they are watched or not.
        """
        speak = pickSome(what, self.waiting)
        for each in speak:
            each.heard = each.heard or each.silent
            each.silent = each.watched = False
        self.obey(self.ledger.spoke(speak, self.now))

    @precondition(lambda self: self.having("offered"))
    @rule(which=one, what=some, before=few)
    def claim(self, which: int, what: set[int], before: int = 0) -> None:
        self.accept(before, what)
        side = pick(which, self.having("offered"))
        ids = pickSome(what, side.offered)
        side.usable = min(side.window, side.usable + 1)
        expected = []
        for id in ids:
            connection = side.offered.pop(id)
            if side.takesOver:
                self.counters.handedOver += 1
                expected.append(CloseCopy(connection))
                continue
            side.serving[id] = connection
            if connection.witness:
                self.claims += 1
                connection.since, connection.claim = self.now, self.claims
                side.copies.append(connection)
            else:
                expected.append(CloseCopy(connection))
        excess = side.copies[: max(0, len(side.copies) - self.share(side))]
        self.counters.claimed += len(ids)
        decisions = self.ledger.claim(side, ids, self.now)
        expected += self.letGo(excess)
        if side.gives:
            expected += self.letGo(self.tooManySleep())
        self.obey(decisions, *expected)

    @precondition(lambda self: self.having("serving"))
    @rule(which=one, what=some)
    def give(self, which: int, what: set[int]) -> None:
        """
        A worker says that other processes may touch some connections.  It may say so of
        any that it serves, and again.
        """
        side = pick(which, self.having("serving"))
        ids = pickSome(what, side.serving)
        side.given.update(ids)
        given = [side.serving[id] for id in ids]
        expected = self.letGo([each for each in given if each in side.copies])
        assert self.ledger.give(side, ids) == expected

    @precondition(lambda self: self.having("offered"))
    @rule(which=one, what=some, spoils=spoils)
    def refuse(self, which: int, what: set[int], spoils: set[int]) -> None:
        side = pick(which, self.having("offered"))
        ids = pickSome(what, side.offered)
        refused = [side.offered.pop(id) for id in ids]
        spoiled = self.spoil(refused, spoils)
        if len(spoiled) < len(refused):
            side.usable = max(1, side.usable // 2)
            side.resume = self.now + PAUSE
        side.silent.difference_update(ids)
        self.wait([each for each in refused if each not in spoiled])
        self.counters.refused += len(ids)
        self.obey(
            self.ledger.refuse(side, ids, self.now, spoiled),
            *(GiveUp(each, Reason.UNUSABLE) for each in spoiled),
        )

    @precondition(lambda self: self.having("serving"))
    @rule(which=one, what=some, left=st.booleans())
    def close(self, which: int, what: set[int], left: bool) -> None:
        side = pick(which, self.having("serving"))
        ids = pickSome(what, side.serving)
        ended = [side.serving.pop(id) for id in ids]
        side.silent.difference_update(ids)
        side.given.difference_update(ids)
        expected = self.letGo([each for each in ended if each in side.copies])
        if left:
            self.counters.goneBeforeAdoption += len(ids)
        else:
            self.counters.finished += len(ids)
        event = self.ledger.clientGone if left else self.ledger.close
        self.obey(event(side, ids, self.now), *expected)

    @precondition(lambda self: self.sides)
    @rule(which=one, own=st.booleans())
    def lie(self, which: int, own: bool) -> None:
        """
        A worker names a connection twice, or names another worker's connection among
        its own.  None of these ids counts.
        """
        side = pick(which, self.sides)
        for event, ids in (
            (self.ledger.claim, side.offered),
            (self.ledger.refuse, side.offered),
            (self.ledger.close, side.serving),
            (self.ledger.clientGone, side.serving),
        ):
            wrong = [*ids, *ids] if own and ids else [*ids, 4711]
            assert refuses(lambda: event(side, wrong, self.now))  # noqa: B023
        assert refuses(lambda: self.ledger.give(side, [*side.serving, 4711]))

    @rule()
    def strangerSpeaks(self) -> None:
        """
        A worker that has not joined can report nothing.
        """
        stranger = Side(1, 1, NAMES)
        for event in (self.ledger.claim, self.ledger.refuse, self.ledger.close):
            assert refuses(lambda: event(stranger, [1], self.now))  # noqa: B023
        assert refuses(lambda: self.ledger.drain(stranger))
        assert refuses(lambda: self.ledger.revoke(stranger))
        assert self.ledger.outstanding(stranger) == 0
        assert self.ledger.copiesOf(stranger) == []
        assert not self.ledger.knows(stranger)
        assert self.ledger.serving(stranger, 1, self.now) == []

    @precondition(lambda self: self.sides)
    @rule(which=one)
    def drain(self, which: int) -> None:
        side = pick(which, self.sides)
        side.open = False
        self.ledger.drain(side)

    @precondition(lambda self: self.sides)
    @rule(which=one)
    def cutOff(self, which: int) -> None:
        side = pick(which, self.sides)
        self.counters.revoked += not side.revoked
        side.open, side.revoked = False, True
        self.ledger.revoke(side)

    @precondition(lambda self: self.sides)
    @rule(
        which=one,
        claims=st.sets(one),
        touches=st.sets(one),
        before=few,
        spoils=spoils,
    )
    def die(
        self,
        which: int,
        claims: set[int],
        touches: set[int],
        before: int,
        spoils: set[int],
    ) -> None:
        self.accept(before, claims)
        if claims and self.having("offered"):
            self.claim(which, claims)
        side = pick(which, self.having("copies") or self.sides)
        touched = pickSome(touches, side.copies) if side.copies else []
        untouched = [copy for copy in side.copies if copy not in touched]
        self.counters.lostInService += (
            len(side.serving) - len(side.copies) - len(side.given) + len(touched)
        )
        self.counters.given += len(side.given)
        self.sides.remove(side)
        offers = list(side.offered.values())
        spoiled = self.spoil(offers, spoils)
        self.again([*untouched, *(each for each in offers if each not in spoiled)])
        self.obey(
            self.ledger.workerDied(side, touched, self.now, spoiled),
            *(GiveUp(each, Reason.LOST_IN_SERVICE) for each in touched),
            *(GiveUp(each, Reason.UNUSABLE) for each in spoiled),
        )

    @precondition(lambda self: self.sides)
    @rule(which=one, before=few, asleep=st.booleans(), spoils=spoils)
    def part(self, which: int, before: int, asleep: bool, spoils: set[int]) -> None:
        self.accept(before, {which})
        side = pick(which, self.sides)
        self.sides.remove(side)
        side.open, side.asleep = False, asleep
        self.keepsOwn(side)
        if side.copies:
            self.departed.append(side)
        if asleep != side.gives:
            self.claimAnew(side.copies)
        if side.gives and not asleep:
            side.gives = False
            for copy in side.copies:
                copy.since = self.now
        excess = self.tooManySleep()
        offers = list(side.offered.values())
        spoiled = self.spoil(offers, spoils)
        self.again([each for each in offers if each not in spoiled])
        side.offered.clear()
        decisions = self.ledger.workerLeft(side, self.now, asleep, spoiled)
        self.obey(
            decisions,
            *self.letGo(excess if asleep else []),
            *(GiveUp(each, Reason.UNUSABLE) for each in spoiled),
        )

    @precondition(lambda self: self.departed)
    @rule(which=one)
    def wake(self, which: int) -> None:
        side = pick(which, self.departed)
        if side.asleep:
            side.asleep = side.gives = False
            self.claimAnew(side.copies)
            for copy in side.copies:
                copy.since = self.now
        self.ledger.workerAwoke(side, self.now)

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
            self.ledger.processEnded(side, touched, self.now),
            *(GiveUp(each, Reason.LOST_IN_SERVICE) for each in touched),
        )
        assert self.ledger.processEnded(side, [], self.now) == []

    @precondition(lambda self: self.waiting)
    @rule(what=some)
    def clientsLeave(self, what: set[int]) -> None:
        gone = sorted(pickSome(what, self.waiting), key=self.order)
        self.waiting = [each for each in self.waiting if each not in gone]
        self.counters.goneBeforeAdoption += len(gone)
        decisions = self.ledger.clientsLeft(gone)
        assert set(decisions) == {GiveUp(each, Reason.GONE) for each in gone}
        assert len(decisions) == len(gone)

    @precondition(lambda self: self.copies())
    @rule(what=some)
    def witness(self, what: set[int]) -> None:
        touched = pickSome(what, self.copies())
        decisions = self.ledger.closeTouched(touched)
        assert set(decisions) == set(self.letGo(touched))
        assert len(decisions) == len(touched)

    @precondition(lambda self: self.waiting)
    @rule(what=some)
    def clientsEndTheirSide(self, what: set[int]) -> None:
        ended = pickSome(what, self.waiting)
        crowded = self.ledger.held >= self.budget * 3 // 4
        for each in ended:
            each.ended = self.now if each.ended is None else each.ended
            each.heard, each.silent, each.watched = True, False, False
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
        decisions = self.ledger.clientsHalfClosed(ended, self.now)
        assert set(decisions) == {GiveUp(each, Reason.GONE) for each in gone}
        assert len(decisions) == len(gone)

    @rule(delay=delays)
    def tick(self, delay: float) -> None:
        self.now += delay
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
        ready = [each for each in self.waiting if self.isOver(each)]
        ready = sorted((each for each in ready if not each.silent), key=self.order)
        self.waiting = [each for each in self.waiting if each not in ready]
        decisions = self.ledger.passTime(self.now)
        served = [
            each.connection
            for each in decisions
            if isinstance(each, (HandOff, GiveUp)) and self.comesOfOffering(each)
        ]
        over = [
            each for each in self.waiting if self.isOver(each) and each not in served
        ]
        over.sort(key=self.order)
        self.counters.timedOut += len(ready) + len(over)
        self.obey(
            decisions,
            *(GiveUp(each, Reason.TIMED_OUT) for each in ready),
            *self.letGo(silent),
            *(Revoke(side, "an offer unclaimed for 5 s") for side in hung),
            *(GiveUp(each, Reason.TIMED_OUT) for each in over),
        )
        self.waiting = [each for each in self.waiting if each not in over]

    def order(self, connection: Connection) -> tuple[int, tuple[float, int]]:
        """
        The order in which connections are given up: name by name.
        """
        return NAMES.index(connection.name), connection.order

    def teardown(self) -> None:
        if not hasattr(self, "ledger"):
            return
        self.keepsSilent = False
        self.obey(self.ledger.keepNoSilent(self.now))
        self.waiting.sort(key=self.order)
        expected: list[Decision] = [
            GiveUp(each, Reason.STOPPED) for each in self.waiting
        ]
        for side in [*self.sides, *self.departed]:
            expected.extend(map(CloseCopy, [*side.offered.values(), *side.copies]))
        self.counters.stopped += len(self.waiting)
        for side in self.sides:
            self.keepsOwn(side)
        self.counters.leftWithWorker += len(expected) - len(self.waiting)
        assert self.ledger.stop() == expected
        assert self.ledger.whereabouts() == Whereabouts(0, 0, 0, 0)
        assert self.counters.accepted == self.counters.ended
        assert self.ledger.held == self.ledger.workers == 0
        assert self.ledger.counters == self.counters

    # What always holds

    @invariant()
    def eachIsInOnePlace(self) -> None:
        places, counters = self.ledger.whereabouts(), self.ledger.counters
        assert counters.accepted == sum(astuple(places)) + counters.ended
        assert places == Whereabouts(
            len(self.waiting),
            sum(len(side.offered) for side in self.sides),
            sum(len(side.serving) for side in self.sides),
            sum(len(side.copies) for side in self.departed),
        )
        known = [*self.waiting]
        for side in self.sides:
            known += [*side.offered.values(), *side.serving.values()]
        for side in self.departed:
            known += side.copies
        for name, tally in self.ledger.tallies.by.items():
            own = sum(each.name == name for each in known)
            assert tally.accepted == own + tally.ended
            assert tally.claimed == sum(tally.claimTimes) + tally.handedOver
            assert self.ledger.waitingFor(name) == len(self.queued(name))
        for side in self.sides:
            assert self.ledger.knows(side)
            for id, each in side.offered.items():
                waited = self.ledger.waited(side, id, self.now)
                assert waited == self.now - each.accepted
            oldest = min((each.since for each in side.offered.values()), default=None)
            assert self.ledger.holdings(side, self.now) == Holdings(
                len(side.offered),
                len(side.serving),
                0.0 if oldest is None else self.now - oldest,
            )
        for name, queue in self.ledger.queues(self.now).items():
            queued = self.queued(name)
            ready = [self.now - each.accepted for each in queued if not each.silent]
            assert queue == QueueSummary(
                len(queued),
                len(queued) - len(ready),
                max(ready, default=0.0),
                self.queue,
                sum(side.open and side.wants(name) for side in self.sides),
            )

    @invariant()
    def eachEndIsListed(self) -> None:
        """
        The log gets each connection that was lost, once.
        """
        checkEnds(self.ledger)

    @invariant()
    def theBookIsRight(self) -> None:
        ledger = self.ledger
        assert ledger.counters == self.counters
        assert ledger.waiting == len(self.waiting)
        assert ledger.silent == sum(each.silent for each in self.waiting)
        assert set(ledger.waitingConnections()) == {
            each for each in self.waiting if not each.silent
        }
        assert ledger.unclaimed == sum(len(side.offered) for side in self.sides)
        assert ledger.copies() == self.copies()
        assert ledger.held == ledger.waiting + ledger.unclaimed + len(self.copies())
        assert ledger.workers == sum(side.open for side in self.sides)
        assert ledger.timed == bool(
            ledger.held or any(side.resume > self.now for side in self.sides)
        )
        takers = [side for side in self.sides if side.open]
        assert ledger.hasTakers == any(
            side.wants(each.name) for side in takers for each in self.waiting
        )
        checkSides(ledger, self.sides, self.departed)

    @invariant()
    def theLimitsHold(self) -> None:
        assert all(self.ledger.capacity(name) == self.room(name) for name in NAMES)
        for side in self.sides:
            assert len(side.offered) <= side.window
            if side.limit is not None:
                assert side.outstanding <= side.limit
                assert len(side.silent) <= side.limit // 2
            assert all(side.wants(each.name) for each in side.offered.values())


class MachineTests(SynchronousTestCase):
    """
    The machine, through many histories.
    """

    def test_ledger(self) -> None:
        """
        In any order of events, the ledger is right.  It keeps to its limits and the
        workers', to the order of arrival, here or at the listener before, and to the
        names that each worker wants.  What the next listener claims belongs to it.  It
        offers a silent connection neither too early, nor before one that is ready.
        """
        run_state_machine_as_test(LedgerMachine, settings=SETTINGS)
