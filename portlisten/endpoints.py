"""
The C{portlisten:} endpoint: makes a worker of any Twisted server, with no change to
the server's code.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from functools import partial
from typing import Any

from twisted.internet.address import UNIXAddress
from twisted.internet.defer import Deferred, fail
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import (
    IAddress,
    IListeningPort,
    IProtocolFactory,
    IStreamServerEndpoint,
)
from twisted.internet.protocol import DatagramProtocol, Factory
from zope.interface import implementer

from portlisten._config.descriptions import workerSettings
from portlisten._config.options import optionsOf
from portlisten._config.settings import WorkerSettings
from portlisten._config.values import File
from portlisten._policy.networks import Network, nameOf, networkOf
from portlisten._process import systemd_notify
from portlisten._process.label import labelOf
from portlisten._reactor.monotonic import monotonicReactor, posixReactor
from portlisten._wire.codec import portNames
from portlisten._worker import tls
from portlisten._worker.addresses import twistedAddress
from portlisten._worker.datagram import DatagramWorker
from portlisten._worker.interfaces import IWorker
from portlisten._worker.shared_ports import DatagramPorts
from portlisten._worker.worker import Worker
from portlisten.errors import EndpointError, PathError

__all__ = [
    "PortlistenServerEndpoint",
    "DatagramServerEndpoint",
    "PortlistenUDPEndpoint",
    "EndpointError",
]

_TLS = [each.field for each in optionsOf(WorkerSettings) if isinstance(each.type, File)]


def _portNames(names: Collection[str]) -> tuple[str, ...]:
    """
    Check one port name or several.

    @raise ValueError: if a name cannot be a port's.
    """
    return portNames([names] if isinstance(names, str) else names)


def _networks(reactor: Any, texts: Collection[str]) -> list[Network]:
    """
    Read the networks of proxies.

    @raise ValueError: if a text is no network, or the reactor makes transports in a way
        of its own.
    """
    if texts and posixReactor(monotonicReactor(reactor)) is None:
        raise ValueError(
            f"proxyFrom needs one of Twisted's own reactors, and this is {reactor!r}"
        )
    return [networkOf(each) for each in texts]


class _Endpoint:
    """
    The base of the endpoints of both wires.
    """

    _reactor: Any
    _path: str
    _contextFactory: Any

    def _worker(self, factory: IProtocolFactory) -> IWorker:
        raise NotImplementedError

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        """
        Begin when the reactor runs: by then C{twistd} has dropped its privileges.

        @return: fires with the port when connections can come, or fails with the error
            of the factory's start.  Cancelling it stops the worker.
        @raise EndpointError: if the path can never work.  The error is raised, and the
            Deferred does not fail with it.  Services log a failed Deferred, and the
            process would then go on and serve nothing.
        """
        return _begin(self._reactor, self._wrapped(protocolFactory), self._path)

    def begin(self, protocolFactory: IProtocolFactory) -> _ListeningPort:
        """
        Begin as L{listen} does.

        @return: the port, which listens when the worker has joined.
        @raise EndpointError: as L{listen}.
        @raise Exception: the error of the factory's start.
        """
        return _open(self._reactor, self._wrapped(protocolFactory), self._path)

    def _wrapped(self, protocolFactory: IProtocolFactory) -> IWorker:
        if self._contextFactory is not None:
            from twisted.protocols.tls import TLSMemoryBIOFactory

            protocolFactory = TLSMemoryBIOFactory(
                self._contextFactory, False, protocolFactory, self._reactor
            )
        return self._worker(protocolFactory)


@implementer(IStreamServerEndpoint)
class PortlistenServerEndpoint(_Endpoint):
    """
    Serves the connections that C{twistd portlisten} accepts and hands off to this
    process.

    @param reactor: an L{IReactorFDSet<twisted.internet.interfaces.IReactorFDSet>},
        L{IReactorSocket<twisted.internet.interfaces.IReactorSocket>} and
        L{IReactorTime<twisted.internet.interfaces.IReactorTime>}.
    @param path: the channel's path, the PATH of the listener.
    @param names: the names of the ports to serve; if empty, all ports.
    @param grace: how long C{stopListening} waits for connections to end, in
        seconds.
    @param listenerUsers: uids.  The listener must have had one of them when it began
        to listen.  If empty: the uid of root, of this process, or of the owner of the
        path's folder.
    @param retry: how long to wait before the next attempt to connect, in seconds.
    @param contextFactory: for TLS on each connection, such as
        L{CertificateOptions<twisted.internet.ssl.CertificateOptions>}; L{None} for no
        TLS.
    @param limit: the most connections that this process wants to have at a time.  Other
        workers get the rest, or it waits.  L{None} for no limit.
    @param first: how long the listener may keep a connection whose client is silent, in
        seconds; 0 if clients need not speak first.  If L{None}: 2 seconds for HTTP,
        WebSockets and TLS, and otherwise 0.
    @param label: the worker's name for the operator.  If L{None}: the value of
        C{PORTLISTEN_LABEL} in the environment.
    @param proxyFrom: networks of IPv4 and IPv6, such as C{10.0.0.0/8}, or addresses.
        Each connection from there begins with a PROXY header, which is read before
        anything else, and C{getPeer} gives the client that the header names.  No other
        header is believed.
    @raise ValueError: if a name cannot be a port's, the label cannot be a worker's, a
        text is no network, or the reactor cannot have C{proxyFrom}.
    """

    def __init__(
        self,
        reactor: Any,
        path: str,
        names: Collection[str] = (),
        grace: float = 10.0,
        listenerUsers: Collection[int] = (),
        retry: float = 0.1,
        contextFactory: Any = None,
        *,
        limit: int | None = None,
        first: float | None = None,
        label: str | None = None,
        proxyFrom: Collection[str] = (),
    ) -> None:
        self._reactor = reactor
        self._path = path
        self._names = _portNames(names)
        self._proxies = _networks(reactor, proxyFrom)
        self._grace = grace
        self._listenerUsers = listenerUsers
        self._retry = retry
        self._contextFactory = contextFactory
        self._limit = limit
        self._first = first
        self._label = labelOf(label)

    def _worker(self, factory: IProtocolFactory) -> IWorker:
        return Worker(
            monotonicReactor(self._reactor),
            self._path,
            factory,
            self._retry,
            self._grace,
            self._listenerUsers,
            self._names,
            limit=self._limit,
            first=self._first,
            label=self._label,
            direct=True,
            proxies=self._proxies,
        )


@implementer(IStreamServerEndpoint)
class DatagramServerEndpoint(_Endpoint):
    """
    Receives connections over the wire of 2002, from C{twistd portlisten
    --wire=datagram} or from a program of that time.  C{listen} binds the path.  This
    wire does not say where the listener listens, so the port's address is the path.

    @param path: the path to bind.
    @param grace: how long C{stopListening} waits for connections to end, in
        seconds.
    @param mode: the permissions of the path: a process that may write to it may send
        connections.
    @param group: the gid of the path, or L{None} for the process's.
    @param replace: whether to take the path over from a worker that is bound to it.
    @param contextFactory: as for L{PortlistenServerEndpoint}.
    """

    def __init__(
        self,
        reactor: Any,
        path: str,
        grace: float = 10.0,
        mode: int = 0o660,
        group: int | None = None,
        replace: bool = False,
        contextFactory: Any = None,
    ) -> None:
        self._reactor = reactor
        self._path = path
        self._grace = grace
        self._mode = mode
        self._group = group
        self._replace = replace
        self._contextFactory = contextFactory

    def _worker(self, factory: IProtocolFactory) -> IWorker:
        return DatagramWorker(
            monotonicReactor(self._reactor),
            self._path,
            factory,
            grace=self._grace,
            mode=self._mode,
            group=self._group,
            replace=self._replace,
        )


@implementer(IListeningPort)
class _ListeningPort:
    """
    The port that C{listen} of each endpoint returns.

    @ivar ready: fires when the worker has started.  Cancelling it stops the worker.
    """

    def __init__(self, reactor: Any, worker: IWorker, path: str) -> None:
        self._reactor = reactor
        self._worker = worker
        self._path = path
        self._stopped = False
        # Some programs never stop their ports.
        self._trigger: Any = reactor.addSystemEventTrigger(
            "before", "shutdown", self._shutDown
        )
        self.ready: Deferred[None] = Deferred(self._cancel)
        self._start = monotonicReactor(reactor).callLater(
            0, lambda: worker.start().chainDeferred(self.ready)
        )

    def _cancel(self, ready: object) -> None:
        self.stopListening()

    def _shutDown(self) -> Deferred[None]:
        self._trigger = None
        return self.stopListening()

    def startListening(self) -> None:
        """
        Do nothing: the port listens already.

        @raise CannotListenError: if the port was stopped.  Let the endpoint listen
            again.
        """
        if self._stopped:
            raise CannotListenError(
                None, self._path, "it was stopped: let the endpoint listen again"
            )

    def stopListening(self) -> Deferred[None]:
        """
        Take no more connections.  Offered and unclaimed connections go to another
        worker.  Connections in service go on.

        @return: fires when the connections in service have ended, or when the grace is
            over.  Remaining connections then go on while the process lives.
        """
        self._removeTrigger()
        return self._stop()

    def stopTaking(self) -> Deferred[None]:
        """
        Stop as L{stopListening} does, and do not wait for the connections in service.
        If the reactor stops, it still waits for them.

        @return: fires when no connection can come any more.
        """
        self._stop().addCallback(lambda _: self._removeTrigger())
        return self._worker.lastTaken()

    def _stop(self) -> Deferred[None]:
        self._stopped = True
        if self._start.active():
            self._start.cancel()
        return self._worker.stop()

    def _removeTrigger(self) -> None:
        if self._trigger is not None:
            self._reactor.removeSystemEventTrigger(self._trigger)
            self._trigger = None

    def getHost(self) -> IAddress:
        """
        Return the listener's address of the first port that this worker serves, or the
        path if the worker knows no port.
        """
        for port in self._worker.ports:
            return twistedAddress(port.address)
        return UNIXAddress(self._path)

    def __repr__(self) -> str:
        return f"<portlisten on {self.getHost()} by way of {self._path}>"


class PortlistenUDPEndpoint:
    """
    Serves UDP ports that a listener shares: C{twistd portlisten --share dns=udp:53}.
    Twisted has no endpoints for UDP, so this class has no interface and no
    description.  Use it like the other endpoints.

    @param reactor: an L{IReactorFDSet<twisted.internet.interfaces.IReactorFDSet>},
        L{IReactorSocket<twisted.internet.interfaces.IReactorSocket>} and
        L{IReactorTime<twisted.internet.interfaces.IReactorTime>}.
    @param path: the channel's path.
    @param names: the names of the ports to serve; if empty, all UDP ports.
    @param listenerUsers: as for L{PortlistenServerEndpoint}.
    @param retry: as for L{PortlistenServerEndpoint}.
    @param maxPacketSize: the longest datagram, in bytes.  The rest of a longer one is
        lost.
    @param label: as for L{PortlistenServerEndpoint}.
    @raise ValueError: if a name cannot be a port's, or the label cannot be a worker's.
    """

    def __init__(
        self,
        reactor: Any,
        path: str,
        names: Collection[str] = (),
        listenerUsers: Collection[int] = (),
        retry: float = 0.1,
        maxPacketSize: int = 8192,
        *,
        label: str | None = None,
    ) -> None:
        self._reactor = reactor
        self._path = path
        self._names = _portNames(names)
        self._listenerUsers = listenerUsers
        self._retry = retry
        self._maxPacketSize = maxPacketSize
        self._label = labelOf(label)

    def listen(
        self, makeProtocol: Callable[[], DatagramProtocol]
    ) -> Deferred[IListeningPort]:
        """
        Begin when the reactor runs.

        @param makeProtocol: makes a protocol for each socket.  The listener has a
            socket for each address, and new sockets after a restart.
        @return: fires with the port when datagrams can come.  Cancelling it stops the
            worker.
        @raise EndpointError: as L{PortlistenServerEndpoint.listen}.
        """
        factory = Factory()
        factory.noisy = False
        worker = Worker(
            monotonicReactor(self._reactor),
            self._path,
            factory,
            self._retry,
            listenerUsers=self._listenerUsers,
            names=self._names,
            makePorts=partial(
                DatagramPorts,
                makeProtocol=makeProtocol,
                maxPacketSize=self._maxPacketSize,
            ),
            label=self._label,
        )
        return _begin(self._reactor, worker, self._path)


def _begin(reactor: Any, worker: IWorker, path: str) -> Deferred[IListeningPort]:
    """
    Start a worker when the reactor runs: by then C{twistd} has dropped its privileges.

    @return: fires with the worker's port when the worker has started.
    @raise EndpointError: if the path can never work.
    """
    try:
        port = _open(reactor, worker, path)
    except EndpointError:
        raise
    except Exception:
        return fail()
    return port.ready.addCallback(lambda _: port)


def _open(reactor: Any, worker: IWorker, path: str) -> _ListeningPort:
    """
    Start a worker when the reactor runs.

    @return: the worker's port.
    @raise EndpointError: if the path can never work.
    @raise Exception: the error of the factory's start.
    """
    try:
        worker.bind()
    except PathError as error:
        raise EndpointError(str(error)) from None
    port = _ListeningPort(reactor, worker, path)
    systemd_notify.manager().watch(reactor)
    return port


def parse(reactor: Any, *arguments: str, **texts: str) -> IStreamServerEndpoint:
    """
    Parse C{portlisten:PATH} and its options: the options of L{WorkerSettings} that
    descriptions have.  Files for TLS are read now.

    @raise EndpointError: if the description cannot be understood, or a file does not
        load.
    """
    if sys.platform != "linux":
        raise EndpointError(f"needs Linux, and this is {sys.platform}")
    settings = workerSettings(arguments, texts)
    return endpointFor(reactor, settings, contextFactoryFor(settings))


def contextFactoryFor(settings: WorkerSettings) -> Any:
    """
    Read the files for TLS that settings name.

    @return: L{None} if they name none.
    @raise EndpointError: if a file does not load.
    """
    given = {name: getattr(settings, name) for name in _TLS}
    files = {name: file for name, file in given.items() if file is not None}
    return tls.contextFactory(files) if files else None


def endpointFor(
    reactor: Any, settings: WorkerSettings, contextFactory: Any
) -> PortlistenServerEndpoint | DatagramServerEndpoint:
    """
    Make the endpoint that settings describe.

    @param contextFactory: as from L{contextFactoryFor}.
    @raise EndpointError: if the environment gives a bad label.
    """
    if settings.wire == "datagram":
        return DatagramServerEndpoint(
            reactor,
            settings.path,
            settings.grace,
            settings.mode,
            settings.group,
            settings.replace,
            contextFactory,
        )
    try:
        return PortlistenServerEndpoint(
            reactor,
            settings.path,
            settings.names,
            settings.grace,
            settings.listenerUsers,
            settings.retry,
            contextFactory,
            limit=settings.limit,
            first=settings.first,
            label=settings.label,
            proxyFrom=[nameOf(each) for each in settings.proxies or ()],
        )
    except ValueError as error:
        raise EndpointError(str(error)) from None
