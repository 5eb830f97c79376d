"""
How the connections of an asyncio server end when its worker drains.

A worker that drains gets no more connections, and goes on serving those it has.  Most
connections end by themselves.  Two kinds do not:

  - HTTP keeps a connection for a next request.  The worker must not close it while it
    is idle: a request may be on its way.  So the next response says that it is the last
    one.  HTTP/2 has the frame GOAWAY to say so at once.
  - A WebSocket lives as long as both sides do.  It ends with the code 1001, "going
    away".

Servers have no common way to ask for that.  L{portlisten._asyncio.servers} knows how to
ask the servers that are common.  Any other protocol may provide
L{IDrainable<portlisten.interfaces.IDrainable>}.
"""

from __future__ import annotations

import asyncio
from typing import Any

from portlisten._anyloop import log
from portlisten._asyncio.servers import RECIPES
from portlisten.interfaces import IDrainable

#: How often to look whether a connection has another protocol, in seconds: a connection
#: may become a WebSocket after it was asked to end.
CHECK_SECONDS = 0.5

#: The kinds of protocols of which the log says that they are left alone.
_complained: set[type] = set()


def drain(protocol: Any, transport: Any, grace: float) -> None:
    """
    Ask the protocol of a connection to end it as soon as that does no harm.  This looks
    into the layer of TLS that C{loop.start_tls} adds.  If the protocol cannot be asked,
    this does nothing.  Must be called by the loop of the connection.

    @param transport: the protocol's.
    @param grace: how long an idle connection may stay once the server stops, in
        seconds.
    """
    while protocol is not None:
        if IDrainable.providedBy(protocol):
            protocol.drain()
            return
        for isKnown, end in RECIPES:
            if isKnown(protocol):
                _end(protocol, transport, grace, end)
                return
        # asyncio and uvloop have no public name for this.
        protocol = getattr(protocol, "_app_protocol", None)


def _end(protocol: Any, transport: Any, grace: float, end: Any) -> None:
    """
    Ask a protocol that is known.  Do so again if it is not ready, and if another
    protocol takes its place.
    """
    loop = asyncio.get_running_loop()
    try:
        done = end(loop, protocol, grace)
    except Exception as error:
        _complain(protocol, error)
        done = True
    _checkLater(loop, transport, grace, protocol if done else None)


def _checkLater(loop: Any, transport: Any, grace: float, asked: Any) -> None:
    loop.call_later(CHECK_SECONDS, _check, loop, transport, grace, asked)


def _check(loop: Any, transport: Any, grace: float, asked: Any) -> None:
    if transport.is_closing():
        return
    current = transport.get_protocol()
    if current is asked:
        _checkLater(loop, transport, grace, asked)
    else:
        drain(current, transport, grace)


def _complain(protocol: Any, error: Exception) -> None:
    kind = type(protocol)
    if kind not in _complained:
        _complained.add(kind)
        log.warning(
            "connections of {kind} cannot be asked to end, and are left alone: {error}",
            event="protocol-unknown",
            kind=f"{kind.__module__}.{kind.__qualname__}",
            error=repr(error),
        )
