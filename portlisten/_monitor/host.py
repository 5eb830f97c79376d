"""
Who runs a monitor: binds its sockets, starts it, and exchanges it for another.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger

from portlisten._config.ports import PortSettings
from portlisten._control.server import Handler
from portlisten._monitor.place import Place
from portlisten._monitor.process import Monitor
from portlisten._ports.binding import BoundPort, bind


@dataclass
class BoundPlace:
    """
    Where a monitor listens.

    @ivar text: the endpoint that it listens on itself; empty if it gets sockets.
    @ivar ports: the bound ports, whose sockets it gets.
    """

    text: str = ""
    ports: list[BoundPort] = field(default_factory=list)

    def close(self) -> None:
        """
        Close the ports.
        """
        ports, self.ports = self.ports, []
        for each in ports:
            each.close()

    def __str__(self) -> str:
        return self.text or ", ".join(each.label for each in self.ports)


def bindPlace(
    place: Place, bindPort: Callable[[PortSettings], list[BoundPort]] = bind
) -> BoundPlace:
    """
    Bind what a monitor listens on.

    @param bindPort: binds a port.
    @return: the place, whose ports are the caller's.
    @raise CannotBind: if a port cannot be bound.
    """
    if isinstance(place, PortSettings):
        return BoundPlace(ports=bindPort(place))
    return BoundPlace(place)


class MonitorHost:
    """
    Runs a monitor.

    @param reactor: see L{Monitor}.
    @param status: answers the request for the status.
    @param user: the user that the listener becomes; L{None} if it becomes no other.
    @param logFormat: how the monitor writes its log.
    """

    log = Logger()

    def __init__(
        self, reactor: Any, status: Handler, user: int | None, logFormat: str
    ) -> None:
        self._reactor = reactor
        self._status = status
        self._user = user
        self._logFormat = logFormat
        self._place: BoundPlace | None = None
        self._monitor: Monitor | None = None
        self._isOver = False

    def start(self, place: BoundPlace) -> None:
        """
        Start a monitor.

        @param place: where; the host owns its ports from now on.
        """
        user = self._user if os.geteuid() == 0 else None
        self.log.info(
            "the monitor serves at {places}, as uid {uid}",
            event="monitor-serves",
            places=str(place),
            uid=os.geteuid() if user is None else user,
        )
        self._place = place
        self._monitor = Monitor(
            self._reactor,
            [sock for each in place.ports for sock in each.sockets],
            place.text,
            self._status,
            user,
            logFormat=self._logFormat,
        )
        self._monitor.start()

    @property
    def ports(self) -> Sequence[BoundPort]:
        """
        The ports that it serves.  They stay this object's.
        """
        return () if self._place is None else self._place.ports

    def change(self, place: BoundPlace | None) -> Deferred[tuple[str, ...]]:
        """
        Stop the monitor, and start another one elsewhere.  If that does not get ready,
        stop it too.

        @param place: where; L{None} for nowhere.  The host owns its ports from now on.
            If it is told to stop meanwhile, it closes them, and starts nothing.
        @return: fires when the new one is ready, with nothing, or when it was stopped,
            with the reason and the end of its log, in lines.
        """

        def stopped(_: None) -> tuple[str, ...] | Deferred[tuple[str, ...]]:
            self._close()
            if place is None:
                return ()
            if self._isOver:
                place.close()
                return ("it is told to stop",)
            self.start(place)
            assert self._monitor is not None
            return self._monitor.begun.addCallback(begun)

        def begun(lines: tuple[str, ...]) -> Any:
            if not lines or self._isOver:
                return lines
            return self._stop().addCallback(failed, lines)

        def failed(_: None, lines: tuple[str, ...]) -> tuple[str, ...]:
            self._close()
            return lines

        return self._stop().addCallback(stopped)

    def pause(self) -> None:
        """
        Stop the monitor for now.  Those that ask wait in the backlogs of its ports.
        """
        self._stop()

    def resume(self) -> None:
        """
        Undo L{pause}.
        """
        if self._place is not None and self._monitor is None and not self._isOver:
            self.start(self._place)

    def stop(self) -> Deferred[None]:
        """
        Stop the monitor for good.  Its ports stay bound.
        """
        self._isOver = True
        return self._stop()

    def _stop(self) -> Deferred[None]:
        monitor, self._monitor = self._monitor, None
        return succeed(None) if monitor is None else monitor.stop()

    def release(self) -> None:
        """
        Stop the monitor, and close its ports.
        """
        self.stop()
        self._close()

    def _close(self) -> None:
        place, self._place = self._place, None
        if place is not None:
            place.close()
