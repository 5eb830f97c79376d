"""
The sockets of a listener that a supervisor starts.

The supervisor has bound all ports and the path that workers connect to, and listens.
It keeps all sockets when the listener ends, so clients and workers wait in their
backlogs for the next listener.  Nobody calls listen(2) on the path's socket again:
C{SO_PEERCRED} would then show workers the user of this process, and not the
supervisor's.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from zope.interface import implementer

from portlisten import _kernel
from portlisten._config.port_options import readLimits
from portlisten._control.convert import ControlError
from portlisten._control.messages import Request, Stop, StopAnswer
from portlisten._control.server import ControlServer, Handler
from portlisten._control.start import (
    MAXIMUM_SOCKETS,
    MAXIMUM_START_BYTES,
    GivenPort,
    StartMessage,
    encodeReady,
    parseStart,
)
from portlisten._handover.handover import Handed
from portlisten._handover.messages import Commit
from portlisten._handover.successors import Successors
from portlisten._handover.takeover import Takeover, Transfer
from portlisten._listener.interfaces import ISockets
from portlisten._listener.predecessor import takeOver
from portlisten._model import Kind
from portlisten._ports.binding import BoundPort, boundElsewhere
from portlisten._process import signals
from portlisten.errors import WrongSocket

#: How long the start message may take, in seconds.
START_SECONDS = 30.0


@dataclass
class GivenPath:
    """
    See L{portlisten._listener.interfaces.ChannelPath}.  The path is the supervisor's.
    """

    socket: socket.socket

    def remove(self) -> bool:
        """
        See L{portlisten._listener.interfaces.ChannelPath}.
        """
        return False


@implementer(ISockets)
class GivenSockets:
    """
    See L{ISockets}.

    @param ports: the ports.
    @param channel: the listening socket of the path that workers connect to.
    @param link: is connected to the supervisor.
    @param stop: called when the listener must stop.  May be called again.
    @param successors: brings a connection to each listener that is to replace this one.
    @param predecessor: is connected to the listener that this one replaces.

    All sockets belong to this object, until a method passes them on or L{close} is
    called.
    """

    log = Logger()

    def __init__(
        self,
        ports: Sequence[BoundPort],
        channel: socket.socket,
        link: socket.socket,
        stop: Callable[[], object] = lambda: None,
        successors: socket.socket | None = None,
        predecessor: socket.socket | None = None,
    ) -> None:
        self._successors = successors
        self._predecessor = predecessor
        self._ports: Sequence[BoundPort] = ports
        self._channel: socket.socket | None = channel
        self._link: socket.socket | None = link
        self._server: ControlServer | None = None
        self._final = False
        self._parent = os.getppid()
        self.stop = stop

    def waitForPredecessor(self) -> float:
        """
        See L{ISockets}.  The supervisor starts a listener only after the last one has
        ended.
        """
        return 0.0

    def bindPorts(self, end: float) -> list[BoundPort]:
        """
        See L{ISockets}.
        """
        ports, self._ports = self._ports, ()
        return list(ports)

    def bindChannel(self) -> GivenPath:
        """
        See L{ISockets}.
        """
        channel, self._channel = self._channel, None
        assert channel is not None
        return GivenPath(channel)

    def bindControl(self) -> None:
        """
        See L{ISockets}.  The supervisor has the control socket.
        """

    def startControl(
        self, reactor: Any, handlers: Mapping[type[Request], Handler]
    ) -> ControlServer | None:
        """
        See L{ISockets}.  The supervisor's requests are answered after L{sayReady}.
        """
        self._reactor = reactor
        self._server = ControlServer(
            reactor, None, {**handlers, Stop: self._stopForGood}, ()
        )
        return self._server

    def sayReady(self) -> None:
        """
        Tell the supervisor that the listener accepts, and answer its requests from now
        on.  Call this after L{startControl}.
        """
        assert self._link is not None
        assert self._server is not None
        link, self._link = self._link, None
        successors, self._successors = self._successors, None
        if successors is not None:
            Successors(self._server.serve).listen(self._reactor, successors)
        with suppress(OSError):  # reading then finds that the supervisor is gone
            link.send(encodeReady(os.getpid()))
        self._server.serve(link, self._supervisorGone)

    def _supervisorGone(self) -> None:
        self.log.warn("the supervisor is gone, stopping", event="stopping")
        self.stop()

    def _stopForGood(self, request: Any, client: _kernel.Credentials) -> StopAnswer:
        """
        Stop, because the supervisor is about to close the sockets as well.
        """
        self.log.info("the supervisor ends the service, stopping", event="stopping")
        self._final = True
        self.stop()
        return StopAnswer(os.getpid())

    # A predecessor, and a successor

    def takeOver(self, ports: Sequence[BoundPort]) -> tuple[Commit, Transfer] | None:
        """
        See L{ISockets}.
        """
        link, self._predecessor = self._predecessor, None
        if link is None:
            return None
        takeover = Takeover(link, "the listener before this one", signals.stopRequested)
        if not takeover.ask():
            return None
        return takeOver(takeover, ports)

    def settle(self) -> None:
        """
        See L{ISockets}.  The paths are the supervisor's.
        """

    def handed(self, ports: Sequence[BoundPort]) -> list[Handed]:
        """
        See L{ISockets}.  The supervisor gives the next listener its sockets.
        """
        return []

    def disown(self) -> None:
        """
        See L{ISockets}.  The paths are the supervisor's.
        """

    def pauseMonitor(self) -> None:
        """
        See L{ISockets}.  The supervisor has the monitor.
        """

    def resumeMonitor(self) -> None:
        """
        See L{ISockets}.  The supervisor has the monitor.
        """

    def stopMonitor(self) -> Deferred[None]:
        """
        See L{ISockets}.  The supervisor has the monitor.
        """
        return succeed(None)

    def keepsPort(self, bound: BoundPort) -> bool:
        """
        See L{ISockets}.
        """
        return bound.inherited or self._supervisorKeeps()

    def shutsPort(self, bound: BoundPort) -> bool:
        """
        See L{ISockets}.  The supervisor holds the sockets until the workers have ended.
        """
        return self._final and not bound.inherited

    def keepsChannel(self) -> bool:
        """
        See L{ISockets}.
        """
        return self._supervisorKeeps()

    def _supervisorKeeps(self) -> bool:
        """
        Whether the supervisor keeps the sockets when this process ends.  If it has
        died, this process hears SIGTERM and the end of the link, in any order.  Before
        either, it gets another parent: C{forget_original_parent} in kernel/exit.c.
        """
        return not self._final and not self._supervisorDied()

    def expectsWorkers(self) -> bool:
        """
        See L{ISockets}.  If the supervisor has died, its workers end as well, and the
        next supervisor waits until this process has ended.
        """
        return not self._supervisorDied()

    def _supervisorDied(self) -> bool:
        return os.getppid() != self._parent

    def release(self) -> None:
        """
        See L{ISockets}.
        """

    def close(self) -> None:
        """
        Close the sockets that no method has passed on.
        """
        for port in self._ports:
            port.close()
        for sock in (self._channel, self._link, self._successors, self._predecessor):
            if sock is not None:
                sock.close()
        self._ports, self._channel, self._link = (), None, None
        self._successors = self._predecessor = None


def receiveStart(link: socket.socket) -> tuple[StartMessage, GivenSockets]:
    """
    Wait for the start message, and take the sockets that come with it.

    @param link: is connected to the supervisor.  Belongs to the L{GivenSockets} from
        now on, unless this raises.
    @raise ControlError: if there is no start message in time, or the sockets do not fit
        it.  Nothing stays open then but the link.
    """
    line, descriptors = _read(link)
    with ExitStack() as undo:
        for each in descriptors:
            undo.callback(os.close, each)
        message = parseStart(line)
        if len(descriptors) != message.descriptors:
            raise ControlError(
                f"{len(descriptors)} descriptors came with the start message, which"
                f" names {message.descriptors}"
            )
        count = len(descriptors) - len(message.links)
        links = {}
        for name, each in zip(message.links, descriptors[count:], strict=True):
            try:
                links[name] = sock = socket.socket(fileno=each)
            except OSError as error:
                raise ControlError(
                    f"a descriptor leads to no socket: {error.strerror}"
                ) from None
            undo.callback(sock.detach)
        ports, channel = _sort(message, descriptors[:count])
        undo.pop_all()
    link.setblocking(False)
    return message, GivenSockets(
        ports,
        channel,
        link,
        successors=links.get("successors"),
        predecessor=links.get("predecessor"),
    )


def _read(link: socket.socket) -> tuple[bytes, list[int]]:
    """
    Read a line, and the descriptors that come with it.

    @return: both.  The caller owns the descriptors.
    @raise ControlError: if that fails.  Then no descriptor stays open.
    """
    descriptors: list[int] = []
    try:
        return _readLine(link, descriptors), descriptors
    except BaseException:
        for each in descriptors:
            os.close(each)
        raise


def _readLine(link: socket.socket, descriptors: list[int]) -> bytes:
    """
    Read a line.

    @param descriptors: gets the descriptors that come, which the caller owns.
    """
    received = b""
    end = time.monotonic() + START_SECONDS
    while b"\n" not in received:
        try:
            link.settimeout(max(0.001, end - time.monotonic()))
            data, came = _kernel.receive(link)
        except TimeoutError:
            raise ControlError(f"no start message within {START_SECONDS:g} s") from None
        except OSError as error:
            raise ControlError(
                f"the start message cannot be read: {error.strerror}"
            ) from None
        descriptors += came
        received += data
        if not data:
            raise ControlError("the supervisor closed the link before the start")
        if len(received) > MAXIMUM_START_BYTES or len(descriptors) > MAXIMUM_SOCKETS:
            raise ControlError("the start message is too long")
    line, _, rest = received.partition(b"\n")
    if rest:
        raise ControlError("more than the start message came before the answer")
    return line


def _sort(
    message: StartMessage, descriptors: Sequence[int]
) -> tuple[list[BoundPort], socket.socket]:
    """
    Find out which socket is which.

    @return: the ports, and the channel's socket.  The descriptors belong to them.
    @raise ControlError: if a socket does not fit the message.  All descriptors stay
        open then.
    """
    sockets: list[socket.socket] = []
    try:
        for each in descriptors:
            sockets.append(socket.socket(fileno=each))
        *others, channel = sockets
        left = iter(others)
        ports = [
            _port(place, port, list(islice(left, port.sockets)))
            for place, port in enumerate(message.ports)
        ]
        if channel.family != socket.AF_UNIX or not _isListening(channel):
            raise ControlError("the channel's socket is no Unix socket that listens")
        channel.setblocking(False)
    except BaseException as error:
        for sock in sockets:
            sock.detach()
        if isinstance(error, OSError):
            raise ControlError(
                f"a descriptor leads to no socket: {error.strerror}"
            ) from None
        raise
    return ports, channel


def _isListening(sock: socket.socket) -> bool:
    try:
        return _kernel.kindOf(sock) is Kind.LISTENER
    except WrongSocket:
        return False


def _port(place: int, port: GivenPort, sockets: list[socket.socket]) -> BoundPort:
    try:
        bound = boundElsewhere(sockets, port.name, Kind[port.kind])
    except (WrongSocket, OSError) as error:
        raise ControlError(
            f"a socket of port {place}, {port.address}, does not fit: it is {error}"
        ) from None
    if str(bound.address) != port.address:
        raise ControlError(
            f"the socket of port {place}, {port.address}, is bound to {bound.address}"
        )
    # The supervisor's own ports end with it.
    return replace(
        bound,
        inherited=port.kept,
        balanced=port.balanced,
        limits=readLimits(port.limits),
    )
