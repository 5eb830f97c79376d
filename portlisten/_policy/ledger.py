"""
The listener's ledger: where each connection is, and which worker has it.

This module has the central idea of the program.

A connection that was sent to a worker is a descriptor in a queue of the kernel.  The
kernel does not tell the sender whether the worker took the descriptor out.  The worker
may be killed while the descriptor is queued, or after it took the descriptor out and
before it used it.  If the sender closes its own descriptor after sending, such
connections are lost: their clients see a reset.  If the sender hands them to the next
worker in case of doubt, some of them are served twice.

So the listener keeps its own descriptor, the I{copy}.  Its knowledge of a connection
grows in steps::

    accepted --> waiting --> offered --> claimed --> in the worker's hands
                    ^           |           |
                    +-----------+-----------+   the worker died, or refused

  - B{Waiting}: no worker had capacity.  The oldest connection is offered first.  Each
    connection waits as long as its patience.

  - B{Offered}: sent, and not claimed.  The worker must not touch it yet.  So the
    connection may always be offered to the next worker, if the first worker can no
    longer claim it.  A dead worker cannot claim it.  A worker that hangs must first be
    I{revoked}: the listener shuts down the reading side of the channel, which is one
    step in the kernel.  After that step, the worker's claim fails.  A claim from before
    it can still be read.  After that, L{Ledger.workerLeft} is called.

  - B{Claimed}: the worker said that it takes the connection, before it touched it.
    From here on the listener asks the kernel.  A connection is I{untouched} if nothing
    was read from it and nothing was written to it.  If it is still untouched, the
    worker's death harms nobody, and the connection is offered to the next worker.  If
    it was touched, it is lost with its worker, as in any server.

  - B{In the worker's hands}: the copy is closed.  Either the kernel said that the
    connection was touched, or the worker reported it CLOSED, or the connection stayed
    untouched for so long that the copy was not worth its descriptor any more.

A worker may say that it I{gives} its connections to other processes: to programs that
it starts.  Such a process may live longer than the worker.  So the worker's death says
nothing about the connections that it has given: the copy of such a connection is closed
as soon as the worker says so.  It says so before the process can touch the connection.
All other connections of such a worker are untouched, and the time of their copies is
not counted.

A worker may leave its channel and live on: it was revoked, or it said BYE.  Then its
claimed connections are its own.  While its process lives, no other worker may have
them, even if they are untouched.  Their copies are kept like those of any other worker.
If the process ends before it has touched them, the next worker may have them.  If the
process has not read the last frame that it was sent, it stands still.  Then the time of
its copies begins when it has read that frame.

The listener trusts a worker only with the worker's own connections.  No worker can make
the listener lose another worker's connections.  The listener chooses the ids.  It
checks each id that it receives against the ids that are outstanding on that channel.

This module decides and never acts: no sockets, no clock, no reactor.  Each event is a
method call with the time at which it happened, in seconds.  The call returns
L{decisions<portlisten._policy.decisions>}, in the order in which to carry them out.
Connections and channels are opaque to the ledger.

L{portlisten._policy.inventory} knows where each connection is.
L{portlisten._policy.waiting} keeps the connections that wait.
L{portlisten._policy.copies} keeps the copies.  L{portlisten._policy.balance} chooses
the next worker.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from typing import Any

from portlisten._policy.decisions import (
    CloseCopy,
    Decision,
    GiveUp,
    Reason,
    Revoke,
)
from portlisten._policy.entries import End, Entry, Worker
from portlisten._policy.offering import Offering
from portlisten._policy.source_limits import Source
from portlisten._policy.waiting import WaitingQueue


class Ledger(Offering):
    """
    Decides what becomes of connections.
    L{Inventory<portlisten._policy.inventory.Inventory>} has the parameters.
    """

    # New connections and workers

    def addConnections(
        self,
        port: int,
        connections: Iterable[Any],
        now: float,
        canCheck: bool = True,
        name: str = "",
        silent: Collection[Any] | None = None,
        waited: float = 0.0,
        sources: Sequence[Source] | None = None,
        parked: Collection[Any] = (),
    ) -> list[Decision]:
        """
        Add connections that came in.

        @param name: the name of their port.
        @param canCheck: whether the kernel can tell if they are untouched.  If not,
            the ledger relies on the claim alone, and a claim closes the copy.
        @param silent: those of them from whose clients nothing has come.  L{None} if
            the caller did not check.  It needs to check only if L{Ledger.keeps}
            says so.
        @param waited: how long they have waited at another listener, in seconds.
        @param sources: the source of each, if their port has limits.  They count for
            them, except those of C{parked}.
        @param parked: those of them that a limit keeps out for now.
        """
        accepted = now - waited
        tally = self.tallies.by[name]
        entries = [
            Entry(number, port, name, connection, canCheck, accepted, tally)
            for number, connection in enumerate(connections, self._number + 1)
        ]
        self._number += len(entries)
        tally.accepted += len(entries)
        if silent is not None:
            for entry in entries:
                entry.heard = entry.connection not in silent
        if sources is not None:
            for entry, source in zip(entries, sources, strict=True):
                entry.source = source
            if parked:
                late = [entry for entry in entries if entry.connection in parked]
                entries = [entry for entry in entries if entry.connection not in parked]
        decisions = self._offerNew(entries, now)
        if sources is not None:
            again = waited > 0
            decisions += self._waitOrRefuse(entries, again, False)
            if parked:
                decisions += self._waitOrRefuse(late, again, True)
        else:
            for entry in entries:
                self._wait(entry)
        return decisions + self._dispatch(now)

    def _waitOrRefuse(
        self, entries: Iterable[Entry], again: bool, park: bool
    ) -> list[Decision]:
        """
        Let connections of sources with limits wait.  If sources take turns, one source
        may have as many that wait as there are places left: so it takes half of them at
        the most, and each other source finds one.  If no place is left, nobody waits
        whom a limit keeps out.  It would keep others out that a worker could serve,
        unless the limit is that of all.

        @param again: whether they have waited at another listener.  Then they wait on.
        @param park: whether a limit keeps them out.
        """
        decisions: list[Decision] = []
        for entry in entries:
            source = entry.source
            assert source is not None
            queue = self._queues[entry.name]
            free = queue.free
            full = source.waiting >= max(1, free) or (
                park and free <= 0 and not source.table.full
            )
            if full and queue.fair and not again:
                source.table.refuse(source, "queue-full")
                entry.tally.accepted -= 1
                if park:
                    entry.source = None
                self._ended(entry)
                decisions.append(GiveUp(entry.connection, Reason.QUEUE_FULL))
            elif park:
                self._park(entry)
            else:
                self._wait(entry)
        return decisions

    def addWorker(
        self,
        channel: Hashable,
        window: int,
        now: float,
        names: Iterable[str] = ("",),
        user: Hashable = None,
        limit: int | None = None,
        first: float | None = None,
        gives: bool = False,
        takesOver: bool = False,
    ) -> list[Decision]:
        """
        Add a worker that said HELLO.

        @param names: the names of the ports whose connections it wants.
        @param user: the worker's user.
        @param limit: how many connections it may have, offered or claimed.
        @param first: if its clients speak first, how long to keep a silent connection
            from it, in seconds.
        @param gives: whether it says before others touch its connections.
        @param takesOver: whether it is the next listener.  What it claims belongs to
            it: its worker may have touched a connection a moment later.
        """
        worker = Worker(channel, window, window, frozenset(names), user, limit, first)
        worker.gives = gives
        worker.takesOver = takesOver
        self._workers[channel] = worker
        self._workersChanged(first is not None)
        return self._dispatch(now)

    # Frames of workers

    def claim(
        self, channel: Hashable, ids: Collection[int], now: float
    ) -> list[Decision]:
        """
        A worker claims connections that it was offered.

        @raise ProtocolError: if one of the ids is not on offer to it.
        """
        worker = self._worker(channel)
        decisions: list[Decision] = []
        entries = worker.takeOffers(ids, "CLAIM")
        worker.usableWindow = min(worker.window, worker.usableWindow + 1)
        if worker.takesOver:
            return self._handOver(entries) + self._dispatch(now)
        serving, copies, hold = worker.serving, worker.copies, self._copies.add
        for entry in entries:
            serving[entry.id] = entry
            entry.tally.claim(now - entry.ready)
            if not entry.canCheck:
                decisions.append(CloseCopy(entry.connection))
                continue
            copies[entry.id] = entry
            hold(entry, now)
        # If a worker dies, its channel may hold claims for a whole window.  Their
        # copies are needed to offer the connections to other workers.
        share = max(worker.window, self._budget // 2 // len(self._workers))
        while len(copies) > share:
            decisions.append(self._closeCopy(next(iter(copies.values()))))
        if worker.gives:
            decisions += self._limitAsleep()
        return decisions + self._dispatch(now)

    def _handOver(self, entries: Iterable[Entry]) -> list[Decision]:
        decisions: list[Decision] = []
        for entry in entries:
            entry.tally.claimed += 1
            entry.tally.handedOver += 1
            self._ended(entry)
            decisions.append(CloseCopy(entry.connection))
        return decisions

    def serving(self, channel: Hashable, count: int, now: float) -> list[Decision]:
        """
        A worker says how many connections it has that were not offered to it on this
        channel.
        """
        worker = self._workers.get(channel)
        if worker is None:
            return []
        worker.elsewhere = count
        return self._dispatch(now)

    def refuse(
        self,
        channel: Hashable,
        ids: Collection[int],
        now: float,
        unusable: Collection[Any] = (),
    ) -> list[Decision]:
        """
        A worker refuses connections that it was offered, and will never touch them.

        @param unusable: the connections among its L{Inventory.offersTo} that no worker
            can use.  To refuse them is no sign of trouble.
        @raise ProtocolError: if one of the ids is not on offer to it.
        """
        worker = self._worker(channel)
        decisions: list[Decision] = []
        for entry in worker.takeOffers(ids, "REFUSE"):
            entry.tally.refused += 1
            if entry.connection in unusable:
                decisions.append(self._giveUpUnusable(entry))
            else:
                self._wait(entry)
        worker.silent.difference_update(ids)
        if len(decisions) < len(ids):
            worker.usableWindow = max(1, worker.usableWindow // 2)
            worker.resume = now + self._pause
        return decisions + self._dispatch(now)

    def close(
        self, channel: Hashable, ids: Collection[int], now: float
    ) -> list[Decision]:
        """
        A worker reports that connections which it had claimed are closed.

        @raise ProtocolError: if it does not serve one of the ids.
        """
        worker = self._worker(channel)
        for entry in worker.endService(ids):
            entry.tally.finished += 1
            source = entry.source
            if source is not None:
                # It is neither parked, nor does it wait.
                entry.source = None
                source.depart()
        return self._closeCopies(worker, ids) + self._dispatch(now)

    def give(self, channel: Hashable, ids: Collection[int]) -> list[Decision]:
        """
        A worker says that other processes may touch connections which it had claimed.

        @raise ProtocolError: if it does not serve one of the ids.
        """
        worker = self._worker(channel)
        worker.give(ids)
        return self._closeCopies(worker, ids)

    def clientGone(
        self, channel: Hashable, ids: Collection[int], now: float
    ) -> list[Decision]:
        """
        Like L{close}, for connections whose clients had left before the worker could
        adopt them.
        """
        worker = self._worker(channel)
        for entry in worker.endService(ids):
            entry.tally.goneBeforeAdoption += 1
            self.ends.append(End("goneBeforeAdoption", entry))
            self._ended(entry)
        return self._closeCopies(worker, ids) + self._dispatch(now)

    def _closeCopies(self, worker: Worker, ids: Collection[int]) -> list[Decision]:
        copies = worker.copies
        decisions: list[Decision] = []
        for id in ids:
            entry = copies.pop(id, None)
            if entry is not None:
                self._copies.discard(entry)
                decisions.append(CloseCopy(entry.connection))
        return decisions

    def drain(self, channel: Hashable) -> None:
        """
        Give a worker no more offers.
        """
        self._worker(channel).open = False
        self._workersChanged()

    def undrain(self, channel: Hashable) -> None:
        """
        Let a worker have offers again, from the next decision on.
        """
        self._worker(channel).open = True
        self._workersChanged()

    def revoke(self, channel: Hashable) -> None:
        """
        Note that a worker is being revoked, because it hangs or broke the protocol.
        """
        worker = self._worker(channel)
        worker.open = False
        self._workersChanged()
        if not worker.revoked:
            worker.revoked = True
            self.tallies.revoked += 1

    def block(self, channel: Hashable, blocked: bool) -> None:
        """
        Give a worker no offers for now, or give it offers again.

        @param blocked: whether to give it no offers.
        """
        worker = self._workers.get(channel)
        if worker is not None:
            worker.blocked = blocked

    def park(self, channel: Hashable, parked: bool) -> None:
        """
        Give a worker no offers while the next listener serves, or give it offers again,
        unless it is drained or revoked.

        @param parked: whether to give it no offers.
        """
        worker = self._workers.get(channel)
        if worker is not None:
            worker.parked = parked
            self._workersChanged()

    # How workers end

    def workerDied(
        self,
        channel: Hashable,
        touched: Collection[Any],
        now: float,
        unusable: Collection[Any] = (),
    ) -> list[Decision]:
        """
        A worker is dead, and all its frames were read.

        @param touched: the connections among its L{Inventory.copiesOf} that were
            touched.
        @param unusable: the connections among its L{Inventory.offersTo} that no worker
            can use.
        """
        worker = self._workers.pop(channel)
        self._workersChanged()
        for entry in worker.own():
            entry.tally.lostInService += 1
            self.ends.append(End("lostInService", entry))
            self._ended(entry)
        for entry in worker.ofOthers():
            entry.tally.given += 1
            self._leaves(entry)
        decisions = self._divideCopies(worker, touched)
        decisions += self._takeBack(worker, unusable)
        return decisions + self._dispatch(now)

    def workerLeft(
        self,
        channel: Hashable,
        now: float,
        asleep: bool = False,
        unusable: Collection[Any] = (),
    ) -> list[Decision]:
        """
        A worker has left its channel, and may live.  Either it said BYE, or it was
        revoked and all its frames were read.  The connections that it claimed are its
        own.  It can claim no others.

        @param asleep: whether it has not read the last frame that it was sent.
        @param unusable: the connections among its L{Inventory.offersTo} that no worker
            can use.
        """
        worker = self._workers.pop(channel)
        worker.open = False
        self._workersChanged()
        self._keepsOwn(worker)
        if worker.copies:
            self._departed[channel] = worker
        decisions: list[Decision] = []
        if asleep:
            self._copies.sleep(worker)
            decisions += self._limitAsleep()
        elif worker.gives:
            self._copies.wake(worker, now)
        decisions += self._takeBack(worker, unusable)
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

        @param touched: the connections among its L{Inventory.copiesOf} that were
            touched.
        """
        worker = self._departed.pop(channel, None)
        if worker is None:
            return []
        return self._divideCopies(worker, touched) + self._dispatch(now)

    def _keepsOwn(self, worker: Worker) -> None:
        """
        Note that a worker has left, and keeps what it claimed.  A connection whose copy
        is held has not ended yet: another worker may get it.
        """
        for entry in worker.own():
            self._keeps(worker, entry)
        for entry in worker.ofOthers():
            entry.tally.given += 1
            self._leaves(entry)

    def _leaves(self, entry: Entry) -> None:
        """
        Nobody will say when a connection ends.
        """
        if entry.source is not None:
            self.left.append(entry)

    def _keeps(self, worker: Worker, entry: Entry) -> None:
        """
        A worker that has left keeps a connection.  If it was revoked, it may hang.
        """
        entry.tally.leftWithWorker += 1
        self._leaves(entry)
        if worker.revoked:
            self.ends.append(End("leftWithWorker", entry))

    def _takeBack(self, worker: Worker, unusable: Collection[Any]) -> list[Decision]:
        """
        Let the connections that a worker did not claim wait for other workers.
        """
        decisions: list[Decision] = []
        for entry in worker.offered.values():
            if entry.connection in unusable:
                decisions.append(self._giveUpUnusable(entry))
            else:
                self._redispatch(entry)
        worker.offered.clear()
        return decisions

    def _divideCopies(self, worker: Worker, touched: Collection[Any]) -> list[Decision]:
        """
        Give up the touched connections of a dead worker, and take back the untouched.
        """
        decisions: list[Decision] = []
        for entry in worker.copies.values():
            self._copies.discard(entry)
            if entry.connection in touched:
                entry.tally.lostInService += 1
                self.ends.append(End("lostInService", entry))
                self._ended(entry)
                decisions.append(GiveUp(entry.connection, Reason.LOST_IN_SERVICE))
            else:
                self._redispatch(entry)
        return decisions

    # What the caller notices

    def clientsLeft(self, connections: Iterable[Any]) -> list[Decision]:
        """
        The clients of some connections that wait have left.
        """
        left = set(connections)
        decisions: list[Decision] = []
        for queue in self._queues.values() if left else ():
            for entry in queue.remove(left):
                entry.tally.goneBeforeAdoption += 1
                self.ends.append(End("goneBeforeAdoption", entry))
                self._ended(entry)
                decisions.append(GiveUp(entry.connection, Reason.GONE))
        return decisions

    def clientsHalfClosed(
        self, connections: Iterable[Any], now: float
    ) -> list[Decision]:
        """
        The clients of some connections that wait have ended their side and sent
        nothing.  These connections are given up after a while.  If they are too many,
        or if descriptors get scarce, they are given up at once.  The silent ones become
        ready, and are offered at the next event.
        """
        ended = set(connections)
        if not ended:
            return []
        crowded = self.held >= self._budget * 3 // 4
        due = []
        for queue in self._queues.values():
            due += queue.clientsHalfClosed(ended, now, crowded)
        return self.clientsLeft(due)

    def spoke(self, connections: Collection[Any], now: float) -> list[Decision]:
        """
        Something has come from the clients of some silent connections: bytes, or the
        end of their side.
        """
        for queue in self._queues.values():
            if queue.silent:
                queue.spoke(connections, now)
        return self._dispatch(now)

    def watched(self, connections: Collection[Any]) -> None:
        """
        Silent connections are watched from now on, and when that began, nothing had
        come from their clients.  Before this, none of them is given up for silence.
        """
        for queue in self._queues.values():
            if queue.silent.entries:
                queue.silent.watched(connections)

    def closeTouched(self, connections: Iterable[Any]) -> list[Decision]:
        """
        Some of the L{copies} were touched: their workers serve them.
        """
        touched = set(connections)
        if not touched:
            return []
        entries = [entry for entry in self._copies if entry.connection in touched]
        return [self._closeCopy(entry) for entry in entries]

    def passTime(self, now: float) -> list[Decision]:
        """
        Time has passed.
        """
        decisions = self._giveUp(WaitingQueue.takeReadyOverdue, now)
        while (copy := self._copies.overdue(now)) is not None:
            decisions.append(self._closeCopy(copy))
        for worker in self._workers.values():
            if worker.hangs(now, self._claimTimeout):
                self.revoke(worker.channel)
                reason = f"an offer unclaimed for {self._claimTimeout:g} s"
                decisions.append(Revoke(worker.channel, reason))
        if self._parks:
            self._releaseParked(True)
        decisions += self._dispatch(now)
        # If a silent connection is overdue, a worker that is able may still have it.
        return decisions + self._giveUp(WaitingQueue.takeOverdue, now)

    def releaseAll(self, now: float) -> list[Decision]:
        """
        Let in all connections that limits keep out: the listener is about to end.
        """
        for table in self._tables:
            self._release(table.releaseAll())
        return self._dispatch(now)

    def keepNoSilent(self, now: float) -> list[Decision]:
        """
        From now on, offer silent connections like all others: the listener is about to
        end.
        """
        self._keepsSilent = False
        self._workersChanged()
        return self._dispatch(now)

    def stop(self) -> list[Decision]:
        """
        The listener ends.  The connections that wait are given up.  Offered connections
        stay with their workers, which see that the listener has ended.
        """
        decisions: list[Decision] = []
        for queue in self._queues.values():
            for entry in queue.takeAll():
                entry.tally.stopped += 1
                self.ends.append(End("stopped", entry))
                self._ended(entry)
                decisions.append(GiveUp(entry.connection, Reason.STOPPED))
        for worker in self._workers.values():
            self._keepsOwn(worker)
        for worker in (*self._workers.values(), *self._departed.values()):
            for entry in (*worker.offered.values(), *worker.copies.values()):
                decisions.append(CloseCopy(entry.connection))
                entry.tally.leftWithWorker += 1
            worker.offered.clear()
        self._unwatched.clear()
        self.left.clear()
        self._workers.clear()
        self._departed.clear()
        self._copies.clear()
        return decisions

    # The inside

    def _giveUp(
        self, take: Callable[[WaitingQueue, float], list[Entry]], now: float
    ) -> list[Decision]:
        """
        Give up connections whose patience is over.
        """
        decisions: list[Decision] = []
        for queue in self._queues.values():
            for entry in take(queue, now):
                entry.tally.timedOut += 1
                self.ends.append(End("timedOut", entry))
                self._ended(entry)
                decisions.append(GiveUp(entry.connection, Reason.TIMED_OUT))
        return decisions

    def _giveUpUnusable(self, entry: Entry) -> GiveUp:
        entry.tally.unusable += 1
        self.ends.append(End("unusable", entry))
        self._ended(entry)
        return GiveUp(entry.connection, Reason.UNUSABLE)

    def _redispatch(self, entry: Entry) -> None:
        entry.tally.redispatched += 1
        self._wait(entry)

    def _limitAsleep(self) -> list[Decision]:
        decisions: list[Decision] = []
        while (entry := self._copies.tooManyAsleep()) is not None:
            decisions.append(self._closeCopy(entry))
        return decisions

    def _closeCopy(self, entry: Entry) -> CloseCopy:
        self._copies.discard(entry)
        worker = entry.worker
        assert worker is not None
        del worker.copies[entry.id]
        if self._departed and self._departed.get(worker.channel) is worker:
            self._keeps(worker, entry)
            if not worker.copies:
                del self._departed[worker.channel]
        return CloseCopy(entry.connection)
