"""
The contracts between the parts of portlisten.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from zope.interface import Attribute, Interface

if TYPE_CHECKING:
    from socket import SocketType, socket

    from twisted.internet.defer import Deferred

    from portlisten._model import Port
    from portlisten._ports.accepting import Accepted
    from portlisten._wire.frames import Listener, Offer


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

    def pristine() -> bool | None:
        """
        Say whether nothing was read from it and nothing written to it.

        @return: L{None} if that cannot be said now.
        """

    def spoiled() -> bool:
        """
        Say whether some process made a listening socket of it, as any holder of a
        descriptor of a connection can.
        """

    def forget() -> None:
        """
        Close the listener's descriptor, and leave the connection to whoever
        holds another.
        """


class IWire(Interface):
    """
    The way that accepted connections take to the workers.
    """

    roomChanged = Attribute(
        "A function to call when there may be room to accept again.  Whoever accepts"
        " sets it, before the start."
    )

    def __str__() -> str:
        """
        Say for the log where workers meet it.
        """

    def succeed() -> float:
        """
        Wait until a listener that was told to stop, and has the place of this one, is
        gone.

        @return: for how long its ports may still be in use, in seconds.
        @raise StartFailure: if this process is told to stop meanwhile.
        """

    def bind(ports: Sequence[Port], shared: Mapping[Port, Sequence[socket]]) -> None:
        """
        Bind what it needs, as whoever the process is when it starts.

        @param ports: what is listened on.
        @param shared: the sockets of those that are shared.  They stay the
            caller's, who keeps them open until the L{stop} is over.
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

    def room(name: str) -> int:
        """
        Say how many connections may be accepted now, on ports of this name.
        """

    def busy(name: str) -> bool:
        """
        Say whether it is better to accept a little later, on ports of this name,
        though there is room.  If so, C{roomChanged} is called before long.
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
            C{roomChanged} is called.
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

    def lend(port: int, sock: socket) -> None:
        """
        Have the worker use a socket of a port that is shared.  It stays the
        caller's.
        """

    def withdraw(sock: socket) -> None:
        """
        Have it use one no more that it was lent.
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
        Take back whatever is not claimed.  The dispatcher hears C{parted} once
        nothing can be claimed any more.
        """

    def bye(reason: str) -> None:
        """
        Say farewell and close.  What is offered stays the worker's.
        """


class IDispatcher(Interface):
    """
    What the listener's end of a channel tells about its worker.

    Ids that are not outstanding on that channel raise C{ProtocolError}.
    """

    def connected(channel: IChannel) -> None:
        """
        A worker connected, and has said nothing yet.
        """

    def joined(channel: IChannel, window: int, ports: Sequence[Port]) -> None:
        """
        It said HELLO, and wants what there is of these ports.
        """

    def claimed(channel: IChannel, ids: Sequence[int]) -> None:
        """
        It takes these offers.
        """

    def refused(channel: IChannel, ids: Sequence[int], reason: str) -> None:
        """
        It will never touch these offers.
        """

    def closed(channel: IChannel, ids: Sequence[int]) -> None:
        """
        It has done with these connections.
        """

    def gone(channel: IChannel, ids: Sequence[int]) -> None:
        """
        It could not adopt these connections, since their clients had left.
        """

    def draining(channel: IChannel) -> None:
        """
        It wants no more offers.
        """

    def revoking(channel: IChannel) -> None:
        """
        It is being revoked, and must be sent no more offers.
        """

    def parted(channel: IChannel, reason: str) -> None:
        """
        It can claim nothing more, and goes on serving what it claimed.
        """

    def died(channel: IChannel) -> None:
        """
        The worker ended without a BYE, and all that it had sent was reported.
        """

    def disconnected(channel: IChannel) -> None:
        """
        The channel's last event.  The dispatcher calls C{dismiss} once it has no
        question any more.
        """


class IWorker(Interface):
    """
    Serves a factory on the connections that come by a wire.
    """

    ports = Attribute(
        "Those whose connections come, as far as the listener has said: a sequence"
        " of C{Port}."
    )

    def bind() -> None:
        """
        Bind what it needs, or see that there can be what it needs; and start the
        factory, as whoever the process is when it starts.

        @raise PathError: if there can not.
        @raise Exception: what the factory raises.  Nothing stays bound then.
        """

    def start() -> Deferred[None]:
        """
        Begin to serve, and go on until L{stop}.

        @return: fires when connections can come; never, if L{stop} is called
            before that.
        """

    def report() -> None:
        """
        Log how it does.
        """

    def stop() -> Deferred[None]:
        """
        Take no more connections, and wait for those in service to end, but no
        longer than the grace; then stop the factory.  May be called before the
        start, and again.

        @return: fires when that is over.
        """


class IWorkerChannel(Interface):
    """
    What an adopter sees of its listener: the worker's end of a channel.
    """

    broken = Attribute(
        "Whether it was given up for something that the next one may meet as well."
    )

    def drain() -> None:
        """
        Ask for no more offers, and give back those not claimed.  The adopter
        hears C{drained} when none is on its way any more.
        """

    def closed(id: int) -> None:
        """
        Report that a claimed connection has ended.
        """

    def gone(id: int) -> None:
        """
        Report that the client of a claimed connection had left before it was
        adopted.
        """

    def bye(reason: str) -> None:
        """
        Give back what is not claimed, say farewell, and close.
        """


class IAdopter(Interface):
    """
    What the worker's end of a channel tells about its listener.
    """

    def registered(channel: IWorkerChannel, ports: Sequence[Port]) -> None:
        """
        The listener knows of this worker, and will send it what comes in by
        these ports.
        """

    def adopt(channel: IWorkerChannel, offer: Offer, descriptor: int) -> None:
        """
        A connection is this worker's.  The descriptor belongs to the adopter
        from now on.
        """

    def lent(channel: IWorkerChannel, listener: Listener, descriptor: int) -> None:
        """
        A socket may be used, beside the listener and others, until it is
        withdrawn or the channel is gone.  The descriptor belongs to the adopter
        from now on, and is one of the kinds that the adopter takes.
        """

    def withdrawn(channel: IWorkerChannel, cookie: int) -> None:
        """
        A socket that was lent is not to be used any more.
        """

    def drained(channel: IWorkerChannel) -> None:
        """
        No offer follows.
        """

    def lost(channel: IWorkerChannel, reason: str | None) -> None:
        """
        The channel is gone, after all that it had brought was told.

        @param reason: what either side said of it, or L{None} if it ended
            without a word.
        """


class IDrainable(Interface):
    """
    What a protocol may provide, to be told that its server stops.
    """

    def drain() -> None:
        """
        Finish what is under way, and then close.  The connection is left open
        until the protocol closes it or the server's grace is over.  It may have
        been made only now.
        """
