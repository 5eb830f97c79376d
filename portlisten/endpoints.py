"""
The C{portlisten:} endpoint: any Twisted server is a worker, with no change to its
code.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping
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

from portlisten._config.options import WIRES, optionsOf
from portlisten._config.settings import WorkerSettings
from portlisten._config.values import File
from portlisten._process import systemd_notify
from portlisten._reactor.monotonic import monotonicReactor
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


def _several(names: Collection[str]) -> tuple[str, ...]:
    """
    Check names of ports, of which there may be one alone.

    @raise ValueError: if one cannot be a port's.
    """
    return portNames([names] if isinstance(names, str) else names)


class _Endpoint:
    """
    What the endpoints of both wires have in common.
    """

    _reactor: Any
    _path: str
    _contextFactory: Any

    def _worker(self, factory: IProtocolFactory) -> IWorker:
        raise NotImplementedError

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        """
        Begin once the reactor runs, which is when C{twistd} has given up its
        privileges.

        @return: fires with the port when connections can come, or fails with what
            the factory's start raises.  Cancelling it ends the search.
        @raise EndpointError: if the path can never be what it has to be.  It is
            raised, and not what the Deferred fails with, since services log such
            a failure and have the process go on to serve nothing.
        """
        if self._contextFactory is not None:
            from twisted.protocols.tls import TLSMemoryBIOFactory

            protocolFactory = TLSMemoryBIOFactory(
                self._contextFactory, False, protocolFactory, self._reactor
            )
        return _begin(self._reactor, self._worker(protocolFactory), self._path)


@implementer(IStreamServerEndpoint)
class PortlistenServerEndpoint(_Endpoint):
    """
    Listens by way of a listener: serves what C{twistd portlisten} accepts, and
    hands off to this process among its workers.

    @param reactor: an L{IReactorFDSet<twisted.internet.interfaces.IReactorFDSet>},
        L{IReactorSocket<twisted.internet.interfaces.IReactorSocket>} and
        L{IReactorTime<twisted.internet.interfaces.IReactorTime>}.
    @param path: the channel's, as the listener was given it.
    @param names: what the listener calls the ports that are to be served; if
        empty: all.  Raises L{ValueError} for what cannot be one.
    @param grace: how long C{stopListening} waits for connections to end, in
        seconds.
    @param listenerUsers: the uids that the listener may have had when it started
        to listen; if empty: root's, this process's, or that of the owner of the
        path's folder.
    @param retry: how long to wait before connecting again when there is no
        listener, in seconds.
    @param contextFactory: for TLS on each connection, such as
        L{CertificateOptions<twisted.internet.ssl.CertificateOptions>}; by default
        there is none.
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
    ) -> None:
        self._reactor = reactor
        self._path = path
        self._names = _several(names)
        self._grace = grace
        self._listenerUsers = listenerUsers
        self._retry = retry
        self._contextFactory = contextFactory

    def _worker(self, factory: IProtocolFactory) -> IWorker:
        return Worker(
            monotonicReactor(self._reactor),
            self._path,
            factory,
            self._retry,
            self._grace,
            self._listenerUsers,
            self._names,
        )


@implementer(IStreamServerEndpoint)
class DatagramServerEndpoint(_Endpoint):
    """
    Receives what a listener sends over the wire of 2002: that of C{twistd
    portlisten --wire=datagram}, or of a program that was written for it.  The
    path is bound when this is told to listen; what the listener listens on is not
    known here, so the path is all that the port has for an address.

    @param path: where to receive.
    @param grace: how long C{stopListening} waits for connections to end, in
        seconds.
    @param mode: the permissions of the path: who may write to it may send.
    @param group: the gid that it belongs to, or L{None} for the process's.
    @param replace: whether to take the path over from a worker that lives there.
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
    What L{PortlistenServerEndpoint.listen} gives.
    """

    def __init__(self, reactor: Any, worker: IWorker, path: str) -> None:
        self._reactor = reactor
        self._worker = worker
        self._path = path
        self._stopped = False
        # Some programs leave their ports to the end of the process.
        self._trigger: Any = reactor.addSystemEventTrigger(
            "before", "shutdown", self._shutDown
        )

    def _shutDown(self) -> Deferred[None]:
        self._trigger = None
        return self.stopListening()

    def startListening(self) -> None:
        """
        Nothing, since it listens.

        @raise CannotListenError: if it was stopped: let the endpoint listen
            again.
        """
        if self._stopped:
            raise CannotListenError(
                None, self._path, "it was stopped: let the endpoint listen again"
            )

    def stopListening(self) -> Deferred[None]:
        """
        Take no more connections; what was offered here and not claimed goes to
        another worker.  Those in service go on.

        @return: fires when they have ended, or the grace is over, after which
            they still go on for as long as the process lives.
        """
        self._stopped = True
        if self._trigger is not None:
            self._reactor.removeSystemEventTrigger(self._trigger)
            self._trigger = None
        return self._worker.stop()

    def getHost(self) -> IAddress:
        """
        Where the listener listens: the address of the first of the ports that
        are served here.
        """
        for port in self._worker.ports:
            return twistedAddress(port.address)
        return UNIXAddress(self._path)

    def __repr__(self) -> str:
        return f"<portlisten on {self.getHost()} by way of {self._path}>"


class PortlistenUDPEndpoint:
    """
    Serves UDP ports of a listener, which has to share them: C{twistd portlisten
    --share dns=udp:53}.  Twisted has no endpoints for UDP, so this has no
    interface and no description; it is used as the others are.

    @param reactor: an L{IReactorFDSet<twisted.internet.interfaces.IReactorFDSet>},
        L{IReactorSocket<twisted.internet.interfaces.IReactorSocket>} and
        L{IReactorTime<twisted.internet.interfaces.IReactorTime>}.
    @param path: the channel's.
    @param names: what the listener calls the ports that are to be served; if
        empty: all that are UDP.  Raises L{ValueError} for what cannot be one.
    @param listenerUsers: as for L{PortlistenServerEndpoint}.
    @param retry: likewise.
    @param maxPacketSize: of what longer datagrams have, the rest is lost.
    """

    def __init__(
        self,
        reactor: Any,
        path: str,
        names: Collection[str] = (),
        listenerUsers: Collection[int] = (),
        retry: float = 0.1,
        maxPacketSize: int = 8192,
    ) -> None:
        self._reactor = reactor
        self._path = path
        self._names = _several(names)
        self._listenerUsers = listenerUsers
        self._retry = retry
        self._maxPacketSize = maxPacketSize

    def listen(
        self, makeProtocol: Callable[[], DatagramProtocol]
    ) -> Deferred[IListeningPort]:
        """
        Begin once the reactor runs.

        @param makeProtocol: makes a protocol for each socket: for each address
            that the listener has, and anew when it was restarted.
        @return: fires with the port when datagrams can come.  Cancelling it ends
            the search.
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
        )
        return _begin(self._reactor, worker, self._path)


def _begin(reactor: Any, worker: IWorker, path: str) -> Deferred[IListeningPort]:
    """
    Have a worker begin once the reactor runs, which is when C{twistd} has given up
    its privileges.

    @return: fires with its port when it has begun.
    @raise EndpointError: if the path can never be what it has to be.
    """
    try:
        worker.bind()
    except PathError as error:
        raise EndpointError(str(error)) from None
    except Exception:
        return fail()
    port = _ListeningPort(reactor, worker, path)
    systemd_notify.manager().watch(reactor)
    start = monotonicReactor(reactor).callLater(
        0, lambda: worker.start().chainDeferred(ready)
    )

    def cancel(_: object) -> None:
        if start.active():
            start.cancel()
        port.stopListening()

    ready: Deferred[None] = Deferred(cancel)
    return ready.addCallback(lambda _: port)


def parse(reactor: Any, *arguments: str, **texts: str) -> IStreamServerEndpoint:
    """
    Understand C{portlisten:PATH}, whose options are those of L{WorkerSettings} that
    descriptions have.  Files for TLS are read now.

    @raise EndpointError: if it cannot be understood, or a file does not load.
    """
    if sys.platform != "linux":
        raise EndpointError(f"needs Linux, and this is {sys.platform}")
    if len(arguments) != 1 or not arguments[0]:
        raise EndpointError(
            "a description has one path, as in portlisten:/run/portlisten/web.sock, and"
            r" a colon in it is written '\:'"
        )
    given = _understand(texts)
    settings = WorkerSettings(path=arguments[0], **given)
    files = {name: given[name] for name in _TLS if name in given}
    return _endpointFor(reactor, settings, tls.contextFactory(files) if files else None)


def _understand(texts: Mapping[str, str]) -> dict[str, Any]:
    """
    Understand the options of a description.

    @return: those that are given, by the settings' names.
    @raise EndpointError: if one cannot be understood, or means nothing.
    """
    options = {
        each.describedName: each
        for each in optionsOf(WorkerSettings)
        if each.inDescription
    }
    given: dict[str, Any] = {}
    # The wire says which others there are.
    for name in sorted(texts, key=lambda name: name != "wire"):
        wire = given.get("wire", WIRES[0])
        if name not in options or wire not in options[name].wires:
            known = [
                each
                for each, option in options.items()
                if wire in option.wires and each != "wire"
            ]
            raise EndpointError(
                f"a description with wire={wire} has no option {name!r}, only"
                f" {', '.join(known)}"
            )
        try:
            given[options[name].field] = options[name].parse(texts[name])
        except ValueError as error:
            raise EndpointError(f"{name}: {error}") from None
    return given


def _endpointFor(
    reactor: Any, settings: WorkerSettings, contextFactory: Any
) -> IStreamServerEndpoint:
    """
    Make the endpoint that settings describe.
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
    return PortlistenServerEndpoint(
        reactor,
        settings.path,
        settings.names,
        settings.grace,
        settings.listenerUsers,
        settings.retry,
        contextFactory,
    )
