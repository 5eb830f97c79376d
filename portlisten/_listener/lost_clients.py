"""
The log of the clients that were lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twisted.logger import Logger

from portlisten._listener.about import about
from portlisten._policy.decisions import Reason
from portlisten._policy.entries import End
from portlisten._reactor.log_limit import logLimit

#: What is said of clients that a revoked worker keeps.
KEPT = "its worker was revoked, and keeps it: if that worker hangs, it is lost"

#: What is said of each end, by the counter that counts it.
_REASONS = {
    "lostInService": Reason.LOST_IN_SERVICE.value,
    "unusable": Reason.UNUSABLE.value,
    "timedOut": Reason.TIMED_OUT.value,
    "silentTooLong": Reason.SILENT.value,
    "stopped": Reason.STOPPED.value,
    "goneBeforeAdoption": Reason.GONE.value,
    "leftWithWorker": KEPT,
}

#: The ends that concern the last worker that had the connection.
_BY_WORKER = ("lostInService", "unusable", "leftWithWorker")


class LostClients:
    """
    Logs how connections ended that no worker finished.  In JSON, each lost client is a
    line.  In text, a flood of them is summed up.

    @param reactor: an L{IReactorTime}.
    @ivar ports: the ports in readable form, by their numbers.
    """

    log = Logger()

    def __init__(self, reactor: Any) -> None:
        self._logLimited = logLimit(reactor)
        self.ports: Mapping[int, str] = {}

    def report(self, ends: list[End]) -> None:
        """
        Log these ends, and empty the list.
        """
        taken, ends[:] = ends[:], []
        for counter, entry in taken:
            fields: dict[str, Any] = {
                "peer": entry.connection.peer,
                "port": self.ports.get(entry.port, entry.name),
                "connection": entry.order[1],
                "cause": counter,
                "reason": _REASONS[counter],
            }
            if counter in _BY_WORKER and entry.worker is not None:
                fields |= about(entry.worker.channel)
            if counter == "leftWithWorker":
                self._logLimited(
                    self.log.warn,
                    "the connection of {peer} stays with {channel}: {reason}",
                    event="client-kept",
                    **fields,
                )
            elif counter == "goneBeforeAdoption":
                self._logLimited(
                    self.log.info,
                    "the connection of {peer} is closed: {reason}",
                    event="client-gone",
                    **fields,
                )
            else:
                self._logLimited(
                    self.log.warn,
                    "the connection of {peer} is closed: {reason}",
                    event="client-lost",
                    **fields,
                )
