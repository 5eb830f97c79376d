"""
The listener's ledger: where each connection is, and which worker has it.

The hard idea of the whole program is in this module, so here is all of it.

A connection that was sent to a worker is a descriptor in a queue of the kernel.  The
kernel does not tell the sender whether the worker ever took the descriptor out.  The
worker may be killed while it is queued, or after the worker took it out and before the
worker did anything with it.  If the sender closes its own descriptor as soon as it has
sent it, such connections are lost: their clients see a reset.  If the sender hands them
to the next worker whenever it is in doubt, some of them are served twice.

So the listener keeps its own descriptor, the I{copy}, and what it knows grows in
steps::

    accepted --> waiting --> offered --> claimed --> in the worker's hands
                    ^           |           |
                    +-----------+-----------+   the worker died, or refused

  - B{Waiting}: no worker had capacity.  The oldest is the first to be offered.  Each
    connection has its patience.

  - B{Offered}: sent, and not claimed.  The worker must not touch it yet.  So the
    connection may always be offered to the next worker, if the first worker can no
    longer claim it.  A dead worker cannot claim it.  A worker that hangs must first be
    I{revoked}: the listener shuts down the reading side of the channel, which is one
    step in the kernel.  After that step, the worker's claim fails.  A claim from before
    it can still be read.  Only then L{Ledger.workerLeft} is called.

  - B{Claimed}: the worker said that it takes the connection, before it touched it.
    From here on the listener asks the kernel.  If the connection is still I{untouched}
    (nothing was read from it, nothing was written to it), the worker's death harms
    nobody, and the connection is offered to the next worker.  If it was touched, it is
    lost with its worker, as in any server.

  - B{In the worker's hands}: the copy is closed.  Either the kernel said that the
    connection was touched, or the worker reported it CLOSED, or the connection stayed
    silent for so long that the copy was not worth its descriptor any more.

A worker may leave its channel and live on: it was revoked, or it said BYE.  Then what
it claimed is its own.  While its process lives, no other worker may have these
connections, even if they are untouched.  Their copies are kept like those of any other
worker.  If the process ends before it has touched them, the next worker may have them.
If the process has not even read the last frame that it was sent, it stands still.  So
the time for which its copies are kept begins when it has read that frame.

The listener trusts a worker only with the worker's own connections: no worker can make
it lose another worker's.  The listener chooses the ids, and checks each id against what
is outstanding on the channel that it came from.

This module decides and never acts: no sockets, no clock, no reactor.  Each event is a
method call with the time at which it happened, in seconds.  The call returns
L{decisions<portlisten._policy.decisions>}, in the order in which to carry them out.
Connections and channels are opaque to the ledger.  L{portlisten._policy.inventory} says
what is where, L{portlisten._policy.waiting} keeps the connections that wait,
L{portlisten._policy.copies} keeps the copies, and L{portlisten._policy.balance} chooses
the next worker.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable
from operator import attrgetter
from typing import Any

from portlisten._policy.decisions import (
    Decision,
    GiveUp,
    HandOff,
    LetGo,
    Reason,
    Revoke,
)
from portlisten._policy.entries import Entry, Worker
from portlisten._policy.inventory import Inventory

#: Of several queues, the one whose first connection is the oldest comes first.
_OLDEST = attrgetter("heap")


class Ledger(Inventory):
    """
    Decides what becomes of connections.  L{Inventory} says what it is made with.
    """

    # What comes in

    def addConnections(
        self,
        port: int,
        connections: Iterable[Any],
        now: float,
        canCheck: bool = True,
        name: str = "",
    ) -> list[Decision]:
        """
        Connections came in.

        @param name: the name of their port.
        @param canCheck: whether the kernel can tell if they are untouched.  If not,
            the ledger relies on the claim alone, and a claim closes the copy.
        """
        queue = self._queues[name]
        for connection in connections:
            self._serial += 1
            self.counters.accepted += 1
            queue.add(Entry(self._serial, port, name, connection, canCheck, now))
        return self._dispatch(now)

    def addWorker(
        self,
        channel: Hashable,
        window: int,
        now: float,
        names: Iterable[str] = ("",),
        user: Hashable = None,
    ) -> list[Decision]:
        """
        A worker said HELLO.

        @param names: the names of the ports whose connections it is to serve.
        @param user: the worker's user.
        """
        worker = Worker(channel, window, window, frozenset(names), user)
        self._workers[channel] = worker
        return self._dispatch(now)

    # What workers say

    def claim(
        self, channel: Hashable, ids: Collection[int], now: float
    ) -> list[Decision]:
        """
        A worker claims what it was offered.

        @raise ProtocolError: if one of these is not on offer to it.
        """
        worker = self._worker(channel)
        decisions: list[Decision] = []
        entries = worker.takeOffers(ids, "CLAIM")
        worker.limit = min(worker.window, worker.limit + 1)
        self.counters.claimed += len(entries)
        worker.serving.update(ids)
        for entry in entries:
            if not entry.canCheck:
                decisions.append(LetGo(entry.connection))
                continue
            worker.copies[entry.id] = entry
            self._copies.add(entry, now)
        # A dead worker's channel may hold claims for a whole window: the copies of
        # these are needed for other workers.
        share = max(worker.window, self._budget // 2 // len(self._workers))
        while len(worker.copies) > share:
            decisions.append(self._letGo(next(iter(worker.copies.values()))))
        return decisions + self._dispatch(now)

    def refuse(
        self,
        channel: Hashable,
        ids: Collection[int],
        now: float,
        spoiled: Collection[Any] = (),
    ) -> list[Decision]:
        """
        A worker refuses what it was offered: it will never touch it.

        @param spoiled: those of its L{Inventory.offersTo} that no worker can use.  It
            is no sign of trouble to refuse them.
        @raise ProtocolError: if one of these is not on offer to it.
        """
        worker = self._worker(channel)
        decisions: list[Decision] = []
        for entry in worker.takeOffers(ids, "REFUSE"):
            self.counters.refused += 1
            if entry.connection in spoiled:
                decisions.append(self._giveUpSpoiled(entry))
            else:
                self._queues[entry.name].add(entry)
        if len(decisions) < len(ids):
            worker.limit = max(1, worker.limit // 2)
            worker.resume = now + self._pause
        return decisions + self._dispatch(now)

    def close(
        self, channel: Hashable, ids: Collection[int], now: float
    ) -> list[Decision]:
        """
        A worker reports that connections which it had claimed have ended.

        @raise ProtocolError: if it does not serve one of these.
        """
        worker = self._worker(channel)
        worker.endService(ids)
        decisions: list[Decision] = [
            self._letGo(worker.copies[id]) for id in ids if id in worker.copies
        ]
        return decisions + self._dispatch(now)

    def clientGone(
        self, channel: Hashable, ids: Collection[int], now: float
    ) -> list[Decision]:
        """
        Like L{close}, for connections whose clients had left before the worker
        could adopt them.
        """
        decisions = self.close(channel, ids, now)
        self.counters.goneBeforeAdoption += len(ids)
        return decisions

    def drain(self, channel: Hashable) -> None:
        """
        A worker wants no more offers.
        """
        self._worker(channel).open = False

    def revoke(self, channel: Hashable) -> None:
        """
        A worker is being revoked, because it hangs or broke the protocol.
        """
        worker = self._worker(channel)
        worker.open = False
        if not worker.revoked:
            worker.revoked = True
            self.counters.revoked += 1

    def block(self, channel: Hashable, blocked: bool) -> None:
        """
        Give a worker no offers for now, or give it offers again.
        """
        worker = self._workers.get(channel)
        if worker is not None:
            worker.blocked = blocked

    # How workers end

    def workerDied(
        self,
        channel: Hashable,
        touched: Collection[Any],
        now: float,
        spoiled: Collection[Any] = (),
    ) -> list[Decision]:
        """
        A worker is dead, and all that it had said was read.

        @param touched: those of its L{Inventory.copiesOf} that were touched.
        @param spoiled: those of its L{Inventory.offersTo} that no worker can use.
        """
        worker = self._workers.pop(channel)
        self.counters.lostInService += len(worker.serving) - len(worker.copies)
        decisions = self._divide(worker, touched)
        decisions += self._takeBack(worker, spoiled)
        return decisions + self._dispatch(now)

    def workerLeft(
        self,
        channel: Hashable,
        now: float,
        asleep: bool = False,
        spoiled: Collection[Any] = (),
    ) -> list[Decision]:
        """
        A worker has left its channel, and may live: it said BYE, or it was revoked and
        all that it had said was read.  What it claimed is its own.  It can never claim
        what it did not claim.

        @param asleep: whether it has yet to read the last frame that it was sent.
        @param spoiled: those of its L{Inventory.offersTo} that no worker can use.
        """
        worker = self._workers.pop(channel)
        worker.open = False
        if worker.copies:
            self._departed[channel] = worker
        decisions: list[Decision] = []
        if asleep:
            self._copies.sleep(worker)
            while (entry := self._copies.tooManyAsleep()) is not None:
                decisions.append(self._letGo(entry))
        decisions += self._takeBack(worker, spoiled)
        return decisions + self._dispatch(now)

    def workerAwoke(self, channel: Hashable, now: float) -> None:
        """
        A worker that had left has read the last frame that it was sent.
        """
        worker = self._departed.get(channel)
        if worker is not None and worker.asleep:
            self._copies.wake(worker, now)

    def processEnded(
        self, channel: Hashable, touched: Collection[Any], now: float
    ) -> list[Decision]:
        """
        The process of a worker that had left is dead.

        @param touched: those of its L{Inventory.copiesOf} that were touched.
        """
        worker = self._departed.pop(channel, None)
        if worker is None:
            return []
        return self._divide(worker, touched) + self._dispatch(now)

    def _takeBack(self, worker: Worker, spoiled: Collection[Any]) -> list[Decision]:
        """
        Offer to other workers what a worker did not claim.
        """
        decisions: list[Decision] = []
        for entry in worker.offered.values():
            if entry.connection in spoiled:
                decisions.append(self._giveUpSpoiled(entry))
            else:
                self._redispatch(entry)
        worker.offered.clear()
        return decisions

    def _divide(self, worker: Worker, touched: Collection[Any]) -> list[Decision]:
        """
        Of the copies of a dead worker, give up those in service, and take back the
        others.
        """
        decisions: list[Decision] = []
        for entry in worker.copies.values():
            self._copies.discard(entry)
            if entry.connection in touched:
                self.counters.lostInService += 1
                decisions.append(GiveUp(entry.connection, Reason.LOST_IN_SERVICE))
            else:
                self._redispatch(entry)
        return decisions

    # What the caller finds out

    def clientsLeft(self, connections: Iterable[Any]) -> list[Decision]:
        """
        The clients of some connections that wait have left.
        """
        left = set(connections)
        decisions: list[Decision] = []
        for queue in self._queues.values() if left else ():
            for connection in queue.remove(left):
                decisions.append(GiveUp(connection, Reason.GONE))
        self.counters.goneBeforeAdoption += len(decisions)
        return decisions

    def clientsHalfClosed(
        self, connections: Iterable[Any], now: float
    ) -> list[Decision]:
        """
        The clients of some connections that wait have ended their side with nothing
        sent.  They are given up after a while, and at once if they are many, or
        descriptors get scarce.
        """
        ended = set(connections)
        if not ended:
            return []
        crowded = self.held >= self._budget * 3 // 4
        due = []
        for queue in self._queues.values():
            due += queue.clientsHalfClosed(ended, now, crowded)
        return self.clientsLeft(due)

    def closeTouched(self, connections: Iterable[Any]) -> list[Decision]:
        """
        Some of L{copies} were touched: their workers serve them.
        """
        touched = set(connections)
        if not touched:
            return []
        entries = [entry for entry in self._copies if entry.connection in touched]
        return [self._letGo(entry) for entry in entries]

    def passTime(self, now: float) -> list[Decision]:
        """
        Time has passed.
        """
        decisions: list[Decision] = []
        for queue in self._queues.values():
            while queue.overdue(now):
                self.counters.timedOut += 1
                decisions.append(GiveUp(queue.pop().connection, Reason.TIMED_OUT))
        while (entry := self._copies.overdue(now)) is not None:
            decisions.append(self._letGo(entry))
        for worker in self._workers.values():
            if worker.hangs(now, self._claimTimeout):
                self.revoke(worker.channel)
                reason = f"an offer unclaimed for {self._claimTimeout:g} s"
                decisions.append(Revoke(worker.channel, reason))
        return decisions + self._dispatch(now)

    def stop(self) -> list[Decision]:
        """
        The listener ends.  What waits is given up.  What was offered stays with its
        worker, which sees that the listener is gone.
        """
        decisions: list[Decision] = []
        for queue in self._queues.values():
            while queue.heap:
                self.counters.stopped += 1
                decisions.append(GiveUp(queue.pop().connection, Reason.STOPPED))
        for worker in (*self._workers.values(), *self._departed.values()):
            for entry in (*worker.offered.values(), *worker.copies.values()):
                decisions.append(LetGo(entry.connection))
            worker.offered.clear()
        self._workers.clear()
        self._departed.clear()
        self._copies.clear()
        return decisions

    # The inside

    def _giveUpSpoiled(self, entry: Entry) -> GiveUp:
        self.counters.lostInService += 1
        return GiveUp(entry.connection, Reason.SPOILED)

    def _redispatch(self, entry: Entry) -> None:
        self.counters.redispatched += 1
        self._queues[entry.name].add(entry)

    def _letGo(self, entry: Entry) -> LetGo:
        self._copies.discard(entry)
        worker = entry.worker
        assert worker is not None
        del worker.copies[entry.id]
        if not worker.copies:
            self._departed.pop(worker.channel, None)
        return LetGo(entry.connection)

    def _dispatch(self, now: float) -> list[Decision]:
        """
        Offer what waits, the oldest first, to the workers that have capacity.
        """
        self._now = now
        queues = [queue for queue in self._queues.values() if queue.heap]
        if not queues:
            return []
        decisions: list[Decision] = []
        candidates = {
            queue: self._balance.candidates(self._workers.values(), queue.name, now)
            for queue in queues
        }
        while queues:
            queue = min(queues, key=_OLDEST) if len(queues) > 1 else queues[0]
            able = candidates[queue]
            if not able:
                queues.remove(queue)
                continue
            worker = self._balance.choose(able)
            entry = queue.pop()
            entry.worker, entry.id, entry.since = worker, worker.newId(), now
            worker.offered[entry.id] = entry
            self.counters.offered += 1
            decisions.append(
                HandOff(worker.channel, entry.id, entry.connection, entry.port)
            )
            if not queue.heap:
                queues.remove(queue)
            if not worker.capacity:
                for able in candidates.values():
                    if worker in able:
                        able.remove(worker)
        return decisions
