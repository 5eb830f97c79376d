"""
The worker: keeps a channel to a listener.  An ordinary Twisted factory serves the
connections that come through it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IProtocolFactory
from twisted.logger import Logger
from zope.interface import implementer

from portlisten._channel import paths
from portlisten._channel.transport import ChannelTransport
from portlisten._model import Port
from portlisten._process import systemd_notify
from portlisten._reactor.monotonic import Deadline
from portlisten._reactor.quiet import quiet
from portlisten._wire.frames import Offer
from portlisten._worker.adoption import Adoptions, Served
from portlisten._worker.channel import WorkerChannel
from portlisten._worker.interfaces import IAdopter, IWorker, IWorkerChannel
from portlisten._worker.shared_ports import LentPorts, StreamPorts
from portlisten._worker.shutdown import Stop

#: How long the last word to the listener may take, in seconds.
FAREWELL = 1.0

#: How long to wait before asking a listener again that is of no use to us: it
#: has no port of that name, speaks another protocol, or turned us away.  In
#: seconds.
UNFIT = 5.0


@implementer(IAdopter, IWorker)
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
    @param names: what the listener calls the ports that are to be served; if
        empty: all.
    @param makePorts: makes the L{LentPorts}, which say what the worker takes.

    @ivar ports: those that it serves, as the listener said last; none before that
        has said anything.
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
        makePorts: Callable[[Any, Adoptions, float], LentPorts] = StreamPorts,
    ) -> None:
        self._reactor = reactor
        self._path = path
        self._retry = retry
        self._grace = grace
        self._listenerUsers = listenerUsers
        self._names = tuple(dict.fromkeys(names))
        self._quiet = quiet(reactor)
        self._timer: IDelayedCall | Deadline | None = None
        self._channel: WorkerChannel | None = None
        self._registered = False
        self._complaint = ""
        self._drained = False
        self._parting = False
        self._stop = Stop(self._leave)
        self._started: Deferred[None] | None = None
        self._adoptions = Adoptions(reactor, factory, retry, self._settle)
        self._lent = makePorts(reactor, self._adoptions, retry)
        self._state = systemd_notify.manager().begin()
        self.ports: Sequence[Port] = ()

    @property
    def serving(self) -> set[Served]:
        """
        The adopted connections that have not ended.
        """
        return self._adoptions.serving

    def bind(self) -> None:
        """
        See L{IWorker}.
        """
        paths.check(self._path)
        self._adoptions.begin()

    def start(self) -> Deferred[None]:
        """
        See L{IWorker}.
        """
        started: Deferred[None] = Deferred()
        self._started = started
        self._adoptions.reserve()
        self._connect()
        return started

    def report(self) -> None:
        """
        See L{IWorker}.
        """
        self.log.info(
            "{count} connections in service; {state} the listener at {path}",
            count=len(self.serving),
            state="joined to" if self._registered else "waiting for",
            path=self._path,
        )

    def stop(self) -> Deferred[None]:
        """
        See L{IWorker}.
        """
        return self._stop.ask()

    # IAdopter

    def registered(self, channel: IWorkerChannel, ports: Sequence[Port]) -> None:
        """
        See L{IAdopter}.
        """
        self._registered = True
        self._complaint = ""
        self.ports = ports
        described = ", ".join(port.label for port in ports)
        self._quiet(
            self.log.info,
            "joined the listener at {path}, which listens on {ports}",
            path=self._path,
            ports=described,
        )
        if not self._stop.asked:
            self._state.ready(f"serving {described}, by way of {self._path}")
        started, self._started = self._started, None
        if started is not None and not self._stop.asked:
            started.callback(None)

    def adopt(self, channel: IWorkerChannel, offer: Offer, descriptor: int) -> None:
        """
        See L{IAdopter}.
        """
        self._adoptions.adopt(
            descriptor,
            partial(channel.closed, offer.id),
            partial(channel.clientGone, offer.id),
        )

    def socketShared(
        self, channel: IWorkerChannel, port: int, cookie: int, descriptor: int
    ) -> None:
        """
        See L{IAdopter}.
        """
        if self._stop.asked:
            os.close(descriptor)
        else:
            self._lent.open(cookie, descriptor)

    def withdrawn(self, channel: IWorkerChannel, cookie: int) -> None:
        """
        See L{IAdopter}.
        """
        self._lent.close(cookie)

    def drained(self, channel: IWorkerChannel) -> None:
        """
        See L{IAdopter}.
        """
        self._drained = True
        self._settle()

    def lost(self, channel: IWorkerChannel, reason: str | None) -> None:
        """
        See L{IAdopter}.
        """
        if channel is not self._channel:
            return  # it never began
        registered, self._registered = self._registered, False
        self._channel = None
        # The ports are the listener's: another one could not bind them while they
        # are open here.
        self._lent.finish()
        if self._stop.asked:
            self._settle()
        elif registered:
            self._quiet(
                self.log.warn,
                "lost the listener at {path}, with {count} connections in service:"
                " {reason}",
                path=self._path,
                count=len(self.serving),
                reason=reason or "the listener is gone",
            )
            self._later(UNFIT if channel.broken else self._retry)
        elif reason is None:
            self._complain("it closed the channel without a reason", self._retry)
        else:
            self._complain(f"the listener cannot serve this worker: {reason}", UNFIT)

    # The inside

    def _connect(self) -> None:
        self._timer = None
        channel = WorkerChannel(
            self._reactor, self, names=self._names, takes=self._lent.takes
        )
        try:
            sock = paths.connect(self._path, self._listenerUsers)
            ChannelTransport(self._reactor, sock, channel).start()
        except OSError as error:
            self._complain(paths.explain(error), self._retry)
        else:
            self._channel = channel

    def _complain(self, why: str, delay: float) -> None:
        """
        Say once what is wrong, and try again later.
        """
        if why != self._complaint:
            self._complaint = why
            self._quiet(
                self.log.warn,
                "waiting for a listener at {path}, trying every {delay:g} s: {why}",
                path=self._path,
                delay=delay,
                why=why,
            )
            self._state.status(f"waiting for a listener at {self._path}: {why}")
        self._later(delay)

    def _later(self, delay: float) -> None:
        self._timer = self._reactor.callLater(delay, self._connect)

    def _leave(self) -> None:
        self._state.ended()
        self._cancelTimer()
        self._lent.closeAll()
        self._adoptions.drain()
        self._timer = Deadline(self._reactor, self._grace, self._part)
        if self._registered and self._channel is not None:
            self._channel.drain()
        elif self._channel is not None:
            self._channel.bye("the worker stops")
        self._settle()

    def _settle(self) -> None:
        """
        Part with the listener if the worker is stopping and has done its work.
        """
        if not self._stop.asked or (self._adoptions.busy and not self._parting):
            return
        if self._channel is None:
            self._finish()
        elif self._drained:
            self._part()

    def _part(self) -> None:
        if self._parting:
            return
        self._parting = True
        self._adoptions.graceOver(self._grace)
        if self._channel is None:
            self._finish()
        else:
            self._cancelTimer()
            self._timer = Deadline(self._reactor, FAREWELL, self._finish)
            self._channel.bye("the worker stops")

    def _finish(self) -> None:
        self._parting = True
        self._cancelTimer()
        if not self._stop.over:
            self._adoptions.end()
            self._stop.finish()

    def _cancelTimer(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
