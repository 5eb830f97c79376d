"""
What the supervisor does with workers that run: they are replaced, one after the other,
started and removed.

At a replacement, the new worker is started first.  When it is ready, the old one is
drained, and hears SIGTERM when it is drained, or when the grace is over.  If the new
worker does not get ready, the replacement stops: the new one is ended, and all others
serve on.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.task import deferLater

from portlisten._config.file import WorkersSettings
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


class Failed(Exception):
    """
    An operation cannot go on.

    @ivar log: the end of the log of the process that failed.
    """

    def __init__(self, reason: str, log: tuple[str, ...] = ()) -> None:
        super().__init__(reason)
        self.log = log


@dataclass
class RunningStep:
    """
    See L{Step}.

    @ivar group: the group of the worker; L{None} if the step is not a worker's.
    @ivar worker: the worker that is replaced or removed; L{None} if one is started.
    """

    group: Group | None = None
    worker: Worker | None = None
    since: float = 0.0
    old: str = ""
    new: str = ""
    state: StepState = StepState.WAITING
    left: int | None = None
    detail: str = ""


@dataclass
class Operation:
    """
    See L{Progress}.
    """

    id: str
    what: str
    steps: list[RunningStep] = field(default_factory=list)
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
        self._operations: dict[str, Operation] = {}
        self._running: Operation | None = None
        self._own: Operation | None = None
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

        @raise ControlError: if another restart, or a reload, is not done.
        """
        names = ", ".join(each.name for each in groups)
        return self.carryOut(
            f"restart of {names}",
            self._replaceAll,
            [(group, worker) for group in groups for worker in group.workers],
        )

    def carryOut(
        self,
        what: str,
        work: Callable[[Operation], Coroutine[Any, Any, None]],
        found: Sequence[tuple[Group, Worker]] = (),
    ) -> Progress:
        """
        Begin an operation of an operator's, when all operations before are done.

        @param what: what is done.
        @param work: does it.  It may raise L{Failed} and L{NotReady}.
        @param found: the workers that it replaces, as far as they are known.
        @raise ControlError: if another operation of an operator's is not done.
        """
        self.checkFree()
        self._own = self._begin(what, work, found)
        return self._describe(self._own)

    def carryOutLater(
        self, what: str, work: Callable[[Operation], Coroutine[Any, Any, None]]
    ) -> None:
        """
        Begin an operation when all operations before are done.  See L{carryOut}.
        """
        self._own = self._begin(what, work, ())

    def checkFree(self) -> None:
        """
        Check that an operator may begin an operation.

        @raise ControlError: if another one is not done.
        """
        last = self._own
        if last is not None and not last.done:
            raise ControlError(f"a {last.what} is not done yet: wait until it is")
        if self._stopping:
            raise ControlError("the supervisor stops")

    def replace(self, group: Group, worker: Worker, reason: str) -> Deferred[bool]:
        """
        Replace one worker, when all operations before are done.

        @return: fires when that is done, with whether the worker was replaced.
        """
        log.info("{label} is replaced: {reason}", label=worker.label, reason=reason)
        operation = self._begin(
            f"replacement of {worker.label}", self._replaceAll, [(group, worker)]
        )
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
        work: Callable[[Operation], Coroutine[Any, Any, None]],
        found: Sequence[tuple[Group, Worker]],
    ) -> Operation:
        self._last += 1
        operation = Operation(str(self._last), what)
        for group, worker in found:
            self.addStep(operation, group, worker)
        self._operations[operation.id] = operation
        over = [each.id for each in self._operations.values() if each.done]
        for id in over[:-REMEMBERED]:
            del self._operations[id]
        run = self._lock.run(
            lambda: Deferred.fromCoroutine(self._carryOut(operation, work))
        )
        run.addErrback(lambda failure: self._spoiled(operation, failure))
        return operation

    def addStep(
        self,
        operation: Operation,
        group: Group | None = None,
        worker: Worker | None = None,
        old: str = "",
        new: str = "",
    ) -> RunningStep:
        """
        Add a step to an operation.

        @param old: what is replaced or removed, if that is no worker.
        @param new: what is started, if that is no worker.
        """
        label = worker.label if worker is not None else old
        step = RunningStep(group, worker, self._reactor.seconds(), label, new)
        operation.steps.append(step)
        return step

    def _spoiled(self, operation: Operation, failure: Any) -> None:
        log.failure("a bug in portlisten spoils the {what}", failure, what="operation")
        operation.error = "an internal error: the supervisor's log has it"
        operation.done = True
        self._running = None

    async def _carryOut(
        self,
        operation: Operation,
        work: Callable[[Operation], Coroutine[Any, Any, None]],
    ) -> None:
        self._running, what = operation, operation.what
        log.info("the {what} begins", what=what)
        try:
            await work(operation)
        except (NotReady, Failed) as error:
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

    async def _replaceAll(self, operation: Operation) -> None:
        for step in operation.steps:
            await self.replaceWorker(step)

    def checkStopping(self) -> None:
        """
        Check that an operation may go on.

        @raise NotReady: if it may not.
        """
        if self._stopping:
            raise NotReady("the next worker", "the supervisor stops")

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
                    "{label} is not drained after {grace:g} s: {detail}",
                    label=worker.label,
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

    def enter(self, step: RunningStep, state: StepState, detail: str = "") -> None:
        """
        Note how far a step has come.
        """
        step.state = state
        step.since = self._reactor.seconds()
        step.detail = detail

    def _describe(self, operation: Operation) -> Progress:
        now = self._reactor.seconds()
        return Progress(
            operation.id,
            operation.what,
            operation.done,
            operation.error,
            operation.log,
            tuple(
                Step(
                    each.old,
                    each.new,
                    each.state,
                    round(now - each.since, 3),
                    each.left,
                    each.detail,
                )
                for each in operation.steps
            ),
        )
