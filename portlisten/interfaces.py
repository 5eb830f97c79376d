"""
What a server's protocols may provide.
"""

from __future__ import annotations

from zope.interface import Interface

__all__ = ["IDrainable"]


class IDrainable(Interface):
    """
    What a protocol may provide, to be told that its server stops.
    """

    def drain() -> None:
        """
        Finish what is under way, and then close.  The connection is left open
        until the protocol closes it or the server's grace is over.  It may have
        been made only now.
        """
