"""
Interfaces that a server's protocols may provide.
"""

from __future__ import annotations

from zope.interface import Interface

__all__ = ["IDrainable"]


class IDrainable(Interface):
    """
    A protocol may provide this to learn that its server is stopping.
    """

    def drain() -> None:
        """
        Finish the work in progress, and then close the connection.  The connection
        stays open until the protocol closes it or the server's grace is over.  The
        connection may have been made a moment ago.
        """
