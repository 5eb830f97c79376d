"""
What watches connections until something comes from their clients.

The reactor reads the descriptor of an epoll(7) of our own, in which the connections
are.  If they were in the reactor's own, each would need a reader, and a reactor that
uses select(2) could not have many.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IReadDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from portlisten import _kernel
from portlisten._reactor.log_limit import logLimit


@implementer(IReadDescriptor)
class ClientWatch:
    """
    Has the epoll, while there is something to watch.

    @param reactor: an L{IReactorFDSet} and L{IReactorTime}.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._logLimited = logLimit(reactor)
        # Made for the first connection.
        self._firstBytes: _kernel.FirstBytes | None = None

    def _open(self) -> _kernel.FirstBytes:
        """
        Make the epoll, if there is none.

        @raise OSError: if that is impossible.
        """
        if self._firstBytes is None:
            self._firstBytes = _kernel.FirstBytes()
            try:
                self._reactor.addReader(self)
            except OSError:
                self._firstBytes.close()
                self._firstBytes = None
                raise
        return self._firstBytes

    def _closeEpoll(self) -> None:
        firstBytes, self._firstBytes = self._firstBytes, None
        if firstBytes is not None:
            self._reactor.removeReader(self)
            firstBytes.close()

    # IReadDescriptor

    def fileno(self) -> int:
        """
        Return the descriptor of the epoll, or -1 if there is none.
        """
        return -1 if self._firstBytes is None else self._firstBytes.fileno()

    def logPrefix(self) -> str:
        """
        See L{ILoggingContext}.
        """
        return "portlisten"

    def doRead(self) -> None:
        """
        Something has come from clients.
        """
        raise NotImplementedError

    def connectionLost(self, reason: Failure) -> None:
        """
        The reactor cannot poll the epoll any more.
        """
        raise NotImplementedError
