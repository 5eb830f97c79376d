"""
A group of workers that run the same command.
"""

from __future__ import annotations

import os
from dataclasses import replace

from twisted.internet.defer import Deferred, DeferredList

from portlisten._config.compare import needsNewProcess, takeOver
from portlisten._config.file import WorkersSettings
from portlisten._control.status import GroupStatus, ProcessState
from portlisten._supervisor.slots import freeSlot
from portlisten._supervisor.worker import Surroundings, Worker


class Group:
    """
    The workers of one group.

    @ivar settings: its settings.  While it changes, some workers have others.
    @ivar workers: the workers, in the order of their slots.
    """

    def __init__(self, surroundings: Surroundings, settings: WorkersSettings) -> None:
        self._around = surroundings
        self.settings = settings
        self.workers: list[Worker] = []
        # Of workers that are not here any more.
        self._restarts = 0

    @property
    def name(self) -> str:
        """
        Its name.
        """
        return self.settings.name

    @property
    def ready(self) -> int:
        """
        How many workers are ready.
        """
        return sum(each.serves for each in self.workers)

    @property
    def settled(self) -> bool:
        """
        Whether each worker is ready, or has failed at least once.
        """
        return all(each.serves or each.lastEnd for each in self.workers)

    @property
    def givenUp(self) -> bool:
        """
        Whether a worker is given up.
        """
        return any(each.state is ProcessState.GIVEN_UP for each in self.workers)

    def start(self) -> None:
        """
        Start all workers.
        """
        for slot in range(1, self.settings.count + 1):
            worker = Worker(self._around, self.settings, slot)
            self._add(worker)
            worker.start()

    def startNew(self, settings: WorkersSettings | None = None) -> Worker:
        """
        Start a worker on trial, in a free slot.

        @param settings: its settings; by default, those of the group.
        """
        slot = freeSlot([each.slot for each in self.workers])
        worker = Worker(self._around, settings or self.settings, slot, trial=True)
        self._add(worker)
        worker.start()
        return worker

    def _add(self, worker: Worker) -> None:
        self.workers.append(worker)
        self.workers.sort(key=lambda each: each.slot)

    def remove(self, worker: Worker) -> None:
        """
        Forget a worker, which has no process any more.
        """
        self.workers.remove(worker)
        self._restarts += worker.restarts

    def look(self) -> None:
        """
        See what the listener says of the workers.
        """
        for worker in list(self.workers):
            worker.look()

    def stop(self) -> Deferred[None]:
        """
        Stop all workers.

        @return: fires when all their processes have ended.
        """
        # The end of one may take another from the list.
        stopped = DeferredList([each.stop() for each in list(self.workers)])
        return stopped.addCallback(lambda result: None)

    def takeOver(self, wanted: WorkersSettings) -> None:
        """
        Take the settings over that hold for processes that run already.
        """
        self.settings = takeOver(self.settings, wanted)
        for each in self.workers:
            each.takeOver(wanted)

    def inUse(self, wanted: WorkersSettings | None) -> WorkersSettings:
        """
        Say which settings are in use.  A reload that failed may have left some workers
        with other settings than the group's.

        @param wanted: the new settings, if any.  If a worker differs from them, its
            settings are the answer.
        """
        if wanted is None:
            return self.settings
        for each in self.workers:
            if needsNewProcess(each.settings, wanted):
                return replace(each.settings, count=self.settings.count)
        return self.settings

    def describe(self) -> GroupStatus:
        """
        Describe it for an operator.
        """
        user = self.settings.user
        return GroupStatus(
            name=self.name,
            user=os.getuid() if user is None else user,
            count=self.settings.count,
            ready=self.ready,
            processes=tuple(each.describe() for each in self.workers),
            restarts=self._restarts + sum(each.restarts for each in self.workers),
        )
