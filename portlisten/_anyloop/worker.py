"""
The worker keeps a channel to a listener.  An adopter serves the connections that come
through the channel.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from enum import Enum
from functools import partial
from typing import Generic, TypeVar

from portlisten import _kernel
from portlisten._anyloop import log
from portlisten._anyloop.channel import WorkerChannel
from portlisten._anyloop.clock import Clock
from portlisten._anyloop.interfaces import Adopting, EventLoop, Reports
from portlisten._anyloop.poller import Poller
from portlisten._anyloop.shared_ports import SharedPorts
from portlisten._channel import paths
from portlisten._config.settings import WorkerSettings
from portlisten._model import Kind, Port
from portlisten._policy.complaints import Complaint
from portlisten._policy.link import (
    DISCONNECT_SECONDS,
    REPORT_SECONDS,
    SILENT,
    STOP_REASON,
    Link,
    asksToJoinAgain,
    whyLost,
)
from portlisten._reactor.deadline import Deadline
from portlisten._reactor.log_limit import LogLimit
from portlisten._reactor.pause import Pause
from portlisten._wire.frames import MAXIMUM_WINDOW, Offer
from portlisten._wire.worker_events import ShareLoads
from portlisten._wire.worker_session import WorkerSession
from portlisten.errors import WrongSocket

AdopterType = TypeVar("AdopterType", bound=Adopting)


class Stage(Enum):
    """
    The stages of a worker's life, in order.
    """

    #: The worker was not started.
    NEW = 0
    #: The worker gets connections.
    SERVING = 1
    #: The worker was told to stop, and waits for its connections to end.
    WAITING = 2
    #: The worker disconnects from its listener.
    DISCONNECTING = 3
    #: The worker has stopped.
    DONE = 4


class Worker(Generic[AdopterType]):
    """
    Has an adopter serve the connections that a listener hands off.

    @param settings: of the description.
    @param first: how long to wait for a client to speak first, in seconds; zero if
        clients need not speak first.
    @param label: the worker's name for the operator, or nothing.
    @param makeAdopter: makes the adopter.  Called once, with the worker's clock and
        with what the adopter must call each time that the number of its connections
        has changed.
    @param done: called when the worker has stopped.

    @cvar portsType: accepts on the sockets that the listener shares.
    @ivar adopter: serves the connections.
    @ivar stage: how far the worker has come.
    @ivar ports: the ports that the worker serves, as the listener said last.
    """

    portsType: type[SharedPorts] = SharedPorts

    def __init__(
        self,
        loop: EventLoop,
        settings: WorkerSettings,
        first: float,
        label: str,
        makeAdopter: Callable[[Clock, Callable[[], None]], AdopterType],
        done: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._first = first
        self._label = label
        self._done = done
        self._loop = loop
        self._clock = clock = Clock(loop)
        self._logLimited = LogLimit(clock)
        self._complaint = Complaint()
        self._reconnection = Pause(clock, self._connect)
        self._servingReport = Pause(clock, self._reportServing)
        self._link = Link.ABSENT
        self._channel: WorkerChannel | None = None
        self._timer: Deadline | None = None
        self._poller: Poller | None = None
        self._sharedPorts: SharedPorts | None = None
        self.adopter = makeAdopter(clock, self._changed)
        self.stage = Stage.NEW
        self.ports: Sequence[Port] = ()

    def start(self) -> None:
        """
        Begin to serve, and go on until L{stop}.

        @raise OSError: if the process has no free descriptor.
        """
        if self.stage is Stage.NEW:
            self._poller = Poller(self._loop)
            self._sharedPorts = self.portsType(
                self._clock,
                self._poller,
                self.adopter,
                self._settings.limit,
                self._settings.retry,
                self._logLimited,
            )
            self.stage = Stage.SERVING
            self._connect()

    @property
    def draining(self) -> bool:
        """
        Whether an operator has drained the worker, or does so now.
        """
        return self.stage is Stage.SERVING and self._link.away

    def stop(self) -> None:
        """
        Take no more connections.  Connections in service go on.
        """
        if self.stage is Stage.NEW:
            self._finish()
        elif self.stage is Stage.SERVING:
            self.stage = Stage.WAITING
            self._wait(self._settings.grace, self._graceOver)
            self._reconnection.cancel()
            self._ownPorts.closeAll()
            if self._channel is not None:
                if self._link is Link.JOINING:
                    self._channel.bye(STOP_REASON)
                else:
                    self._channel.drain()
            self.adopter.drain()
            self._settle()

    def leave(self) -> None:
        """
        Say BYE, and do not wait for the connections in service any longer.  The worker
        must have been told to L{stop}.
        """
        if self.stage is Stage.WAITING:
            self._disconnect()

    def abandon(self) -> None:
        """
        Close all descriptors that no transport owns, because the loop is being closed.
        To the listener, the worker is dead.
        """
        for each in (self._reconnection, self._servingReport):
            each.cancel()
        self._stopWaiting()
        self.stage = Stage.DONE
        if self._sharedPorts is not None:
            self._sharedPorts.closeAll()
        if self._channel is not None:
            self._channel.abandon()
        if self._poller is not None:
            self._poller.close()
        self.adopter.abandon()

    # Events of the channel

    def registered(self, channel: WorkerChannel, ports: Sequence[Port]) -> None:
        """
        See L{portlisten._anyloop.channel.ChannelUser}.
        """
        self._on("registered")
        self._complaint.clear()
        self.ports = ports
        self._logLimited(
            log.info,
            "joined the listener at {path}, which listens on {ports}",
            event="listener-joined",
            path=self._settings.path,
            ports=", ".join(port.label for port in ports),
        )
        self._warnOfOlder(channel)
        self._reportServing()

    def _warnOfOlder(self, channel: WorkerChannel) -> None:
        """
        Log the options that were given, and that the listener is too old for.
        """
        given = {"limit": self._settings.limit, "first": self._settings.first or None}
        names = [name for name in channel.ignored if given[name] is not None]
        if names:
            self._logLimited(
                log.warning,
                "the listener at {path} is older than this worker, and ignores {names}",
                event="listener-older",
                path=self._settings.path,
                names=" and ".join(names),
            )

    def adopt(self, channel: WorkerChannel, offer: Offer, descriptor: int) -> None:
        """
        See L{portlisten._anyloop.channel.ChannelUser}.
        """
        self.adopter.adopt(
            descriptor,
            offer.cookie,
            Reports(
                partial(channel.closed, offer.id),
                partial(channel.clientGone, offer.id),
                partial(channel.given, offer.id),
            ),
        )

    def loadsShared(self, loads: ShareLoads) -> None:
        """
        See L{portlisten._anyloop.channel.ChannelUser}.
        """
        if self.stage is Stage.SERVING and not self._link.away:
            self._ownPorts.shareLoads(loads)
        else:
            os.close(loads.loads)
            os.close(loads.members)

    def socketShared(self, port: int, cookie: int, descriptor: int) -> None:
        """
        See L{portlisten._anyloop.channel.ChannelUser}.
        """
        if self.stage is Stage.SERVING and not self._link.away:
            self._ownPorts.open(port, cookie, descriptor)
        else:
            os.close(descriptor)

    def withdrawn(self, cookie: int) -> None:
        """
        See L{portlisten._anyloop.channel.ChannelUser}.
        """
        self._ownPorts.close(cookie)

    def drained(self) -> None:
        """
        See L{portlisten._anyloop.channel.ChannelUser}.
        """
        self._on("drained")
        self._settle()

    def leaveRequested(self, channel: WorkerChannel) -> None:
        """
        See L{portlisten._anyloop.channel.ChannelUser}.
        """
        if self.stage is not Stage.SERVING or self._link is not Link.JOINED:
            return
        self._on("leaveRequested")
        self._logLimited(
            log.info,
            "the listener at {path} asks this worker to drain, with {count} connections"
            " in service",
            event="drain-asked",
            path=self._settings.path,
            count=len(self.adopter.connections),
        )
        self._ownPorts.closeAll()
        # The listener must know of each connection when DRAIN comes.
        self._reportServing()
        channel.drain()
        self.adopter.drain()

    def lost(self, channel: WorkerChannel, reason: str | None) -> None:
        """
        See L{portlisten._anyloop.channel.ChannelUser}.
        """
        was = self._link
        self._channel = None
        self._on("lost")
        self._servingReport.cancel()
        # The listener's shared sockets must not stay open here: another listener could
        # not bind the ports.
        self._ownPorts.finish()
        if self.stage is not Stage.SERVING:
            self._settle()
            return
        self.adopter.undrain()
        again = was.away or asksToJoinAgain(reason)
        if again and channel.released and not channel.broken:
            self._rejoin()
            return
        why, delay = whyLost(
            was.registered, reason, channel.broken, self._settings.retry
        )
        if was.registered:
            self._logLimited(
                log.warning,
                "lost the listener at {path}, with {count} connections in service:"
                " {reason}",
                event="listener-lost",
                path=self._settings.path,
                count=len(self.adopter.connections),
                reason=why,
            )
            if was.away:
                self._logLimited(
                    log.info, "this worker drains no longer", event="drain-ended"
                )
            self._reconnection.begin(delay)
        else:
            self._waitForListener(why, delay)

    # Internal methods

    @property
    def _ownPorts(self) -> SharedPorts:
        assert self._sharedPorts is not None
        return self._sharedPorts

    def _on(self, event: str) -> None:
        self._link = self._link.after(event)

    def _rejoin(self) -> None:
        """
        Connect at once: the listener has asked for it.
        """
        self._logLimited(
            log.info,
            "the listener at {path} asks this worker to join again",
            event="rejoin-asked",
            path=self._settings.path,
        )
        self._reconnection.begin(0)

    def _connect(self) -> None:
        settings = self._settings
        place = paths.place(settings.path)
        try:
            sock = paths.connect(settings.path, settings.listenerUsers)
            channel = self._makeChannel(sock, partial(self._waitsOn, place))
            channel.start()
        except OSError as error:
            self._waitForListener(paths.explain(error), settings.retry)
        else:
            self._channel = channel
            self._on("connected")

    def _makeChannel(
        self,
        sock: socket.socket,
        waitsOn: Callable[[], bool],
        window: int = MAXIMUM_WINDOW,
        claimsAll: bool = True,
        inTurns: bool = True,
    ) -> WorkerChannel:
        """
        Make the worker's end of a channel.

        @param sock: connected to the listener.  The channel owns it.
        @param waitsOn: see L{WorkerChannel}.
        @param window: how many unclaimed offers the worker wants at the most.
        @param claimsAll: whether offers are claimed as they come.
        @param inTurns: whether the loop's turns set the pace.
        """
        assert self._poller is not None
        session: WorkerSession[int] = WorkerSession(
            window,
            self._settings.names,
            SharedPorts.TAKES,
            limit=self._settings.limit,
            label=self._label,
            first=self._first or None,
            leaves=True,
            balances=self.portsType.balances,
            gives=self.adopter.gives,
            claimsAll=claimsAll,
            hasCookie=_kernel.leadsToCookie,
            identify=self._identify,
        )
        return WorkerChannel(
            self._clock,
            self._poller,
            sock,
            session,
            self,
            self._logLimited,
            inTurns,
            waitsOn,
        )

    def _identify(self, descriptor: int) -> tuple[Kind | None, int] | None:
        """
        Find out what a descriptor is.  If it cannot be used, log that.
        """
        try:
            return _kernel.identify(descriptor, SharedPorts.TAKES)
        except (OSError, WrongSocket) as error:
            number = _kernel.memoryNumber(descriptor)
            if number is not None and self.portsType.balances:
                return None, number
            self._logLimited(
                log.warning,
                "a descriptor came that cannot be used: {error}",
                event="descriptor-unusable",
                error=error,
            )
            return None

    def _waitsOn(self, place: paths.Place | None) -> bool:
        """
        Say whether to wait on for the listener's HELLO, and log it.
        """
        if not paths.maySpeakYet(self._settings.path, place):
            return False
        if self._complaint.isNew(SILENT):
            self._logLimited(
                log.warning,
                "waiting for the listener at {path}: {why}",
                event="listener-awaited",
                path=self._settings.path,
                why=SILENT,
            )
        return True

    def _waitForListener(self, why: str, delay: float) -> None:
        """
        Try to connect again later.  Log the reason if it is new.

        @param delay: how long to wait, in seconds.
        """
        if self._complaint.isNew(why):
            self._logLimited(
                log.warning,
                "waiting for a listener at {path}, trying every {delay:g} s: {why}",
                event="listener-awaited",
                path=self._settings.path,
                delay=delay,
                why=why,
            )
        self._reconnection.begin(delay)

    def _changed(self) -> None:
        """
        The number of connections may have changed.
        """
        if self._sharedPorts is not None:
            self._sharedPorts.adjust()
        if self._link.registered and not self._servingReport.active:
            self._servingReport.begin(REPORT_SECONDS)
        self._settle()

    def _reportServing(self) -> None:
        if self._channel is not None:
            self._channel.reportServing(len(self.adopter.connections))

    def _settle(self) -> None:
        """
        Go on to the next stage, if the worker is stopping and this stage is over.
        """
        if self.stage is Stage.WAITING:
            if not (self._link.mayGet or self.adopter.connections):
                self._disconnect()
        elif self.stage is Stage.DISCONNECTING and self._link is Link.ABSENT:
            self._finish()
        elif self.stage is Stage.DONE:
            self._closePoller()

    def _graceOver(self) -> None:
        if self.adopter.connections:
            log.warning(
                "{count} connections are still in service after {grace:g} s",
                event="connections-left",
                count=len(self.adopter.connections),
                grace=self._settings.grace,
            )
        self._disconnect()

    def _disconnect(self) -> None:
        self.stage = Stage.DISCONNECTING
        self._stopWaiting()
        if self._channel is not None:
            self._channel.bye(STOP_REASON)
        self._settle()
        if self.stage is Stage.DISCONNECTING:
            self._wait(DISCONNECT_SECONDS, self._finish)

    def _finish(self) -> None:
        self.stage = Stage.DONE
        self._stopWaiting()
        self._closePoller()
        self._done()

    def _closePoller(self) -> None:
        """
        Close the poller, unless the channel still needs it.
        """
        if self._poller is not None and self._channel is None:
            self._poller.close()

    def _wait(self, seconds: float, then: Callable[[], None]) -> None:
        self._timer = Deadline(self._clock, seconds, then)

    def _stopWaiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
