"""
The contracts between the parts of the listener.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from zope.interface import Attribute, Interface

if TYPE_CHECKING:
    from socket import SocketType, socket

    from twisted.internet.defer import Deferred

    from portlisten._model import Port
    from portlisten._ports.accepting import Accepted
    from portlisten._wire.listener_session import News


class IConnection(Interface):
    """
    An accepted connection, as the listener holds it.
    """

    peer: str = Attribute("Who is at the other end, for the log.")
    cookie: int = Attribute("C{SO_COOKIE} of the socket.")

    def fileno() -> int:
        """
        The descriptor, which stays this object's.
        """

    socket: SocketType = Attribute("The socket, which stays this object's.")

    def untouched() -> bool | None:
        """
        Say whether nothing was read from it and nothing written to it.

        @return: L{None} if that cannot be said now.
        """

    def spoiled() -> bool:
        """
        Say whether some process made a listening socket of it, as any holder of a
        descriptor of a connection can.
        """

    def closeCopy() -> None:
        """
        Close the listener's descriptor, and leave the connection to the process that
        holds another.
        """


class IWire(Interface):
    """
    The way that accepted connections take to the workers.
    """

    capacityChanged = Attribute(
        "A function to call when there may be room to accept again.  Whoever accepts"
        " sets it, before the start."
    )

    def __str__() -> str:
        """
        Say for the log where workers meet it.
        """

    def waitForPredecessor() -> float:
        """
        Wait until a listener that was told to stop, and has the place of this one, is
        gone.

        @return: for how long its ports may still be in use, in seconds.
        @raise ToldToStop: if this process is told to stop meanwhile.
        """

    def bind(ports: Sequence[Port], shared: Mapping[int, Sequence[socket]]) -> None:
        """
        Bind what it needs, as whoever the process is when it starts.

        @param ports: what is listened on.
        @param shared: the sockets of those that are shared, by the numbers of the
            ports.  They stay the caller's, who keeps them open until the L{stop} is
            over.
        @raise CannotBind: if that is impossible.  Nothing stays bound then.
        @raise PathError: likewise, because of the path.
        @raise OSError: likewise.
        """

    def start(connections: int, channels: int) -> None:
        """
        Begin, after privileges were dropped.

        @param connections: how many descriptors of connections it may hold.
        @param channels: how many workers may be connected.
        """

    def capacity(name: str) -> int:
        """
        Say how many connections may be accepted now, on ports of this name.
        """

    def busy(name: str) -> bool:
        """
        Say whether it is better to accept a little later, on ports of this name,
        though there is room.  If so, C{capacityChanged} is called before long.
        """

    def accepted(port: Port, batch: Sequence[Accepted]) -> None:
        """
        Take connections that came in by a port, at least one.  Keeps their
        sockets.
        """

    def report() -> None:
        """
        Log what became of the connections, and what is where.
        """

    def serves(name: str) -> bool:
        """
        Say whether a worker is there for ports of this name, as far as can be told.
        """

    def stop(grace: float, waitsElsewhere: Callable[[], bool]) -> Deferred[None]:
        """
        Hand off what is held.  If no worker is there for it, one may still come.

        @param grace: how long that may take, in seconds.
        @param waitsElsewhere: says whether connections wait that were not accepted
            yet.  They are accepted as soon as a worker L{serves} them: then
            C{capacityChanged} is called.
        @return: fires when it is done.
        """

    def release() -> None:
        """
        Close what is still bound.
        """


class IChannel(Interface):
    """
    What a dispatcher sees of a worker: the listener's end of a channel.
    """

    label: str = Attribute("Who the worker is, for the log.")
    user: int = Attribute("The worker's uid.")

    def offer(id: int, port: int, connection: IConnection, more: bool = False) -> None:
        """
        Send a connection.  Its descriptor stays the caller's, who keeps it open
        until the offer is claimed or refused, or the channel is gone.

        @param more: keep it for L{flush}: others are about to follow.
        """

    def flush() -> None:
        """
        Send what was kept, all in one.
        """

    def shareSocket(port: int, sock: socket) -> None:
        """
        Let the worker use a socket of a port that is shared.  It stays the
        caller's.

        @param port: the port's number.
        """

    def withdraw(sock: socket) -> None:
        """
        Ask the worker to use such a socket no more.
        """

    def unread() -> bool:
        """
        Say whether the worker has yet to read something of what it was sent.  May
        be asked after the end, until L{dismiss}.
        """

    def inFlight() -> int:
        """
        Say how many of the descriptors that it was sent it may not have read.  May
        be asked after the end, until L{dismiss}.
        """

    def process() -> int | None:
        """
        Find the worker's process.

        @return: a pidfd, which is the caller's, or L{None} if there is none.
        @raise ProcessLookupError: if it has ended.
        """

    def dismiss() -> bool:
        """
        Close what is left open for L{unread} and L{inFlight}.

        @return: whether that was possible.  If not, it may be later.
        """

    def drained() -> None:
        """
        Confirm that no offer follows.
        """

    def revoke(reason: str) -> None:
        """
        Take back whatever is not claimed.  The dispatcher hears C{left} once
        nothing can be claimed any more.
        """

    def bye(reason: str) -> None:
        """
        Say farewell and close.  What is offered stays the worker's.
        """


class IDispatcher(Interface):
    """
    What the listener's end of a channel tells about its worker.
    """

    def connected(channel: IChannel) -> None:
        """
        A worker connected, and has said nothing yet.
        """

    def received(channel: IChannel, events: Iterable[News]) -> None:
        """
        The worker said this, all of it in one read of the channel.  The decisions that
        follow from it are carried out together.

        @raise ProtocolError: if an event names ids that do not fit.  The events before
            it count, it counts for nothing, and those behind it are still in the
            iterator.
        """

    def revoking(channel: IChannel) -> None:
        """
        The worker is being revoked, and must be sent no more offers.
        """

    def left(channel: IChannel, reason: str) -> None:
        """
        The worker can claim nothing more, and goes on serving what it claimed.
        """

    def died(channel: IChannel) -> None:
        """
        The worker ended without a BYE, and all that it had sent was reported.
        """

    def channelClosed(channel: IChannel) -> None:
        """
        The channel's last event.  The dispatcher calls C{dismiss} once it has no
        question any more.
        """
