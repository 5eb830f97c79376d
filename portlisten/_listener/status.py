"""
The answer to C{status}: what the listener's parts know, gathered in one turn of the
reactor.  So the numbers fit each other.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict
from typing import Any

from portlisten import __version__
from portlisten._control.messages import StatusAnswer
from portlisten._control.problems import diagnosed
from portlisten._control.status import (
    ClaimTimes,
    DeniedStatus,
    ListenerStatus,
    PortStatus,
    QueueStatus,
)
from portlisten._listener.denying import described
from portlisten._listener.dispatcher import Dispatcher
from portlisten._listener.limits import Limiter
from portlisten._listener.sharing import Sharing
from portlisten._model import Kind, Port
from portlisten._policy.inventory import QueueSummary
from portlisten._policy.ledger import Ledger
from portlisten._policy.tallies import COUNTED, Tally

#: How many denied networks the status names.
MAXIMUM_NETWORKS = 100


class Reporter:
    """
    Describes a listener.

    @param reactor: an L{IReactorTime}.
    @param path: the path of the channel.
    @param ports: the listener's ports.
    """

    def __init__(
        self,
        reactor: Any,
        path: str,
        ports: Sequence[Port],
        ledger: Ledger,
        sharing: Sharing,
        dispatcher: Dispatcher,
        limiter: Limiter,
    ) -> None:
        self._seconds: Callable[[], float] = reactor.seconds
        self._began = self._seconds()
        self._path = path
        self._ports = ports
        self._ledger = ledger
        self._sharing = sharing
        self._dispatcher = dispatcher
        self._limiter = limiter

    def status(
        self,
        stopping: bool,
        backlogOf: Callable[[int], int | None],
        paused: bool = False,
    ) -> StatusAnswer:
        """
        Describe the listener now.

        @param stopping: whether it was told to stop.
        @param backlogOf: says how many connections wait in the kernel for the port of a
            number.
        @param paused: whether an operator has paused it.
        """
        ledger = self._ledger
        now = self._dispatcher.now()
        queues = ledger.queues(now)
        limited = self._limiter.refusals()
        denied, networks = self._limiter.denials(MAXIMUM_NETWORKS)
        listener = ListenerStatus(
            version=__version__,
            pid=os.getpid(),
            uid=os.geteuid(),
            uptime=round(self._seconds() - self._began, 3),
            path=self._path,
            stopping=stopping,
            ports=tuple(
                self._describe(each, queues, backlogOf) for each in self._ports
            ),
            queues=tuple(
                QueueStatus(
                    name,
                    queue.waiting,
                    queue.silent,
                    round(queue.oldest, 3),
                    queue.limit,
                    queue.workers,
                    _counters(ledger.tallies.by[name]),
                    _claimTimes([ledger.tallies.by[name]]),
                    limited.get(name, {}),
                )
                for name, queue in queues.items()
            ),
            workers=self._dispatcher.roster.statuses(now),
            counters=asdict(ledger.counters),
            held=asdict(ledger.whereabouts()),
            paused=paused,
            claimTimes=_claimTimes(ledger.tallies.by.values()),
            sources=tuple(self._limiter.busiest()),
            denied=DeniedStatus(denied, described(networks)),
        )
        return diagnosed(listener)

    def _describe(
        self,
        port: Port,
        queues: dict[str, QueueSummary],
        backlogOf: Callable[[int], int | None],
    ) -> PortStatus:
        if port.kind is not Kind.CONNECTIONS:
            return self._sharing.describe(port)
        return PortStatus(
            port.name,
            str(port.address),
            False,
            queues[port.name].workers,
            backlogOf(port.number),
        )


def _counters(tally: Tally) -> dict[str, int]:
    return {name: getattr(tally, name) for name in COUNTED}


def _claimTimes(tallies: Collection[Tally]) -> ClaimTimes:
    counts = zip(*[each.claimTimes for each in tallies], strict=True)
    return ClaimTimes(
        tuple(map(sum, counts)),
        round(sum([each.claimSeconds for each in tallies]), 6),
    )
