"""
The contracts between the worker's end of a channel and its user.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from zope.interface import Attribute, Interface

if TYPE_CHECKING:
    from socket import socket

    from portlisten._model import Port
    from portlisten._wire.frames import Offer
    from portlisten._wire.worker_events import ShareLoads


class IWorkerChannel(Interface):
    """
    The worker's end of a channel, as an adopter uses it.
    """

    broken = Attribute(
        "Whether the worker ended the channel because of an error that the next channel"
        " may have as well."
    )

    released = Attribute("Whether the listener has said BYE.")

    ignored = Attribute(
        "The options of workers that the listener is too old for: a sequence of names."
        "  Empty until the worker has joined."
    )

    def drain() -> None:
        """
        Ask for no more offers, and refuse the offers that are not claimed.  Calls the
        adopter's C{drained} when no further offer can come.
        """

    def closed(id: int) -> None:
        """
        Report that a claimed connection has ended.
        """

    def clientGone(id: int) -> None:
        """
        Report that the client of a claimed connection had left before the connection
        was adopted.
        """

    def reportServing(total: int) -> None:
        """
        Tell the listener, if it wants to know and the number is new, how many
        connections the worker has that did not come through this channel.

        @param total: how many the worker has, those of this channel among them.
        """

    def bye(reason: str) -> None:
        """
        Refuse the offers that are not claimed, say BYE, and close the channel.
        """


class IAdopter(Interface):
    """
    Gets the events of a channel's worker end.
    """

    def registered(channel: IWorkerChannel, ports: Sequence[Port]) -> None:
        """
        The worker has joined the listener.

        @param ports: the ports whose connections or sockets the listener sends.
        """

    def adopt(channel: IWorkerChannel, offer: Offer, sock: socket) -> None:
        """
        A connection belongs to this worker.

        @param sock: owned by the adopter from now on.  Its C{type} and C{proto} are
            placeholders.
        """

    def socketShared(
        channel: IWorkerChannel, port: int, cookie: int, descriptor: int
    ) -> None:
        """
        The worker may use a shared socket until it is withdrawn or the channel has
        ended.  The listener and other workers use the socket as well.

        @param port: the number of the port that the socket belongs to.
        @param cookie: C{SO_COOKIE} of the socket.
        @param descriptor: owned by the adopter from now on.  The socket is of one of
            the kinds that the worker takes.
        """

    def loadsShared(channel: IWorkerChannel, loads: ShareLoads) -> None:
        """
        The worker may tell others how many connections it has, until the channel has
        ended.  Only for adopters whose channels were made with C{balances}.

        @param loads: its descriptors are owned by the adopter from now on.
        """

    def withdrawn(channel: IWorkerChannel, cookie: int) -> None:
        """
        The worker must stop using a shared socket.
        """

    def drained(channel: IWorkerChannel) -> None:
        """
        The listener sends no more offers.
        """

    def leaveRequested(channel: IWorkerChannel) -> None:
        """
        The listener asks the worker to drain, and to keep the channel.
        """

    def lost(channel: IWorkerChannel, reason: str | None) -> None:
        """
        The channel has ended.  All its other events came before this one.

        @param reason: the reason that either side gave, or L{None} if neither gave one.
        """
