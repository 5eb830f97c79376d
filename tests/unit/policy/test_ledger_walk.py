"""
Tests for L{portlisten._policy.ledger}: properties that always hold.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, astuple
from functools import partial
from random import Random

from twisted.trial.unittest import SynchronousTestCase

from portlisten._policy.decisions import (
    CloseCopy,
    Decision,
    GiveUp,
    HandOff,
    Reason,
    Watch,
)
from portlisten._policy.ledger import Ledger
from tests.support.ledgers import (
    NAMES,
    PORT,
)


class Walk:
    """
    A listener with random events, and the rules that must hold for them.

    @ivar waiting: the connections that wait.
    @ivar offered: those on offer, by channel and id.
    @ivar serving: those in service, by channel and id.
    @ivar copies: those of them whose copy is held.
    @ivar over: those that ended in the listener, or whose copy it let go.
    @ivar windows: of the workers, by channel.
    @ivar wants: the names that they want, by channel.
    @ivar limits: the limits of those that have one, by channel.
    @ivar watched: the connections that are watched.
    @ivar heard: the connections from whose clients something has come.
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
        self.limits: dict[int, int] = {}
        self.firsts = bool(seed % 3)
        self.watched: set[int] = set()
        self.heard: set[int] = set()
        self.closing: set[int] = set()
        self.departed: dict[int, set[int]] = {}

    def run(self) -> None:
        """
        Have 150 events, and the end.
        """
        common = [self.accept] * 5 + [self.claim] * 5 + [self.tick] * 4
        common += (
            [self.close] * 3 + [self.speak] * 2 + [self.refuse, self.touch, self.leave]
        )
        rare = [self.join, self.join, self.drain, self.die, self.part]
        rare += [self.wake, self.end]
        for _ in range(150):
            events = common if self.random.randrange(5) else rare
            self.random.choice(events)()
            self.check()
        self.copies.update(self.offered.values())
        self.decided(self.ledger.stop())
        assert not self.waiting
        assert not self.copies
        assert self.ledger.counters.ended == self.count

    def check(self) -> None:
        """
        Check what the ledger tells.
        """
        ledger = self.ledger
        assert ledger.waiting == len(self.waiting)
        assert ledger.unclaimed == len(self.offered)
        assert sorted(ledger.copies()) == sorted(self.copies)
        ended = ledger.counters.ended
        assert self.count == sum(astuple(ledger.whereabouts())) + ended
        assert ledger.held == ledger.waiting + ledger.unclaimed + len(self.copies) <= 24
        assert ledger.workers == len(self.windows.keys() - self.closing)
        for channel in self.windows:
            own = [key for key in (*self.offered, *self.serving) if key[0] == channel]
            assert ledger.outstanding(channel) == len(own)
            assert len(own) <= self.limits.get(channel, len(own))
        assert self.watched == self.waiting - set(ledger.waitingConnections())

    def decided(self, decisions: list[Decision]) -> None:
        """
        Carry out decisions, and check that each was due.
        """
        for decision in decisions:
            if isinstance(decision, HandOff):
                connection, channel = decision.connection, decision.channel
                name = self.name(connection)
                alike = {each for each in self.waiting if self.name(each) == name}
                heard = alike & self.heard
                if not self.firsts:
                    assert connection == min(alike), "not the oldest"
                elif connection in heard:
                    assert connection == min(heard), "not the oldest that spoke"
                elif connection in self.watched:
                    assert not heard, "one that spoke is passed over"
                    assert connection == min(alike & self.watched), "not the oldest"
                self.watched.discard(connection)
                self.waiting.remove(connection)
                assert name in self.wants[channel]
                assert channel not in self.closing
                key = (channel, decision.id)
                assert key not in self.offered
                assert key not in self.serving
                self.offered[key] = connection
                unclaimed = [key for key in self.offered if key[0] == channel]
                assert len(unclaimed) <= self.windows[channel]
            elif isinstance(decision, CloseCopy):
                self.copies.remove(decision.connection)
                self.over.append(decision.connection)
            elif isinstance(decision, Watch):
                assert decision.connection in self.waiting - self.watched
                self.watched.add(decision.connection)
                if decision.connection not in self.heard:
                    self.ledger.watched([decision.connection])
            elif isinstance(decision, GiveUp):
                if decision.reason is Reason.SILENT:
                    assert decision.connection not in self.heard
                self.watched.discard(decision.connection)
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
        Pick a worker.  If no worker has joined, make one join.
        """
        if not self.windows:
            self.join()
        return self.random.choice(list(self.windows))

    def some(self, having: dict[tuple[int, int], int], channel: int) -> list[int]:
        """
        Pick some ids of a worker's.
        """
        own = [id for each, id in having if each == channel]
        return self.random.sample(own, self.random.randint(0, len(own)))

    def forget(self, channel: int) -> list[int]:
        """
        A worker leaves, and its offers wait again.

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
        As many connections come in as fit the capacity, or fewer.
        """
        for _ in range(self.random.randint(0, 12)):
            name = self.name(self.count)
            if self.ledger.capacity(name):
                self.waiting.add(self.count)
                new = [self.count]
                self.count += 1
                silent: set[int] | None = None
                if self.ledger.keeps(name, self.now):
                    silent = {each for each in new if self.random.randrange(3)}
                    self.heard.update(set(new) - silent)
                self.decided(
                    self.ledger.addConnections(PORT, new, self.now, True, name, silent)
                )

    def speak(self) -> None:
        """
        Something comes from some clients that are watched.
        """
        spoken = {each for each in self.watched if not self.random.randrange(3)}
        self.watched -= spoken
        self.heard |= spoken
        self.decided(self.ledger.spoke(spoken, self.now))

    def join(self) -> None:
        """
        A worker joins, if the workers are few.
        """
        if len(self.windows) < 4:
            self.channels += 1
            window = self.random.randint(1, 6)
            names = self.random.choice([(), ("web",), ("mail",), NAMES])
            self.windows[self.channels] = window
            self.wants[self.channels] = names
            limit = self.random.choice([None, 1, 4])
            if limit is not None:
                self.limits[self.channels] = limit
            first = self.random.choice([0.5, 1.0]) if self.firsts else None
            self.decided(
                self.ledger.addWorker(
                    self.channels, window, self.now, names, limit=limit, first=first
                )
            )

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
        self.decided(self.ledger.claim(channel, ids, self.now))

    def refuse(self) -> None:
        """
        A worker refuses some offers.
        """
        channel = self.channel()
        ids = self.some(self.offered, channel)
        self.waiting.update(self.offered.pop((channel, id)) for id in ids)
        self.decided(self.ledger.refuse(channel, ids, self.now))

    def close(self) -> None:
        """
        Some connections of a worker end.
        """
        channel = self.channel()
        ids = self.some(self.serving, channel)
        ended = {self.serving.pop((channel, id)) for id in ids}
        self.decided(self.ledger.close(channel, ids, self.now))
        assert not ended & self.copies

    def touch(self) -> None:
        """
        Some connections are seen to be touched.
        """
        touched = {copy for copy in self.copies if self.random.randrange(2)}
        self.decided(self.ledger.closeTouched(touched))
        assert not touched & self.copies

    def tick(self) -> None:
        """
        Time passes.
        """
        self.now += self.random.choice([0.02, 0.1, 0.5])
        self.decided(self.ledger.passTime(self.now))

    def drain(self) -> None:
        """
        A worker wants no more.
        """
        channel = self.channel()
        self.closing.add(channel)
        self.ledger.drain(channel)

    def die(self) -> None:
        """
        A worker dies, which had touched some of its copies.
        """
        channel = self.channel()
        copies = self.copies.intersection(self.forget(channel))
        self.bury(copies, partial(self.ledger.workerDied, channel))

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
        self.decided(self.ledger.workerLeft(channel, self.now, asleep))

    def wake(self) -> None:
        """
        A worker that has left goes on.
        """
        if self.departed:
            self.ledger.workerAwoke(self.random.choice(list(self.departed)), self.now)

    def end(self) -> None:
        """
        The process of a worker that has left ends, which had touched some of its
        copies.
        """
        if self.departed:
            channel = self.random.choice(list(self.departed))
            served = self.departed.pop(channel)
            self.bury(self.copies & served, partial(self.ledger.processEnded, channel))

    def leave(self) -> None:
        """
        Some clients do not wait any longer.
        """
        gone = {each for each in self.waiting if not self.random.randrange(4)}
        self.decided(self.ledger.clientsLeft(gone))
        assert not gone & self.waiting


class WalkTests(SynchronousTestCase):
    """
    Tests for properties that always hold.
    """

    def test_connections(self) -> None:
        """
        Each connection is in one place at a time, is let go or given up exactly
        once, and is offered when it is the oldest of its name, to a worker that
        wants it and has room; and no more descriptors are held than the budget
        allows.
        """
        ends: set[str] = set()
        for seed in range(200):
            walk = Walk(seed)
            walk.run()
            self.assertEqual(sorted(walk.over), list(range(walk.count)), seed)
            ends.update(
                name for name, count in asdict(walk.ledger.counters).items() if count
            )
        # Workers spoil and give nothing here, and no listener takes over.
        ends |= {"unusable", "given", "handedOver"}
        self.assertEqual(ends, asdict(walk.ledger.counters).keys())
