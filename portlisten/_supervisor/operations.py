"""
Operations of the supervisor, such as a restart or a reload: one runs at a time, and
operators can see how far it has come.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

from twisted.internet.defer import Deferred, DeferredLock

from portlisten._control.convert import ControlError
from portlisten._control.status import Progress, Step, StepState
from portlisten._supervisor.group import Group
from portlisten._supervisor.logs import log
from portlisten._supervisor.worker import NotReady, Worker

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


class Operations:
    """
    Carries operations out, one at a time.

    @param reactor: an L{IReactorTime}.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
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
        log.failure(
            "a bug in portlisten spoils the {what}",
            failure,
            event="bug",
            what="operation",
        )
        operation.error = "an internal error: the supervisor's log has it"
        operation.done = True
        self._running = None

    async def _carryOut(
        self,
        operation: Operation,
        work: Callable[[Operation], Coroutine[Any, Any, None]],
    ) -> None:
        self._running, what = operation, operation.what
        log.info("the {what} begins", event="operation-began", what=what)
        try:
            await work(operation)
        except (NotReady, Failed) as error:
            if self._stopping:
                operation.error = f"the supervisor stops before the {what} is done"
                log.info("{error}", event="operation-failed", error=operation.error)
            else:
                operation.error = str(error)
                operation.log = error.log
                log.error(
                    "{error}; the {what} stops here, and the workers that are left"
                    " serve on",
                    event="operation-failed",
                    error=error,
                    what=what,
                )
        else:
            log.info("the {what} is done", event="operation-done", what=what)
        operation.done = True
        self._running = None

    def checkStopping(self) -> None:
        """
        Check that an operation may go on.

        @raise NotReady: if it may not.
        """
        if self._stopping:
            raise NotReady("the next worker", "the supervisor stops")

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
