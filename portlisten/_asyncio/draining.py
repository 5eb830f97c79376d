"""
How the connections of a server without Twisted end when it stops.
"""

from __future__ import annotations

import asyncio
from typing import Any

from portlisten.interfaces import IDrainable


def drain(protocol: Any, transport: asyncio.BaseTransport) -> None:
    """
    Ask the protocol of a connection to end it as soon as that does no harm.  This looks
    into the layer of TLS that C{loop.start_tls} adds.  If the protocol cannot be asked,
    this does nothing.

    @param transport: the protocol's.
    """
    while protocol is not None:
        if IDrainable.providedBy(protocol):
            protocol.drain()
            return
        # asyncio and uvloop have no public name for this.
        protocol = getattr(protocol, "_app_protocol", None)
