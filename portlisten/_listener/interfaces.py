"""
The contracts between the parts of the listener.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from zope.interface import Attribute, Interface

if TYPE_CHECKING:
    from socket import socket

    from twisted.internet.defer import Deferred

    from portlisten._control.messages import Request
    from portlisten._control.server import ControlServer, Handler
    from portlisten._handover.handover import Handed
    from portlisten._handover.messages import Commit
    from portlisten._handover.takeover import Transfer
    from portlisten._kernel import SharedMemory
    from portlisten._model import Port
    from portlisten._policy.source_limits import Limits
    from portlisten._ports.binding import BoundPort
    from portlisten._wire.listener_session import News


class IConnection(Interface):
    """
    An accepted connection, as the listener holds it.
    """

    peer: str = Attribute("The client's address, for the log.")
    cookie: int = Attribute("C{SO_COOKIE} of the socket.")

    def fileno() -> int:
        """
        The descriptor, which stays this object's.
        """

    def untouched() -> bool | None:
        """
        Say whether nothing was read from the connection and nothing written to it.

        @return: L{None} if the kernel cannot say now.
        """

    def unusable() -> bool:
        """
        Say whether a process made a listening socket of the connection.  Each process
        that has a descriptor of a connection can do that.
        """

    def reset() -> None:
        """
        End the connection, and close the descriptor.  If no other process has the
        connection, the client sees a reset.
        """

    def closeCopy() -> None:
        """
        Close the listener's descriptor, and leave the connection to the process that
        holds another.
        """


class IWire(Interface):
    """
    How accepted connections get to the workers.
    """

    capacityChanged = Attribute(
        "A function to call when it may be possible to accept again.  The user of the"
        " wire sets it before the start."
    )

    backlogOf = Attribute(
        "A function that says how many connections wait in the kernel for the port of a"
        " number.  The user of the wire sets it before the start."
    )

    def __str__() -> str:
        """
        Say for the log how workers connect.
        """

    def waitForPredecessor() -> float:
        """
        If another listener has this one's place and was told to stop, wait until that
        listener has ended.

        @return: for how long that listener's ports may still be in use, in seconds.
        @raise ToldToStop: if this process is told to stop meanwhile.
        """

    def bind(
        ports: Sequence[Port],
        shared: Mapping[int, Sequence[socket]],
        balanced: Collection[int] = (),
        limits: Mapping[int, Limits] = {},
    ) -> None:
        """
        Bind what the wire needs, before privileges are dropped.

        @param ports: the ports that the listener listens on.
        @param shared: the sockets of the shared ports, by the numbers of the ports.
            They stay the caller's.  The caller keeps them open until L{stop} is done.
        @param balanced: the numbers of those whose workers leave clients to the workers
            that have fewer connections.
        @param limits: the limits of clients, by the numbers of the ports that have any.
        @raise CannotBind: if that is impossible.  Nothing stays bound then.
        @raise PathError: likewise, because of the path.
        @raise OSError: likewise.
        """

    def start(connections: int, channels: int) -> None:
        """
        Begin, after privileges were dropped.

        @param connections: how many descriptors of connections the wire may hold.
        @param channels: how many workers may be connected.
        """

    def capacity(name: str) -> int:
        """
        Say how many connections may be accepted now on ports of this name.
        """

    def busy(name: str) -> bool:
        """
        Say whether it is better to accept a little later on ports of this name,
        despite their L{capacity}.  If so, C{capacityChanged} is called before long.
        """

    def accepted(port: Port, batch: Sequence[Any]) -> None:
        """
        Take connections that came in by a port, at least one.  They belong to the wire
        from now on.

        @param batch: L{AcceptedConnection<portlisten._listener.connection>}s.
        """

    def report() -> None:
        """
        Log what became of the connections, and where the others are.
        """

    def serves(name: str) -> bool:
        """
        Say whether a worker takes connections of ports of this name, as far as the
        wire knows.
        """

    def stop(grace: float, waitsElsewhere: Callable[[], bool]) -> Deferred[None]:
        """
        Hand off the connections that wait.  Meanwhile, new workers may join.

        @param grace: how long that may take, in seconds.
        @param waitsElsewhere: says whether connections wait that were not accepted
            yet.  As soon as a worker L{serves} them, C{capacityChanged} is called, and
            they are accepted.
        @return: fires when this is done.
        """

    def release() -> None:
        """
        Close what is still bound.
        """


class ISucceededWire(IWire):
    """
    A wire whose listener can be replaced while it serves.
    """

    handlers = Attribute(
        "More functions that answer requests of the control socket, by the types of the"
        " requests.  The user of the wire sets them before the start."
    )

    def inherit(commit: Commit, transfer: Transfer) -> None:
        """
        After the start: take the connections that wait at the listener before this one.

        @param transfer: belongs to the wire from now on.
        @raise OSError: if that is impossible.
        """

    def suspend() -> Commit:
        """
        Let in neither workers nor operators for now: they wait.

        @return: what the next listener must know.
        """

    def resume() -> None:
        """
        Undo L{suspend}.
        """

    def retire(
        grace: float,
        names: Collection[str],
        transfer: socket,
        waits: Callable[[], Collection[str]],
    ) -> Deferred[None]:
        """
        Hand over what waits to the next listener, and let the workers go.

        @param grace: how long that may take, in seconds.
        @param names: the names of the ports of the next listener.
        @param transfer: is connected to the next listener, and belongs to the wire from
            now on.
        @param waits: says which names of other ports have clients in their backlogs.
        @return: fires when this is done.
        """

    def takeBack() -> None:
        """
        The next listener is dead: undo L{retire}.
        """


class IChannel(Interface):
    """
    The listener's end of a channel, as the dispatcher uses it.
    """

    label: str = Attribute("The worker's name in the text of the log.")
    name: str = Attribute("The label that the worker gave, or 'worker' and its number.")
    number: int = Attribute("The channel's number.  Later channels have higher ones.")
    user: int = Attribute("The worker's uid.")
    pid: int = Attribute("The number of the worker's process; 0 if it is not known.")

    def offer(id: int, port: int, connection: IConnection, more: bool = False) -> None:
        """
        Send a connection.  Its descriptor stays the caller's.  The caller keeps it open
        until the offer is claimed or refused, or the channel has ended.

        @param more: keep it for L{flush}, since other offers are about to follow.
        """

    def flush() -> None:
        """
        Send all kept offers together.
        """

    def shareSocket(port: int, sock: socket) -> None:
        """
        Let the worker use a socket of a shared port.  The socket stays the caller's.

        @param port: the port's number.
        """

    def shareLoads(
        slot: int, ports: int, loads: SharedMemory, members: SharedMemory
    ) -> None:
        """
        Let the worker and others tell each other how many connections they have.  The
        memory stays the caller's.

        @param slot: the worker's place in it.
        @param ports: one more than the largest number of a port in it.
        """

    def withdraw(sock: socket) -> None:
        """
        Ask the worker to use a shared socket no more.
        """

    def unread() -> bool:
        """
        Say whether the worker has not read all that it was sent.  May be called after
        the end, until L{dismiss}.
        """

    def inFlight() -> int:
        """
        Say how many sent descriptors the worker may not have read.  May be called after
        the end, until L{dismiss}.
        """

    def process() -> int | None:
        """
        Find the worker's process.

        @return: a pidfd, which is the caller's, or L{None} if none can be made.
        @raise ProcessLookupError: if the process has ended.
        """

    def dismiss() -> bool:
        """
        Close what stayed open for L{unread} and L{inFlight}.

        @return: whether that was possible.  If not, it may be possible later.
        """

    def leave() -> None:
        """
        Ask the worker to drain, if it knows LEAVE.
        """

    def drained() -> None:
        """
        Confirm that no offer follows.
        """

    def revoke(reason: str) -> None:
        """
        Take back all offers that are not claimed.  When the worker can claim nothing
        more, the channel calls L{IDispatcher.left} or L{IDispatcher.died}.
        """

    def bye(reason: str) -> None:
        """
        Say BYE and close.  The offers stay the worker's.
        """


class IDispatcher(Interface):
    """
    What the listener's end of a channel reports about its worker.
    """

    def connected(channel: IChannel) -> None:
        """
        A worker connected.  It has sent nothing yet.
        """

    def received(channel: IChannel, events: Iterable[News]) -> None:
        """
        The channel read these events at once.  The dispatcher carries out all decisions
        that follow from them together.

        @raise ProtocolError: if an event names ids that do not fit.  The events before
            it count.  The event itself does not count.  The events after it are still
            in the iterator.
        """

    def revoking(channel: IChannel) -> None:
        """
        The worker is being revoked.  It must get no more offers.
        """

    def left(channel: IChannel, reason: str) -> None:
        """
        The worker left.  It can claim nothing more, and goes on serving the connections
        that it claimed.
        """

    def died(channel: IChannel) -> None:
        """
        The worker closed the channel without BYE.  All that it had sent was reported.
        """

    def channelClosed(channel: IChannel) -> None:
        """
        The channel is closed.  This is its last event.  When the dispatcher needs no
        more answers from the channel, it calls L{IChannel.dismiss}.
        """


class ChannelPath(Protocol):
    """
    The path that workers connect to.

    @ivar socket: the listening, non-blocking socket.  The user of this object closes
        it.
    """

    socket: socket

    def remove(self) -> bool:
        """
        Remove the path, if this process has bound it.  Call this while the socket is
        open.

        @return: whether the path was removed.
        """


class ISockets(Interface):
    """
    Where the listener's sockets come from.
    """

    def waitForPredecessor() -> float:
        """
        See L{IWire.waitForPredecessor}.
        """

    def bindPorts(end: float) -> list[BoundPort]:
        """
        Bind the ports.

        @param end: until when a predecessor's ports may still be in use, as a time of
            C{time.monotonic}.
        @return: the ports.  The caller owns their sockets.
        @raise CannotBind: if a port cannot be bound.  Then none is.
        """

    def bindChannel() -> ChannelPath:
        """
        Bind the path that workers connect to, and listen.

        @return: the path.  The caller owns it.
        @raise PathError: if that fails.
        """

    def bindControl() -> None:
        """
        Bind what L{startControl} needs.

        @raise PathError: if that fails.
        """

    def startControl(
        reactor: Any, handlers: Mapping[type[Request], Handler]
    ) -> ControlServer | None:
        """
        Begin to answer an operator's requests, and those of the monitor, if one is to
        run.

        @param handlers: see L{ControlServer}.
        @return: the server, which the caller closes; L{None} if nobody can ask.
        """

    def takeOver(ports: Sequence[BoundPort]) -> tuple[Commit, Transfer] | None:
        """
        After privileges were dropped: take over from the listener that L{bindPorts} and
        the others have sockets of.  It goes on if this raises.

        @param ports: all ports.
        @return: what it says, and what goes on; the latter is the caller's.  L{None} if
            no such listener lives.
        @raise CannotTakeOver: if that is impossible.
        """

    def settle() -> None:
        """
        This listener serves: the paths belong to it from now on.
        """

    def handed(ports: Sequence[BoundPort]) -> list[Handed]:
        """
        List the sockets that the next listener gets from this one.  They stay this
        object's.
        """

    def disown() -> None:
        """
        The next listener serves: the paths belong to it from now on.
        """

    def pauseMonitor() -> None:
        """
        Stop the monitor for now, if one runs.
        """

    def resumeMonitor() -> None:
        """
        Undo L{pauseMonitor}.
        """

    def stopMonitor() -> Deferred[None]:
        """
        Stop the monitor, if one runs.

        @return: fires when it has ended.
        """

    def keepsPort(bound: BoundPort) -> bool:
        """
        Say whether the sockets of a port stay open elsewhere when this process ends.
        Then its backlog is not lost.
        """

    def shutsPort(bound: BoundPort) -> bool:
        """
        Say whether a stop must shut the sockets of a port down when it has taken their
        backlog.  Otherwise clients would wait there in vain, if another process holds
        the sockets for a while.
        """

    def keepsChannel() -> bool:
        """
        Say whether the path that workers connect to stays open elsewhere when this
        process ends.  Then workers that connect wait for the next listener.
        """

    def expectsWorkers() -> bool:
        """
        Say whether a stop may wait for a worker while none is connected.
        """

    def release() -> None:
        """
        Close what L{bindControl} has bound, and L{startControl} has not used, and all
        that the monitor has.
        """
