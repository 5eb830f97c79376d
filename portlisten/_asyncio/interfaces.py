"""
What the parts of a worker expect of each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sized
from typing import Protocol


class Adopting(Protocol):
    """
    Serves the connections of a worker.
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
        closed: Callable[[], None] = lambda: None,
        clientGone: Callable[[], None] = lambda: None,
    ) -> None:
        """
        Adopt a connection.

        @param descriptor: owned by this object from now on.
        @param cookie: C{SO_COOKIE} of the socket, if it is known.
        @param closed: called when the connection has ended.
        @param clientGone: called instead if the client had left before the connection
            could be adopted.
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
