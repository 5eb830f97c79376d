"""
Workers that have left: what the listener still holds for them, and for how long.

A worker may leave its channel and live.  While its process lives, its claimed
connections are its own: L{portlisten._policy.ledger} says why.  So the listener watches
the process while it holds copies of these connections.  It also keeps a closed channel
while descriptors in it are unread: they are in flight, and count for their user.

For each worker that has left, the listener waits for one event at a time: see
L{Awaited}.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Any

from twisted.logger import Logger

from portlisten import _kernel
from portlisten._listener.about import about
from portlisten._listener.connection import touched, unusable
from portlisten._listener.interfaces import IChannel, IConnection
from portlisten._policy.decisions import Decision
from portlisten._policy.ledger import Ledger
from portlisten._reactor.log_limit import logLimit

#: How long a process may take to end after it closed its channel, in seconds.
PROCESS_END_SECONDS = 0.2


class Awaited(Enum):
    """
    What the listener waits for, after a worker has left::

        END_SOON --> READING --> END --> CHANNEL --> (nothing is left)
    """

    END_SOON = "its channel is closed, and its process may be about to end"
    READING = "its process lives, and has not read the last frame that it was sent"
    END = "its process lives, and copies of what it claimed are held"
    CHANNEL = "its channel is not closed yet, or descriptors in it are unread"


@dataclass(slots=True)
class _Departed:
    """
    A worker that has left.

    @ivar process: a pidfd, or L{None} if the process is not watched.
    @ivar deadline: when L{Awaited.END_SOON} ends, in seconds.
    @ivar closed: whether its channel is closed.
    @ivar inFlight: how many descriptors in its channel were unread at the last check.
    """

    awaited: Awaited
    process: int | None = None
    deadline: float = 0.0
    closed: bool = False
    inFlight: int = 0


class DepartedWorkers:
    """
    All workers that have left.

    @param reactor: an L{IReactorTime}.
    @param ledger: gets the events of these workers.
    @param now: returns the time, in seconds.
    @param run: carries out the ledger's decisions.

    @ivar channelEnded: called with each channel for which nothing is held any more.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        ledger: Ledger,
        now: Callable[[], float],
        run: Callable[[list[Decision]], None],
    ) -> None:
        self._ledger = ledger
        self._now = now
        self._run = run
        self._logLimited = logLimit(reactor)
        self._workers: dict[IChannel, _Departed] = {}
        self._unread: Counter[int] = Counter()
        self.channelEnded: Callable[[IChannel], None] = lambda channel: None

    @property
    def changes(self) -> bool:
        """
        Whether an event of one of them is still to come: whether to L{check}.
        """
        return any(
            worker.closed or worker.process is not None
            for worker in self._workers.values()
        )

    @property
    def inFlight(self) -> int:
        """
        How many descriptors were in flight to them at the last L{check}.
        """
        return self._unread.total()

    def unreadBy(self, user: int) -> int:
        """
        How many descriptors were in flight to a user's workers that have left, at the
        last L{check}.
        """
        return self._unread[user]

    # Events of the channels

    def left(self, channel: IChannel, reason: str) -> None:
        """
        Note that a worker has left, and may live.  It can claim nothing more.
        """
        process, ended = self._processOf(channel)
        self._leave(channel, reason, process)
        if ended:
            self._processEnded(channel)

    def died(self, channel: IChannel) -> None:
        """
        Note that a worker closed its channel without BYE.  If its process lives, give
        the process a moment to end: until then, its claimed connections are its own.
        """
        process, _ = self._processOf(channel)
        if process is not None and _kernel.hasEnded(process):
            os.close(process)
            process = None
        if process is None:
            self._reportDeath(channel)
            return
        self._ledger.drain(channel)
        deadline = self._now() + PROCESS_END_SECONDS
        self._workers[channel] = _Departed(Awaited.END_SOON, process, deadline)

    def channelClosed(self, channel: IChannel) -> None:
        """
        Note that the channel of a worker is closed.  The worker may never have joined.
        """
        worker = self._workers.setdefault(channel, _Departed(Awaited.CHANNEL))
        worker.closed = True
        self._discardIfDone(channel, worker)

    # The course of time

    def check(self, now: float) -> None:
        """
        Check what the workers have done since.
        """
        for channel, worker in list(self._workers.items()):
            if self._workers.get(channel) is worker:
                self._checkOne(channel, worker, now)
                self._discardIfDone(channel, worker)

    def stop(self) -> None:
        """
        Stop waiting, for all workers.
        """
        for channel, worker in list(self._workers.items()):
            self._discard(channel, worker)

    def _checkOne(self, channel: IChannel, worker: _Departed, now: float) -> None:
        if worker.process is not None and _kernel.hasEnded(worker.process):
            soon = worker.awaited is Awaited.END_SOON
            self._stopWatching(worker)
            if soon:
                self._reportDeath(channel)
            else:
                self._processEnded(channel)
        elif worker.awaited is Awaited.END_SOON:
            if now >= worker.deadline:
                reason = "it closed the channel without BYE, and its process still runs"
                self._leave(channel, reason, worker.process)
        elif worker.awaited is Awaited.READING and not channel.unread():
            worker.awaited = Awaited.END
            self._ledger.workerAwoke(channel, now)

    def _discardIfDone(self, channel: IChannel, worker: _Departed) -> None:
        """
        If the listener waits for nothing more of a worker, close what it holds.
        """
        self._count(channel, worker, channel.inFlight())
        if worker.awaited is Awaited.END_SOON:
            return
        if worker.process is not None and not self._ledger.copiesOf(channel):
            self._stopWatching(worker)
        if worker.process is None and worker.closed and not worker.inFlight:
            self._discard(channel, worker)

    def _discard(self, channel: IChannel, worker: _Departed) -> None:
        self._stopWatching(worker)
        if channel.dismiss():
            del self._workers[channel]
            self._count(channel, worker, 0)
            self.channelEnded(channel)

    def _count(self, channel: IChannel, worker: _Departed, inFlight: int) -> None:
        if inFlight != worker.inFlight:
            self._unread[channel.user] += inFlight - worker.inFlight
            worker.inFlight = inFlight
            if not self._unread[channel.user]:
                del self._unread[channel.user]

    # Processes

    def _processOf(self, channel: IChannel) -> tuple[int | None, bool]:
        """
        Find the process of a worker, if copies of its connections are held.

        @return: a pidfd or L{None}, and whether the process is known to have ended.
            The pidfd is the caller's.
        """
        if not self._ledger.copiesOf(channel):
            return None, False
        try:
            return channel.process(), False
        except ProcessLookupError:
            return None, True

    def _stopWatching(self, worker: _Departed) -> None:
        if worker.process is not None:
            os.close(worker.process)
        worker.process = None
        worker.awaited = Awaited.CHANNEL

    def _leave(self, channel: IChannel, reason: str, process: int | None) -> None:
        """
        Report to the ledger that a worker has left and may live.

        @param process: a pidfd, or L{None} if the process is not to be watched.  This
            keeps the pidfd.
        """
        worker = self._workers.setdefault(channel, _Departed(Awaited.CHANNEL))
        worker.process = process
        if process is None:
            worker.awaited = Awaited.CHANNEL
        else:
            worker.awaited = Awaited.READING if channel.unread() else Awaited.END
        self._count(channel, worker, channel.inFlight())
        before = self._ledger.counters.redispatched
        decisions = self._ledger.workerLeft(
            channel,
            self._now(),
            worker.awaited is Awaited.READING,
            unusable(self._ledger.offersTo(channel)),
        )
        self._logLimited(
            self.log.info,
            "{channel} left, {again} connections to hand off again: {reason}",
            event="worker-left",
            **about(channel),
            again=self._ledger.counters.redispatched - before,
            reason=reason,
        )
        self._run(decisions)

    def _reportDeath(self, channel: IChannel) -> None:
        lost = unusable(self._ledger.offersTo(channel))
        self._redistribute(
            channel, "{channel} died", partial(self._ledger.workerDied, unusable=lost)
        )

    def _processEnded(self, channel: IChannel) -> None:
        if self._ledger.copiesOf(channel):
            self._redistribute(
                channel, "the process of {channel} has ended", self._ledger.processEnded
            )

    def _redistribute(
        self,
        channel: IChannel,
        what: str,
        decide: Callable[[IChannel, set[IConnection], float], list[Decision]],
    ) -> None:
        """
        A worker is dead: offer the connections that it had not touched to others.

        @param what: what happened, for the log.
        @param decide: reports it to the ledger.
        """
        before = self._ledger.counters
        copies = touched(self._ledger.copiesOf(channel))
        decisions = decide(channel, copies, self._now())
        after = self._ledger.counters
        lost = after.lostInService - before.lostInService
        lost += after.unusable - before.unusable
        self._logLimited(
            self.log.warn,
            what + ", {again} connections to hand off again, {lost} lost in service",
            event="worker-lost",
            **about(channel),
            again=after.redispatched - before.redispatched,
            lost=lost,
        )
        self._run(decisions)
