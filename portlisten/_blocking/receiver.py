"""
What is behind a listening socket: a worker in a thread of its own, and a byte in a pair
of sockets that makes the listening socket readable while C{accept()} has something to
return.
"""

from __future__ import annotations

import atexit
import os
import select
import socket
import threading
import weakref
from collections.abc import Sequence
from contextlib import suppress

from portlisten._anyloop.worker import Stage
from portlisten._blocking.connections import Accepted, Connection
from portlisten._blocking.forks import forks
from portlisten._blocking.loop import Loop
from portlisten._blocking.worker import Worker
from portlisten._config.settings import WorkerSettings
from portlisten._model import Port

#: How long a process that ends waits until its workers have said BYE, in seconds.
LAST_SECONDS = 1.0


class Receiver:
    """
    Receives connections for one listening socket.

    @param settings: of the description, with a limit.
    @param first: how long the listener keeps silent clients, in seconds; zero if
        clients need not speak first.
    @param label: the worker's name for the operator, or nothing.
    @raise OSError: if the process has no free descriptor.

    @ivar pid: the process that has the thread.
    """

    def __init__(self, settings: WorkerSettings, first: float, label: str) -> None:
        self.pid = os.getpid()
        self._joined = threading.Event()
        self._signalled = False
        self._loop = loop = Loop()
        try:
            self._near, self._far = socket.socketpair()
        except BaseException:
            loop.close()
            raise
        # A thread may wait for it at any time, so it stays open for so long.
        weakref.finalize(self, self._near.close).atexit = False
        self._near.setblocking(False)
        self._far.setblocking(False)
        self._descriptor = -1
        self._worker = Worker(
            loop,
            settings,
            first,
            label,
            self._joined.set,
            self._finished,
        )
        loop.turned = self._update
        loop.interrupted = self._worker.interrupted

    def start(self) -> int:
        """
        Begin to receive.

        @return: a descriptor that is readable while C{accept()} has something to
            return.  The caller owns it.
        @raise OSError: if the process has no free descriptor.
        """
        # First: another thread may fork as soon as there is a channel.
        forks.add(self)
        try:
            with self._loop.lock:
                self._worker.start()
                self._descriptor = os.dup(self._near.fileno())
            self._loop.start("portlisten")
        except BaseException:
            self._abandon()
            if self._descriptor >= 0:
                os.close(self._descriptor)
            raise
        _receivers.add(self)
        return self._descriptor

    def waitForListener(self, seconds: float | None) -> None:
        """
        Wait until the worker has joined a listener for the first time.

        @param seconds: how long at the most; L{None} for no limit.
        """
        self._joined.wait(seconds)

    @property
    def ports(self) -> Sequence[Port]:
        """
        The ports that the worker serves, as the listener said last.
        """
        return self._worker.ports

    @property
    def draining(self) -> bool:
        """
        See L{portlisten._anyloop.worker.Worker.draining}.
        """
        return self._worker.draining

    @property
    def stopped(self) -> bool:
        """
        Whether no more connections can come.
        """
        return self._worker.stage is not Stage.SERVING

    def wait(self, seconds: float | None) -> bool:
        """
        Wait until L{take} has something to return, or no more connections can come.

        @param seconds: how long at the most; L{None} for no limit.
        @return: whether that is so.
        """
        poll = select.poll()
        poll.register(self._near, select.POLLIN)
        return bool(poll.poll(None if seconds is None else max(0, seconds) * 1000))

    def take(self) -> tuple[Accepted, Connection] | None:
        """
        Take a connection.

        @return: L{None} if there is none now.
        @raise OSError: if no socket can be made.
        """
        with self._loop.lock:
            if self.stopped:
                return None
            try:
                return self._worker.asked()
            finally:
                self._update()

    def close(self) -> None:
        """
        Take no more connections.  The descriptor that L{start} returned is about to be
        closed.  May be called at any time.
        """
        self._descriptor = -1
        self.stop()

    def stop(self) -> None:
        """
        Take no more connections.  Those in service go on.  May be called again, and at
        any time.
        """
        self._loop.call(self._worker.stop)

    def leave(self) -> None:
        """
        Stop, because the process ends.  Wait, for a short time, until the listener has
        been told.
        """
        if self.pid == os.getpid():
            self._loop.call(self._worker.leave)
            self._loop.join(LAST_SECONDS)

    def _finished(self) -> None:
        self._loop.call_soon(self._close)

    def _close(self) -> None:
        self._worker.abandon()
        self._loop.close()
        # The listening socket stays readable.
        self._far.close()

    def _update(self) -> None:
        """
        Make the listening socket readable, or make it so no more.
        """
        ready = self.stopped or self._worker.canGive
        if ready and not self._signalled:
            with suppress(OSError):
                self._far.send(b"\0")
        elif self._signalled and not ready:
            with suppress(OSError):
                self._near.recv(1)
        self._signalled = ready

    def _abandon(self) -> None:
        """
        Close everything.  There is no thread.
        """
        self._loop.abandon()
        self._worker.abandonInChild()
        self._far.close()

    # Forks

    def beforeFork(self) -> None:
        """
        See L{portlisten._blocking.forks.Forkable}.
        """
        self._loop.lock.acquire()
        self._worker.adopter.give()

    def afterForkInParent(self) -> None:
        """
        See L{portlisten._blocking.forks.Forkable}.
        """
        self._loop.lock.release()

    def afterForkInChild(self) -> None:
        """
        See L{portlisten._blocking.forks.Forkable}.  The listening socket gets readable
        for ever, so the program calls C{accept()}, which fails.
        """
        self._abandon()
        if self._descriptor >= 0:
            readable, other = socket.socketpair()
            other.close()
            os.dup2(readable.fileno(), self._descriptor, inheritable=False)
            readable.close()


#: The receivers of this process.
_receivers: weakref.WeakSet[Receiver] = weakref.WeakSet()


@atexit.register
def _leave() -> None:
    for each in list(_receivers):
        each.leave()
