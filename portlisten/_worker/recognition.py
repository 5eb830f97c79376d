"""
Recognizes the factories and protocols of other packages, without importing them.
"""

from __future__ import annotations

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
