"""
Adopting connections: making a transport of the reactor from a descriptor, with a
protocol of an ordinary Twisted factory, and reporting its end.
"""

from __future__ import annotations

import errno
import socket
import sys
from collections.abc import Callable, Iterable
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import (
    IAddress,
    ILoggingContext,
    IProtocol,
    IProtocolFactory,
)
from twisted.internet.tcp import Server
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from portlisten import _kernel
from portlisten._policy.networks import Network
from portlisten._ports.proxies import Proxies
from portlisten._reactor.log_limit import logLimit
from portlisten._reactor.monotonic import makePersistent, posixReactor
from portlisten._worker import draining
from portlisten._worker.proxied import ProxiedConnections


def logPrefix(thing: object) -> str:
    """
    Get the name of a protocol or a factory for the log.
    """
    if ILoggingContext.providedBy(thing):
        # Calling ILoggingContext would take several times as long.
        context: Any = thing
        return str(context.logPrefix())
    return type(thing).__name__


class TCPServer(Server):
    """
    The transport of a TCP connection, as C{adoptStreamConnection} makes it, but of the
    very descriptor that came, and not of a copy.
    """

    def __repr__(self) -> str:
        """
        Name the protocol and the port.  Few ask, and this is a system call.
        """
        try:
            name, port = type(self.protocol).__name__, self.getHost().port
        except (AttributeError, OSError):
            return f"<connection #{self.sessionno} that has ended>"
        return f"<{name} #{self.sessionno} on {port}>"


@implementer(ILoggingContext)
class AdoptedConnection:
    """
    An adopted connection.

    The reactor uses this as the factory and the protocol, but only until the transport
    exists.  Then the transport gets the real protocol.  Servers look at
    C{transport.protocol} and replace it, as for STARTTLS or when HTTP becomes
    WebSocket.  The transport stays the same to the end, so this wraps the
    C{connectionLost} of the transport.

    @param adopter: notified of the beginning and the end.
    @param report: called at the end.
    @param client: the client's address, if a proxy is at the other end.
    """

    __slots__ = (
        "_adopter",
        "_client",
        "_drainSent",
        "_protocol",
        "_report",
        "_transport",
    )

    def __init__(
        self,
        adopter: Adopter,
        report: Callable[[], None],
        client: IAddress | None = None,
    ) -> None:
        self._adopter = adopter
        self._report = report
        self._client = client
        self._drainSent = False

    def buildProtocol(self, addr: IAddress | None) -> AdoptedConnection | None:
        """
        See L{IProtocolFactory}.
        """
        if self._client is not None:
            addr = self._client
        protocol = self._adopter.buildProtocol(addr)
        if protocol is None:
            return None
        self._protocol: Any = protocol
        return self

    def logPrefix(self) -> str:
        """
        Get the protocol's prefix.
        """
        return logPrefix(self._protocol)

    def serve(self, sock: Any, peer: tuple[Any, ...], reactor: Any) -> bool:
        """
        Make the transport of a TCP connection.

        @param sock: the transport owns it, unless this raises an exception, or the
            factory refuses the connection.
        @param peer: its client's address, without a scope.
        @return: whether the factory takes the connection.
        @raise Exception: if the reactor cannot watch the socket, now or later.
        """
        family = IPv4Address if len(peer) == 2 else IPv6Address
        if self.buildProtocol(family("TCP", *peer)) is None:
            return False
        # A transport of Twisted's has no port here.
        port: Any = None
        self.makeConnection(
            TCPServer(sock, self._protocol, peer, port, peer[1], reactor)
        )
        return True

    def makeConnection(self, transport: Any) -> None:
        """
        See L{IProtocol}.  If the protocol fails, this aborts the connection, which
        would stay open in the reactor otherwise.
        """
        self._transport = transport
        client = self._client
        if client is not None:
            transport.getPeer = lambda: client
        transport.protocol = self._protocol
        makePersistent(transport, self._adopter.reactor)
        transport.connectionLost = self._connectionLost
        self._adopter.connectionBegan(self)
        try:
            self._protocol.makeConnection(transport)
        except Exception:
            self._adopter.log.failure(
                "{protocol} failed", event="protocol-failed", protocol=self._protocol
            )
            transport.abortConnection()

    def drain(self) -> None:
        """
        Ask the protocol, once, to end the connection as soon as that does no harm.  If
        the protocol fails, log that.
        """
        if self._drainSent:
            return
        self._drainSent = True
        try:
            draining.drain(self._transport)
        except Exception:
            self._adopter.log.failure(
                "{protocol} failed to drain",
                event="protocol-failed",
                protocol=self._protocol,
            )

    def _connectionLost(self, reason: Failure) -> None:
        del self._transport.connectionLost
        try:
            self._transport.connectionLost(reason)
        finally:
            self._report()
            self._adopter.connectionEnded(self)


class Adopter:
    """
    Adopts connections for a factory.

    @param reactor: an L{IReactorSocket} and L{IReactorTime}.
    @param factory: builds the protocols, as for a port.
    @param retry: how long to wait before trying again if the process is out of
        descriptors or memory, in seconds.
    @param settled: called each time that a connection has ended.
    @param limit: the most connections that the worker wants to have, or L{None}.
    @param direct: whether to make the transports of TCP connections here, if the
        reactor is one of Twisted's.  Otherwise C{adoptStreamConnection} makes all.
    @param proxies: the networks of proxies whose headers are believed.

    @ivar limit: the same.
    @ivar serving: the adopted connections that have not ended.
    @ivar spare: the spare descriptor, for adopting when no other is free.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        factory: IProtocolFactory,
        retry: float,
        settled: Callable[[], None],
        limit: int | None = None,
        direct: bool = False,
        proxies: Iterable[Network] = (),
    ) -> None:
        self.reactor = reactor
        believed = Proxies(proxies)
        self._proxied = ProxiedConnections(reactor, believed, self._countChanged)
        self._hasProxies = bool(believed)
        self._direct = posixReactor(reactor) if direct else None
        self.limit = limit
        self.factory = factory
        self._retry = retry
        self._settled = settled
        self._postponed = 0
        self._exhausted = False
        self._factoryStarted = False
        self._draining = False
        self._watchers: list[Callable[[], None]] = []
        self.serving: set[AdoptedConnection] = set()
        self.spare = _kernel.SpareDescriptor()

    @property
    def busy(self) -> bool:
        """
        Whether any connection is in service, or waits to be adopted.
        """
        return self.count > 0

    @property
    def count(self) -> int:
        """
        How many connections are in service, or wait to be adopted.
        """
        return len(self.serving) + self._postponed + self._proxied.count

    @property
    def room(self) -> int:
        """
        How many more connections the worker wants.
        """
        if self.limit is None:
            return sys.maxsize
        return max(0, self.limit - self.count)

    def watch(self, changed: Callable[[], None]) -> None:
        """
        Call a function each time that L{count} may have changed.
        """
        self._watchers.append(changed)

    def begin(self) -> None:
        """
        Start the factory.
        """
        self._factoryStarted = True
        self.factory.doStart()

    def end(self) -> None:
        """
        Stop the factory, if it was started, and close the spare descriptor.
        Connections in service go on.
        """
        self.spare.release()
        if self._factoryStarted:
            self._factoryStarted = False
            self.factory.doStop()

    def buildProtocol(self, addr: IAddress | None) -> IProtocol | None:
        """
        Ask the factory for a protocol.

        @return: L{None} if the factory refuses the connection, or fails.
        """
        assert addr is not None
        try:
            return self.factory.buildProtocol(addr)
        except Exception:
            self.log.failure(
                "no protocol for {addr}", event="protocol-failed", addr=addr
            )
            return None

    def logUnfinished(self, grace: float) -> None:
        """
        Log how many connections are still in service, if any.

        @param grace: how long the worker waited for them, in seconds.
        """
        if self.serving:
            self.log.warn(
                "{count} connections are still in service after {grace:g} s",
                event="connections-left",
                count=len(self.serving),
                grace=grace,
            )

    def adopt(self, descriptor: int) -> None:
        """
        Adopt a connection of which nobody is to be told.

        @param descriptor: of a socket.  Owned by this object from now on.
        """
        self.adoptSocket(_kernel.received(descriptor))

    def adoptSocket(
        self,
        sock: socket.socket,
        closed: Callable[[], None] = lambda: None,
        clientGone: Callable[[], None] = lambda: None,
    ) -> None:
        """
        Adopt a connection.

        @param sock: made by L{_kernel.received}.  Owned by this object from now on.
        @param closed: called when the connection has ended.
        @param clientGone: called instead if the client had left before the connection
            could be adopted.
        """
        if not self._hasProxies or not self._proxied.has(sock):
            self._adoptFrom(None, sock, closed, clientGone)
            return

        def adopt(client: IAddress | None) -> None:
            self._adoptFrom(client, sock, closed, clientGone)

        def refused() -> None:
            closed()
            self._settled()

        self._proxied.identify(sock, adopt, refused)

    def believes(self, peer: Any) -> bool:
        """
        Whether a connection begins with the header of a proxy, which
        L{adoptSocket} reads.

        @param peer: the address of the other end, as C{getpeername} gives it.
        """
        return self._hasProxies and self._proxied.believes(peer)

    def _adoptFrom(
        self,
        client: IAddress | None,
        sock: socket.socket,
        closed: Callable[[], None],
        clientGone: Callable[[], None],
    ) -> None:
        """
        Adopt a connection.

        @param client: the client's address, if a proxy is at the other end.
        """
        try:
            try:
                owned = self._adopt(client, sock, closed, clientGone)
            except OSError:
                # Adopting needs a second descriptor for a moment.
                self.spare.release()
                owned = self._adopt(client, sock, closed, clientGone)
        except OSError as error:
            self._postpone(client, sock, closed, clientGone, error)
            return
        self._exhausted = False
        if not owned:
            sock.close()
        self.spare.reserve()

    def connectionBegan(self, connection: AdoptedConnection) -> None:
        """
        Add an adopted connection.
        """
        self.serving.add(connection)
        self._countChanged()

    def connectionEnded(self, connection: AdoptedConnection) -> None:
        """
        Remove an adopted connection that has ended.
        """
        self.serving.discard(connection)
        self._countChanged()
        self._settled()

    def drain(self) -> None:
        """
        Ask all protocols to end their connections as soon as that does no harm: now,
        and when later connections are adopted.
        """
        self._draining = True
        for connection in list(self.serving):
            connection.drain()

    def undrain(self) -> None:
        """
        Serve later connections as usual.  Protocols that were asked to end their
        connections still do so.
        """
        self._draining = False

    def _countChanged(self) -> None:
        for changed in self._watchers:
            changed()

    def _adopt(
        self,
        client: IAddress | None,
        sock: socket.socket,
        closed: Callable[[], None],
        clientGone: Callable[[], None],
    ) -> bool:
        """
        Adopt a connection.  If that can never succeed, report the end.

        @return: whether a transport owns the socket.
        @raise OSError: if the process is out of descriptors or memory for now.
        """
        connection = AdoptedConnection(self, closed, client)
        direct = False
        try:
            if self._direct is not None:
                peer = sock.getpeername()
                direct = isPlain(peer)
            if direct:
                adopted = connection.serve(sock, peer, self._direct)
            else:
                transport = self.reactor.adoptStreamConnection(
                    sock.fileno(), sock.family, connection
                )
                adopted = transport is not None
        except Exception as error:
            number = getattr(error, "errno", None)
            if number in _kernel.TEMPORARY_ERRORS:
                raise
            if number == errno.ENOTCONN:
                clientGone()
                return False
            self.log.failure("a connection cannot be adopted", event="adoption-failed")
            adopted = False
        if not adopted:
            closed()
            return False
        if self._draining:
            connection.drain()
        return direct

    def _postpone(
        self,
        client: IAddress | None,
        sock: socket.socket,
        closed: Callable[[], None],
        clientGone: Callable[[], None],
        error: OSError,
    ) -> None:
        """
        Adopt a connection later.  Until then this keeps the socket.
        """
        if not self._exhausted:
            logLimit(self.reactor)(
                self.log.error,
                "adopting pauses: {error}",
                event="adopting-paused",
                error=error.strerror,
            )
        self._exhausted = True
        self._postponed += 1
        self._countChanged()

        def again() -> None:
            self._postponed -= 1
            self._adoptFrom(client, sock, closed, clientGone)
            self._countChanged()
            self._settled()

        self.reactor.callLater(self._retry, again)


def isPlain(peer: Any) -> bool:
    """
    Whether an address is that of a TCP client, without a scope of IPv6, which Twisted
    writes in another way.
    """
    if not isinstance(peer, tuple) or not isinstance(peer[0], str):
        return False
    return len(peer) == 2 or (len(peer) == 4 and not peer[3])
