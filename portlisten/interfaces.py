"""
Interfaces that a server's protocols may provide.
"""

from __future__ import annotations

from zope.interface import Interface

__all__ = ["IDrainable"]


class IDrainable(Interface):
    """
    A protocol may provide this to learn that its server is stopping, or that an
    operator drains the server.
    """

    def drain() -> None:
        """
        Finish the work in progress, and then close the connection.  The connection
        stays open until the protocol closes it or the server's grace is over.  A server
        that is drained has no grace.  The connection may have been made a moment ago.
        """
