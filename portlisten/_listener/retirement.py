"""
The end of a listener whose successor has taken over.

Nothing is accepted any more.  The successor has joined as a worker, and gets what
waits.  Each other worker is let go as soon as it has answered its offers: it connects
again at once, and then the successor is at the path.  A worker that hangs is revoked,
and its offers go to the successor, too.

A port that the successor does not have is drained: the workers that serve it stay until
nothing waits there.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from twisted.internet.defer import Deferred

from portlisten._listener.interfaces import IChannel
from portlisten._model import Kind
from portlisten._policy.decisions import Decision
from portlisten._policy.ledger import Ledger
from portlisten._policy.link import JOIN_AGAIN
from portlisten._wire.listener_session import Joined

#: What a worker hears that is let go.
LET_GO = f"the next listener has taken over: {JOIN_AGAIN}"

#: What the successor hears when it has everything.
ALL_IS_HANDED_OVER = "all is handed over"


class Workers(Protocol):
    """
    The workers of a listener, as its retirement needs them.
    """

    def workerChannels(self) -> Sequence[IChannel]:
        """
        The channels that are not closed.
        """

    def portsOf(self, channel: IChannel) -> Collection[str]:
        """
        The names of the ports that a worker serves; none if it has not joined.
        """

    def letGo(self, channel: IChannel, reason: str) -> None:
        """
        Let a worker go that has no offers.  May be called again.
        """


class Retirement:
    """
    Hands over what waits, and lets the workers go.

    @param workers: the workers.
    @param ledger: has the connections.
    @param deadline: when it must be over, in seconds.
    @param names: the names of the successor's ports.
    @param waits: says which names of other ports have clients in their backlogs.
    @param more: says whether more connections may come that wait.

    @ivar done: fires when nothing is left to hand over.
    @ivar successor: the channel of the successor.
    """

    def __init__(
        self,
        workers: Workers,
        ledger: Ledger,
        deadline: float,
        names: Collection[str],
        waits: Callable[[], Collection[str]],
        more: Callable[[], bool],
    ) -> None:
        self._workers = workers
        self._ledger = ledger
        self._names = frozenset(names)
        self._waits = waits
        self._more = more
        # The workers that get no more offers because of this.
        self._parked: set[IChannel] = set()
        self._joined = False
        self._over = False
        self.deadline = deadline
        self.successor: IChannel | None = None
        self.done: Deferred[None] = Deferred()

    def admit(self, channel: IChannel, event: Joined, now: float) -> list[Decision]:
        """
        Offer the successor what waits, from now on.
        """
        self._joined = True
        names = {port.name for port in event.ports if port.kind is Kind.CONNECTIONS}
        return self._ledger.addWorker(
            channel, event.window, now, names & self._names, takesOver=True
        )

    def step(self, now: float) -> None:
        """
        Let the workers go that can, and see whether all is done.
        """
        if self._over:
            return
        late = now >= self.deadline
        left = set() if late else self._leftNames()
        for channel in self._workers.workerChannels():
            if channel is not self.successor:
                self._letGo(channel, left)
        if late or not (left or self._isBusy()):
            self._finish()

    def _leftNames(self) -> set[str]:
        """
        The names of ports that the successor does not have, and where connections wait
        for a worker.
        """
        ledger = self._ledger
        names = {name for name in ledger.names if name not in self._names}
        return set(self._waits()) | {
            name for name in names if ledger.waitingFor(name) and ledger.serves(name)
        }

    def _letGo(self, channel: IChannel, left: set[str]) -> None:
        """
        Let a worker go, unless it has offers, or serves one of these names.
        """
        ledger = self._ledger
        if not left.isdisjoint(self._workers.portsOf(channel)):
            return
        if ledger.offersTo(channel):
            if channel not in self._parked:
                self._parked.add(channel)
                ledger.park(channel, True)
            return
        self._workers.letGo(channel, LET_GO)

    def _isBusy(self) -> bool:
        ledger = self._ledger
        if not self._joined or self._more():
            return True
        if not ledger.knows(self.successor):
            # It has died, and the end of the handover's connection is about to tell.
            return True
        others = [
            each
            for each in self._workers.workerChannels()
            if each is not self.successor
        ]
        # Nobody will come for what the successor does not want.
        stuck = sum(
            ledger.waitingFor(name) for name in ledger.names if not ledger.serves(name)
        )
        return bool(others) or ledger.held > stuck

    def _finish(self) -> None:
        self._over = True
        if self.successor is not None:
            self.successor.bye(ALL_IS_HANDED_OVER)
        self.done.callback(None)

    def undo(self) -> None:
        """
        The successor is dead: give the workers offers again.
        """
        self._over = True
        for channel in self._parked:
            self._ledger.park(channel, False)
