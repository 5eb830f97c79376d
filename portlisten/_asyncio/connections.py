"""
Adopting connections: making a transport of the event loop from a descriptor, with a
protocol of the server's factory, and reporting its end.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from portlisten import _kernel
from portlisten._anyloop import log
from portlisten._anyloop.clock import Clock
from portlisten._anyloop.interfaces import NO_REPORTS, Reports
from portlisten._asyncio import draining
from portlisten._asyncio.first_bytes import FirstBytes
from portlisten._policy.networks import Network
from portlisten._ports.proxies import NO_HEADER, Proxies, addressOf, pauses, takeHeader
from portlisten._reactor.log_limit import LogLimit
from portlisten._wire.proxy_header import Header, ProxyHeader

#: How often a descriptor that a program has detached is looked at, in seconds.
ESCAPED_SECONDS = 1.0


class Connection:
    """
    A connection that was adopted and has not ended.

    @ivar transport: the transport of the server's protocol; L{None} before there is
        one.
    @ivar socket: the socket.
    @ivar owned: whether a transport owns the socket.
    """

    __slots__ = ("_adopter", "_drainSent", "_report", "owned", "socket", "transport")

    def __init__(self, adopter: Adopter, report: Callable[[], None]) -> None:
        self._adopter = adopter
        self._report = report
        self._drainSent = False
        self.transport: Any = None
        self.socket: _kernel.ConnectionSocket | None = None
        self.owned = False

    def makeProtocol(self) -> Any:
        """
        Make the first protocol of the transport.
        """
        adopter = self._adopter
        if not adopter.first:
            return adopter.factory()
        return FirstBytes(
            adopter.clock, adopter.first, adopter.factory, adopter.failed, self.made
        )

    def made(self) -> None:
        """
        The server's protocol has the connection.
        """
        self._drainSent = False
        if self._adopter.draining:
            self.drain()

    def drain(self) -> None:
        """
        Ask the protocol, once, to end the connection as soon as that does no harm.  If
        the protocol fails, log that.
        """
        if self._drainSent or self.transport is None or self.transport.is_closing():
            return
        self._drainSent = True
        try:
            draining.drain(
                self.transport.get_protocol(), self.transport, self._adopter.grace
            )
        except Exception as error:
            log.bug("a protocol failed to drain", error, event="protocol-failed")

    def ended(self) -> None:
        """
        The descriptor was closed.  May be called in any thread.
        """
        self._adopter.connectionEnded(self, self._report)

    def escaped(self, descriptor: int, cookie: int) -> None:
        """
        A program has detached the descriptor.  Wait for its end.
        """
        if _kernel.leadsTo(descriptor, cookie):
            self._adopter.clock.callLater(
                ESCAPED_SECONDS, self.escaped, descriptor, cookie
            )
        else:
            self.ended()


class Adopter:
    """
    Adopts connections for a server.

    @param loop: makes the transports.
    @param factory: makes the protocols.
    @param first: how long to wait for a client to speak first, in seconds; zero if
        clients need not speak first.
    @param tls: the arguments for TLS of C{connect_accepted_socket}.
    @param changed: called each time that the number of connections has changed.
    @param grace: how long idle connections may stay when the server stops, in seconds.
    @param proxies: the networks of proxies whose headers are believed.

    @ivar connections: the connections that have not ended.
    @ivar draining: whether each connection is asked to end.
    @ivar gives: L{False}: all connections stay in this process.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
        factory: Callable[[], Any],
        first: float,
        tls: Mapping[str, Any],
        changed: Callable[[], None],
        grace: float,
        proxies: Iterable[Network] = (),
    ) -> None:
        self._loop = loop
        self._proxies = Proxies(proxies)
        self._logLimited = LogLimit(clock)
        self._tls = tls
        self._changed = changed
        self._tasks: set[asyncio.Task[None]] = set()
        self.gives = False
        self.clock = clock
        self.factory = factory
        self.first = first
        self.connections: set[Connection] = set()
        self.draining = False
        self.grace = grace

    def adopt(
        self,
        descriptor: int,
        cookie: int | None = None,
        reports: Reports = NO_REPORTS,
    ) -> None:
        """
        Adopt a connection.

        @param descriptor: owned by this object from now on.
        @param cookie: C{SO_COOKIE} of the socket, if it is known.
        @param reports: reports to the listener.
        """
        connection = Connection(self, reports.closed)
        try:
            sock = _kernel.ConnectionSocket(
                descriptor, cookie, connection.ended, connection.escaped
            )
        except OSError as error:
            log.bug("a connection cannot be adopted", error, event="adoption-failed")
            reports.closed()
            return
        try:
            peer = sock.getpeername()
        except OSError as error:
            sock.forget(close=True)
            gone = error.errno == errno.ENOTCONN
            (reports.clientGone if gone else reports.closed)()
            return
        connection.socket = sock
        self.connections.add(connection)
        self._changed()
        task = self._loop.create_task(self._serve(connection, sock, peer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _identify(self, sock: _kernel.ConnectionSocket, peer: Any) -> bool:
        """
        Read the header of a proxy, and note who the client is.

        @param peer: the address of the proxy.
        @return: whether there is such a header.
        """
        left = pauses()
        header = takeHeader(sock.fileno())
        while header is Header.INCOMPLETE:
            pause = next(left, None)
            if pause is None:
                break
            await asyncio.sleep(pause)
            header = takeHeader(sock.fileno())
        if isinstance(header, ProxyHeader):
            sock.client = addressOf(header, peer)
            return True
        self._logLimited(log.warning, NO_HEADER, event="header-missing", host=peer[0])
        return False

    async def _serve(
        self, connection: Connection, sock: _kernel.ConnectionSocket, peer: Any
    ) -> None:
        """
        Make a transport.  It owns the socket, even if TLS fails.
        """
        if self._proxies.believes(peer) and not await self._identify(sock, peer):
            sock.close()
            return
        try:
            protocol = connection.makeProtocol()
        except Exception as error:
            self.failed(error)
            sock.close()
            return
        connection.owned = True
        try:
            connection.transport, _ = await self._loop.connect_accepted_socket(
                lambda: protocol, sock, **self._tls
            )
        except Exception as error:
            # A TLS handshake that failed, most of all.
            connection.socket = None
            log.logger.debug("a connection was not made: %r", error)
            return
        if self.draining:
            connection.drain()

    def failed(self, error: BaseException) -> None:
        """
        The server's factory, or its protocol, has failed.
        """
        self._loop.call_exception_handler(
            {"message": "no protocol for a connection", "exception": error}
        )

    def connectionEnded(
        self, connection: Connection, report: Callable[[], None]
    ) -> None:
        """
        Remove a connection that has ended, and report that.  May be called in any
        thread.
        """

        def end() -> None:
            self.connections.discard(connection)
            report()
            self._changed()

        if self._loop.is_closed():
            self.connections.discard(connection)
        elif _runsHere(self._loop):
            self._loop.call_soon(end)
        else:
            self._loop.call_soon_threadsafe(end)

    def drain(self) -> None:
        """
        Ask all protocols to end their connections as soon as that does no harm: now,
        and when later connections are adopted.
        """
        self.draining = True
        for connection in list(self.connections):
            connection.drain()

    def undrain(self) -> None:
        """
        Serve later connections as usual.  Protocols that were asked to end their
        connections still do so.
        """
        self.draining = False

    def abandon(self) -> None:
        """
        Leave all connections to the listener.  It gives those that were not touched to
        other workers.  Close the sockets that no transport owns.
        """
        for connection in self.connections:
            if connection.socket is not None:
                connection.socket.forget(close=not connection.owned)
        self.connections.clear()


def _runsHere(loop: asyncio.AbstractEventLoop) -> bool:
    """
    Whether a loop runs in this thread, just now.
    """
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False
