"""
What the supervisor does with workers that run: they are replaced, one after the other,
started and removed.

At a replacement, the new worker is started first.  When it is ready, the old one is
drained, and hears SIGTERM when it is drained, or when the grace is over.  If the new
worker does not get ready, the replacement stops: the new one is ended, and all others
serve on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from portlisten._config.file import WorkersSettings
from portlisten._control.convert import ControlError
from portlisten._control.messages import Answer, Drain, Request
from portlisten._control.status import Progress, State, StepState
from portlisten._control.words import plural
from portlisten._supervisor.group import Group
from portlisten._supervisor.logs import log
from portlisten._supervisor.operations import Operation, Operations, RunningStep
from portlisten._supervisor.view import View
from portlisten._supervisor.worker import NotReady, Worker

#: How often a drain is looked at, in seconds.
DRAIN_CHECK_SECONDS = 0.1

#: If a worker's channel is closed, for how long it may join again before it counts as
#: drained, in seconds.
REJOIN_SECONDS = 1.0


class Replacements(Operations):
    """
    Replaces workers.  One operation runs at a time, and the others wait for it.

    @param reactor: an L{IReactorTime}.
    @param view: what the listener says.
    @param ask: asks the listener.
    """

    def __init__(
        self,
        reactor: Any,
        view: View,
        ask: Callable[[Request], Deferred[Answer]],
    ) -> None:
        super().__init__(reactor)
        self._view = view
        self._ask = ask

    def restart(self, groups: Sequence[Group]) -> Progress:
        """
        Replace all workers of some groups, when all operations before are done.

        @raise ControlError: if another restart, or a reload, is not done.
        """
        names = ", ".join(each.name for each in groups)
        return self.carryOut(
            f"restart of {names}",
            self._replaceAll,
            [(group, worker) for group in groups for worker in group.workers],
        )

    def replace(self, group: Group, worker: Worker, reason: str) -> Deferred[bool]:
        """
        Replace one worker, when all operations before are done.

        @return: fires when that is done, with whether the worker was replaced.
        """
        log.info(
            "{worker} is replaced: {reason}",
            event="worker-replaced",
            worker=worker.label,
            reason=reason,
        )
        operation = self._begin(
            f"replacement of {worker.label}", self._replaceAll, [(group, worker)]
        )
        done: Deferred[bool] = Deferred()
        self._lock.run(lambda: done.callback(not operation.error))
        return done

    async def _replaceAll(self, operation: Operation) -> None:
        for step in operation.steps:
            await self.replaceWorker(step)

    async def replaceWorker(
        self, step: RunningStep, settings: WorkersSettings | None = None
    ) -> None:
        """
        Replace one worker.

        @param settings: those of the new worker; by default, those of the group.
        @raise NotReady: if the new one does not get ready.
        """
        self.checkStopping()
        group, old = step.group, step.worker
        assert group is not None
        assert old is not None
        if old not in group.workers:
            self.enter(step, StepState.DONE, "it has ended meanwhile")
            return
        await self.startWorker(step, settings)
        await self.removeWorker(step)

    async def startWorker(
        self, step: RunningStep, settings: WorkersSettings | None = None
    ) -> None:
        """
        Start one worker, and wait until it is ready.

        @param settings: its settings; by default, those of the group.
        @raise NotReady: if it does not get ready.
        """
        self.checkStopping()
        group = step.group
        assert group is not None
        self.enter(step, StepState.STARTING)
        new = group.startNew(settings)
        step.new = new.label
        try:
            await new.ready
        except NotReady as error:
            self.enter(step, StepState.FAILED, error.reason)
            await new.stop()
            group.remove(new)
            raise

    async def removeWorker(self, step: RunningStep) -> None:
        """
        Drain one worker, and end it.
        """
        group, old = step.group, step.worker
        assert group is not None
        assert old is not None
        old.retire()
        if not old.gone:
            self.enter(step, StepState.DRAINING)
            await self._drain(step)
            self.enter(step, StepState.STOPPING)
            await old.stop()
        if old in group.workers:
            group.remove(old)
        self.enter(step, StepState.DONE)

    async def _drain(self, step: RunningStep) -> None:
        """
        Drain the old worker.
        """
        worker = step.worker
        assert worker is not None
        grace = worker.settings.grace
        seconds = self._reactor.seconds
        end = seconds() + grace
        absent: float | None = None
        while not (worker.gone or self._stopping):
            state = await self._askToDrain(step)
            now = seconds()
            absent = None if state is not None else now if absent is None else absent
            if state is State.DRAINED:
                return
            if absent is not None and now - absent >= REJOIN_SECONDS:
                return
            if now >= end:
                log.warn(
                    "{worker} is not drained after {grace:g} s: {detail}",
                    event="worker-not-drained",
                    worker=worker.label,
                    grace=grace,
                    detail=step.detail or f"{plural(step.left or 0)} left",
                )
                return
            await deferLater(self._reactor, min(DRAIN_CHECK_SECONDS, end - now))

    async def _askToDrain(self, step: RunningStep) -> State | None:
        """
        Tell the listener to drain a worker, and note what is left.

        @return: how far it has drained; L{None} if it has left the listener;
            L{State.SERVING} if the listener does not answer.
        """
        worker = step.worker
        assert worker is not None
        try:
            await self._ask(Drain((worker.label,)))
        except ControlError as error:
            step.detail = str(error)
            return State.SERVING
        if await self._view.refresh() is None:
            step.detail = "the listener does not answer"
            return State.SERVING
        found = worker.joined
        if found is None:
            return None
        step.left = found.left
        step.detail = ""
        if found.state is State.UNKNOWN:
            step.left = None
            step.detail = (
                f"it cannot say what is left, so this takes {worker.settings.grace:g} s"
            )
        return found.state
