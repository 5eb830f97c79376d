"""
A group of workers that run the same command.
"""

from __future__ import annotations

import os

from twisted.internet.defer import Deferred, DeferredList

from portlisten._config.file import WorkersSettings
from portlisten._control.status import GroupStatus, ProcessState
from portlisten._supervisor.slots import freeSlot
from portlisten._supervisor.worker import Surroundings, Worker


class Group:
    """
    The workers of one group.

    @ivar settings: its settings.
    @ivar workers: the workers, in the order of their slots.
    """

    def __init__(self, surroundings: Surroundings, settings: WorkersSettings) -> None:
        self._around = surroundings
        self.settings = settings
        self.workers: list[Worker] = []

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

    def startNew(self) -> Worker:
        """
        Start a worker on trial, in a free slot.
        """
        slot = freeSlot([each.slot for each in self.workers])
        worker = Worker(self._around, self.settings, slot, trial=True)
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
        )
