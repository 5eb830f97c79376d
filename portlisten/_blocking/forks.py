"""
What a fork changes.

The child of a fork has the descriptors of its parent, and not the threads.  It must
close the channel: the listener would not see the end of the parent otherwise.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import Protocol


class Forkable(Protocol):
    """
    What is to be prepared for forks.
    """

    def beforeFork(self) -> None:
        """
        This process is about to fork.
        """

    def afterForkInParent(self) -> None:
        """
        This process has forked.
        """

    def afterForkInChild(self) -> None:
        """
        This process is the child.
        """


class Forks:
    """
    Tells objects of the forks of this process.

    @ivar count: how often the process and its parents have forked.
    """

    def __init__(self) -> None:
        self.count = 0
        self._lock = threading.RLock()
        self._members: weakref.WeakSet[Forkable] = weakref.WeakSet()
        self._prepared: list[Forkable] = []
        os.register_at_fork(
            before=self._before,
            after_in_parent=self._inParent,
            after_in_child=self._inChild,
        )

    def add(self, member: Forkable) -> None:
        """
        Tell an object of all forks from now on, as long as it lives.
        """
        with self._lock:
            self._members.add(member)

    def _before(self) -> None:
        # Held until the fork is done: other threads may fork as well.
        self._lock.acquire()
        self.count += 1
        self._prepared = list(self._members)
        for each in self._prepared:
            each.beforeFork()

    def _inParent(self) -> None:
        prepared, self._prepared = self._prepared, []
        for each in prepared:
            each.afterForkInParent()
        self._lock.release()

    def _inChild(self) -> None:
        self._lock = threading.RLock()
        prepared, self._prepared = self._prepared, []
        for each in prepared:
            each.afterForkInChild()


#: The forks of this process.
forks = Forks()
