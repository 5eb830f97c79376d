"""
Workers whose process has ended while their channel is open: a child of the process has
inherited it.

The kernel tells the process that connected, and whether it has ended.  It does not tell
which child has the channel, or whether that child serves.  A program that becomes a
daemon ends its first process, and serves on.  So nothing is taken from such a worker,
and the listener only logs a warning.

Workers without shared sockets are not watched: an idle listener spends no time on them.
If the child does not claim what such a worker is offered, the worker is revoked, and
the line that says so names the cause.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from twisted.logger import Logger

from portlisten import _kernel
from portlisten._listener.about import about
from portlisten._listener.interfaces import IChannel
from portlisten._model import Port
from portlisten._reactor.log_limit import logLimit

#: How long the children of a process that has ended may take to end, in seconds.
CHILDREN_SECONDS = 2.0


@dataclass
class _Worker:
    """
    A worker that has shared sockets.

    @ivar ports: the shared ports.
    @ivar ended: when its process was seen to have ended, in seconds; or L{None}.
    @ivar reported: whether that was logged.
    """

    ports: Sequence[Port]
    ended: float | None = None
    reported: bool = False


class Orphans:
    """
    Watches the processes of the workers that have shared sockets.

    @param reactor: an L{IReactorTime}.
    """

    log = Logger()

    def __init__(self, reactor: Any) -> None:
        self._now: Callable[[], float] = reactor.seconds
        self._logLimited = logLimit(reactor)
        self._workers: dict[IChannel, _Worker] = {}

    def joined(self, channel: IChannel, ports: Sequence[Port]) -> None:
        """
        Note that a worker got the sockets of these shared ports.
        """
        self._workers[channel] = _Worker(ports)

    def left(self, channel: IChannel) -> None:
        """
        Note that a worker uses no shared socket any more.  May be called again.
        """
        self._workers.pop(channel, None)

    def check(self) -> None:
        """
        Check whether the processes have ended.
        """
        now = self._now()
        for channel, worker in self._workers.items():
            if worker.reported:
                continue
            if worker.ended is None:
                if _kernel.processEnded(channel.process):
                    worker.ended = now
            elif now - worker.ended >= CHILDREN_SECONDS:
                worker.reported = True
                self._report(channel, worker.ports)

    def _report(self, channel: IChannel, ports: Sequence[Port]) -> None:
        self._logLimited(
            self.log.warn,
            "the process of {channel} has ended, and a child of it holds {ports}: if"
            " the child serves, as a daemon does, all is well; otherwise clients wait"
            " for ever: end the child, and start the server so that it is PROGRAM"
            " of 'portlisten exec' itself, and no child of PROGRAM",
            event="worker-orphaned",
            **about(channel),
            ports=", ".join(port.label for port in ports),
        )
