"""
The listener's side of the C{stream} wire: binds the channels' path, lets workers
in, and hands off connections to them.
"""

from __future__ import annotations

import resource
import socket
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from zope.interface import implementer

from portlisten import _kernel
from portlisten._channel.transport import ChannelTransport
from portlisten._channel.unread import Unread
from portlisten._config.settings import ListenerSettings
from portlisten._control.messages import (
    Allow,
    Deny,
    Drain,
    ListDenials,
    Pause,
    Request,
    Resume,
    Status,
    StatusAnswer,
    Undrain,
    Workers,
)
from portlisten._control.pausing import Pausing
from portlisten._control.server import ControlServer, Handler
from portlisten._handover.messages import Commit
from portlisten._handover.takeover import Transfer
from portlisten._listener.access import accessFor
from portlisten._listener.admission import Admission
from portlisten._listener.channel import ListenerChannel
from portlisten._listener.connection import AcceptedConnection
from portlisten._listener.denying import Denying
from portlisten._listener.dispatcher import Dispatcher
from portlisten._listener.interfaces import (
    ChannelPath,
    IChannel,
    ISockets,
    ISucceededWire,
)
from portlisten._listener.limits import Limiter
from portlisten._listener.sharing import Sharing
from portlisten._listener.status import Reporter
from portlisten._model import Kind, Port
from portlisten._policy.ledger import Ledger
from portlisten._policy.networks import nameOf, networkOf
from portlisten._policy.places import Places
from portlisten._policy.source_limits import Limits
from portlisten._policy.throttle import Throttle
from portlisten._ports.accepting import Accepted
from portlisten._wire.codec import encode
from portlisten._wire.frames import Given, ListenerHello, Serving
from portlisten.errors import CannotBind

if TYPE_CHECKING:
    from portlisten._handover.receiver import Receiver


@implementer(ISucceededWire)
class StreamWire:
    """
    See L{IWire}.

    @param backlog: the length of the queue of the channels' path, and of shared ports
        that must listen again.
    @param timedOut: called when the patience of connections ran out.
    @param sockets: where the path that workers connect to comes from.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        settings: ListenerSettings,
        backlog: int,
        timedOut: Callable[[], None],
        sockets: ISockets,
    ) -> None:
        self._reactor = reactor
        self._sockets = sockets
        self._settings = settings
        self._backlog = backlog
        self._timedOut = timedOut
        self._path: ChannelPath | None = None
        self._control: ControlServer | None = None
        self._pausing = Pausing(lambda: settings.metrics or "")
        self._limits: Mapping[int, Limits] = {}
        self._lastNumber = 0
        self._receiver: Receiver | None = None
        self._successor: ListenerChannel | None = None
        self.handlers: dict[type[Request], Handler] = {}
        self.capacityChanged: Callable[[], None] = lambda: None
        self.backlogOf: Callable[[int], int] = lambda number: 0

    def __str__(self) -> str:
        path, mode = self._settings.path, self._settings.mode
        return f"workers connect to {path} (mode {mode:04o})"

    def waitForPredecessor(self) -> float:
        """
        See L{IWire}.
        """
        return self._sockets.waitForPredecessor()

    def bind(
        self,
        ports: Sequence[Port],
        shared: Mapping[int, Sequence[socket.socket]],
        balanced: Collection[int] = (),
        limits: Mapping[int, Limits] = {},
    ) -> None:
        """
        See L{IWire}.
        """
        self._hello = self._makeHello(ports)
        self._shared = shared
        self._balanced = balanced
        self._limits = limits
        self._path = self._sockets.bindChannel()
        self._refusesDescriptors = _kernel.refuseDescriptors(self._path.socket)
        self._sockets.bindControl()

    def _makeHello(self, ports: Sequence[Port]) -> ListenerHello:
        """
        Make the HELLO for all workers.

        @raise CannotBind: if it does not fit a frame.
        """
        hello = ListenerHello(
            self._settings.window,
            tuple(ports),
            honoursLimit=True,
            honoursFirst=True,
            frames=frozenset([Serving.TYPE, Given.TYPE]),
            claimTimeout=min(round(self._settings.claimTimeout * 1000), 0xFFFFFFFF),
        )
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
        if not self._refusesDescriptors:
            self.log.info(
                "this kernel cannot refuse descriptors that workers send (Linux 6.16"
                " can): a worker that sends one is cut off",
                event="kernel-lacks",
            )
        settings = self._settings
        # The kernel counts a user's descriptors in flight against this limit:
        # too_many_unix_fds in net/core/scm.c.
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        limiter = Limiter(self._reactor, self._hello.ports, self._limits)
        self._limiter = limiter
        ledger = Ledger(
            settings.queue,
            connections,
            settings.patience,
            claimTimeout=settings.claimTimeout,
            roundRobin=settings.balance == "round-robin",
            names=[
                port.name for port in self._hello.ports if port.kind is Kind.CONNECTIONS
            ],
            tables=limiter.tables,
            fair=limiter.fair,
        )
        sharing = Sharing(
            self._reactor,
            self._hello.ports,
            self._shared,
            self._backlog,
            settings.claimTimeout,
            connections // 4,
            self._balanced,
        )
        self._dispatcher = dispatcher = Dispatcher(
            self._reactor,
            ledger,
            Throttle(longest=settings.throttle),
            sharing,
            self._timedOut,
            limit,
            limiter,
        )
        limiter.begin()
        dispatcher.capacityChanged = self.capacityChanged
        dispatcher.lostClients.ports = {
            port.number: port.label for port in self._hello.ports
        }
        dispatcher.handOffEnded = self._refuseWorkers
        self._admission = admission = Admission(
            self._reactor,
            accessFor(settings),
            Places(channels),
            dispatcher.departed.unreadBy,
            limit,
            self._letIn,
        )
        dispatcher.departed.channelEnded = self._channelEnded
        admission.listen(self._path.socket, settings.path, settings.retry)
        self._reporter = Reporter(
            self._reactor,
            settings.path,
            self._hello.ports,
            ledger,
            sharing,
            dispatcher,
            self._limiter,
        )
        roster = dispatcher.roster
        denying = Denying(self._limiter)
        self._control = self._sockets.startControl(
            self._reactor,
            {
                Workers: roster.workers,
                Drain: roster.drain,
                Undrain: roster.undrain,
                Status: self._status,
                Pause: self._pausing.pause,
                Resume: self._pausing.resume,
                Deny: denying.deny,
                Allow: denying.allow,
                ListDenials: denying.list,
                **self.handlers,
            },
        )

    def _status(self, request: Status, client: _kernel.Credentials) -> StatusAnswer:
        return self._reporter.status(
            self._hello.stopping, self.backlogOf, self._pausing.paused
        )

    def capacity(self, name: str) -> int:
        """
        See L{IWire}.
        """
        return self._dispatcher.capacity(name)

    def busy(self, name: str) -> bool:
        """
        See L{IWire}.
        """
        return self._dispatcher.busy(name)

    def accepted(
        self, port: Port, batch: Sequence[AcceptedConnection], waited: float = 0.0
    ) -> None:
        """
        See L{IWire}.
        """
        self._dispatcher.accepted(port, batch, waited)

    def _received(self, port: Port, batch: Sequence[Accepted], waited: float) -> None:
        """
        Take connections that waited at the predecessor.
        """
        self.accepted(port, [AcceptedConnection(*each) for each in batch], waited)

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
        if self._receiver is not None:
            self._receiver.stop()
        self._hello = replace(self._hello, stopping=True)
        stopped = self._dispatcher.stop(
            grace, waitsElsewhere, self._sockets.expectsWorkers
        )
        return stopped.addCallback(self._closePath)

    # A predecessor, and a successor

    def inherit(self, commit: Commit, transfer: Transfer) -> None:
        """
        See L{ISucceededWire}.
        """
        # Few listeners need it.
        from portlisten._handover.receiver import Receiver

        self._pausing.paused = commit.paused
        self._dispatcher.roster.inherit(commit.drained, commit.labels)
        for network, seconds in commit.denied:
            self._limiter.deny(networkOf(network), seconds)
        self._receiver = Receiver(
            self._reactor, transfer, self._hello.ports, self._received
        )
        self._receiver.start()

    def suspend(self) -> Commit:
        """
        See L{ISucceededWire}.
        """
        self._admission.suspend()
        if self._control is not None:
            self._control.suspend()
        return Commit(
            self._pausing.paused,
            self._dispatcher.roster.drained,
            tuple(
                (nameOf(each.network), each.seconds)
                for each in reversed(self._limiter.denials()[1])
            ),
            self._dispatcher.roster.drainedLabels,
        )

    def resume(self) -> None:
        """
        See L{ISucceededWire}.
        """
        self._admission.resume()
        if self._control is not None:
            self._control.resume()

    def retire(
        self,
        grace: float,
        names: Collection[str],
        transfer: socket.socket,
        waits: Callable[[], Collection[str]],
    ) -> Deferred[None]:
        """
        See L{ISucceededWire}.
        """
        done = self._dispatcher.retire(grace, names, waits, self._receives)
        channel = self._makeChannel(_kernel.credentials(transfer))
        channel.waited = partial(self._dispatcher.waited, channel)
        self._successor = channel
        self._dispatcher.succeededBy(channel)
        self._connect(transfer, channel)
        self._hello = replace(self._hello, stopping=True)
        return done

    def _receives(self) -> bool:
        return self._receiver is not None and self._receiver.receives

    def takeBack(self) -> None:
        """
        See L{ISucceededWire}.
        """
        self._hello = replace(self._hello, stopping=False)
        self._successor = None
        self._dispatcher.takeBack()

    def _channelEnded(self, channel: IChannel) -> None:
        if channel is not self._successor:
            self._admission.leave(channel)

    def _refuseWorkers(self) -> None:
        """
        Let in no more workers.  The path stays until L{stop} is done.  So a successor
        does not try to bind ports that are still bound.
        """
        if self._sockets.keepsChannel():
            self._admission.close()
        else:
            self._admission.refuseAll(encode(self._hello))
        # After this, the workers hear BYE.  A client that waits for one to drain must
        # not take that for the worker's end.
        self._closeControl()

    def _closePath(self, result: None) -> None:
        # Remove it before its socket is closed: a successor's might get the same inode.
        if self._path is not None:
            self._path.remove()
            self._path = None
        self._admission.close()

    def release(self) -> None:
        """
        See L{IWire}.
        """
        self._closeControl()
        if self._receiver is not None:
            self._receiver.close()
            self._receiver = None
        if self._path is not None:
            self._path.remove()
            self._path.socket.close()
            self._path = None

    def _closeControl(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None
        self._sockets.release()

    # Workers

    def _letIn(self, sock: socket.SocketType, credentials: _kernel.Credentials) -> None:
        channel = self._makeChannel(credentials)
        self._connect(socket.socket(fileno=sock.detach()), channel)

    def _makeChannel(self, credentials: _kernel.Credentials) -> ListenerChannel:
        self._lastNumber += 1
        return ListenerChannel(
            self._reactor,
            self._dispatcher,
            self._hello,
            self._lastNumber,
            credentials=credentials,
        )

    def _connect(self, own: socket.socket, channel: ListenerChannel) -> None:
        """
        @param own: the socket of the channel, which owns it.
        """
        # The more offers fit, the more go in one message.
        _kernel.enlargeSendBuffer(own)
        transport = ChannelTransport(
            self._reactor, own, channel, descriptors=False, sent=Unread()
        )
        try:
            transport.start()
        except OSError as error:
            self._admission.complain(channel.label, error)
