"""
What the parts of a worker expect of each other, and of the event loop.
"""

from __future__ import annotations

from collections.abc import Callable, Sized
from dataclasses import dataclass
from typing import Any, Protocol


class Cancellable(Protocol):
    """
    A call that a loop makes later.
    """

    def cancel(self) -> object:
        """
        Do not make the call.
        """


class EventLoop(Protocol):
    """
    Those methods of L{asyncio.AbstractEventLoop} that a worker needs.
    """

    def time(self) -> float:
        """
        Read the clock, in seconds.
        """

    def is_closed(self) -> bool:
        """
        Whether the loop runs no more.
        """

    def call_soon(self, callback: Callable[..., Any], *args: Any) -> Cancellable:
        """
        Make a call in the next turn.
        """

    def call_later(
        self, delay: float, callback: Callable[..., Any], *args: Any
    ) -> Cancellable:
        """
        Make a call after a delay, in seconds.
        """

    def add_reader(self, fd: int, callback: Callable[..., Any]) -> object:
        """
        Call back while a descriptor is readable.

        @raise OSError: if it cannot be watched.
        """

    def remove_reader(self, fd: int) -> object:
        """
        Do not watch a descriptor any more.
        """


@dataclass(frozen=True, slots=True)
class Reports:
    """
    What reports to the listener about a connection.  By default, nothing does: the
    listener does not know of the connection.

    @ivar closed: called when the connection has ended.
    @ivar clientGone: called instead if the client had left before the connection could
        be adopted.
    @ivar given: finds out what is to be said before another process touches the
        connection: see L{portlisten._anyloop.channel.WorkerChannel.given}.
    """

    closed: Callable[[], None] = lambda: None
    clientGone: Callable[[], None] = lambda: None
    given: Callable[[], tuple[int, bytes] | None] = lambda: None


#: For a connection that the listener has not offered.
NO_REPORTS = Reports()


class Adopting(Protocol):
    """
    Serves the connections of a worker.
    """

    @property
    def gives(self) -> bool:
        """
        Whether this gives each connection to another process, and uses
        L{Reports.given}.  The worker then joins only a listener that knows of this and
        of limits.
        """

    @property
    def connections(self) -> Sized:
        """
        The connections that have not ended.
        """

    def adopt(
        self,
        descriptor: int,
        cookie: int | None = None,
        reports: Reports = NO_REPORTS,
    ) -> None:
        """
        Adopt a connection.

        @param descriptor: owned by this object from now on.
        @param cookie: C{SO_COOKIE} of the socket, if it is known.
        @param reports: reports to the listener.
        """

    def drain(self) -> None:
        """
        End all connections as soon as that does no harm: now, and when later
        connections are adopted.
        """

    def undrain(self) -> None:
        """
        Serve later connections as usual.
        """

    def abandon(self) -> None:
        """
        Leave all connections to the listener, and close what this object owns of them.
        """
