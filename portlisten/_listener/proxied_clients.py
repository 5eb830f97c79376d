"""
Wait for the headers of proxies, to know where clients come from.

A header is only looked at.  It stays in the connection, which is untouched for the
kernel: see L{portlisten._kernel.progress}.  The worker reads the header.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import takewhile
from typing import Any

from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from portlisten import _kernel
from portlisten._listener.client_watch import ClientWatch
from portlisten._listener.connection import AcceptedConnection
from portlisten._wire.proxy_header import MAXIMUM_BYTES, Header, sourceOf

#: How long to wait for a header, in seconds.  The specification demands no less, for a
#: segment that must be sent twice.
TIMEOUT_SECONDS = 3.0


class ProxiedClients(ClientWatch):
    """
    Holds connections from proxies until their headers have come.

    @param reactor: an L{IReactorFDSet} and L{IReactorTime}.
    @param known: called with connections, and with the source of each: the client's
        host, or that of the proxy if the header says no other, or L{None} if no header
        came or the client has left.  The connections are the callee's from then on.
    @param timeout: how long to wait for a header, in seconds.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        known: Callable[[list[tuple[AcceptedConnection, str | None]]], None],
        timeout: float = TIMEOUT_SECONDS,
    ) -> None:
        super().__init__(reactor)
        self._known = known
        self._timeout = timeout
        # The connections and when their time is over, by descriptors: the oldest first.
        self._held: dict[int, tuple[AcceptedConnection, float]] = {}
        self._timer: IDelayedCall | None = None

    @property
    def count(self) -> int:
        """
        How many connections are held.
        """
        return len(self._held)

    def add(self, connections: Iterable[AcceptedConnection]) -> None:
        """
        Find the sources of connections.  Those whose headers have come are reported
        before this returns.

        @param connections: this object's until they are reported, or L{close} returns
            them.
        """
        end = self._reactor.seconds() + self._timeout
        found = []
        for connection in connections:
            header = _look(connection)
            if header is Header.INCOMPLETE:
                self._watch(connection)
                self._held[connection.fileno()] = connection, end
            else:
                found.append((connection, _source(connection, header)))
        self._setTimer()
        self._report(found)

    def close(self) -> list[AcceptedConnection]:
        """
        Wait no longer.

        @return: the connections that are held.  They are the caller's from now on, and
            are not reported.
        """
        connections = [connection for connection, _ in self._held.values()]
        self._held.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._closeEpoll()
        return connections

    def _report(self, found: list[tuple[AcceptedConnection, str | None]]) -> None:
        if found:
            self._known(found)

    def _watch(self, connection: AcceptedConnection) -> None:
        try:
            self._open().add(connection.fileno(), again=True)
        except OSError as error:
            self._logLimited(
                self.log.error,
                "the connection of {peer} cannot be watched: {error}; a PROXY header is"
                " looked for after {timeout:g} s",
                event="header-unknown",
                peer=connection.peer,
                error=error.strerror,
                timeout=self._timeout,
            )

    def _remove(self, connection: AcceptedConnection) -> None:
        descriptor = connection.fileno()
        del self._held[descriptor]
        if self._firstBytes is not None:
            self._firstBytes.remove(descriptor)

    def _setTimer(self) -> None:
        """
        Go on when the time of the oldest is over, or before.
        """
        if self._timer is None and self._held:
            _, end = next(iter(self._held.values()))
            left = max(0.0, end - self._reactor.seconds())
            self._timer = self._reactor.callLater(left, self._endWait)

    def _endWait(self) -> None:
        """
        Look a last time at the connections whose time is over.
        """
        self._timer = None
        now = self._reactor.seconds()
        waiting = self._held.values()
        over = [each for each, _ in takewhile(lambda each: each[1] <= now, waiting)]
        for connection in over:
            self._remove(connection)
        self._setTimer()
        self._report([(each, _source(each, _look(each))) for each in over])

    # IReadDescriptor

    def doRead(self) -> None:
        """
        Something has come from clients.
        """
        assert self._firstBytes is not None
        found = []
        for descriptor, ended in self._firstBytes.come():
            if descriptor not in self._held:
                continue
            connection, _ = self._held[descriptor]
            header = _look(connection)
            if ended or header is not Header.INCOMPLETE:
                self._remove(connection)
                found.append((connection, _source(connection, header)))
        self._report(found)

    def connectionLost(self, reason: Failure) -> None:
        """
        The reactor cannot poll the epoll any more.  The connections are looked at when
        their time is over.
        """
        self.log.critical(
            "connections from proxies cannot be watched: {why}; the PROXY headers of"
            " {count} are looked for after {timeout:g} s",
            event="header-unknown",
            count=self.count,
            why=reason.getErrorMessage(),
            timeout=self._timeout,
        )
        self._closeEpoll()


def _look(connection: AcceptedConnection) -> Header | str:
    """
    Look at the first bytes of a connection.

    @return: what L{sourceOf} says of them.
    """
    try:
        data = _kernel.peekBytes(connection.fileno(), MAXIMUM_BYTES)
    except BlockingIOError:
        return Header.INCOMPLETE
    except OSError:
        return Header.WRONG
    return sourceOf(data) if data else Header.WRONG


def _source(connection: AcceptedConnection, header: Header | str) -> str | None:
    """
    Find out where a connection comes from, if its header says so.
    """
    if isinstance(header, str):
        return header
    if header is Header.OWN and isinstance(connection.address, tuple):
        return str(connection.address[0])
    return None
