"""
Helpers for tests of channels: peers, waiting, and recorders.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from twisted.internet import reactor
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.logger import formatEvent
from twisted.trial.unittest import TestCase
from zope.interface import implementer

from portlisten import _kernel
from portlisten._channel.interfaces import IAdopter, IWorkerChannel
from portlisten._listener.interfaces import IChannel, IDispatcher
from portlisten._model import Port
from portlisten._wire.codec import Decoder, Vocabulary, encode
from portlisten._wire.frames import (
    Claim,
    ClientGone,
    Closed,
    Frame,
    Listener,
    Offer,
    Serving,
)
from portlisten._wire.listener_session import Draining, Joined, News, Refused
from portlisten._wire.worker_events import ShareLoads
from tests.support.descriptors import watchDescriptors

PATIENCE = 60.0


async def eventually(condition: Callable[..., Any], patience: float = PATIENCE) -> None:
    """
    Let the reactor run until a condition holds, for some seconds at the most.
    """
    deadline = time.monotonic() + patience
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"still not so after {patience:g} s")
        await deferLater(reactor, 0.002)


async def aMoment() -> None:
    """
    Let the reactor turn a few times, so that an unwanted event could happen.
    """
    for _ in range(5):
        await deferLater(reactor, 0.002)


async def inReactor(test: TestCase) -> None:
    """
    Let the reactor run from now to the end of the test, and watch the descriptors.
    Call this first in C{setUp}: when the reactor starts, it opens descriptors of its
    own.
    """
    await deferLater(reactor, 0)
    watchDescriptors(test)


def tcpPair(
    family: socket.AddressFamily = socket.AF_INET,
) -> tuple[socket.socket, socket.socket]:
    """
    Make a TCP connection over the loopback.

    @return: the client's end, and the accepted end, which is non-blocking.
    """
    host = "127.0.0.1" if family == socket.AF_INET else "::1"
    with socket.create_server((host, 0), family=family) as port:
        client = socket.create_connection(port.getsockname()[:2], timeout=PATIENCE)
        accepted, _ = port.accept()
    accepted.setblocking(False)
    return client, accepted


def texts(events: Iterable[Any], level: str) -> list[str]:
    """
    The log lines of one level.
    """
    return [formatEvent(event) for event in events if event["log_level"].name == level]


class Once(Factory):
    """
    Builds one given protocol.
    """

    noisy = False

    def __init__(self, protocol: Protocol) -> None:
        self._protocol = protocol

    def buildProtocol(self, addr: Any) -> Protocol:
        return self._protocol


class Peer:
    """
    The other end of a channel, spoken by hand.

    @ivar frames: the frames that it has read so far.
    @ivar descriptors: the descriptors that came with them.
    @ivar ended: whether it has read the end.
    """

    def __init__(self, sock: socket.socket, vocabulary: Vocabulary) -> None:
        sock.setblocking(False)
        self.socket = sock
        self._decoder = Decoder(vocabulary)
        self.frames: list[Any] = []
        self.descriptors: list[int] = []
        self.ended = False

    def say(self, *what: Frame | bytes, descriptors: Sequence[int] = ()) -> None:
        """
        Write frames, or raw bytes, in one message.
        """
        data = b"".join(
            each if isinstance(each, bytes) else encode(each) for each in what
        )
        socket.send_fds(self.socket, [data], descriptors)

    def read(self) -> list[Any]:
        """
        Read all frames and descriptors that have come.
        """
        while not self.ended:
            try:
                data, descriptors = _kernel.receive(self.socket)
            except BlockingIOError:
                break
            except ConnectionResetError:
                data, descriptors = b"", []
            self.ended = not data
            self.descriptors += descriptors
            self.frames += self._decoder.feed(data)
        return self.frames

    def heard(self, kind: type[Frame]) -> list[Any]:
        """
        Return the frames of a kind that have come so far.
        """
        return [frame for frame in self.read() if isinstance(frame, kind)]

    def hasEnded(self) -> bool:
        """
        Read on, and say whether the channel was closed.
        """
        self.read()
        return self.ended

    def close(self) -> None:
        """
        Close the channel, and every descriptor that came.
        """
        self.socket.close()
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.descriptors = []


def described(event: News) -> tuple[Any, ...]:
    """
    Return the recorded form of an event.
    """
    if isinstance(event, Joined):
        return ("joined", event.window, *(port.name for port in event.ports))
    if isinstance(event, Refused):
        return ("refused", event.ids, event.reason)
    if isinstance(event, Draining):
        return ("draining",)
    if isinstance(event, Serving):
        return ("serving", event.count)
    word = {Claim: "claimed", Closed: "closed", ClientGone: "clientGone"}
    return (word[type(event)], event.ids)


@implementer(IDispatcher)
class RecordingDispatcher:
    """
    Records its calls, without the channel.

    @ivar react: called with each event after it is recorded.
    """

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []
        self.react: Callable[[tuple[Any, ...]], None] = lambda event: None

    def _keep(self, *event: Any) -> None:
        self.events.append(event)
        self.react(event)

    def connected(self, channel: IChannel) -> None:
        self._keep("connected")

    def received(self, channel: IChannel, events: Iterable[News]) -> None:
        for event in events:
            self._keep(*described(event))

    def revoking(self, channel: IChannel) -> None:
        self._keep("revoking")

    def left(self, channel: IChannel, reason: str) -> None:
        self._keep("left", reason)

    def died(self, channel: IChannel) -> None:
        self._keep("died")

    def channelClosed(self, channel: IChannel) -> None:
        channel.dismiss()
        self._keep("channelClosed")


@implementer(IAdopter)
class RecordingAdopter:
    """
    Records its calls, without the channel, and keeps descriptors.

    @ivar descriptors: those of adopted connections, by the offer's id.
    @ivar sharedDescriptors: those of shared sockets.
    @ivar react: called with each event after it is recorded.
    """

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []
        self.descriptors: dict[int, int] = {}
        self.sharedDescriptors: list[int] = []
        self.react: Callable[[tuple[Any, ...]], None] = lambda event: None

    def _keep(self, *event: Any) -> None:
        self.events.append(event)
        self.react(event)

    def registered(self, channel: IWorkerChannel, ports: Sequence[Port]) -> None:
        self._keep("registered", ports)

    def adopt(self, channel: IWorkerChannel, offer: Offer, sock: socket.socket) -> None:
        self.descriptors[offer.id] = sock.detach()
        self._keep("adopt", offer)

    def socketShared(
        self, channel: IWorkerChannel, port: int, cookie: int, descriptor: int
    ) -> None:
        self.sharedDescriptors.append(descriptor)
        self._keep("socketShared", Listener(port, cookie))

    def loadsShared(self, channel: IWorkerChannel, loads: ShareLoads) -> None:
        self.sharedDescriptors += [loads.loads, loads.members]
        self._keep("loadsShared", loads)

    def withdrawn(self, channel: IWorkerChannel, cookie: int) -> None:
        self._keep("withdrawn", cookie)

    def drained(self, channel: IWorkerChannel) -> None:
        self._keep("drained")

    def leaveRequested(self, channel: IWorkerChannel) -> None:
        self._keep("leaveRequested")

    def lost(self, channel: IWorkerChannel, reason: str | None) -> None:
        self._keep("lost", reason)

    @property
    def adopted(self) -> list[int]:
        """
        Return the ids of adopted connections, in order.
        """
        return [event[1].id for event in self.events if event[0] == "adopt"]

    @property
    def lostFor(self) -> list[str | None]:
        """
        Return the reasons for which the channel was lost.
        """
        return [event[1] for event in self.events if event[0] == "lost"]
