"""
The bounds of the monitor's HTTP: of connections, times and sizes.

A client that is slow, sends garbage, or reads nothing loses its connection.  If all
places are taken, the connection that has been idle for the longest makes way.  So a
load balancer gets its answer while others misbehave.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.interfaces import IAddress, IDelayedCall
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel
from twisted.web.resource import IResource
from twisted.web.server import Request, Site

#: How many connections may be open at a time.
MAXIMUM_CONNECTIONS = 64

#: How long a request may take to arrive, from its first byte or the beginning of the
#: connection, in seconds.
REQUEST_SECONDS = 10.0

#: How long a connection may be kept without a request, in seconds.
IDLE_SECONDS = 75.0

#: How long a client may leave an answer unread, in seconds.
READ_SECONDS = 10.0

#: How many bytes the lines of a request may have.
MAXIMUM_REQUEST_BYTES = 8192

#: How many headers a request may have.
MAXIMUM_HEADERS = 64

_METHODS = (b"GET", b"HEAD")

_NOT_ALLOWED = (
    b"HTTP/1.1 405 Method Not Allowed\r\nAllow: GET, HEAD\r\nConnection: close\r\n"
    b"Content-Length: 0\r\n\r\n"
)
_TOO_LARGE = (
    b"HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
)


class BoundedChannel(HTTPChannel):
    """
    A connection with HTTP/1.1.

    @ivar busy: whether a request is being answered.
    """

    maxHeaders = MAXIMUM_HEADERS
    totalHeadersSize = MAXIMUM_REQUEST_BYTES
    MAX_LENGTH = MAXIMUM_REQUEST_BYTES

    site: BoundedSite

    def __init__(self) -> None:
        super().__init__()
        self._limit: IDelayedCall | None = None
        self._refused = False
        self._began = False
        self._requests = 0
        self.busy = False

    @property
    def _ownTransport(self) -> Any:
        # The transport provides several interfaces, and Python has no type for that.
        return self.transport

    def connectionMade(self) -> None:
        """
        See L{HTTPChannel.connectionMade}.
        """
        super().connectionMade()
        self.site.opened(self)
        self._endAfter(REQUEST_SECONDS)

    def _endAfter(self, seconds: float) -> None:
        self._endNever()
        self._limit = self.site.reactor.callLater(seconds, self.end)

    def _endNever(self) -> None:
        limit, self._limit = self._limit, None
        if limit is not None and limit.active():
            limit.cancel()

    def end(self) -> None:
        """
        End the connection at once.
        """
        self._refused = True
        self._ownTransport.abortConnection()

    def loseConnection(self) -> None:
        """
        See L{HTTPChannel.loseConnection}.  What comes from now on means nothing.
        """
        self._refused = True
        super().loseConnection()

    # Requests

    def dataReceived(self, data: bytes) -> None:
        """
        See L{HTTPChannel.dataReceived}.  A client that sends a request before the
        answer to the last one gets that answer, and no other: thousands of requests, in
        one piece, would hold up all other clients.
        """
        if self.busy:
            self.persistent = False
        if self.busy or self._refused:
            return
        if not self._began:
            self._began = True
            self._endAfter(REQUEST_SECONDS)
        self._requests = 0
        super().dataReceived(data)

    def lineReceived(self, line: bytes) -> None:
        """
        See L{HTTPChannel.lineReceived}.
        """
        if not self._refused:
            super().lineReceived(line)

    def rawDataReceived(self, data: bytes) -> None:
        """
        See L{HTTPChannel.rawDataReceived}.
        """
        if not self._refused:
            super().rawDataReceived(data)

    def allHeadersReceived(self) -> None:
        """
        See L{HTTPChannel.allHeadersReceived}.  No request may have a body, and none may
        change anything.
        """
        if self._refused:
            return
        if self._command not in _METHODS:
            self._refuse(_NOT_ALLOWED)
        elif self.length != 0:
            self._refuse(_TOO_LARGE)
        else:
            super().allHeadersReceived()

    def _refuse(self, answer: bytes) -> None:
        self._ownTransport.write(answer)
        self.loseConnection()
        self._endAfter(READ_SECONDS)

    def allContentReceived(self) -> None:
        """
        See L{HTTPChannel.allContentReceived}.
        """
        if self._refused:
            return
        self._requests += 1
        if self._requests > 1:
            self.loseConnection()
            self._endAfter(READ_SECONDS)
            return
        self.busy, self._began = True, False
        self._endNever()
        self.site.active(self)
        super().allContentReceived()

    def requestDone(self, request: Any) -> None:
        """
        See L{HTTPChannel.requestDone}.
        """
        self.busy = False
        self._endAfter(IDLE_SECONDS if self.persistent else READ_SECONDS)
        # The next request may be here already.
        super().requestDone(request)

    # Answers

    def pauseProducing(self) -> None:
        """
        The client reads too slowly.
        """
        super().pauseProducing()
        if self.busy:
            self._endAfter(READ_SECONDS)

    def resumeProducing(self) -> None:
        """
        The client has read.
        """
        super().resumeProducing()
        if self.busy:
            self._endNever()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """
        See L{HTTPChannel.connectionLost}.
        """
        self._refused = True
        self._endNever()
        self.site.closed(self)
        super().connectionLost(reason)


class BoundedRequest(Request):
    """
    A request.
    """

    def process(self) -> None:
        """
        See L{Request.process}.
        """
        self.setHeader(b"Cache-Control", b"no-store")
        self.setHeader(b"X-Content-Type-Options", b"nosniff")
        super().process()


class BoundedSite(Site):
    """
    Makes the connections, and counts them.

    @param reactor: an L{IReactorTime}; by default the global one.
    """

    noisy = False
    protocol = BoundedChannel  # type: ignore[assignment]

    def __init__(self, resource: IResource, reactor: Any = None) -> None:
        super().__init__(resource, BoundedRequest, timeout=None, reactor=reactor)
        # The one that had a request last is the last.
        self._channels: dict[BoundedChannel, None] = {}

    @property
    def connections(self) -> int:
        """
        How many connections are open.
        """
        return len(self._channels)

    @property
    def capacity(self) -> int:
        """
        How many connections may be accepted in this turn of the reactor.  If all places
        are taken, that is one: the connections before it must have had a turn to ask.
        """
        return max(1, MAXIMUM_CONNECTIONS - len(self._channels))

    def startFactory(self) -> None:
        """
        Keep no log of requests.
        """

    def stopFactory(self) -> None:
        """
        See L{startFactory}.
        """

    def acceptableProtocols(self) -> list[bytes]:
        """
        Speak HTTP/1.1 alone, also by TLS.
        """
        return [b"http/1.1"]

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """
        See L{Site.buildProtocol}.
        """
        return super().buildProtocol(addr or IPv4Address("TCP", "", 0))

    # What connections report

    def opened(self, channel: BoundedChannel) -> None:
        """
        Note a new connection.  If it is one too many, end another one: the one that has
        been idle for the longest, or else the oldest.
        """
        if len(self._channels) >= MAXIMUM_CONNECTIONS:
            idle = (each for each in self._channels if not each.busy)
            oldest = next(idle, next(iter(self._channels)))
            self.closed(oldest)
            oldest.end()
        self._channels[channel] = None

    def active(self, channel: BoundedChannel) -> None:
        """
        Note that a request has come.
        """
        if channel in self._channels:
            del self._channels[channel]
            self._channels[channel] = None

    def closed(self, channel: BoundedChannel) -> None:
        """
        Note that a connection has ended.  May be called again.
        """
        self._channels.pop(channel, None)
