"""
Watch the connections of silent clients, until something comes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.logger import Logger
from twisted.python.failure import Failure

from portlisten import _kernel
from portlisten._listener.client_watch import ClientWatch
from portlisten._listener.interfaces import IConnection


class SilentClients(ClientWatch):
    """
    Watches connections.  Their descriptors stay the caller's, which calls L{discard}
    before it sends or closes one.

    @param reactor: an L{IReactorFDSet} and L{IReactorTime}.
    @param come: called with the connections from whose clients something has come, and
        with those whose clients have left.  They are not watched any more.

    @ivar watched: the connections that are watched, by their descriptors.  Only this
        object changes them.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        come: Callable[[list[IConnection], list[IConnection]], None],
    ) -> None:
        super().__init__(reactor)
        self._come = come
        self.watched: dict[int, IConnection] = {}

    def find(self, connections: Sequence[IConnection]) -> set[IConnection]:
        """
        Find the connections from whose clients nothing has come.
        """
        try:
            return set(_kernel.silent(connections))
        except OSError:
            # Whoever watches them will know.
            return set(connections)

    def watch(self, connection: IConnection) -> bool:
        """
        Watch a connection.

        @return: whether that is possible.
        """
        descriptor = connection.fileno()
        try:
            self._open().add(descriptor)
        except OSError as error:
            self._logLimited(
                self.log.error,
                "the connection of {peer} is offered before its client speaks, since it"
                " cannot be watched: {error}",
                event="silence-unknown",
                peer=connection.peer,
                error=error.strerror,
            )
            return False
        self.watched[descriptor] = connection
        return True

    def watches(self, connection: IConnection) -> bool:
        """
        Whether a connection is watched.
        """
        return self.watched.get(connection.fileno()) is connection

    def discard(self, connection: IConnection) -> None:
        """
        Stop watching a connection, if it is watched.
        """
        if self.watches(connection):
            self._remove(connection.fileno())

    def close(self) -> None:
        """
        Stop watching all connections.
        """
        self.watched.clear()
        self._closeEpoll()

    def _remove(self, descriptor: int) -> IConnection:
        assert self._firstBytes is not None
        self._firstBytes.remove(descriptor)
        return self.watched.pop(descriptor)

    # IReadDescriptor

    def doRead(self) -> None:
        """
        Something has come from clients.
        """
        assert self._firstBytes is not None
        spoken: list[IConnection] = []
        ended: list[IConnection] = []
        for descriptor, end in self._firstBytes.come():
            if descriptor in self.watched:
                (ended if end else spoken).append(self._remove(descriptor))
        gone = _gone(ended) if ended else []
        spoken += [each for each in ended if each not in gone]
        if spoken or gone:
            self._come(spoken, gone)

    def connectionLost(self, reason: Failure) -> None:
        """
        The reactor cannot poll the epoll any more.  All clients count as having spoken,
        since nobody watches them.
        """
        connections = list(self.watched.values())
        self.log.critical(
            "silent clients cannot be watched: {why}; {count} connections are offered",
            event="silence-unknown",
            why=reason.getErrorMessage(),
            count=len(connections),
        )
        self.close()
        if connections:
            self._come(connections, [])


def _gone(connections: Sequence[Any]) -> list[IConnection]:
    """
    Find the connections whose clients have left.
    """
    try:
        gone, _ = _kernel.departed(connections)
    except OSError:
        return []
    return gone
