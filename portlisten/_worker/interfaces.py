"""
The contracts between the parts of a worker.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zope.interface import Attribute, Interface

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred


class IWorker(Interface):
    """
    Serves a factory on the connections that a listener hands off.
    """

    ports = Attribute(
        "The ports whose connections come: a sequence of C{Port}.  Empty until the"
        " listener has named them."
    )

    def bind() -> None:
        """
        Bind or check the path, and start the factory.  Called before the process drops
        its privileges.

        @raise PathError: if the path cannot be used.
        @raise Exception: what the factory raises.  Then nothing stays bound.
        """

    def start() -> Deferred[None]:
        """
        Begin to serve, and go on until L{stop}.

        @return: fires when connections can come.  If L{stop} is called before that, it
            never fires.
        """

    def report() -> None:
        """
        Log the state of the worker.
        """

    def stop() -> Deferred[None]:
        """
        Take no more connections.  Wait until the connections in service have ended, but
        no longer than the grace.  Then stop the factory.  May be called before
        L{start}, and any number of times.

        @return: fires when the factory is stopped.
        """

    def lastTaken() -> Deferred[None]:
        """
        Wait until no connection can come any more.  Called after L{stop}.

        @return: fires then.  Connections in service may go on.
        """
