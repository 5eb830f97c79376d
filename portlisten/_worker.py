"""
The worker: keeps a channel to a listener, adopts what comes through it, and
has an ordinary Twisted factory serve it.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Collection
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IHalfCloseableProtocol,
    ILoggingContext,
    IProtocol,
    IProtocolFactory,
    ITransport,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import alsoProvides, implementer

from portlisten import _linux
from portlisten._channel import WorkerChannel
from portlisten._frames import ListenerHello, Offer, describe
from portlisten._transport import ChannelTransport
from portlisten.interfaces import IAdopter, IWorkerChannel

#: How long the last word to the listener may take, in seconds.
FAREWELL = 1.0


class _Served(Protocol):
    """
    Stands between the transport of an adopted connection and its protocol, in
    the one direction: it hears that the connection is over.  The protocol has
    the transport itself.
    """

    def __init__(
        self, worker: Worker, channel: IWorkerChannel, id: int, protocol: IProtocol
    ) -> None:
        self._worker = worker
        self._channel = channel
        self._id = id
        self._protocol = protocol
        if IHalfCloseableProtocol.providedBy(protocol):
            alsoProvides(self, IHalfCloseableProtocol)

    def logPrefix(self) -> str:
        """
        The protocol's own.
        """
        context = ILoggingContext(self._protocol, None)
        return type(self._protocol).__name__ if context is None else context.logPrefix()

    def makeConnection(self, transport: ITransport) -> None:
        """
        The connection is there.  Where the protocol fails at it, the connection
        ends: it would stay open in the reactor otherwise.
        """
        self.connected = 1
        self.transport = transport
        self._worker.serving.add(self)
        try:
            self._protocol.makeConnection(transport)
        except Exception:
            self._worker.log.failure("{protocol} failed", protocol=self._protocol)
            transport.abortConnection()  # type: ignore[attr-defined]

    def dataReceived(self, data: bytes) -> None:
        """
        See L{IProtocol}.
        """
        self._protocol.dataReceived(data)

    def readConnectionLost(self) -> None:
        """
        See L{IHalfCloseableProtocol}.
        """
        IHalfCloseableProtocol(self._protocol).readConnectionLost()

    def writeConnectionLost(self) -> None:
        """
        See L{IHalfCloseableProtocol}.
        """
        IHalfCloseableProtocol(self._protocol).writeConnectionLost()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """
        See L{IProtocol}.
        """
        try:
            self._protocol.connectionLost(reason)
        finally:
            self._channel.closed(self._id)
            self._worker.ended(self)


class _Adoption(Factory):
    """
    Builds the protocol of one adopted connection.
    """

    noisy = False

    def __init__(self, worker: Worker, channel: IWorkerChannel, id: int) -> None:
        self._worker = worker
        self._channel = channel
        self._id = id

    def buildProtocol(self, addr: IAddress | None) -> _Served | None:
        """
        See L{IProtocolFactory}.
        """
        assert addr is not None
        try:
            protocol = self._worker.factory.buildProtocol(addr)
        except Exception:
            self._worker.log.failure("no protocol for {addr}", addr=addr)
            return None
        if protocol is None:
            return None
        return _Served(self._worker, self._channel, self._id, protocol)


@implementer(IAdopter)
class Worker:
    """
    Serves a factory on the connections that a listener hands off.

    @param reactor: an L{IReactorFDSet}, L{IReactorSocket} and L{IReactorTime}.
    @param path: the channel's.
    @param factory: what a port would be given.
    @param retry: how long to wait before connecting again, in seconds.
    @param grace: how long L{stop} waits for connections to end, in seconds.
    @param listenerUsers: whose the listener may be, as who it was when it
        started to listen; if empty: root's, this process's user's, or that of
        the owner of the path's folder.

    @ivar serving: the adopted connections that have not ended.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        path: str,
        factory: IProtocolFactory,
        retry: float = 0.1,
        grace: float = 10.0,
        listenerUsers: Collection[int] = (),
    ) -> None:
        self._reactor = reactor
        self._path = path
        self.factory = factory
        self._retry = retry
        self._grace = grace
        self._listenerUsers = listenerUsers
        self._timer: IDelayedCall | None = None
        self._channel: WorkerChannel | None = None
        self._complaint = ""
        self._postponed = 0
        self._exhausted = False
        self._spare: int | None = None
        self._drained = False
        self._stopping = False
        self._parting = False
        self._stopped: Deferred[None] = Deferred()
        self.serving: set[_Served] = set()

    def start(self) -> None:
        """
        Begin to look for the listener, and go on until L{stop}.
        """
        self.factory.doStart()
        self._reserve()
        self._connect()

    def stop(self) -> Deferred[None]:
        """
        Take no more connections, and wait for those in service to end, but no
        longer than the grace.

        @return: fires when that is over.
        """
        self._stopping = True
        self._cancelTimer()
        if self._channel is not None:
            self._channel.drain()
        self._timer = self._reactor.callLater(self._grace, self._part)
        self._settle()
        return self._stopped

    def ended(self, served: _Served) -> None:
        """
        An adopted connection is over.
        """
        self.serving.discard(served)
        self._settle()

    # IAdopter

    def registered(self, channel: IWorkerChannel, hello: ListenerHello) -> None:
        """
        See L{IAdopter}.
        """
        self._complaint = ""
        self.log.info(
            "joined the listener at {path}, which listens on {ports}",
            path=self._path,
            ports=", ".join(describe(port.address) for port in hello.ports),
        )

    def adopt(self, channel: IWorkerChannel, offer: Offer, descriptor: int) -> None:
        """
        See L{IAdopter}.
        """
        try:
            self._serve(channel, offer, descriptor)
        except OSError:
            # Adopting takes a second descriptor for a moment.
            self._release()
            try:
                self._serve(channel, offer, descriptor)
            except OSError as error:
                self._postpone(channel, offer, descriptor, error)
                return
        self._exhausted = False
        os.close(descriptor)
        self._reserve()

    def drained(self, channel: IWorkerChannel) -> None:
        """
        See L{IAdopter}.
        """
        self._drained = True
        self._settle()

    def lost(self, channel: IWorkerChannel, reason: str) -> None:
        """
        See L{IAdopter}.
        """
        self._channel = None
        if not self._stopping:
            self.log.warn(
                "lost the listener at {path}, with {count} connections in service:"
                " {reason}",
                path=self._path,
                count=len(self.serving),
                reason=reason,
            )
            self._later()
        else:
            self._settle()

    # The inside

    def _connect(self) -> None:
        self._timer = None
        channel = WorkerChannel(self._reactor, self)
        try:
            ChannelTransport(self._reactor, self._reach(), channel).start()
        except OSError as error:
            self._complain(error)
            self._later()
        else:
            self._channel = channel

    def _reach(self) -> socket.socket:
        """
        Connect to the listener.

        @return: the socket, which is the caller's.
        @raise OSError: if that fails, or it is not the right one's.
        """
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            sock.connect(self._path)
            self._check(sock)
        except OSError:
            sock.close()
            raise
        return sock

    def _check(self, sock: socket.socket) -> None:
        """
        Have nothing to do with a listener that some other user put there.  Who
        owns the folder could always put one there.

        @raise PermissionError: if that is so.
        """
        who = _linux.credentials(sock)
        users = self._listenerUsers
        if not users:
            owner = os.stat(os.path.dirname(self._path) or ".").st_uid
            users = {0, os.geteuid(), owner}
        if who.uid not in users:
            raise PermissionError(
                None,
                f"the listener there is of uid {who.uid}, which --listener-user has"
                " to name",
            )

    def _complain(self, error: OSError) -> None:
        why = str(error.strerror)
        if error.errno == errno.EACCES:
            why += "; the path's mode and group say who may be a worker"
        if why != self._complaint:
            self._complaint = why
            self.log.warn(
                "waiting for a listener at {path}, trying every {retry:g} s: {why}",
                path=self._path,
                retry=self._retry,
                why=why,
            )

    def _later(self) -> None:
        self._timer = self._reactor.callLater(self._retry, self._connect)

    def _serve(self, channel: IWorkerChannel, offer: Offer, descriptor: int) -> None:
        """
        Adopt a connection, and report it if that fails.

        @raise OSError: if nothing can be adopted now, for lack of descriptors or
            memory.
        """
        adoption = _Adoption(self, channel, offer.id)
        try:
            transport = self._reactor.adoptStreamConnection(
                descriptor, _family(descriptor), adoption
            )
        except Exception as error:
            number = getattr(error, "errno", None)
            if number in _linux.EXHAUSTED:
                raise
            if number == errno.ENOTCONN:
                channel.gone(offer.id)
                return
            self.log.failure("a connection cannot be adopted")
            transport = None
        if transport is None:
            channel.closed(offer.id)

    def _reserve(self) -> None:
        """
        Keep a descriptor, whose place is there when all others are taken.
        """
        if self._spare is None:
            try:
                self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                pass  # until the next connection ends

    def _release(self) -> None:
        if self._spare is not None:
            os.close(self._spare)
            self._spare = None

    def _postpone(
        self, channel: IWorkerChannel, offer: Offer, descriptor: int, error: OSError
    ) -> None:
        """
        The connection is ours, so it waits here until it can be adopted.
        """
        if not self._exhausted:
            self.log.error("adopting pauses: {error}", error=error.strerror)
        self._exhausted = True
        self._postponed += 1

        def again() -> None:
            self._postponed -= 1
            self.adopt(channel, offer, descriptor)
            self._settle()

        self._reactor.callLater(self._retry, again)

    def _settle(self) -> None:
        """
        Part with the listener if the worker is stopping and has done its work.
        """
        if not self._stopping or self.serving or self._postponed:
            return
        if self._channel is None:
            self._finish()
        elif self._drained:
            self._part()

    def _part(self) -> None:
        if self._parting:
            return
        self._parting = True
        if self.serving:
            self.log.warn(
                "{count} connections are still in service after {grace:g} s",
                count=len(self.serving),
                grace=self._grace,
            )
        if self._channel is None:
            self._finish()
        else:
            self._cancelTimer()
            self._timer = self._reactor.callLater(FAREWELL, self._finish)
            self._channel.bye("the worker stops")

    def _finish(self) -> None:
        self._parting = True
        self._cancelTimer()
        if not self._stopped.called:
            self._release()
            self.factory.doStop()
            self._stopped.callback(None)

    def _cancelTimer(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()


def _family(descriptor: int) -> int:
    """
    The address family of a socket, which the channel has checked.  Does not keep
    the descriptor.
    """
    sock = socket.socket(fileno=descriptor)
    try:
        return sock.family
    finally:
        sock.detach()
