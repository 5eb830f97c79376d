"""
The workers as the operator sees them: the roster lists them, drains them, and lets them
serve again.

To drain a worker, the listener gives it no more offers, withdraws its shared sockets,
and says LEAVE.  The worker confirms that it drains.  It ends the connections that it
keeps for further requests, and goes on to run.  It is drained when none of its
connections is left.  The ledger knows the connections that the listener offered.  The
worker itself reports the number of the others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from twisted.logger import Logger

from portlisten import _kernel
from portlisten._control.messages import Drain, Undrain, Workers, WorkersAnswer
from portlisten._control.status import State, WorkerState, WorkerStatus
from portlisten._listener.about import about
from portlisten._listener.admission import Newcomers
from portlisten._listener.interfaces import IChannel
from portlisten._listener.sharing import Sharing
from portlisten._model import Kind
from portlisten._policy.ledger import Ledger
from portlisten._policy.link import JOIN_AGAIN
from portlisten._reactor.log_limit import logLimit
from portlisten._wire.listener_session import Joined

#: What a worker hears that is to serve again.
UNDRAINED = f"undrained: {JOIN_AGAIN}"


@dataclass
class _Entry:
    """
    A worker that has joined.

    @ivar hello: its HELLO.
    @ivar drains: whether it said that it drains.
    @ivar serving: the connections that it reported last; L{None} if it reported none.
    @ivar joined: when it joined, in seconds.
    @ivar since: when it began to drain, in seconds; L{None} if it does not.
    @ivar asked: whether the operator drains it.
    @ivar had: how many connections it had when the operator asked.
    """

    hello: Joined
    joined: float
    since: float | None = None
    drains: bool = False
    serving: int | None = None
    asked: bool = False
    had: int = 0

    @property
    def onlyShares(self) -> bool:
        """
        Whether it only uses shared sockets.
        """
        return all(port.kind is not Kind.CONNECTIONS for port in self.hello.ports)


class Roster:
    """
    All workers that have joined.

    @param reactor: an L{IReactorTime}.
    @param left: called with a worker that is about to hear BYE, and the reason.
    @param admit: called with a worker that may be offered connections again, and its
        HELLO.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        ledger: Ledger,
        sharing: Sharing,
        newcomers: Newcomers,
        left: Callable[[IChannel, str], None],
        admit: Callable[[IChannel, Joined], None],
    ) -> None:
        self._ledger = ledger
        self._sharing = sharing
        self._newcomers = newcomers
        self._left = left
        self._admit = admit
        self._seconds: Callable[[], float] = reactor.seconds
        self._logLimited = logLimit(reactor)
        self._entries: dict[IChannel, _Entry] = {}
        # Those that the operator drains, and that are not drained yet.
        self._awaited: set[IChannel] = set()
        # How many channels of each process are to be drained when they join; or of each
        # label, if the kernel does not tell the process.
        self._inherited: Counter[int | str] = Counter()

    # Events of the channels

    def joined(self, channel: IChannel, hello: Joined) -> None:
        """
        Note that a worker joined.
        """
        self._entries[channel] = _Entry(hello, self._seconds())

    def drainInherited(self, channel: IChannel) -> bool:
        """
        If a worker that has just joined is one of L{inherit}, drain it before it gets
        anything.

        @return: whether it is.
        """
        entry = self._entries[channel]
        worker = channel.pid or entry.hello.label
        if self._inherited[worker] <= 0:
            return False
        self._inherited[worker] -= 1
        entry.asked = True
        self._beginDrain(entry)
        self._logLimited(
            self.log.info,
            "{channel} joined, and stays drained",
            event="worker-drains",
            **about(channel),
        )
        self._newcomers.hold(channel)
        self._drain(channel)
        return True

    def serving(self, channel: IChannel, count: int) -> None:
        """
        Note how many connections a worker has that the ledger does not know.
        """
        if channel in self._entries:
            self._entries[channel].serving = count

    def drains(self, channel: IChannel) -> None:
        """
        Note that a worker drains.
        """
        if channel in self._entries:
            self._entries[channel].drains = True
            self._beginDrain(self._entries[channel])

    def left(self, channel: IChannel) -> None:
        """
        Note that a worker left or died.  May be called again.
        """
        self._entries.pop(channel, None)
        self._awaited.discard(channel)

    def letGo(self, channel: IChannel) -> None:
        """
        Note that a worker is about to leave, since the next listener has taken over.
        If that one dies, a worker that the operator drains is drained when it is back.
        """
        entry = self._entries.get(channel)
        if entry is not None and entry.asked:
            self._inherited[channel.pid] += 1

    def check(self, channel: IChannel) -> None:
        """
        After events of a worker: see whether it is drained by now.
        """
        if channel not in self._awaited:
            return
        entry = self._entries[channel]
        if self._state(channel, entry) is State.DRAINED:
            self._awaited.discard(channel)
            self._logLimited(
                self.log.info,
                "{channel} is drained; it had {count} connections when that began",
                event="worker-drained",
                **about(channel),
                count=entry.had,
            )

    @property
    def drained(self) -> tuple[int, ...]:
        """
        The processes of the workers that the operator drains, or has drained, as far
        as the kernel tells them.  A process may have several channels.
        """
        return tuple(
            channel.pid
            for channel, entry in self._entries.items()
            if entry.asked and channel.pid
        )

    @property
    def drainedLabels(self) -> tuple[str, ...]:
        """
        The labels of the others: a worker in another container has no number here.  One
        without a label cannot be told from the others, and serves again.
        """
        return tuple(
            entry.hello.label
            for channel, entry in self._entries.items()
            if entry.asked and not channel.pid and entry.hello.label
        )

    def inherit(self, drained: Iterable[int], labels: Iterable[str] = ()) -> None:
        """
        Take over from another listener whose operator drains workers.

        @param drained: their processes, each as often as it has a channel that is to
            be drained when it joins.
        @param labels: the labels of those whose processes the kernel does not tell,
            likewise.
        """
        # An earlier release says 0 of these, which would be any of them.
        workers: list[int | str] = [*drained, *labels]
        self._inherited = Counter(each for each in workers if each)

    def ports(self, channel: IChannel) -> frozenset[str]:
        """
        The names of the ports that a worker serves; none if it has not joined.
        """
        entry = self._entries.get(channel)
        ports = () if entry is None else entry.hello.ports
        return frozenset(port.name for port in ports)

    # Requests of the operator

    def workers(self, request: Workers, client: _kernel.Credentials) -> WorkersAnswer:
        """
        List all workers.
        """
        return self._answer(self._entries)

    def drain(self, request: Drain, client: _kernel.Credentials) -> WorkersAnswer:
        """
        Drain workers.
        """
        channels = self._named(request.workers)
        for channel in channels:
            entry = self._entries[channel]
            if not entry.asked:
                entry.asked = True
                self._beginDrain(entry)
                entry.had = self._describe(channel, entry).left
                self._log(
                    "is told to drain", channel, client, event="worker-drain-asked"
                )
                self._drain(channel)
        return self._answer(channels)

    def undrain(self, request: Undrain, client: _kernel.Credentials) -> WorkersAnswer:
        """
        Let drained workers serve again.
        """
        channels = self._named(request.workers)
        for channel in channels:
            entry = self._entries[channel]
            # At BYE a worker serves what it was offered, claimed or not.  So each offer
            # must be answered first.
            if entry.asked and not self._ledger.offersTo(channel):
                self._log("is undrained", channel, client, event="worker-undrained")
                self._undrain(channel, entry)
        return self._answer(each for each in channels if each in self._entries)

    def _named(self, words: Collection[str]) -> list[IChannel]:
        wanted = frozenset(words)
        return [
            channel
            for channel, entry in self._entries.items()
            if self._describe(channel, entry).isNamed(wanted)
        ]

    def _answer(self, channels: Iterable[IChannel]) -> WorkersAnswer:
        return WorkersAnswer(
            tuple(self._describe(each, self._entries[each]) for each in channels)
        )

    def _describe(self, channel: IChannel, entry: _Entry) -> WorkerState:
        return WorkerState(
            channel.label,
            entry.hello.label,
            channel.pid,
            channel.user,
            self._ledger.outstanding(channel),
            entry.serving,
            self._state(channel, entry),
        )

    def statuses(self, now: float) -> tuple[WorkerStatus, ...]:
        """
        Describe all workers in full.

        @param now: the ledger's time, in seconds.
        """
        seconds = self._seconds()
        return tuple(
            self._describeInFull(channel, entry, now, seconds)
            for channel, entry in self._entries.items()
        )

    def _describeInFull(
        self, channel: IChannel, entry: _Entry, now: float, seconds: float
    ) -> WorkerStatus:
        state = self._describe(channel, entry)
        holdings = self._ledger.holdings(channel, now)
        return WorkerStatus(
            **vars(state),
            number=channel.number,
            joined=round(seconds - entry.joined, 3),
            ports=tuple(dict.fromkeys(port.name for port in entry.hello.ports)),
            window=entry.hello.window,
            limit=entry.hello.limit,
            offered=holdings.offered,
            claimed=holdings.claimed,
            draining=0.0 if entry.since is None else round(seconds - entry.since, 3),
            unanswered=round(holdings.unanswered, 3),
            waits=self._newcomers.waits(channel),
        )

    def _beginDrain(self, entry: _Entry) -> None:
        if entry.since is None:
            entry.since = self._seconds()

    def _state(self, channel: IChannel, entry: _Entry) -> State:
        if not entry.asked and not entry.drains:
            return State.SERVING
        if not entry.hello.leaves:
            return State.UNKNOWN
        left = self._ledger.outstanding(channel) or entry.serving
        return State.DRAINING if left or not entry.drains else State.DRAINED

    def _drain(self, channel: IChannel) -> None:
        self._awaited.add(channel)
        if self._newcomers.waits(channel):
            self._newcomers.drain(channel)
        else:
            self._sharing.drainWorker(channel)
            self._ledger.drain(channel)
        channel.leave()

    def _undrain(self, channel: IChannel, entry: _Entry) -> None:
        if entry.hello.leaves or not entry.onlyShares:
            self._left(channel, UNDRAINED)
            channel.bye(UNDRAINED)
            return
        # It may be a program under `portlisten exec`, which does not read BYE, and
        # never joins again.  Such a program has accepted all the time.
        entry.asked = False
        entry.since = None
        self._awaited.discard(channel)
        if self._newcomers.leave(channel):
            self._newcomers.add(channel, partial(self._admit, channel, entry.hello))
        else:
            self._ledger.undrain(channel)
            self._sharing.undrainWorker(channel, entry.hello.ports)

    def _log(
        self,
        what: str,
        channel: IChannel,
        client: _kernel.Credentials,
        event: str,
    ) -> None:
        self._logLimited(
            self.log.info,
            "{channel} " + what + ", as pid {askerPid} of uid {askerUid} asks",
            event=event,
            **about(channel),
            askerPid=client.pid,
            askerUid=client.uid,
        )
