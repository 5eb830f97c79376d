"""
The worker of a program that calls C{accept()}: a connection is claimed when the program
asks for one.

If the program does not ask for long, the listener takes the offers back and gives them
to other workers.  The worker does not join again before the program asks: it would get
the next connections, since it has the fewest, and would let them wait in vain.

A listener that is too old to know the worker's limit offers connections to a worker
that has as many as it can serve.  So the worker leaves such a listener when it is full,
and joins again when a connection has ended.
"""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from portlisten import _kernel
from portlisten._anyloop import log, worker
from portlisten._anyloop.channel import WorkerChannel
from portlisten._anyloop.clock import Clock
from portlisten._anyloop.interfaces import NO_REPORTS, Reports
from portlisten._blocking.connections import Accepted, Connection, peerOf
from portlisten._blocking.loop import Loop
from portlisten._blocking.shared_ports import SharedPorts
from portlisten._config.settings import WorkerSettings
from portlisten._model import Kind, Port
from portlisten._policy.link import Link
from portlisten._policy.networks import Network
from portlisten._ports.proxies import (
    NO_HEADER,
    Proxies,
    addressOf,
    awaitHeader,
    takeHeader,
)
from portlisten._reactor.log_limit import LogLimit
from portlisten._wire.frames import MAXIMUM_WINDOW
from portlisten._wire.proxy_header import ProxyHeader
from portlisten.errors import WrongSocket


class Queue:
    """
    The connections of a blocking worker: those that wait for C{accept()}, and those in
    service.

    @param proxies: the networks of proxies whose headers are believed.  A connection
        waits for C{accept()} only when its header was read, so C{accept()} never waits
        for one.
    @param changed: called each time that the number of connections has changed.

    @ivar gives: L{False}: connections are given to other processes only if this one
        forks.
    @ivar connections: the connections that have not ended.
    @ivar waiting: those of them that the program has not got, the oldest first.
    """

    def __init__(
        self,
        loop: Loop,
        proxies: Iterable[Network],
        clock: Clock,
        changed: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._proxies = Proxies(proxies)
        self._logLimited = LogLimit(clock)
        # Those whose headers have not come.
        self._unknown: set[Accepted] = set()
        self._changed = changed
        self.gives = False
        self.connections: set[Accepted] = set()
        self.waiting: deque[Accepted] = deque()
        # For those that were not given yet, finds out what is to be said before.
        self._given: dict[Accepted, Callable[[], tuple[int, bytes] | None]] = {}

    def adopt(
        self,
        descriptor: int,
        cookie: int | None = None,
        reports: Reports = NO_REPORTS,
    ) -> None:
        """
        See L{portlisten._anyloop.interfaces.Adopting}.
        """
        if cookie is None:
            try:
                _, cookie = _kernel.identify(descriptor, [Kind.CONNECTIONS])
            except (OSError, WrongSocket) as error:
                log.bug(
                    "a connection cannot be adopted", error, event="adoption-failed"
                )
                os.close(descriptor)
                reports.closed()
                return
        accepted = Accepted(
            self._loop, descriptor, cookie, partial(self._ended, reports)
        )
        self._given[accepted] = reports.given
        self.connections.add(accepted)
        peer = _peer(descriptor) if self._proxies else None
        if self._proxies.believes(peer):
            self._identify(accepted, peer)
        else:
            self.waiting.append(accepted)
        self._changed()

    def _identify(self, accepted: Accepted, peer: Any) -> None:
        """
        Read the header of a proxy, and let the connection wait for C{accept()}.

        @param peer: the address of the proxy.
        """
        self._unknown.add(accepted)

        def done(header: ProxyHeader | None) -> None:
            if accepted not in self._unknown:
                return  # it was closed
            self._unknown.discard(accepted)
            if header is not None:
                accepted.client = addressOf(header, peer)
                self.waiting.append(accepted)
                return
            self._logLimited(
                log.warning, NO_HEADER, event="header-missing", host=peer[0]
            )
            accepted.refuse()

        awaitHeader(
            lambda: takeHeader(accepted.descriptor), self._loop.call_later, done
        )

    def take(self) -> tuple[Accepted, Connection] | None:
        """
        Give the oldest connection that waits to the program.

        @return: L{None} if none waits.
        @raise OSError: if no socket can be made.  The connection has ended then.
        """
        while self.waiting:
            # A signal handler may raise an exception anywhere here.  At each point,
            # either this object or the socket owns the descriptor.
            accepted = self.waiting[0]
            try:
                if accepted.descriptor >= 0:
                    return accepted, accepted.socket()
            finally:
                self.waiting.popleft()
        return None

    def _ended(self, reports: Reports, accepted: Accepted) -> None:
        if accepted not in self.connections:
            return
        self.connections.discard(accepted)
        self._given.pop(accepted, None)
        (reports.clientGone if accepted.clientGone else reports.closed)()
        self._changed()

    def give(self) -> None:
        """
        Tell the listener that other processes may touch the connections that
        C{accept()} has returned: this process is about to fork.  So if it dies, the
        listener hands none of them to another worker.
        """
        for each in self.connections.difference(self.waiting, self._unknown):
            # If the channel is full, or has just ended, the next fork tries again.
            with suppress(OSError):
                announcement = self._given.get(each, NO_REPORTS.given)()
                if announcement is not None:
                    _kernel.sendBytes(*announcement)
                self._given.pop(each, None)

    def drain(self) -> None:
        """
        See L{portlisten._anyloop.interfaces.Adopting}.  The program knows nothing of
        the drain, so connections end as usual.
        """

    def undrain(self) -> None:
        """
        See L{portlisten._anyloop.interfaces.Adopting}.
        """

    def reset(self) -> None:
        """
        End the connections that wait, as a kernel does when a listening socket is
        closed: nobody is left to take them.
        """
        waiting = [*self.waiting, *self._unknown]
        self.waiting.clear()
        self._unknown.clear()
        for each in waiting:
            each.close(ended=True)

    def abandon(self) -> None:
        """
        See L{portlisten._anyloop.interfaces.Adopting}.
        """
        for each in [*self.waiting, *self._unknown]:
            each.close()
        self.waiting.clear()
        self._unknown.clear()
        self.connections.clear()
        self._given.clear()


def _peer(descriptor: int) -> Any:
    """
    The address of the other end of a connection; L{None} if it has left.  Does not keep
    the descriptor.
    """
    sock = _kernel.received(descriptor)
    try:
        return peerOf(sock)
    except OSError:
        return None
    finally:
        sock.detach()


class Worker(worker.Worker[Queue]):
    """
    Lets a program ask for connections, one by one.

    @param settings: of the description, with a limit.
    @param first: how long the listener keeps silent clients, in seconds; zero if
        clients need not speak first.
    @param label: the worker's name for the operator, or nothing.
    @param joined: called each time that the worker has joined a listener.
    @param done: called when the worker has stopped.
    """

    portsType = SharedPorts

    def __init__(
        self,
        loop: Loop,
        settings: WorkerSettings,
        first: float,
        label: str,
        joined: Callable[[], None],
        done: Callable[[], None],
    ) -> None:
        make = partial(Queue, loop, settings.proxies or ())
        super().__init__(loop, settings, first, label, make, done)
        self._joined = joined
        self._old = False
        self._left = False
        self._hung = False
        self._wasAsked = False

    # What the program does

    @property
    def canGive(self) -> bool:
        """
        Whether the program should ask for a connection.
        """
        return bool(self.adopter.waiting or self._hung or self._offered)

    @property
    def _offered(self) -> bool:
        ports = self._sharedPorts
        return bool(
            (self._channel is not None and self._channel.claimable)
            or (isinstance(ports, SharedPorts) and ports.ready)
        )

    def asked(self) -> tuple[Accepted, Connection] | None:
        """
        Give the program a connection.

        @return: L{None} if there is none.
        @raise OSError: if no socket can be made.  The connection has ended then.
        """
        self._wasAsked = True
        if self._hung:
            self._hung = False
            self._connectSoon()
        waiting = self.adopter.waiting
        if not waiting and self._channel is not None and self._channel.claimable:
            try:
                self._channel.claim()
            except BaseException:
                self._clock.callSoon(self.interrupted)
                raise
        if not waiting and isinstance(self._sharedPorts, SharedPorts):
            self._sharedPorts.take()
        return self.adopter.take()

    def interrupted(self) -> None:
        """
        A signal handler has raised an exception while the program used the channel,
        which may be in disorder now.  Join again: a claim or an end that was not
        written would count against the limit for ever.
        """
        if self._channel is not None:
            self._channel.giveUp("a signal handler raised an exception meanwhile")

    # What the listener does

    def registered(self, channel: WorkerChannel, ports: Sequence[Port]) -> None:
        """
        See L{portlisten._anyloop.channel.ChannelUser}.
        """
        super().registered(channel, ports)
        self._joined()
        was, self._old = self._old, "limit" in channel.ignored
        if self._old and not was and self._settings.limit != 1:
            self._leave(channel, "joins again, to be offered one connection at a time")

    def adopt(self, channel: WorkerChannel, *arguments: Any) -> None:
        """
        See L{portlisten._anyloop.channel.ChannelUser}.
        """
        super().adopt(channel, *arguments)
        if self.stage is not worker.Stage.SERVING:
            # The claim was under way when the worker stopped.
            self.adopter.reset()
        elif self._old and self._full:
            count = len(self.adopter.connections)
            self._leave(channel, f"serves {count} connections, and wants no more")

    def _leave(self, channel: WorkerChannel, reason: str) -> None:
        self._left = True
        channel.bye(reason)

    def lost(self, channel: WorkerChannel, reason: str | None) -> None:
        """
        See L{portlisten._anyloop.channel.ChannelUser}.
        """
        self._hung = channel.revoked
        super().lost(channel, reason)
        if self._left:
            self._left = False
            self._reconnection.cancel()
            if not self._full:
                self._connectSoon()
        if self._hung and not self._wasAsked:
            self._logLimited(
                log.error,
                "nothing calls accept() here, so nobody is served: a socket of"
                " portlisten.blocking is for programs that call its accept(), and"
                " event loops have portlisten.asyncio.create_server",
                event="accept-not-called",
            )

    @property
    def _full(self) -> bool:
        limit = self._settings.limit
        return limit is not None and len(self.adopter.connections) >= limit

    def _connect(self) -> None:
        if not (self._hung or (self._old and self._full)):
            super()._connect()

    def _connectSoon(self) -> None:
        if (
            self.stage is worker.Stage.SERVING
            and self._link is Link.ABSENT
            and not self._reconnection.active
        ):
            self._reconnection.begin(0)

    def _changed(self) -> None:
        super()._changed()
        if not self._full:
            self._connectSoon()

    def _makeChannel(
        self, sock: socket.socket, *arguments: Any, **options: Any
    ) -> WorkerChannel:
        window = 1 if self._old else MAXIMUM_WINDOW
        options.update(window=window, claimsAll=False, inTurns=False)
        return super()._makeChannel(sock, *arguments, **options)

    def abandonInChild(self) -> None:
        """
        Close all descriptors after a fork, in the child.  Parent and child share the
        epoll, so nothing may be removed from it.
        """
        if self._poller is not None:
            self._poller.close()
        self.abandon()

    def stop(self) -> None:
        """
        See L{portlisten._anyloop.worker.Worker.stop}.
        """
        super().stop()
        self.adopter.reset()

    def leave(self) -> None:
        """
        Stop, because the process ends: its connections end with it.
        """
        self.stop()
        if self.stage is worker.Stage.WAITING:
            self.adopter.connections.clear()
            self._disconnect()
