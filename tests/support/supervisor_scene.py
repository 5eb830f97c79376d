"""
Processes and a listener for tests of the supervisor, without either.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock

from portlisten._children.launch import Launch
from portlisten._config.file import WorkersSettings
from portlisten._control.convert import ControlError
from portlisten._control.messages import (
    Answer,
    Drain,
    Request,
    Status,
    StatusAnswer,
    WorkersAnswer,
)
from portlisten._control.status import ListenerStatus, State, WorkerStatus
from portlisten._supervisor.group import Group
from portlisten._supervisor.replacement import Replacements
from portlisten._supervisor.view import View
from portlisten._supervisor.worker import Surroundings
from portlisten.errors import CannotRun
from tests.support.statuses import LISTENER, worker


class FakeProcess:
    """
    A process that ends when the test says so.
    """

    def __init__(
        self,
        scene: Scene,
        launch: Launch,
        onLine: Callable[[str], None],
        onEnd: Callable[[Any], None],
    ) -> None:
        self._scene = scene
        self._onEnd = onEnd
        self.launch = launch
        self.label = launch.label
        self.pid = 0
        self.started = 0.0
        self.ending = ""
        self.tail: tuple[str, ...] = ()
        self.stopSeconds: float | None = None
        self.size = 2000000

    def start(self) -> None:
        """
        See L{portlisten._children.process.Process.start}.
        """
        if self._scene.failure:
            raise CannotRun(self._scene.failure)
        self.pid = 100 + len(self._scene.processes)
        self.started = self._scene.clock.seconds()
        self._scene.processes.append(self)

    def stop(self, seconds: float) -> None:
        """
        Note the time until SIGKILL.
        """
        self.stopSeconds = seconds

    def memory(self) -> int:
        """
        Return what the test says.
        """
        return self.size

    def end(self, code: int = 1, *tail: str) -> None:
        """
        End the process, as the test wants it.
        """
        self.ending = f"exited with {code}"
        self.tail = tail
        self._onEnd(self)


class Scene:
    """
    A supervisor's inside, with a listener that says what the test wants.

    @ivar processes: all that were started.
    @ivar workers: what the listener says.
    @ivar drained: the labels that the listener was told to drain.
    @ivar failure: why no process can be started, if so.
    """

    def __init__(self, listening: bool = True, **settings: Any) -> None:
        self.clock = Clock()
        self.processes: list[FakeProcess] = []
        self.workers: list[WorkerStatus] = []
        self.drained: list[str] = []
        self.failure = ""
        self.answers = True
        self._number = 0
        self.groups: list[Group] = []
        self.view = View(self.clock, self._look, lambda: True)
        self.around = around = Surroundings(
            self.clock,
            "/run/web.sock",
            self.view,
            lambda reactor, *others: FakeProcess(self, *others),  # type: ignore[arg-type]
        )
        made = {"name": "web", "command": ("serve",), "user": 33, **settings}
        self.group = Group(around, WorkersSettings(**made))
        self.groups = [self.group]
        self.replacements = Replacements(self.clock, self.view, self.ask)
        if listening:
            self.view.begin(self.ask)

    def _look(self) -> None:
        for each in self.groups:
            each.look()

    def ask(self, request: Request) -> Deferred[Answer]:
        """
        Ask the listener.
        """
        if not self.answers:
            return fail(ControlError("it is gone"))
        if isinstance(request, Drain):
            self.drained += request.workers
            return succeed(WorkersAnswer())
        assert isinstance(request, Status)
        return succeed(StatusAnswer(self.status()))

    def status(self) -> ListenerStatus:
        """
        Describe the listener.
        """
        return replace(LISTENER, workers=tuple(self.workers))

    def join(self, label: str, uid: int = 33, state: State = State.SERVING) -> int:
        """
        Let a worker join.

        @return: its number.
        """
        self._number += 1
        self.workers.append(worker(self._number, label, uid=uid, state=state))
        return self._number

    def change(self, label: str, **changes: Any) -> None:
        """
        Change what the listener says of a worker.
        """
        self.workers = [
            replace(each, **changes) if each.label == label else each
            for each in self.workers
        ]

    def leave(self, label: str) -> None:
        """
        Let a worker leave.
        """
        self.workers = [each for each in self.workers if each.label != label]

    def pass_(self, seconds: float) -> None:
        """
        Let time pass, in small steps.
        """
        self.clock.pump([0.1] * round(seconds * 10))

    def startReady(self) -> None:
        """
        Start the group, and let all its workers get ready.
        """
        self.group.start()
        for each in self.group.workers:
            self.join(each.label)
        self.pass_(1.5)

    def process(self, label: str) -> FakeProcess:
        """
        Find the last process with a label.
        """
        return [each for each in self.processes if each.label == label][-1]

    def states(self) -> list[tuple[str, str]]:
        """
        The labels and states of all workers.
        """
        return [(each.label, each.state.value) for each in self.group.workers]
