"""
A stateful test of L{portlisten._policy.ledger}, L{portlisten._wire.listener_session}
and L{portlisten._wire.worker_session} together, as a listener and its workers, in a
world where anybody may be killed or stopped at any point.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
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

from portlisten._policy.decisions import (
    CloseCopy,
    Decision,
    HandOff,
    Reason,
    Revoke,
    Watch,
)
from portlisten._policy.ledger import Ledger
from tests.support.machines import (
    CLAIM_TIMEOUT,
    HOLD,
    NAMES,
    PATIENCE,
    PAUSE,
    crews,
    delays,
    few,
    firsts,
    limits,
    mostly,
    one,
    pick,
    sizes,
    stages,
    wants,
)
from tests.support.pair import BUDGET, LISTENER, QUEUE, Channel, Client, Wire, Worker
from tests.support.settings import SETTINGS


class PairMachine(RuleBasedStateMachine):
    """
    A listener and its workers: the ledger, and the sessions of both ends of each
    channel, connected by a small model of the kernel.  A process that is not chosen for
    a while hangs.

    @ivar alive: whether the listener is.
    """

    @initialize(
        roundRobin=st.booleans(),
        firsts=st.booleans(),
        crew=crews,
    )
    def begin(
        self,
        roundRobin: bool,
        firsts: bool,
        crew: list[tuple[int, tuple[str, ...], int | None, float | None]],
    ) -> None:
        self.ledger = Ledger(
            QUEUE, BUDGET, PATIENCE, HOLD, CLAIM_TIMEOUT, PAUSE, roundRobin, NAMES
        )
        self.firsts = firsts
        self.port = 0
        self.now = 0.0
        self.alive = True
        self.clients: dict[int, Client] = {}
        self.workers: list[Worker] = []
        self.channels: list[Channel] = []
        self.givenUp: Counter[Reason] = Counter()
        for worker in crew:
            self.join(*worker)
            self.workers[-1].writeAll()
            self.channels[-1].readAll()

    # What comes of it

    def run(self, decisions: list[Decision], mayLetGo: Collection[Client] = ()) -> None:
        """
        Do as the ledger says.

        @param mayLetGo: the only connections that it may now let go while they
            are pristine.
        """
        self.ledger.watched(
            [
                each.connection
                for each in decisions
                if isinstance(each, Watch) and each.connection.silent
            ]
        )
        for decision in decisions:
            if isinstance(decision, Revoke):
                decision.channel.revoke()
                continue
            client = decision.connection
            assert client.descriptors[LISTENER] == 1
            client.watched = False
            if isinstance(decision, Watch):
                client.watched = True
            elif isinstance(decision, HandOff):
                decision.channel.offer(decision.id, decision.port, client)
            elif isinstance(decision, CloseCopy):
                assert not client.pristine or client in mayLetGo
                if client.channel.wire.workerDied:
                    client.excuse = client.excuse or "the copy was let go"
                client.close(LISTENER)
            else:
                self.giveUp(client, decision.reason)
        self.look()

    def look(self) -> None:
        """
        See which of the watched clients have spoken.
        """
        spoken = [
            client
            for client in self.clients.values()
            if client.watched and (not client.silent or client.left)
        ]
        for client in spoken:
            client.watched = False
        if spoken:
            self.run(self.ledger.spoke(spoken, self.now))

    def giveUp(self, client: Client, reason: Reason) -> None:
        if reason is Reason.TIMED_OUT:
            assert self.now - client.accepted >= PATIENCE
            client.excuse = "its patience ran out"
        elif reason is Reason.SILENT:
            assert client.silent
            assert self.now > client.accepted
            client.excuse = "it sent nothing"
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
        Clients connect.  The listener and its workers do all steps that are possible,
        up to some step.
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
        One process takes a few steps of one kind.
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
    @rule(window=sizes, names=wants, limit=limits, first=firsts)
    def join(
        self,
        window: int,
        names: tuple[str, ...] = (),
        limit: int | None = None,
        first: float | None = None,
    ) -> None:
        wire = Wire()
        first = first if self.firsts else None
        self.workers.append(Worker(self, window, names, wire, limit, first))
        self.channels.append(Channel(self, window, wire))

    @precondition(lambda self: self.open())
    @rule(which=one)
    def workerDrains(self, which: int) -> None:
        pick(which, self.open()).drain()

    @precondition(lambda self: self.alive and self.able("mayLeave"))
    @rule(which=one)
    def operatorDrains(self, which: int) -> None:
        pick(which, self.able("mayLeave")).leave()

    @precondition(lambda self: self.open())
    @rule(which=one)
    def workerParts(self, which: int) -> None:
        pick(which, self.open()).bye()

    @precondition(lambda self: self.clients)
    @rule(which=st.integers(0, 30))
    def clientSpeaks(self, which: int) -> None:
        pick(which, self.clients.values()).silent = False
        self.look()

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
            client.watched = False
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
        for _ in range(min(count, self.ledger.capacity(name) if self.alive else 0)):
            number = len(self.clients)
            client = Client(number, self.port, self.now, witness, number % 3 > 0)
            client.open(LISTENER)
            self.clients[client.number] = client
            batch.append(client)
        if not batch:
            return
        keeps = self.ledger.keeps(name, self.now)
        silent = {client for client in batch if client.silent} if keeps else None
        self.run(
            self.ledger.addConnections(
                self.port, batch, self.now, witness, name, silent
            )
        )

    def tick(self) -> None:
        for channel in self.channels:
            channel.look()
        silent = [
            client
            for client in self.ledger.copies()
            if self.now - client.claimed >= HOLD
        ]
        self.run(self.ledger.passTime(self.now), silent)

    def sweep(self) -> None:
        touched = [client for client in self.ledger.copies() if not client.pristine]
        self.run(self.ledger.closeTouched(touched))
        assert all(client.pristine for client in self.ledger.copies())

    # The end

    def teardown(self) -> None:
        """
        From now on no process dies or hangs, and a worker serves each name.
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
        for client in self.clients.values():
            client.silent = False
        self.look()
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
            assert worker.session.pending == 0
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
    def eachIsInOnePlace(self) -> None:
        places, counters = self.ledger.whereabouts(), self.ledger.counters
        assert counters.accepted == sum(astuple(places)) + counters.ended

    @invariant()
    def noDescriptorLeaks(self) -> None:
        for worker in self.workers:
            held = sum(client.descriptors[worker] for client in self.clients.values())
            expected = worker.session.pending + len(worker.serving)
            assert held == (expected if worker.alive else 0)

    @invariant()
    def nobodyHasTwoWorkers(self) -> None:
        served = Counter(
            client for worker in self.living() for client in worker.serving.values()
        )
        assert not served or max(served.values()) == 1

    @invariant()
    def theDrainedServeNobody(self) -> None:
        for worker, channel in zip(self.workers, self.channels, strict=True):
            assert not (self.alive and channel.drained and worker.serving)
            if not worker.ended:
                assert worker.session.inService == len(worker.serving)

    @invariant()
    def theWindowsHold(self) -> None:
        for channel in self.channels:
            assert len(channel.having(claimed=False)) <= channel.window
            if channel.limit is not None:
                assert len(channel.outstanding) <= channel.limit

    @invariant()
    def theSilentAreWatched(self) -> None:
        watched = sum(client.watched for client in self.clients.values())
        assert watched == (self.ledger.silent if self.alive else 0)


class MachineTests(SynchronousTestCase):
    """
    The machine, through many histories.
    """

    def test_pair(self) -> None:
        """
        With deaths and hangs at any time, no connection is lost or served twice, none
        is offered to the wrong worker, and no descriptor leaks.
        """
        run_state_machine_as_test(PairMachine, settings=SETTINGS)
