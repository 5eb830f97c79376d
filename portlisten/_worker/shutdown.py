"""
The shutdown of a worker, for both wires.

A worker that stops takes no more connections.  It waits until the connections in
service have ended, but no longer than the grace.  Then it disconnects from its
listener, and stops the factory.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any

from twisted.internet.defer import Deferred, succeed
from zope.interface import Interface

from portlisten._policy.link import DISCONNECT_SECONDS
from portlisten._reactor.deadline import Deadline
from portlisten._worker.adoption import Adopter


class IConnectionSource(Interface):
    """
    The source of a worker's connections: a channel, or a datagram socket.  Its owner
    calls L{Shutdown.settle} each time that the result of a method may have changed.
    """

    def stopTaking() -> None:
        """
        Take no more connections.  Called once, at the beginning of a shutdown.
        """

    def hasStoppedTaking() -> bool:
        """
        Whether no connection can come any more.
        """

    def disconnect() -> None:
        """
        Close the channel or the socket.  Called once, after the last connection has
        ended or the grace is over.
        """

    def isDisconnected() -> bool:
        """
        Whether the channel or the socket is closed.
        """


class Stage(Enum):
    """
    The stages of a shutdown, in order.
    """

    #: The shutdown was not requested.
    SERVING = 0
    #: The worker waits for its connections to end.
    WAITING = 1
    #: The worker disconnects from its listener.
    DISCONNECTING = 2
    #: The factory is stopped.
    DONE = 3


class Shutdown:
    """
    Stops a worker.  It may be requested any number of times, and happens once.

    @param reactor: an L{IReactorTime}.
    @param grace: how long to wait for connections to end, in seconds.
    @param source: an L{IConnectionSource}.
    @param adopter: adopts the worker's connections.  Its owner calls L{settle} each
        time that a connection has ended.
    """

    def __init__(
        self,
        reactor: Any,
        grace: float,
        source: Any,
        adopter: Adopter,
    ) -> None:
        self._reactor = reactor
        self._grace = grace
        self._source = source
        self._adopter = adopter
        self._stage = Stage.SERVING
        self._timer: Deadline | None = None
        self._waiting: list[Deferred[None]] = []
        self._waitingForLast: list[Deferred[None]] = []

    @property
    def requested(self) -> bool:
        """
        Whether the worker was told to stop.
        """
        return self._stage is not Stage.SERVING

    @property
    def done(self) -> bool:
        """
        Whether the worker has stopped.
        """
        return self._stage is Stage.DONE

    def request(self) -> Deferred[None]:
        """
        Stop the worker, if that has not begun.

        @return: fires when the worker has stopped.
        """
        if self.done:
            return succeed(None)
        stopped: Deferred[None] = Deferred()
        self._waiting.append(stopped)
        if not self.requested:
            self._stage = Stage.WAITING
            self._wait(self._grace, self._disconnect)
            self._source.stopTaking()
            self._adopter.drain()
            self.settle()
        return stopped

    def lastTaken(self) -> Deferred[None]:
        """
        Wait until no connection can come any more.  Called after L{request}.

        @return: fires then.  Connections in service may go on.
        """
        taken: Deferred[None] = Deferred()
        self._waitingForLast.append(taken)
        self.settle()
        return taken

    def settle(self) -> None:
        """
        Go on to the next stage, if the worker is stopping and this stage is over.
        """
        if self.done or (self.requested and self._source.hasStoppedTaking()):
            waiting, self._waitingForLast = self._waitingForLast, []
            for each in waiting:
                each.callback(None)
        if self._stage is Stage.WAITING:
            if self._source.hasStoppedTaking() and not self._adopter.busy:
                self._disconnect()
        elif self._stage is Stage.DISCONNECTING and self._source.isDisconnected():
            self.finish()

    def finish(self) -> None:
        """
        Stop the factory.  Connections that are still in service go on.
        """
        self._stage = Stage.DONE
        self._stopWaiting()
        self._adopter.end()
        waiting = self._waitingForLast + self._waiting
        self._waiting, self._waitingForLast = [], []
        for each in waiting:
            each.callback(None)

    def _disconnect(self) -> None:
        self._stage = Stage.DISCONNECTING
        self._stopWaiting()
        self._adopter.logUnfinished(self._grace)
        self._source.disconnect()
        self.settle()
        if not self.done:
            self._wait(DISCONNECT_SECONDS, self.finish)

    def _wait(self, seconds: float, then: Callable[[], None]) -> None:
        self._timer = Deadline(self._reactor, seconds, then)

    def _stopWaiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
