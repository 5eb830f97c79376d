"""
Finds out what a Twisted endpoint would bind, without binding it.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.protocol import Factory
from twisted.python.failure import Failure


class RecordingReactor:
    """
    A reactor that listens nowhere: each method returns its own arguments.
    """

    def listenTCP(
        self, port: int, factory: object, backlog: int, interface: str
    ) -> tuple[str, int, int]:
        """
        @return: the interface, the port and the backlog.
        """
        return interface, port, backlog

    def listenUNIX(
        self, path: str, factory: object, backlog: int, mode: int, wantPID: bool
    ) -> tuple[str, int, int, bool]:
        """
        @return: the path, the backlog, the mode, and whether to lock the path.
        """
        return path, backlog, mode, wantPID

    def listenSSL(
        self, port: int, factory: object, contextFactory: Any, **options: object
    ) -> Any:
        """
        @return: the context factory.
        """
        return contextFactory


def recorded(endpoint: Any) -> Any:
    """
    Let an endpoint listen on a L{RecordingReactor}.

    @param endpoint: an endpoint whose reactor is a L{RecordingReactor}.
    @return: the result of the reactor's method.
    @raise Exception: the endpoint's failure.
    """
    results: list[Any] = []
    endpoint.listen(Factory()).addBoth(results.append)
    [result] = results
    if isinstance(result, Failure):
        result.raiseException()
    return result
