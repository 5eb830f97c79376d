"""
The successor's end of the connection by which the connections come that wait at its
predecessor.  The successor has joined the predecessor as a worker, and claims what it
is offered.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.protocol import Protocol
from twisted.logger import Logger
from zope.interface import implementer

from portlisten._channel.interfaces import IAdopter, IWorkerChannel
from portlisten._channel.transport import ChannelTransport
from portlisten._channel.worker_end import WorkerChannel
from portlisten._handover.takeover import Transfer
from portlisten._model import Kind, Port
from portlisten._ports.accepting import Accepted
from portlisten._wire.frames import Offer
from portlisten._wire.worker_events import ShareLoads

#: The kinds of the predecessor's ports.  Connections come of one kind alone, but a
#: worker that cannot take the others would be turned away.
KINDS = (Kind.CONNECTIONS, Kind.LISTENER, Kind.GROUP, Kind.DATAGRAMS)


class _Link(Protocol):
    """
    The connection of the handover, after the takeover: it is open while both processes
    live.
    """


@implementer(IAdopter)
class Receiver:
    """
    Takes the connections that wait at the predecessor.

    @param reactor: an L{IReactorFDSet} and L{IReactorTime}.
    @param transfer: belongs to this object.
    @param ports: the ports of this listener.
    @param accepted: takes connections, as from a port, and how long they have waited,
        in seconds.

    @ivar receives: whether more may come.
    @ivar count: how many came.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        transfer: Transfer,
        ports: Sequence[Port],
        accepted: Callable[[Port, Sequence[Accepted], float], None],
    ) -> None:
        self._reactor = reactor
        self._transfer: Transfer | None = transfer
        self._pid = transfer.pid
        self._ports = [port for port in ports if port.kind is Kind.CONNECTIONS]
        self._accepted = accepted
        self._sameAs: dict[int, Port] = {}
        self._transports: list[ChannelTransport] = []
        self.receives = False
        self.count = 0

    def start(self) -> None:
        """
        Begin.

        @raise OSError: if that is impossible.
        """
        assert self._transfer is not None
        channel = WorkerChannel(
            self._reactor,
            self,
            takes=KINDS,
            label="next-listener",
            # It may stand still for a while.
            waitsOn=lambda: True,
        )
        self.receives = True
        self._transports = [
            ChannelTransport(self._reactor, self._transfer.link, _Link()),
            ChannelTransport(self._reactor, self._transfer.channel, channel),
        ]
        for each in self._transports:
            each.start()

    def stop(self) -> None:
        """
        The listener was told to stop: nobody takes back what has come.
        """
        if self._transfer is not None:
            self._transfer.sayStopping()

    def close(self) -> None:
        """
        This listener has ended, or did not begin.  If the predecessor lives, it goes on
        in the place of this one, unless L{stop} was called.
        """
        transfer, self._transfer = self._transfer, None
        if transfer is not None:
            for each in self._transports:
                each.abortConnection()
            transfer.close()

    # IAdopter

    def registered(self, channel: IWorkerChannel, ports: Sequence[Port]) -> None:
        """
        See L{IAdopter}.
        """
        for port in ports:
            own = next(
                (each for each in self._ports if _isSame(each, port)),
                next((each for each in self._ports if each.name == port.name), None),
            )
            if own is not None:
                self._sameAs[port.number] = own

    def adopt(
        self, channel: IWorkerChannel, offer: Offer, received: socket.socket
    ) -> None:
        """
        See L{IAdopter}.
        """
        # The real protocol is needed.
        sock = socket.SocketType(fileno=received.detach())
        port = self._sameAs.get(offer.port)
        if port is None:
            sock.close()
            return  # the predecessor offers only what has a name here
        try:
            address = sock.getpeername()
        except OSError:
            address = None  # its client has left
        self.count += 1
        # It has waited, even if that was too short to be counted.
        waited = max(offer.waited, 1) / 100
        self._accepted(port, [(sock, address)], waited)

    def socketShared(
        self, channel: IWorkerChannel, port: int, cookie: int, descriptor: int
    ) -> None:
        """
        See L{IAdopter}.  Shared sockets came with the manifest.
        """
        socket.SocketType(fileno=descriptor).close()

    def loadsShared(self, channel: IWorkerChannel, loads: ShareLoads) -> None:
        """
        See L{IAdopter}.  The channel does not balance.
        """
        os.close(loads.loads)
        os.close(loads.members)

    def withdrawn(self, channel: IWorkerChannel, cookie: int) -> None:
        """
        See L{IAdopter}.
        """

    def drained(self, channel: IWorkerChannel) -> None:
        """
        See L{IAdopter}.
        """

    def leaveRequested(self, channel: IWorkerChannel) -> None:
        """
        See L{IAdopter}.
        """

    def lost(self, channel: IWorkerChannel, reason: str | None) -> None:
        """
        See L{IAdopter}.
        """
        self.receives = False
        if self._transfer is None:
            return
        if channel.released:
            self.log.info(
                "the listener before this one, process {pid}, has handed over {count}"
                " connections that waited, and ends",
                event="handover-done",
                pid=self._pid,
                count=self.count,
            )
        else:
            self.log.error(
                "the listener before this one, process {pid}, has ended early: what"
                " still waited there is lost; {count} connections came",
                event="handover-failed",
                pid=self._pid,
                count=self.count,
            )


def _isSame(port: Port, other: Port) -> bool:
    return port.address == other.address and port.name == other.name
