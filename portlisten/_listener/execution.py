"""
Carrying out what the ledger decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from twisted.logger import Logger

from portlisten import _kernel
from portlisten._listener.about import about
from portlisten._listener.interfaces import IConnection
from portlisten._listener.silent_clients import SilentClients
from portlisten._policy.decisions import (
    CloseCopy,
    Decision,
    GiveUp,
    HandOff,
    Reason,
    Watch,
)
from portlisten._reactor.log_limit import logLimit

#: What is added to the reason if only a child can have been meant to claim.
ENDED = "; its process has ended, and a child of it holds the channel"


class Executor:
    """
    Carries out decisions.

    @param reactor: an L{IReactorTime}.
    @param silentClients: watches the connections of silent clients.
    @param timedOut: called when the patience of connections ran out.
    @param refused: called when connections could not wait because of their sources.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        silentClients: SilentClients,
        timedOut: Callable[[], None],
        refused: Callable[[], None] = lambda: None,
    ) -> None:
        self._logLimited = logLimit(reactor)
        self._silentClients = silentClients
        self._timedOut = timedOut
        self._refused = refused

    def carryOut(
        self, decisions: Iterable[Decision]
    ) -> tuple[list[IConnection], list[IConnection]]:
        """
        Carry out decisions, in this order.

        @return: of the connections that were to be watched, those that are, and those
            from whose clients something has come, or may have.
        """
        timedOut = refused = False
        offered = set()
        watched: list[IConnection] = []
        unwatched: list[IConnection] = []
        silent = self._silentClients
        for decision in decisions:
            if isinstance(decision, HandOff):
                channel, id, connection, port = decision
                if silent.watched:
                    silent.discard(connection)
                channel.offer(id, port, connection, more=True)
                offered.add(channel)
            elif isinstance(decision, CloseCopy):
                decision.connection.closeCopy()
            elif isinstance(decision, GiveUp):
                self._giveUp(decision)
                timedOut = timedOut or decision.reason is Reason.TIMED_OUT
                refused = refused or decision.reason is Reason.QUEUE_FULL
            elif isinstance(decision, Watch):
                able = silent.watch(decision.connection)
                (watched if able else unwatched).append(decision.connection)
            else:
                ended = _kernel.processEnded(decision.channel.process)
                self._logLimited(
                    self.log.warn,
                    "{channel} hangs, and is revoked: {reason}{ended}",
                    event="worker-revoked",
                    **about(decision.channel),
                    reason=decision.reason,
                    ended=ENDED if ended else "",
                )
                decision.channel.revoke(decision.reason)
        for channel in offered:
            channel.flush()
        if timedOut:
            self._timedOut()
        if refused:
            self._refused()
        if not watched:
            return [], unwatched
        # Later decisions may have ended some.
        watched = [each for each in watched if silent.watches(each)]
        found = silent.find(watched)
        for each in watched:
            if each not in found:
                silent.discard(each)
                unwatched.append(each)
        return list(found), unwatched

    def _giveUp(self, decision: GiveUp) -> None:
        self._silentClients.discard(decision.connection)
        if decision.reason is Reason.QUEUE_FULL:
            decision.connection.reset()
            return
        decision.connection.closeCopy()
