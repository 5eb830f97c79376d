"""
How the connections of a server end when it stops.

A worker that stops has no more connections coming, and waits for those in
service.  Most protocols end theirs by themselves: a request is answered, a mail
is delivered.  Two kinds would not:

  - Those that keep a connection for a next request, HTTP above all.  Closing an
    idle one is no answer: the request may be on its way, and its client would
    see a connection that breaks.  So the next request is still served, and its
    response says that it is the last one.  HTTP/2 has a frame to say so at once,
    GOAWAY: its client finishes what it has asked for, and closes.
  - Those whose connections go on for as long as both sides live, as in a chat.
    Only the protocol knows how to part, so L{IDrainable} tells it that it is
    time to.

What has not ended when the worker's grace is over ends with its process.
"""

from __future__ import annotations

import struct
from typing import Any

from zope.interface import directlyProvides, providedBy

from portlisten.interfaces import IDrainable

#: GOAWAY with NO_ERROR, for no stream yet: RFC 9113, section 6.8, which has a
#: server that stops in good order begin so.
GOAWAY = struct.pack("!HBBBIII", 0, 8, 7, 0, 0, 2**31 - 1, 0)


def drain(transport: Any) -> None:
    """
    Have the protocol of a connection end it as soon as that does no harm.  Looks
    through wrappers, such as those for TLS, at what they wrap.  Does nothing
    where there is nothing that it knows of.
    """
    # While its protocol hears of the end, a transport has none any more.
    protocol = getattr(transport, "protocol", None)
    while protocol is not None:
        if IDrainable.providedBy(protocol):
            protocol.drain()
            return
        if hasattr(protocol, "requestFactory"):
            _endHTTP(transport, protocol)
            return
        transport, protocol = protocol, getattr(protocol, "wrappedProtocol", None)


def _endHTTP(transport: Any, protocol: Any) -> None:
    """
    Have what Twisted's web servers build for a connection end it.

    Over HTTP/1.1, each further request is treated as if its client had asked for
    the connection to be closed after it: C{HTTPChannel.checkPersistence} looks
    for that among the request's headers, and says so in the response.
    """
    if _speaksHTTP2(protocol):
        transport.write(GOAWAY)
        return
    build = protocol.requestFactory

    def last(*args: Any, **kwargs: Any) -> Any:
        request = build(*args, **kwargs)
        if _speaksHTTP2(protocol):
            protocol.requestFactory = build
            transport.write(GOAWAY)
        else:
            request.requestHeaders.addRawHeader(b"connection", b"close")
        return request

    # HTTPChannel asks it for INonQueuedRequestFactory.
    directlyProvides(last, providedBy(build))
    protocol.requestFactory = last


def _speaksHTTP2(protocol: Any) -> bool:
    """
    Whether a connection is one of HTTP/2: after its first bytes.  Before them,
    the server has not sent its SETTINGS, which nothing may precede.
    """
    # There is no public name for it.
    return getattr(protocol, "_negotiatedProtocol", None) == b"h2"
