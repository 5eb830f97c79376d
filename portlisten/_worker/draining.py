"""
How the connections of a server end when it stops.

A worker that stops gets no more connections, and waits for those in service.  Most
protocols end their connections by themselves: a request is answered, a mail is
delivered.  Two kinds of protocols do not:

  - Some keep a connection for a next request, HTTP above all.  The worker must not
    close an idle connection: a request may be on its way, and its client would see a
    connection that breaks.  So the next request is still served, and its response says
    that it is the last one.  HTTP/2 has the frame GOAWAY to say so at once: its client
    finishes its requests, and closes.
  - Some keep a connection for as long as both sides live, as in a chat.  Only the
    protocol knows how to end it, so L{IDrainable} tells the protocol that it is time.

A connection that has not ended when the worker's grace is over ends with its process.
"""

from __future__ import annotations

import struct
from typing import Any

from zope.interface import directlyProvides, providedBy

from portlisten.interfaces import IDrainable

#: GOAWAY with NO_ERROR, and the highest stream number.  A server that stops in good
#: order begins with it: RFC 9113, section 6.8.
GOAWAY = struct.pack("!HBBBIII", 0, 8, 7, 0, 0, 2**31 - 1, 0)


def drain(transport: Any) -> None:
    """
    Ask the protocol of a connection to end it as soon as that does no harm.  This looks
    into wrappers, such as those for TLS.  If the protocol cannot be asked, this does
    nothing.
    """
    # While a connection ends, its transport may have no protocol any more.
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
    End a connection of Twisted's web servers.

    Over HTTP/1.1, this treats each later request as if its client had asked to close
    the connection after it.  C{HTTPChannel.checkPersistence} looks for that in the
    request's headers, and says so in the response.
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

    # HTTPChannel checks whether this provides INonQueuedRequestFactory.
    directlyProvides(last, providedBy(build))
    protocol.requestFactory = last


def _speaksHTTP2(protocol: Any) -> bool:
    """
    Whether the first bytes of a connection have shown that it speaks HTTP/2.  Before
    these, the server has not sent its SETTINGS, and must send nothing else.
    """
    # Twisted has no public name for this.
    return getattr(protocol, "_negotiatedProtocol", None) == b"h2"
