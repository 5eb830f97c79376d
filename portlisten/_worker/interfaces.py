"""
The contracts between the parts of a worker.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from zope.interface import Attribute, Interface

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

    from portlisten._model import Port
    from portlisten._wire.frames import Offer


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
        "Whether the worker gave the channel up for something that the next channel may"
        " meet as well."
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

    def clientGone(id: int) -> None:
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

    def socketShared(
        channel: IWorkerChannel, port: int, cookie: int, descriptor: int
    ) -> None:
        """
        A socket may be used, beside the listener and others, until it is
        withdrawn or the channel is gone.

        @param port: the number of the port that it belongs to.
        @param cookie: C{SO_COOKIE} of the socket.
        @param descriptor: belongs to the adopter from now on, and is of one of the
            kinds that the adopter takes.
        """

    def withdrawn(channel: IWorkerChannel, cookie: int) -> None:
        """
        A shared socket is not to be used any more.
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
