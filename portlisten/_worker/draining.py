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
    WebSockets have a close frame for this, so Autobahn's protocols need no
    L{IDrainable}.

A connection that has not ended when the worker's grace is over ends with its process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from twisted.logger import Logger
from zope.interface import directlyProvides, providedBy

from portlisten._policy.goodbyes import GOAWAY, GOING_AWAY
from portlisten._worker.recognition import inherits
from portlisten.interfaces import IDrainable

_log = Logger()


def drain(transport: Any) -> None:
    """
    Ask the protocol of a connection to end it as soon as that does no harm.  This looks
    into wrappers, such as those for TLS.  If the protocol cannot be asked, this does
    nothing.
    """
    for carrier, protocol in _layers(transport):
        if IDrainable.providedBy(protocol):
            protocol.drain()
            return
        if inherits(type(protocol), "autobahn", "WebSocketServerProtocol"):
            _endWebSocket(protocol)
            return
        if hasattr(protocol, "requestFactory"):
            _endHTTP(transport, carrier, protocol)
            return


def _layers(transport: Any) -> Iterator[tuple[Any, Any]]:
    """
    List the protocols of a connection, from the outer to the inner, each with the
    transport that it writes to.
    """
    # While a connection ends, its transport may have no protocol any more.
    protocol = getattr(transport, "protocol", None)
    while protocol is not None:
        yield transport, protocol
        transport, protocol = protocol, getattr(protocol, "wrappedProtocol", None)


def _endWebSocket(protocol: Any) -> None:
    """
    End a connection of Autobahn's: say that the server goes away, as soon as the
    handshake is over.  If the WebSocket carries a stream, ask the stream's protocol
    first.
    """
    if protocol.state == protocol.STATE_CONNECTING:
        protocol.is_open.addCallback(lambda _: _endWebSocket(protocol))
        return
    carried = getattr(protocol, "_proto", None)
    if IDrainable.providedBy(carried):
        carried.drain()
    else:
        # sendClose refuses this code.
        protocol.sendCloseFrame(GOING_AWAY)


def _endHTTP(connection: Any, transport: Any, protocol: Any) -> None:
    """
    End a connection of Twisted's web servers.

    Over HTTP/1.1, this treats each later request as if its client had asked to close
    the connection after it.  C{HTTPChannel.checkPersistence} looks for that in the
    request's headers, and says so in the response.  If a request is in hand, its
    response may be the last one.

    @param connection: the reactor's transport.
    @param transport: the transport that the protocol writes to.
    """
    if _speaksHTTP2(protocol):
        transport.write(GOAWAY)
        return
    if _endWithRequest(protocol):
        return
    build = protocol.requestFactory

    def last(*args: Any, **kwargs: Any) -> Any:
        request = build(*args, **kwargs)
        if _speaksHTTP2(protocol):
            protocol.requestFactory = build
            transport.write(GOAWAY)
        else:
            request.requestHeaders.addRawHeader(b"connection", b"close")
            _afterwards(request, lambda: _drainSuccessor(connection, protocol))
        return request

    # HTTPChannel checks whether this provides INonQueuedRequestFactory.
    directlyProvides(last, providedBy(build))
    protocol.requestFactory = last


def _endWithRequest(protocol: Any) -> bool:
    """
    If a request is in hand, and the head of its response is not written, end the
    connection with this response.  Leave a request alone that asks for another
    protocol.

    @return: whether the connection ends so.
    """
    # Twisted has no public name for the channel.
    channel = getattr(protocol, "_channel", protocol)
    requests = getattr(channel, "requests", None)
    if not requests:
        return False
    request = requests[-1]
    # It has its content as soon as its head is complete.
    if (
        request.content is None
        or request.startedWriting
        or request.requestHeaders.hasHeader(b"upgrade")
    ):
        return False
    request.responseHeaders.setRawHeaders(b"connection", [b"close"])
    channel.persistent = False
    return True


def _afterwards(request: Any, then: Callable[[], None]) -> None:
    """
    Call a function each time that a request has been processed.
    """
    process = request.process

    def processed() -> Any:
        result = process()
        then()
        return result

    request.process = processed


def _drainSuccessor(connection: Any, protocol: Any) -> None:
    """
    Drain the protocol that has taken a connection over from another one, if one has.
    If that fails, log it.

    @param protocol: the earlier protocol.
    """
    if all(each is not protocol for _, each in _layers(connection)):
        try:
            drain(connection)
        except Exception:
            _log.failure(
                "{connection} failed to drain",
                event="protocol-failed",
                connection=connection,
            )


def _speaksHTTP2(protocol: Any) -> bool:
    """
    Whether the first bytes of a connection have shown that it speaks HTTP/2.  Before
    these, the server has not sent its SETTINGS, and must send nothing else.
    """
    # Twisted has no public name for this.
    return getattr(protocol, "_negotiatedProtocol", None) == b"h2"
