"""
The worker's end of a channel.
"""

from __future__ import annotations

import os
from collections.abc import Collection

from twisted.internet.interfaces import (
    IFileDescriptorReceiver,
    IReactorTime,
)
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from portlisten import _kernel
from portlisten._channel.protocol import Channel
from portlisten._channel.transport import ChannelTransport
from portlisten._model import Kind
from portlisten._wire.claims import Claims
from portlisten._wire.frames import (
    FROM_LISTENER,
    MAXIMUM_WINDOW,
    Bye,
    Drained,
    Frame,
    Listener,
    ListenerHello,
    Offer,
    Revoked,
    Withdraw,
    WorkerHello,
    encode,
)
from portlisten._worker.interfaces import IAdopter, IWorkerChannel
from portlisten.errors import ProtocolError, WrongSocket

#: How many shared sockets a worker keeps whose frames have not come.
MAXIMUM_LENT = 1024


@implementer(IWorkerChannel, IFileDescriptorReceiver)
class WorkerChannel(Channel):
    """
    The worker's end, the listener at the other.

    @param window: how many unclaimed offers the worker wants at the most.
    @param timeout: how long HELLO may take, in seconds.
    @param names: what the ports are called that it wants; if empty, it wants all.
    @param takes: what it takes of a port.
    """

    vocabulary = FROM_LISTENER

    def __init__(
        self,
        reactor: IReactorTime,
        adopter: IAdopter,
        window: int = MAXIMUM_WINDOW,
        timeout: float = 5.0,
        names: Collection[str] = (),
        takes: Collection[Kind] = (Kind.CONNECTIONS,),
    ) -> None:
        super().__init__(reactor, timeout)
        self._adopter = adopter
        self._hello = WorkerHello(window, tuple(names), frozenset(takes))
        self._claims: Claims[int] = Claims(window)
        self._lent: dict[int, int] = {}
        self.broken = False
        self._reason: str | None = None
        self._revoked = False
        self._farewell: str | None = None

    def __str__(self) -> str:
        return "the listener"

    def connectionMade(self) -> None:
        super().connectionMade()
        # Twisted's own does not ask for MSG_CMSG_CLOEXEC.
        self._inheritable = not isinstance(self.transport, ChannelTransport)
        self._send(self._hello)

    # IWorkerChannel

    def drain(self) -> None:
        if not self._ended:
            _closeAll(self._claims.draining())
            self._pump()

    def closed(self, id: int) -> None:
        if not self._ended:
            self._claims.served(id)
            self._pumpSoon()

    def gone(self, id: int) -> None:
        if not self._ended:
            self._claims.gone(id)
            self._pumpSoon()

    def bye(self, reason: str) -> None:
        if not self._ended and self._farewell is None:
            self._stopWaiting()
            self._farewell = self._reason = reason
            self.drain()

    # What the listener says

    def _handle(self, frame: Frame) -> None:
        if isinstance(frame, Offer):
            _closeAll(self._claims.offered(frame))
        elif isinstance(frame, ListenerHello):
            ports = frame.wanted(self._hello)
            self._stopWaiting()
            self._adopter.registered(self, ports)
        elif isinstance(frame, Listener):
            descriptor = self._lent.pop(frame.cookie, None)
            if descriptor is None:
                raise ProtocolError("a shared socket got lost on its way")
            self._adopter.lent(self, frame, descriptor)
        elif isinstance(frame, Withdraw):
            self._adopter.withdrawn(self, frame.cookie)
        elif isinstance(frame, Drained):
            self._adopter.drained(self)
        elif isinstance(frame, Revoked):
            self._revoked = True
            _closeAll(self._claims.revoked())
        elif isinstance(frame, Bye):
            self._reason = f"the listener says: {frame.reason}"

    def _fed(self) -> None:
        self._pump(now=True)

    def fileDescriptorReceived(self, descriptor: int) -> None:
        """
        Keep a descriptor for the frame that names it, and close one that none
        could: what cannot be taken here, or comes too late.
        """
        if self._revoked or self._ended:
            os.close(descriptor)
            return
        if self._inheritable:
            os.set_inheritable(descriptor, False)
        try:
            kind, cookie = _kernel.identify(descriptor, self._hello.takes)
            if kind is Kind.CONNECTIONS:
                _closeAll(self._claims.arrived(cookie, descriptor))
            else:
                self._keep(cookie, descriptor)
        except (OSError, WrongSocket) as error:
            self._quiet(
                self.log.warn, "a descriptor of no use came: {error}", error=error
            )
            os.close(descriptor)
        except ProtocolError as error:
            self._broken(str(error))

    def _keep(self, cookie: int, descriptor: int) -> None:
        """
        Keep a shared socket until the frame comes that names it.
        """
        if cookie in self._lent:
            os.close(self._lent[cookie])
        self._lent[cookie] = descriptor
        if len(self._lent) > MAXIMUM_LENT:
            raise ProtocolError(
                f"more than {MAXIMUM_LENT} sockets without their frames"
            )

    def _pump(self, now: bool = False) -> None:
        """
        Say what there is to say, unless something is being said.

        @param now: without waiting for the next turn of the loop, so that what is
            claimed is adopted before this returns.
        """
        if self._ended:
            return
        frames = self._claims.outgoing()
        if frames:
            self._unsent = True
            write = self._writeNow if now else self._transport.write
            write(b"".join(map(encode, frames)))
        elif not self._claims.writing:
            if self._farewell is not None:
                self._send(Bye(self._farewell))
            if self._farewell is not None or self._revoked:
                self._close()

    def _pumpSoon(self) -> None:
        """
        Say it in the next turn of the loop, with what else there will be to say:
        a transport that has nothing to write says that it has written.
        """
        if not self._claims.writing:
            self._transport.startWriting()

    def _flushed(self) -> None:
        for offer, descriptor in self._claims.flushed():
            try:
                self._adopter.adopt(self, offer, descriptor)
            except Exception:
                self.log.failure("a bug in portlisten loses a connection")
        self._pump()

    def _broken(self, reason: str) -> None:
        self.broken = True
        self.bye(reason)

    def _receive(self) -> bytes:
        data, descriptors = _kernel.receive(self._socket)
        for descriptor in descriptors:
            self.fileDescriptorReceived(descriptor)
        return data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        if self._duplicate is not None:
            if not (self._died or self._revoked or self._farewell is not None):
                self._sayFailed()
            self._duplicate.close()
        if self._reason is None and isinstance(reason.value, OSError):
            self._reason = str(reason.value.strerror)
        if self._revoked or self._farewell is not None or not self._died:
            _closeAll(self._claims.abandoned())
        else:
            mine, loose = self._claims.orphaned()
            _closeAll(loose)
            for offer, descriptor in mine:
                self._adopter.adopt(self, offer, descriptor)
        _closeAll(list(self._lent.values()))
        self._lent.clear()
        self._adopter.lost(self, self._reason)

    def _sayFailed(self) -> None:
        """
        Tell the listener, which lives, that this worker does as well.
        """
        try:
            _kernel.insist(self._socket.send, encode(Bye("the channel failed")))
        except OSError:
            pass  # it takes this worker for dead then


def _closeAll(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
