"""
The replacement of workers, one after the other.

The new worker is started first.  When it is ready, the old one is drained, and hears
SIGTERM when it is drained, or when the grace is over.  If the new worker does not get
ready, the replacement stops: the new one is ended, and all others serve on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.task import deferLater

from portlisten._control.convert import ControlError
from portlisten._control.messages import Answer, Drain, Request
from portlisten._control.status import Progress, State, Step, StepState
from portlisten._control.words import plural
from portlisten._supervisor.group import Group
from portlisten._supervisor.logs import log
from portlisten._supervisor.view import View
from portlisten._supervisor.worker import NotReady, Worker

#: How often a drain is looked at, in seconds.
DRAIN_CHECK_SECONDS = 0.1

#: If a worker's channel is closed, for how long it may join again before it counts as
#: drained, in seconds.
REJOIN_SECONDS = 1.0

#: How many operations that are done are remembered.
REMEMBERED = 16


@dataclass
class _Step:
    """
    See L{Step}.

    @ivar group: the group of the worker.
    @ivar worker: the worker that is replaced.
    """

    group: Group
    worker: Worker
    since: float
    new: str = ""
    state: StepState = StepState.WAITING
    left: int | None = None
    detail: str = ""


@dataclass
class _Operation:
    """
    See L{Progress}.
    """

    id: str
    what: str
    steps: list[_Step] = field(default_factory=list)
    done: bool = False
    error: str = ""
    log: tuple[str, ...] = ()


class Replacements:
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
        self._reactor = reactor
        self._view = view
        self._ask = ask
        self._lock = DeferredLock()
        self._last = 0
        self._operations: dict[str, _Operation] = {}
        self._running: _Operation | None = None
        self._restart: _Operation | None = None
        self._stopping = False

    @property
    def running(self) -> str:
        """
        What is done now; empty if nothing is.
        """
        return "" if self._running is None else self._running.what

    def progress(self, id: str) -> Progress:
        """
        Say how far an operation has come.

        @raise ControlError: if it is not known.
        """
        operation = self._operations.get(id)
        if operation is None:
            raise ControlError(f"no operation is named {id}")
        return self._describe(operation)

    def restart(self, groups: Sequence[Group]) -> Progress:
        """
        Replace all workers of some groups, when all operations before are done.

        @raise ControlError: if another restart is not done.
        """
        last = self._restart
        if last is not None and not last.done:
            raise ControlError(f"a {last.what} is not done yet: wait until it is")
        names = ", ".join(each.name for each in groups)
        self._restart = self._begin(
            f"restart of {names}",
            [(group, worker) for group in groups for worker in group.workers],
        )
        return self._describe(self._restart)

    def replace(self, group: Group, worker: Worker, reason: str) -> Deferred[bool]:
        """
        Replace one worker, when all operations before are done.

        @return: fires when that is done, with whether the worker was replaced.
        """
        log.info("{label} is replaced: {reason}", label=worker.label, reason=reason)
        operation = self._begin(f"replacement of {worker.label}", [(group, worker)])
        done: Deferred[bool] = Deferred()
        self._lock.run(lambda: done.callback(not operation.error))
        return done

    def stop(self) -> None:
        """
        Begin nothing more.
        """
        self._stopping = True

    def _begin(
        self,
        what: str,
        found: Sequence[tuple[Group, Worker]],
    ) -> _Operation:
        self._last += 1
        now = self._reactor.seconds()
        steps = [_Step(group, worker, now) for group, worker in found]
        operation = _Operation(str(self._last), what, steps)
        self._operations[operation.id] = operation
        over = [each.id for each in self._operations.values() if each.done]
        for id in over[:-REMEMBERED]:
            del self._operations[id]
        run = self._lock.run(lambda: Deferred.fromCoroutine(self._carryOut(operation)))
        run.addErrback(lambda failure: self._spoiled(operation, failure))
        return operation

    def _spoiled(self, operation: _Operation, failure: Any) -> None:
        log.failure("a bug in portlisten spoils a replacement", failure)
        operation.error = "an internal error: the supervisor's log has it"
        operation.done = True
        self._running = None

    async def _carryOut(self, operation: _Operation) -> None:
        self._running, what = operation, operation.what
        log.info("the {what} begins", what=what)
        try:
            for step in operation.steps:
                await self._replace(step)
        except NotReady as error:
            if self._stopping:
                operation.error = f"the supervisor stops before the {what} is done"
                log.info("{error}", error=operation.error)
            else:
                operation.error = str(error)
                operation.log = error.log
                log.error(
                    "{error}; the {what} stops here, and the workers that are left"
                    " serve on",
                    error=error,
                    what=what,
                )
        else:
            log.info("the {what} is done", what=what)
        operation.done = True
        self._running = None

    async def _replace(self, step: _Step) -> None:
        """
        Replace one worker.

        @raise NotReady: if the new one does not get ready.
        """
        if self._stopping:
            raise NotReady("the next worker", "the supervisor stops")
        group, old = step.group, step.worker
        if old not in group.workers:
            self._enter(step, StepState.DONE, "it has ended meanwhile")
            return
        self._enter(step, StepState.STARTING)
        new = group.startNew()
        step.new = new.label
        try:
            await new.ready
        except NotReady as error:
            self._enter(step, StepState.FAILED, error.reason)
            await new.stop()
            group.remove(new)
            raise
        old.retire()
        if not old.gone:
            self._enter(step, StepState.DRAINING)
            await self._drain(step)
            self._enter(step, StepState.STOPPING)
            await old.stop()
        group.remove(old)
        self._enter(step, StepState.DONE)

    async def _drain(self, step: _Step) -> None:
        """
        Drain the old worker.
        """
        worker = step.worker
        seconds = self._reactor.seconds
        end = seconds() + step.group.settings.grace
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
                    "{label} is not drained after {grace:g} s: {detail}",
                    label=worker.label,
                    grace=step.group.settings.grace,
                    detail=step.detail or f"{plural(step.left or 0)} left",
                )
                return
            await deferLater(self._reactor, min(DRAIN_CHECK_SECONDS, end - now))

    async def _askToDrain(self, step: _Step) -> State | None:
        """
        Tell the listener to drain a worker, and note what is left.

        @return: how far it has drained; L{None} if it has left the listener;
            L{State.SERVING} if the listener does not answer.
        """
        try:
            await self._ask(Drain((step.worker.label,)))
        except ControlError as error:
            step.detail = str(error)
            return State.SERVING
        if await self._view.refresh() is None:
            step.detail = "the listener does not answer"
            return State.SERVING
        found = step.worker.joined
        if found is None:
            return None
        step.left = found.left
        step.detail = ""
        if found.state is State.UNKNOWN:
            step.left = None
            step.detail = (
                "it cannot say what is left, so this takes"
                f" {step.group.settings.grace:g} s"
            )
        return found.state

    def _enter(self, step: _Step, state: StepState, detail: str = "") -> None:
        step.state = state
        step.since = self._reactor.seconds()
        step.detail = detail

    def _describe(self, operation: _Operation) -> Progress:
        now = self._reactor.seconds()
        return Progress(
            operation.id,
            operation.what,
            operation.done,
            operation.error,
            operation.log,
            tuple(
                Step(
                    each.worker.label,
                    each.new,
                    each.state,
                    round(now - each.since, 3),
                    each.left,
                    each.detail,
                )
                for each in operation.steps
            ),
        )
