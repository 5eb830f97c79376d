"""
The worker keeps a channel to a listener.  An ordinary Twisted factory serves the
connections that come through the channel.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocolFactory
from twisted.logger import Logger
from zope.interface import implementer

from portlisten._channel import paths
from portlisten._channel.interfaces import IAdopter, IWorkerChannel
from portlisten._channel.transport import ChannelTransport
from portlisten._channel.worker_end import WorkerChannel
from portlisten._model import Port
from portlisten._policy.complaints import Complaint
from portlisten._policy.link import (
    REPORT_SECONDS,
    SILENT,
    STOP_REASON,
    Link,
    asksToJoinAgain,
    whyLost,
)
from portlisten._policy.networks import Network
from portlisten._process import systemd_notify
from portlisten._reactor.log_limit import logLimit
from portlisten._reactor.pause import Pause
from portlisten._wire.frames import Offer
from portlisten._wire.worker_events import ShareLoads
from portlisten._worker.adoption import AdoptedConnection, Adopter
from portlisten._worker.interfaces import IWorker
from portlisten._worker.recognition import firstSeconds
from portlisten._worker.shared_ports import SharedPorts
from portlisten._worker.shutdown import IConnectionSource, Shutdown
from portlisten._worker.stream_ports import StreamPorts


@implementer(IAdopter, IWorker, IConnectionSource)
class Worker:
    """
    Serves a factory on the connections that a listener hands off.

    @param reactor: an L{IReactorFDSet}, L{IReactorSocket} and L{IReactorTime}.
    @param path: the path of the channel.
    @param factory: builds the protocols, as for a port.
    @param retry: how long to wait before connecting again, in seconds.
    @param grace: how long L{stop} waits for connections to end, in seconds.
    @param listenerUsers: the users that the listener may have had when it called
        listen(2); if empty: root, this process's user, and the owner of the path's
        folder.
    @param names: the names of the ports to serve; if empty: all.
    @param makePorts: makes the L{SharedPorts}.  These say which kinds the worker takes.
    @param limit: the most connections that the worker wants to have, or L{None}.
    @param first: how long the listener may keep a connection whose client is silent, in
        seconds; 0 if clients need not speak first; if L{None}: as usual for what the
        factory serves.
    @param label: the worker's name for the operator, or nothing.
    @param direct: see L{Adopter}.
    @param proxies: see L{Adopter}.

    @ivar ports: the ports that the worker serves, as the listener said last.  Empty
        until the worker has joined.
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
        names: Collection[str] = (),
        makePorts: Callable[[Any, Adopter, float], SharedPorts] = StreamPorts,
        limit: int | None = None,
        first: float | None = None,
        label: str = "",
        direct: bool = False,
        proxies: Iterable[Network] = (),
    ) -> None:
        self._reactor = reactor
        self._path = path
        self._retry = retry
        self._listenerUsers = listenerUsers
        self._names = tuple(dict.fromkeys(names))
        self._limit = limit
        self._givenFirst = first
        self._first = firstSeconds(factory, first)
        self._label = label
        self._logLimited = logLimit(reactor)
        self._complaint = Complaint()
        self._reconnection = Pause(reactor, self._connect)
        self._link = Link.ABSENT
        self._channel: WorkerChannel | None = None
        self._started: Deferred[None] | None = None
        self._adopter = Adopter(
            reactor, factory, retry, self._settle, limit, direct, proxies
        )
        self._adopter.watch(self._servingChanged)
        self._servingReport = Pause(reactor, self._reportServing)
        self._shutdown = Shutdown(reactor, grace, self, self._adopter)
        self._sharedPorts = makePorts(reactor, self._adopter, retry)
        self._systemd = systemd_notify.manager().begin()
        self.ports: Sequence[Port] = ()

    @property
    def serving(self) -> set[AdoptedConnection]:
        """
        The adopted connections that have not ended.
        """
        return self._adopter.serving

    def bind(self) -> None:
        """
        See L{IWorker}.
        """
        paths.check(self._path)
        self._adopter.begin()

    def start(self) -> Deferred[None]:
        """
        See L{IWorker}.
        """
        started: Deferred[None] = Deferred()
        self._started = started
        self._adopter.spare.reserve()
        self._connect()
        return started

    def report(self) -> None:
        """
        See L{IWorker}.
        """
        self.log.info(
            "{count} connections in service; {state} the listener at {path}",
            event="report",
            count=len(self.serving),
            state=self._describeLink(),
            path=self._path,
        )

    def stop(self) -> Deferred[None]:
        """
        See L{IWorker}.
        """
        return self._shutdown.request()

    def lastTaken(self) -> Deferred[None]:
        """
        See L{IWorker}.
        """
        return self._shutdown.lastTaken()

    # IAdopter

    def registered(self, channel: IWorkerChannel, ports: Sequence[Port]) -> None:
        """
        See L{IAdopter}.
        """
        self._on("registered")
        self._complaint.clear()
        self.ports = ports
        described = ", ".join(port.label for port in ports)
        self._logLimited(
            self.log.info,
            "joined the listener at {path}, which listens on {ports}",
            event="listener-joined",
            path=self._path,
            ports=described,
        )
        self._warnOfOlder(channel.ignored)
        self._reportServing()
        started, self._started = self._started, None
        if self._shutdown.requested:
            return
        self._systemd.ready(f"serving {described}, by way of {self._path}")
        if started is not None:
            started.callback(None)

    def adopt(self, channel: IWorkerChannel, offer: Offer, sock: socket.socket) -> None:
        """
        See L{IAdopter}.
        """
        self._adopter.adoptSocket(
            sock,
            partial(channel.closed, offer.id),
            partial(channel.clientGone, offer.id),
        )

    def socketShared(
        self, channel: IWorkerChannel, port: int, cookie: int, descriptor: int
    ) -> None:
        """
        See L{IAdopter}.
        """
        if self._shutdown.requested or self._link.away:
            os.close(descriptor)
        else:
            self._sharedPorts.open(port, cookie, descriptor)

    def loadsShared(self, channel: IWorkerChannel, loads: ShareLoads) -> None:
        """
        See L{IAdopter}.
        """
        if self._shutdown.requested or self._link.away:
            os.close(loads.loads)
            os.close(loads.members)
        else:
            self._sharedPorts.shareLoads(loads)

    def withdrawn(self, channel: IWorkerChannel, cookie: int) -> None:
        """
        See L{IAdopter}.
        """
        self._sharedPorts.close(cookie)

    def drained(self, channel: IWorkerChannel) -> None:
        """
        See L{IAdopter}.
        """
        self._on("drained")
        self._settle()

    def leaveRequested(self, channel: IWorkerChannel) -> None:
        """
        See L{IAdopter}.
        """
        if self._shutdown.requested or self._link is not Link.JOINED:
            return
        self._on("leaveRequested")
        self._logLimited(
            self.log.info,
            "the listener at {path} asks this worker to drain, with {count} connections"
            " in service",
            event="drain-asked",
            path=self._path,
            count=len(self.serving),
        )
        self._systemd.status(f"draining, as the listener at {self._path} asks")
        self._sharedPorts.closeAll()
        # The listener must know of each connection when DRAIN comes.
        self._reportServing()
        channel.drain()
        self._adopter.drain()

    def lost(self, channel: IWorkerChannel, reason: str | None) -> None:
        """
        See L{IAdopter}.
        """
        if channel is not self._channel:
            return  # the channel could not be started
        wasRegistered, wasAway = self._link.registered, self._link.away
        self._channel = None
        self._on("lost")
        self._servingReport.cancel()
        # The listener's shared sockets must not stay open here: another listener could
        # not bind the ports.
        self._sharedPorts.finish()
        if self._shutdown.requested:
            self._settle()
            return
        self._adopter.undrain()
        again = wasAway or asksToJoinAgain(reason)
        if again and channel.released and not channel.broken:
            self._rejoin()
            return
        why, delay = whyLost(wasRegistered, reason, channel.broken, self._retry)
        if wasRegistered:
            self._logLimited(
                self.log.warn,
                "lost the listener at {path}, with {count} connections in service:"
                " {reason}",
                event="listener-lost",
                path=self._path,
                count=len(self.serving),
                reason=why,
            )
            if wasAway:
                self._logLimited(
                    self.log.info, "this worker drains no longer", event="drain-ended"
                )
            self._reconnection.begin(delay)
        else:
            self._waitForListener(why, delay)

    # IConnectionSource

    def stopTaking(self) -> None:
        """
        See L{IConnectionSource}.
        """
        self._systemd.ended()
        self._reconnection.cancel()
        self._sharedPorts.closeAll()
        if self._channel is None:
            return
        if self._link is Link.JOINING:
            self._channel.bye(STOP_REASON)
        else:
            self._channel.drain()

    def hasStoppedTaking(self) -> bool:
        """
        See L{IConnectionSource}.
        """
        return not self._link.mayGet

    def disconnect(self) -> None:
        """
        See L{IConnectionSource}.
        """
        if self._channel is not None:
            self._channel.bye(STOP_REASON)

    def isDisconnected(self) -> bool:
        """
        See L{IConnectionSource}.
        """
        return self._link is Link.ABSENT

    # Internal methods

    def _on(self, event: str) -> None:
        """
        Change the state after an event.
        """
        self._link = self._link.after(event)

    def _settle(self) -> None:
        self._shutdown.settle()

    def _describeLink(self) -> str:
        if self._link.away:
            return "draining, as asked by"
        return "joined to" if self._link.registered else "waiting for"

    def _warnOfOlder(self, ignored: Sequence[str]) -> None:
        """
        Log the options that the operator gave, and that the listener is too old for.
        """
        given = {"limit": self._limit, "first": self._givenFirst or None}
        names = [name for name in ignored if given[name] is not None]
        if names:
            self._logLimited(
                self.log.warn,
                "the listener at {path} is older than this worker, and ignores {names}",
                event="listener-older",
                path=self._path,
                names=" and ".join(names),
            )

    def _servingChanged(self) -> None:
        """
        Report the number of connections a little later.
        """
        if not self._servingReport.active and self._link.registered:
            self._servingReport.begin(REPORT_SECONDS)

    def _reportServing(self) -> None:
        if self._channel is not None:
            self._channel.reportServing(self._adopter.count)

    def _rejoin(self) -> None:
        """
        Connect at once: the listener has asked for it.
        """
        self._logLimited(
            self.log.info,
            "the listener at {path} asks this worker to join again",
            event="rejoin-asked",
            path=self._path,
        )
        self._reconnection.begin(0)

    def _connect(self) -> None:
        place = paths.place(self._path)
        channel = WorkerChannel(
            self._reactor,
            self,
            names=self._names,
            takes=self._sharedPorts.takes,
            limit=self._limit,
            first=self._first,
            label=self._label,
            balances=self._sharedPorts.balances,
            waitsOn=partial(self._waitsOn, place),
        )
        try:
            sock = paths.connect(self._path, self._listenerUsers)
            ChannelTransport(self._reactor, sock, channel).start()
        except OSError as error:
            self._waitForListener(paths.explain(error), self._retry)
        else:
            self._channel = channel
            self._on("connected")

    def _waitsOn(self, place: paths.Place | None) -> bool:
        """
        Say whether to wait on for the listener's HELLO, and log it.
        """
        if not paths.maySpeakYet(self._path, place):
            return False
        if self._complaint.isNew(SILENT):
            self._logLimited(
                self.log.warn,
                "waiting for the listener at {path}: {why}",
                event="listener-awaited",
                path=self._path,
                why=SILENT,
            )
            self._systemd.status(f"waiting for the listener at {self._path}: {SILENT}")
        return True

    def _waitForListener(self, why: str, delay: float) -> None:
        """
        Try to connect again later.  Log the reason if it is new.

        @param delay: how long to wait, in seconds.
        """
        if self._complaint.isNew(why):
            self._logLimited(
                self.log.warn,
                "waiting for a listener at {path}, trying every {delay:g} s: {why}",
                event="listener-awaited",
                path=self._path,
                delay=delay,
                why=why,
            )
            self._systemd.status(f"waiting for a listener at {self._path}: {why}")
        self._reconnection.begin(delay)
