"""
Workers that have too much memory, or are too old, are replaced.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred

from portlisten._control.words import duration, size
from portlisten._reactor.pause import Pause
from portlisten._supervisor.group import Group
from portlisten._supervisor.logs import log
from portlisten._supervisor.worker import Worker

#: How often the workers are looked at, in seconds.
CHECK_SECONDS = 5.0

#: The age at which a worker is replaced varies by this part of it, so that workers that
#: were started together are not replaced together.
JITTER = 0.1

#: After a replacement failed, how long until the next try, in seconds.
RETRY_SECONDS = 60.0

#: Replaces a worker, for a reason.  The result is whether it was replaced.
Replace = Callable[[Group, Worker, str], "Deferred[bool]"]


class Limits:
    """
    Replaces workers that are beyond a limit of their group.

    @param reactor: an L{IReactorTime}.
    @param groups: the groups of workers, which may change.
    """

    def __init__(
        self,
        reactor: Any,
        groups: Sequence[Group],
        replace: Replace,
        chance: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._reactor = reactor
        self._groups = groups
        self._replace = replace
        self._chance = chance
        self._pause = Pause(reactor, self._check)
        # By which factors the ages vary at which workers are replaced.
        self._factors: dict[Worker, float] = {}
        # The workers that are being replaced, and those whose replacement failed, with
        # the time of the next try.
        self._excepted: dict[Worker, float | None] = {}

    def start(self) -> None:
        """
        Begin to look.
        """
        self._pause.begin(CHECK_SECONDS)

    def stop(self) -> None:
        """
        Look no more.
        """
        self._pause.cancel()

    def _check(self) -> None:
        self._pause.begin(CHECK_SECONDS)
        now = self._reactor.seconds()
        living = {worker for group in self._groups for worker in group.workers}
        self._factors = {
            each: factor for each, factor in self._factors.items() if each in living
        }
        self._excepted = {
            each: until
            for each, until in self._excepted.items()
            if each in living and (until is None or until > now)
        }
        for group in self._groups:
            for worker in list(group.workers):
                if worker.serves and worker not in self._excepted:
                    self._look(group, worker)

    def _look(self, group: Group, worker: Worker) -> None:
        reason = self._reason(group, worker)
        if not reason:
            return
        self._excepted[worker] = None

        def done(replaced: bool) -> None:
            if not replaced:
                self._excepted[worker] = self._reactor.seconds() + RETRY_SECONDS

        replaced = self._replace(group, worker, reason)
        replaced.addCallback(done)
        replaced.addErrback(
            lambda failure: log.failure(
                "a bug in portlisten spoils the replacement of {worker}",
                failure,
                event="bug",
                worker=worker.label,
            )
        )

    def _reason(self, group: Group, worker: Worker) -> str:
        """
        Say why a worker is to be replaced; empty if it is not.
        """
        settings = group.settings
        if settings.maxAge is not None:
            factor = self._factors.setdefault(
                worker, self._chance(1 - JITTER, 1 + JITTER)
            )
            if worker.age >= settings.maxAge * factor:
                return f"it has served for {duration(worker.age)}"
        if settings.maxMemory is not None:
            memory = worker.memory
            if memory > settings.maxMemory:
                return (
                    f"it has {size(memory)} of memory, and {size(settings.maxMemory)}"
                    " are allowed"
                )
        return ""
