"""
The reload: what runs is changed to what the file says.

Nothing changes before all new ports are bound.  If the listener needs other ports or
settings, it is started anew.  Ports that stay are kept bound, so their clients wait in
the backlogs meanwhile.  If the new one does not get ready, everything is as before.
After that, new workers are started, others are replaced, and the rest is drained.  If a
new worker does not get ready, the reload ends.  What was done by then stays, and a
second reload goes on from there, since it compares the file with what runs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from portlisten._config.compare import GroupPlan, Plan, compare, needsNewProcess
from portlisten._config.file import RunSettings, WorkersSettings
from portlisten._config.wrong_file import WrongFile
from portlisten._control.convert import ControlError
from portlisten._control.messages import ReloadAnswer
from portlisten._control.status import Progress, StepState
from portlisten._ports.binding import BoundPort
from portlisten._process import systemd_notify
from portlisten._supervisor.group import Group
from portlisten._supervisor.logs import log
from portlisten._supervisor.operations import Failed, Operation, RunningStep
from portlisten._supervisor.reload_ports import PortChanges, Running, close, together
from portlisten._supervisor.replacement import Replacements
from portlisten._supervisor.worker import Surroundings, Worker

#: What is said of an empty plan.
NOTHING = "nothing changes"

#: Reads and checks the file of a path.  It raises L{WrongFile}.
Load = Callable[[str], RunSettings]


class Reloads:
    """
    Compares the file with what runs, and carries the difference out.

    @param reactor: an L{IReactorTime}.
    @param file: the absolute path of the file.
    @param load: reads it.
    @param replacements: runs one operation at a time.
    @param around: what all workers have in common.
    @param running: what runs.  It is changed.
    """

    def __init__(
        self,
        reactor: Any,
        file: str,
        load: Load,
        replacements: Replacements,
        around: Surroundings,
        running: Running,
    ) -> None:
        self._file = file
        self._load = load
        self._replacements = replacements
        self._around = around
        self._running = running
        self._ports = PortChanges(reactor, replacements, around.view, running)
        self._signalled = False

    @property
    def settings(self) -> RunSettings:
        """
        The settings in use.  Those of the groups are in the groups.
        """
        return self._running.settings

    # Who asks

    def compare(self, file: str) -> ReloadAnswer:
        """
        Compare a file with what runs.

        @param file: its absolute path; empty for the file that runs.
        """
        try:
            plan, _ = self._plan(file or self._file)
        except WrongFile as error:
            return ReloadAnswer(problems=tuple(error.lines))
        return self._answer(plan, file or self._file)

    def reload(self, file: str) -> ReloadAnswer:
        """
        Begin a reload.

        @param file: the absolute path of the file, which must be the one that runs;
            empty for that one.
        @raise ControlError: if another operation is not done, or it is another file.
        """
        if file and not _isSame(file, self._file):
            raise ControlError(
                f"it runs {self._file}, and not {file}: change that file, and reload it"
            )
        self._replacements.checkFree()
        try:
            plan, wanted = self._plan(self._file)
        except WrongFile as error:
            return ReloadAnswer(problems=_logged(error.lines))
        answer = self._answer(plan, self._file)
        if plan.problems:
            _logged(answer.problems)
            return answer
        _say(plan)
        if plan.isEmpty:
            return answer
        return replace(answer, progress=self._begin(plan, wanted))

    def _begin(self, plan: Plan, wanted: RunSettings) -> Progress:
        async def work(operation: Operation) -> None:
            systemd_notify.manager().reloading()
            try:
                await self._carryOut(operation, plan, wanted)
            finally:
                systemd_notify.manager().reloaded()

        return self._replacements.carryOut("reload", work)

    def upgrade(self) -> Progress:
        """
        Begin to replace the listener by one with the same settings.

        @raise ControlError: if another operation is not done.
        """
        return self._replacements.carryOut("replacement", self._ports.upgrade)

    def signalled(self) -> None:
        """
        Reload because of SIGHUP, when all operations before are done.
        """
        systemd_notify.manager().reloading()
        if self._signalled:
            return
        self._signalled = True
        log.info(
            "received SIGHUP: {file} is read again",
            event="reload-asked",
            file=self._file,
        )
        self._replacements.carryOutLater("reload", self._carryOutSignalled)

    async def _carryOutSignalled(self, operation: Operation) -> None:
        self._signalled = False
        try:
            self._replacements.checkStopping()
            try:
                plan, wanted = self._plan(self._file)
            except WrongFile as error:
                _logged(error.lines)
                raise Failed("the file has mistakes, so nothing changes") from None
            if plan.problems:
                _logged(self._answer(plan, self._file).problems)
                raise Failed("not all of it can change, so nothing changes")
            _say(plan)
            await self._carryOut(operation, plan, wanted)
        finally:
            if not self._signalled:
                systemd_notify.manager().reloaded()

    # The plan

    def _plan(self, file: str) -> tuple[Plan, RunSettings]:
        """
        Read a file, and compare it with what runs.

        @raise WrongFile: if it has mistakes.
        """
        wanted = self._load(file)
        return compare(self._inUse(wanted), wanted), wanted

    def _inUse(self, wanted: RunSettings) -> RunSettings:
        after = {each.name: each for each in wanted.workers}
        return replace(
            self._running.settings,
            workers=tuple(
                each.inUse(after.get(each.name)) for each in self._running.groups
            ),
        )

    def _answer(self, plan: Plan, file: str) -> ReloadAnswer:
        problems = WrongFile(plan.problems, file).lines
        return ReloadAnswer(plan.lines or (NOTHING,), tuple(problems))

    # Carrying it out

    async def _carryOut(
        self, operation: Operation, plan: Plan, wanted: RunSettings
    ) -> None:
        """
        Carry a plan out.

        @raise Failed: if a part fails.
        @raise NotReady: if a worker does not get ready.
        """
        self._replacements.checkStopping()
        withdrawn: list[BoundPort] = []
        try:
            await self._ports.carryOut(operation, plan, wanted, withdrawn)
            self._takeOver(plan)
            await self._startWorkers(operation, plan)
            await self._replaceWorkers(operation, plan)
            await self._removeWorkers(operation, plan)
        finally:
            close(withdrawn)
        order = [each.name for each in wanted.workers]
        self._running.groups.sort(key=lambda each: order.index(each.name))

    # Workers

    def _takeOver(self, plan: Plan) -> None:
        """
        Take over what holds for workers that run already.
        """
        for group, each in self._changing(plan):
            if each.wanted is not None:
                group.takeOver(each.wanted)

    def _changing(self, plan: Plan) -> list[tuple[Group, GroupPlan]]:
        """
        Find the groups that change, without those that are new.
        """
        groups = {each.name: each for each in self._running.groups}
        return [
            (groups[each.name], each) for each in plan.groups if each.name in groups
        ]

    async def _startWorkers(self, operation: Operation, plan: Plan) -> None:
        """
        Start new groups, and more workers of others, all at once.

        @raise NotReady: if one does not get ready.  The others stay.
        """
        starts = []
        for each in plan.groups:
            if each.wanted is None:
                continue
            group = next((g for g in self._running.groups if g.name == each.name), None)
            if group is None:
                group = Group(self._around, each.wanted)
                self._running.groups.append(group)
            for _ in range(each.wanted.count - len(group.workers)):
                step = self._replacements.addStep(operation, group)
                starts.append((group, step, each.wanted))
        try:
            await together(self._start(step, wanted) for _, step, wanted in starts)
        finally:
            for group in {group: None for group, _, _ in starts}:
                if not group.workers:
                    self._running.groups.remove(group)
                else:
                    group.settings = replace(group.settings, count=len(group.workers))

    async def _start(self, step: RunningStep, wanted: WorkersSettings) -> None:
        await self._replacements.startWorker(step, wanted)
        self._replacements.enter(step, StepState.DONE)

    async def _replaceWorkers(self, operation: Operation, plan: Plan) -> None:
        """
        Replace workers that need new processes, one after the other.

        @raise NotReady: if a new one does not get ready.
        """
        changes = []
        for group, each in self._changing(plan):
            if each.wanted is None:
                continue
            surplus = _surplus(group, each.wanted)
            steps = [
                self._replacements.addStep(operation, group, worker)
                for worker in group.workers
                if worker not in surplus
                and needsNewProcess(worker.settings, each.wanted)
            ]
            changes.append((group, steps, each.wanted))
        for group, steps, wanted in changes:
            for step in steps:
                await self._replacements.replaceWorker(step, wanted)
            group.settings = replace(wanted, count=group.settings.count)

    async def _removeWorkers(self, operation: Operation, plan: Plan) -> None:
        """
        Drain and end what is not wanted any more, all at once.
        """
        ends = []
        for group, each in self._changing(plan):
            for worker in _surplus(group, each.wanted):
                step = self._replacements.addStep(operation, group, worker)
                ends.append(self._replacements.removeWorker(step))
            if each.wanted is not None:
                group.settings = replace(group.settings, count=each.wanted.count)
        await together(ends)
        for group, each in self._changing(plan):
            if each.wanted is None:
                self._running.groups.remove(group)


def _surplus(group: Group, wanted: WorkersSettings | None) -> list[Worker]:
    """
    Choose the workers that a group has too many: first those with other settings, then
    those that do not serve, then those with the highest slots.

    @param wanted: the new settings; L{None} if no worker is wanted.
    """
    if wanted is None:
        return list(group.workers)
    order = sorted(
        group.workers,
        key=lambda each: (
            not needsNewProcess(each.settings, wanted),
            each.serves,
            -each.slot,
        ),
    )
    return order[: max(0, len(order) - wanted.count)]


def _isSame(file: str, other: str) -> bool:
    return os.path.realpath(file) == os.path.realpath(other)


def _logged(lines: Iterable[str]) -> tuple[str, ...]:
    found = tuple(lines)
    for each in found:
        log.error("{line}", event="reload-refused", line=each)
    return found


def _say(plan: Plan) -> None:
    for each in plan.lines or (NOTHING,):
        log.info("reload: {line}", event="reload-change", line=each)
