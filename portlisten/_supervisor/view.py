"""
What the supervisor knows of the workers: the listener's last description of itself.

What the listener says may be wrong, since it talks to workers.  So it decides nothing
but whether a process of the supervisor's counts as ready, and how long a drain waits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from portlisten._control.convert import ControlError
from portlisten._control.messages import Answer, Request, Status, StatusAnswer
from portlisten._control.status import ListenerStatus, WorkerStatus
from portlisten._reactor.pause import Pause
from portlisten._supervisor.logs import log

#: How often the listener is asked while something waits for an answer, and otherwise,
#: in seconds.
BUSY_SECONDS = 0.1
IDLE_SECONDS = 5.0


class Ask(Protocol):
    """
    Asks the listener.
    """

    def __call__(self, request: Request) -> Deferred[Answer]:
        """
        Send a request.

        @return: fires with the answer, or fails with L{ControlError}.
        """


@dataclass(frozen=True, order=True)
class Mark:
    """
    A moment in the life of the listeners.

    @ivar generation: how many listeners had been ready by then.
    @ivar number: the highest number of a channel of the last one.
    """

    generation: int = 0
    number: int = 0


class View:
    """
    Asks the listener again and again.

    @param reactor: an L{IReactorTime}.
    @param changed: called after each answer, and when the listener is gone.
    @param busy: says whether something waits for an answer.

    @ivar listener: what the listener said last; L{None} while none is ready.
    @ivar since: when the last listener got ready, in the reactor's seconds.
    """

    def __init__(
        self,
        reactor: Any,
        changed: Callable[[], None],
        busy: Callable[[], bool],
    ) -> None:
        self._reactor = reactor
        self._changed = changed
        self._busy = busy
        self._ask: Ask | None = None
        self._generation = 0
        self._pause = Pause(reactor, self._poll)
        self._isIdle = False
        self.listener: ListenerStatus | None = None
        self.since = 0.0

    @property
    def ready(self) -> bool:
        """
        Whether a listener is ready.
        """
        return self._ask is not None

    def begin(self, ask: Ask) -> None:
        """
        A listener is ready.

        @param ask: asks it.
        """
        self._generation += 1
        self._ask = ask
        self.listener = None  # it spoke of the workers of the listener before
        self.since = self._reactor.seconds()
        self._askLater(isIdle=False)

    def end(self) -> None:
        """
        The listener is gone.  May be called again.
        """
        if self._ask is None:
            return
        self._ask = None
        self.listener = None
        self._pause.cancel()
        self._changed()

    def hurry(self) -> None:
        """
        Ask soon.
        """
        if self._isIdle and self._pause.active:
            self._askLater(isIdle=False)

    def _askLater(self, isIdle: bool) -> None:
        self._isIdle = isIdle
        self._pause.begin(IDLE_SECONDS if isIdle else BUSY_SECONDS)

    def mark(self) -> Mark:
        """
        Note how far the listener has come.
        """
        numbers = [each.number for each in self._workers()]
        return Mark(self._generation, max(numbers, default=0))

    def find(self, label: str, uid: int, since: Mark) -> WorkerStatus | None:
        """
        Find a worker that has joined.

        @param label: its label.
        @param uid: its user.  Any user's process may take any label.
        @param since: a worker that had joined by then does not count.
        """
        for each in self._workers():
            if (
                each.label == label
                and each.uid == uid
                and Mark(self._generation, each.number) > since
            ):
                return each
        return None

    def _workers(self) -> Iterable[WorkerStatus]:
        return self.listener.workers if self.listener is not None else ()

    def refresh(self) -> Deferred[ListenerStatus | None]:
        """
        Ask the listener now.

        @return: fires with its answer, or with L{None} if it does not answer.
        """
        if self._ask is None:
            made: Deferred[ListenerStatus | None] = Deferred()
            made.callback(None)
            return made
        generation = self._generation

        def answered(answer: Answer) -> ListenerStatus | None:
            if self._ask is None or generation != self._generation:
                return None
            assert isinstance(answer, StatusAnswer)
            self.listener = answer.listener
            self._changed()
            return self.listener

        def failed(failure: Failure) -> None:
            failure.trap(ControlError)

        return self._ask(Status()).addCallback(answered).addErrback(failed)

    def _poll(self) -> None:
        asked = self.refresh()
        asked.addErrback(self._spoiled)
        asked.addBoth(self._polled)

    def _spoiled(self, failure: Failure) -> None:
        log.failure(
            "a bug in portlisten spoils what the supervisor does after an answer of the"
            " listener's",
            failure,
            event="bug",
        )

    def _polled(self, result: object) -> None:
        if self._ask is not None:
            self._askLater(isIdle=not self._busy())
