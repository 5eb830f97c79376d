"""
Helpers for tests of transports for channels.
"""

from __future__ import annotations

import os
import socket
from typing import Any

from twisted.internet.interfaces import (
    IPushProducer,
)
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from portlisten import _kernel
from portlisten._channel.transport import ChannelTransport
from tests.support.descriptors import watchDescriptors


class Reactor(Clock):
    """
    A clock that remembers its readers and writers.
    """

    def __init__(self) -> None:
        super().__init__()
        self.readers: set[object] = set()
        self.writers: set[object] = set()
        self.addReader = self.readers.add
        self.removeReader = self.readers.discard
        self.addWriter = self.writers.add
        self.removeWriter = self.writers.discard


class Recorder(Protocol):
    """
    Records its calls.
    """

    def __init__(self) -> None:
        self.data = b""
        self.descriptors: list[int] = []
        self.lost: Failure | None = None

    def dataReceived(self, data: bytes) -> None:
        self.data += data

    def fileDescriptorReceived(self, descriptor: int) -> None:
        self.descriptors.append(descriptor)

    def connectionLost(self, reason: Failure | None = None) -> None:
        assert reason is not None
        transport: Any = self.transport
        self.stillOpen = transport.getHandle().fileno() >= 0
        self.lost = reason


@implementer(IPushProducer)
class Flushes:
    """
    Counts how often the buffer was flushed.
    """

    def __init__(self) -> None:
        self.count = -1  # for the registration

    def resumeProducing(self) -> None:
        self.count += 1

    def pauseProducing(self) -> None:
        raise NotImplementedError

    def stopProducing(self) -> None:
        pass


class TransportTestCase(SynchronousTestCase):
    """
    A transport, and the other end of its socket.
    """

    def setUp(self) -> None:
        watchDescriptors(self)
        ours, self.peer = socket.socketpair()
        self.peer.setblocking(False)
        self.addCleanup(self.peer.close)
        self.addCleanup(ours.close)
        self.reactor = Reactor()
        self.protocol = Recorder()
        self.transport = ChannelTransport(self.reactor, ours, self.protocol)
        self.transport.start()

    def pipe(self) -> tuple[int, int]:
        """
        Make a pair of descriptors to send.
        """
        ends = os.pipe()
        for end in ends:
            self.addCleanup(os.close, end)
        return ends

    def received(self) -> tuple[bytes, int]:
        """
        What the peer gets: the bytes, and how many descriptors.
        """
        data, count = b"", 0
        while True:
            try:
                more, descriptors, _, _ = socket.recv_fds(self.peer, 65536, 253)
            except BlockingIOError:
                return data, count
            if not more:
                return data, count
            for descriptor in descriptors:
                os.close(descriptor)
            data += more
            count += len(descriptors)

    def failing(self, *numbers: int) -> None:
        """
        Make the next attempts to send fail with these errors.
        """
        errors = list(numbers)
        send = _kernel.send

        def fail(sock: socket.socket, data: bytes, descriptors: list[int]) -> int:
            if errors:
                number = errors.pop(0)
                raise OSError(number, os.strerror(number))
            return send(sock, data, descriptors)

        self.patch(_kernel, "send", fail)
