"""
Adopting connections: a descriptor becomes a transport of the reactor's, with a
protocol of an ordinary Twisted factory, and its end is reported.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import (
    IAddress,
    ILoggingContext,
    IProtocol,
    IProtocolFactory,
)
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from portlisten import _kernel
from portlisten._reactor.log_limit import logLimit
from portlisten._reactor.monotonic import makePersistent
from portlisten._worker import draining


def logPrefix(thing: object) -> str:
    """
    What a protocol or a factory wants to be called in the log.
    """
    if ILoggingContext.providedBy(thing):
        # An adapter would take several times as long.
        context: Any = thing
        return str(context.logPrefix())
    return type(thing).__name__


@implementer(ILoggingContext)
class Served:
    """
    An adopted connection.

    The reactor takes this for its factory and for its protocol, but only until
    there is a transport, which then has the protocol itself: servers look at
    C{transport.protocol}, and replace it, as for STARTTLS or when HTTP becomes
    WebSocket.  What stays to the end is the transport, so that is where this hears
    of the end.

    @param adoptions: told of the beginning and the end.
    @param report: called at the end.
    """

    __slots__ = ("_adoptions", "_protocol", "_report", "_told", "_transport")

    def __init__(self, adoptions: Adoptions, report: Callable[[], None]) -> None:
        self._adoptions = adoptions
        self._report = report
        self._told = False

    def buildProtocol(self, addr: IAddress | None) -> Served | None:
        """
        See L{IProtocolFactory}.
        """
        protocol = self._adoptions.buildProtocol(addr)
        if protocol is None:
            return None
        self._protocol: Any = protocol
        return self

    def logPrefix(self) -> str:
        """
        The protocol's own.
        """
        return logPrefix(self._protocol)

    def makeConnection(self, transport: Any) -> None:
        """
        The connection is there.  Where the protocol fails at it, the connection
        ends: it would stay open in the reactor otherwise.
        """
        self._transport = transport
        transport.protocol = self._protocol
        makePersistent(transport, self._adoptions.reactor)
        transport.connectionLost = self._connectionLost
        self._adoptions.serving.add(self)
        try:
            self._protocol.makeConnection(transport)
        except Exception:
            self._adoptions.log.failure("{protocol} failed", protocol=self._protocol)
            transport.abortConnection()

    def drain(self) -> None:
        """
        Have the connection end as soon as that does no harm.  A protocol is told
        once, and what it fails at is its own.
        """
        if self._told:
            return
        self._told = True
        try:
            draining.drain(self._transport)
        except Exception:
            self._adoptions.log.failure(
                "{protocol} failed to drain", protocol=self._protocol
            )

    def _connectionLost(self, reason: Failure) -> None:
        del self._transport.connectionLost
        try:
            self._transport.connectionLost(reason)
        finally:
            self._report()
            self._adoptions.ended(self)


class Adoptions:
    """
    Adopts connections for a factory.

    @param reactor: an L{IReactorSocket} and L{IReactorTime}.
    @param factory: what a port would be given.
    @param retry: how long to wait before trying again when there is no room for
        a connection, in seconds.
    @param settled: called each time that one has ended.

    @ivar serving: the adopted connections that have not ended.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        factory: IProtocolFactory,
        retry: float,
        settled: Callable[[], None],
    ) -> None:
        self.reactor = reactor
        self.factory = factory
        self._retry = retry
        self._settled = settled
        self._postponed = 0
        self._exhausted = False
        self._spare: int | None = None
        self._begun = False
        self._draining = False
        self.serving: set[Served] = set()

    @property
    def busy(self) -> bool:
        """
        Whether any connection has not ended, or waits to be adopted.
        """
        return bool(self.serving or self._postponed)

    def begin(self) -> None:
        """
        Start the factory.
        """
        self._begun = True
        self.factory.doStart()

    def end(self) -> None:
        """
        Stop the factory, if it was started, and keep no descriptor any more.  What
        is in service goes on.
        """
        self.release()
        if self._begun:
            self._begun = False
            self.factory.doStop()

    def buildProtocol(self, addr: IAddress | None) -> IProtocol | None:
        """
        Have the factory make a protocol.

        @return: L{None} if it does not want the connection, or fails at it.
        """
        assert addr is not None
        try:
            return self.factory.buildProtocol(addr)
        except Exception:
            self.log.failure("no protocol for {addr}", addr=addr)
            return None

    def graceOver(self, grace: float) -> None:
        """
        Log what is in service for longer than a stop may take.
        """
        if self.serving:
            self.log.warn(
                "{count} connections are still in service after {grace:g} s",
                count=len(self.serving),
                grace=grace,
            )

    def adopt(
        self,
        descriptor: int,
        closed: Callable[[], None] = lambda: None,
        gone: Callable[[], None] = lambda: None,
    ) -> None:
        """
        Adopt a connection.  Takes the descriptor.

        @param closed: called when it has ended.
        @param gone: called instead if its client had left before it was adopted.
        """
        try:
            self._serve(descriptor, closed, gone)
        except OSError:
            # Adopting takes a second descriptor for a moment.
            self.release()
            try:
                self._serve(descriptor, closed, gone)
            except OSError as error:
                self._postpone(descriptor, closed, gone, error)
                return
        self._exhausted = False
        os.close(descriptor)
        self.reserve()

    def ended(self, served: Served) -> None:
        """
        An adopted connection is over.
        """
        self.serving.discard(served)
        self._settled()

    def drain(self) -> None:
        """
        Have all connections end as soon as that does no harm, those to come as
        well.
        """
        self._draining = True
        for served in list(self.serving):
            served.drain()

    def reserve(self) -> bool:
        """
        Keep a descriptor, whose place is there when all others are taken.

        @return: whether it is there now; if not, it may be when a connection has
            ended.
        """
        if self._spare is None:
            try:
                # There may be no /dev/null, in a chroot.
                self._spare = os.eventfd(0, os.EFD_CLOEXEC)
            except OSError:
                return False
        return True

    def release(self) -> None:
        """
        Give it back.
        """
        if self._spare is not None:
            os.close(self._spare)
            self._spare = None

    def _serve(
        self, descriptor: int, closed: Callable[[], None], gone: Callable[[], None]
    ) -> None:
        """
        Adopt a connection, and report it if that fails.

        @raise OSError: if nothing can be adopted now, for lack of descriptors or
            memory.
        """
        served = Served(self, closed)
        try:
            transport = self.reactor.adoptStreamConnection(
                descriptor, _kernel.family(descriptor), served
            )
        except Exception as error:
            number = getattr(error, "errno", None)
            if number in _kernel.PASSING:
                raise
            if number == errno.ENOTCONN:
                gone()
                return
            self.log.failure("a connection cannot be adopted")
            transport = None
        if transport is None:
            closed()
        elif self._draining:
            served.drain()

    def _postpone(
        self,
        descriptor: int,
        closed: Callable[[], None],
        gone: Callable[[], None],
        error: OSError,
    ) -> None:
        """
        The connection is ours, so it waits here until it can be adopted.
        """
        if not self._exhausted:
            logLimit(self.reactor)(
                self.log.error, "adopting pauses: {error}", error=error.strerror
            )
        self._exhausted = True
        self._postponed += 1

        def again() -> None:
            self._postponed -= 1
            self.adopt(descriptor, closed, gone)
            self._settled()

        self.reactor.callLater(self._retry, again)
