"""
The listener's side of the C{stream} wire: binds the channels' path, lets workers
in, and hands off connections to them.
"""

from __future__ import annotations

import resource
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from zope.interface import implementer

from portlisten import _kernel
from portlisten._channel import paths
from portlisten._channel.transport import ChannelTransport
from portlisten._channel.unread import Unread
from portlisten._config.settings import ListenerSettings
from portlisten._listener import successor
from portlisten._listener.access import accessFor
from portlisten._listener.channel import ListenerChannel
from portlisten._listener.dispatcher import Dispatcher
from portlisten._listener.interfaces import IChannel, IWire
from portlisten._listener.sharing import Sharing
from portlisten._model import Kind, Port
from portlisten._policy.ledger import Ledger
from portlisten._policy.places import Places
from portlisten._policy.throttle import Throttle
from portlisten._ports.accepting import Accepted, Acceptor
from portlisten._process import signals
from portlisten._reactor.log_limit import logLimit
from portlisten._reactor.pause import Pause
from portlisten._wire.frames import Bye, ListenerHello, encode
from portlisten.errors import CannotBind, ToldToStop

#: How many workers are let in at a time, and the pause after that, in seconds: a
#: process that connects as fast as it can must not keep the listener busy.
GREETED = 8
GREETING_PAUSE = 0.05

#: How long workers may take to close what a listener shared that has ended, in
#: seconds.
HANDOVER = 2.0


@implementer(IWire)
class StreamWire:
    """
    See L{IWire}.

    @param backlog: of the channels' path, and of shared ports that have to listen
        again.
    @param timedOut: called when the patience of connections ran out.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        settings: ListenerSettings,
        backlog: int,
        timedOut: Callable[[], None],
    ) -> None:
        self._reactor = reactor
        self._settings = settings
        self._backlog = backlog
        self._timedOut = timedOut
        self._path: paths.BoundPath | None = None
        self._numbers = 0
        self._parting = False
        self._greetingPause = Pause(reactor, self._letMoreIn)
        self._quiet = logLimit(reactor)
        self.roomChanged: Callable[[], None] = lambda: None

    def __str__(self) -> str:
        path, mode = self._settings.path, self._settings.mode
        return f"workers connect to {path} (mode {mode:04o})"

    def succeed(self) -> float:
        """
        See L{IWire}.
        """
        path = self._settings.path
        if not successor.stops(path):
            return 0.0
        self.log.info("waiting for the listener at {path} to stop", path=path)
        if not successor.waitForEnd(path, signals.toldToStop):
            raise ToldToStop(f"told to stop while it waited for {path}")
        return HANDOVER

    def bind(
        self, ports: Sequence[Port], shared: Mapping[int, Sequence[socket.socket]]
    ) -> None:
        """
        See L{IWire}.
        """
        self._hello = self._greeting(ports)
        self._shared = shared
        self._path = paths.bind(
            self._settings.path,
            self._settings.mode,
            self._settings.group,
            self._backlog,
        )
        self._refuses = _kernel.refuseDescriptors(self._path.socket)

    def _greeting(self, ports: Sequence[Port]) -> ListenerHello:
        """
        Say what all workers are told first.

        @raise CannotBind: if that is more than fits a frame.
        """
        hello = ListenerHello(self._settings.window, tuple(ports))
        try:
            encode(hello)
        except ValueError:
            raise CannotBind(
                f"{len(ports)} ports are more than a listener can tell its workers of:"
                " start another listener for some of them"
            ) from None
        return hello

    def start(self, connections: int, channels: int) -> None:
        """
        See L{IWire}.
        """
        assert self._path is not None
        if not self._refuses:
            self.log.info(
                "this kernel cannot refuse descriptors that workers send (Linux 6.16"
                " can): a worker that sends one is cut off"
            )
        settings = self._settings
        self._parting = False
        self._access = accessFor(settings)
        # The kernel counts descriptors in flight against it: too_many_unix_fds in
        # net/core/scm.c.
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._dispatcher = dispatcher = Dispatcher(
            self._reactor,
            Ledger(
                settings.queue,
                connections,
                settings.patience,
                claimTimeout=settings.claimTimeout,
                roundRobin=settings.balance == "round-robin",
                names=[
                    port.name
                    for port in self._hello.ports
                    if port.kind is Kind.CONNECTIONS
                ],
            ),
            Throttle(longest=settings.throttle),
            Sharing(
                self._reactor,
                self._hello.ports,
                self._shared,
                self._backlog,
                settings.claimTimeout,
                connections // 4,
            ),
            self._timedOut,
            limit,
        )
        dispatcher.roomChanged = self.roomChanged
        dispatcher.channelEnded = self._channelEnded
        dispatcher.parting = self._part
        self._places = Places(channels)
        self._flightLimit = limit
        self._workers = Acceptor(
            self._reactor,
            self._path.socket,
            settings.path,
            lambda: GREETED,
            self._admit,
            settings.retry,
        )
        self._workers.resume()

    def room(self, name: str) -> int:
        """
        See L{IWire}.
        """
        return self._dispatcher.room(name)

    def busy(self, name: str) -> bool:
        """
        See L{IWire}.
        """
        return self._dispatcher.busy(name)

    def accepted(self, port: Port, batch: Sequence[Accepted]) -> None:
        """
        See L{IWire}.
        """
        self._dispatcher.accepted(port, batch)

    def report(self) -> None:
        """
        See L{IWire}.
        """
        self._dispatcher.report()

    def serves(self, name: str) -> bool:
        """
        See L{IWire}.
        """
        return self._dispatcher.serves(name)

    def stop(
        self, grace: float, waitsElsewhere: Callable[[], bool] = lambda: False
    ) -> Deferred[None]:
        """
        See L{IWire}.
        """
        self._hello = replace(self._hello, stopping=True)
        stopped = self._dispatcher.stop(grace, waitsElsewhere)
        return stopped.addCallback(self._closePath)

    def _part(self) -> None:
        """
        Let nobody in any more.  The path stays until all is over, so that a successor
        does not try to bind ports that are still bound.
        """
        self._parting = True

    def _closePath(self, result: None) -> None:
        # Before its socket is closed: a successor's might get the same inode.
        if self._path is not None:
            self._path.remove()
            self._path = None
        self._workers.close()
        self._greetingPause.cancel()

    def release(self) -> None:
        """
        See L{IWire}.
        """
        if self._path is not None:
            self._path.remove()
            self._path.socket.close()
            self._path = None

    # Workers

    def _channelEnded(self, channel: IChannel) -> None:
        self._places.free(channel.user)

    def _letMoreIn(self) -> None:
        self._workers.resume()

    def _admit(self, batch: Sequence[Accepted]) -> None:
        self._workers.suspend()
        self._greetingPause.begin(GREETING_PAUSE)
        for sock, _ in batch:
            try:
                who = _kernel.credentials(sock)
            except OSError as error:
                self._complain("a worker", str(error.strerror))
                sock.close()
                continue
            reason = self._objection(who)
            if reason:
                self._turnAway(sock, who, reason)
            else:
                self._letIn(sock, who)

    def _objection(self, who: _kernel.Credentials) -> str:
        """
        Say why a process is not let in, or nothing if it is: it has a place then.
        """
        if self._parting:
            return "the listener stops"
        if not self._access.permits(who):
            return self._access.explain(who)
        unread = self._dispatcher.unreadBy(who.uid)
        if unread > self._flightLimit // 8:
            return (
                f"{unread} descriptors are on their way to processes of uid"
                f" {who.uid} that do not read them: end those"
            )
        if not self._places.take(who.uid):
            return (
                f"the listener is full: {self._places.describe(who.uid)}; a higher"
                " 'ulimit -n' of the listener gives it more"
            )
        return ""

    def _letIn(self, sock: socket.SocketType, who: _kernel.Credentials) -> None:
        self._numbers += 1
        channel = ListenerChannel(
            self._reactor, self._dispatcher, self._hello, self._numbers, who=who
        )
        own = socket.socket(fileno=sock.detach())
        transport = ChannelTransport(
            self._reactor, own, channel, descriptors=False, sent=Unread()
        )
        try:
            transport.start()
        except OSError as error:
            self._complain(channel.label, str(error.strerror))

    def _complain(self, who: str, why: str) -> None:
        self._quiet(
            self.log.error,
            "{channel} is turned away, and may try again: {error}",
            channel=who,
            error=why,
        )

    def _turnAway(
        self, sock: socket.SocketType, who: _kernel.Credentials, reason: str
    ) -> None:
        self._quiet(
            self.log.warn,
            "process {pid} is turned away: {reason}",
            pid=who.pid,
            reason=reason,
        )
        try:
            # A successor looks at the first, and a worker at the second.
            hello = encode(self._hello) if self._parting else b""
            sock.send(hello + encode(Bye(reason)))
        except OSError:
            pass  # it is gone already
        sock.close()
