"""
Recognizes the protocols of servers, without importing the servers.
"""

from __future__ import annotations

import functools
from typing import Any

from portlisten._config.values import FIRST_SECONDS

#: The packages whose servers speak HTTP.
_HTTP = frozenset(["uvicorn", "hypercorn", "aiohttp"])


def firstSeconds(factory: Any, tls: bool, given: float | None) -> float:
    """
    Find how long to wait for a client to speak first.

    @param factory: makes the server's protocols.
    @param tls: whether the connections are TLS.
    @param given: what the operator says, in seconds, or L{None}.
    @return: in seconds; zero if clients need not speak first.
    """
    if given is not None:
        return given
    return FIRST_SECONDS if tls or clientsSpeakFirst(factory) else 0.0


def clientsSpeakFirst(factory: Any) -> bool:
    """
    Whether a factory of protocols is one of a server of HTTP.  This looks into partials
    and wrappers.
    """
    while factory is not None:
        modules = (
            getattr(factory, "__module__", None),
            type(factory).__module__,
            type(getattr(factory, "__self__", None)).__module__,
        )
        if any(str(each).partition(".")[0] in _HTTP for each in modules):
            return True
        if isinstance(factory, functools.partial):
            factory = factory.func
        else:
            factory = getattr(factory, "__wrapped__", None)
    return False
