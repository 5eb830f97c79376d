"""
Recognizes the factories and protocols of other packages, without importing them.
"""

from __future__ import annotations

from portlisten._config.values import FIRST_SECONDS

#: The factories whose clients speak first: their packages and names.
_CLIENTS_SPEAK_FIRST = [
    ("twisted", "HTTPFactory"),
    ("twisted", "TLSMemoryBIOFactory"),
    ("autobahn", "WebSocketServerFactory"),
]


def inherits(cls: type, package: str, name: str) -> bool:
    """
    Whether a class is, or has as a base, a class of a package.

    @param name: the name of that class.
    """
    return any(
        each.__name__ == name and each.__module__.partition(".")[0] == package
        for each in cls.__mro__
    )


def firstSeconds(factory: object, given: float | None) -> float | None:
    """
    Find how long the listener may keep a connection whose client is silent.

    @param given: what the operator says: seconds, or 0 for no, or L{None}.
    @return: seconds, or L{None} if clients need not speak first.
    """
    if given is None and clientsSpeakFirst(factory):
        return FIRST_SECONDS
    return given or None


def clientsSpeakFirst(factory: object) -> bool:
    """
    Whether the clients of a server speak first: over HTTP, WebSocket or TLS.  This
    looks into Twisted's wrappers of factories.
    """
    known = _CLIENTS_SPEAK_FIRST
    while not any(inherits(type(factory), *each) for each in known):
        if not inherits(type(factory), "twisted", "WrappingFactory"):
            return False
        factory = factory.wrappedFactory  # type: ignore[attr-defined]
    return True
