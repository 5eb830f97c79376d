"""
Tests for L{portlisten._channel.protocol}: what both ends have in common, over our own
transport and Twisted's.
"""

from __future__ import annotations

import errno
import os
import socket

from twisted.internet.interfaces import IPullProducer
from twisted.internet.protocol import Protocol
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from portlisten._channel import protocol as _channel
from portlisten._channel.interfaces import IAdopter
from portlisten._channel.worker_end import WorkerChannel
from portlisten._listener.channel import ListenerChannel
from portlisten._listener.interfaces import IConnection, IDispatcher
from portlisten._wire.codec import FROM_LISTENER, FROM_WORKER, Vocabulary
from portlisten._wire.frames import ListenerHello
from tests.support.channel_ends import (
    ChannelTestCase,
    HeldConnection,
    overTwistedToo,
    transportOf,
)
from tests.support.channels import (
    RecordingAdopter,
    RecordingDispatcher,
    aMoment,
    eventually,
)


class InterfaceTests(SynchronousTestCase):
    """
    Tests for the interfaces that objects provide.
    """

    def test_flushes(self) -> None:
        """
        L{_FlushNotifier} is an L{IPullProducer}.
        """
        verifyObject(IPullProducer, _channel._FlushNotifier(lambda: None))

    def test_fakes(self) -> None:
        """
        What these tests put around a channel keeps its contracts.
        """
        verifyObject(IDispatcher, RecordingDispatcher())
        verifyObject(IAdopter, RecordingAdopter())
        with socket.socket() as sock:
            verifyObject(IConnection, HeldConnection(sock))


@overTwistedToo
class FlushTests(ChannelTestCase):
    """
    L{_channel._FlushNotifier} tells when the write buffer has reached the kernel.
    """

    async def setUp(self) -> None:
        await super().setUp()
        self.told = 0
        self.protocol = Protocol()
        self.peer = self.peerOf(self.protocol, {})
        self.flushes = _channel._FlushNotifier(self._flushed)
        self.flushes.watch(self.protocol.transport)
        self.addCleanup(self.end)

    def _flushed(self) -> None:
        self.told += 1

    async def end(self) -> None:
        self.peer.close()
        await eventually(lambda: not transportOf(self.protocol).connected)

    async def test_notAtOnce(self) -> None:
        """
        To begin watching is no flush, nor is a write by itself.
        """
        transportOf(self.protocol).write(b"x")
        self.assertEqual(self.told, 0)
        await eventually(lambda: self.told == 1)

    async def test_onlyWhenAllIsWritten(self) -> None:
        """
        Nothing is told while a part of the data is not in the kernel.
        """
        transportOf(self.protocol).write(b"x" * 3_000_000)
        await aMoment()
        self.assertEqual(self.told, 0)

        def emptied() -> int:
            try:
                self.peer.socket.recv(1_000_000)
            except BlockingIOError:
                pass
            return self.told

        await eventually(emptied)

    async def test_stopped(self) -> None:
        """
        Nothing is told once the transport has stopped the producer.
        """
        self.flushes.stopProducing()
        self.flushes.resumeProducing()
        self.assertEqual(self.told, 0)


class ExhaustedTests(ChannelTestCase):
    """
    A process that has no descriptor left for a channel.
    """

    def exhaust(self) -> None:
        """
        Have it impossible to duplicate a socket.
        """

        def fail(sock: socket.socket) -> None:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        self.patch(socket.socket, "dup", fail)

    def check(self, channel: Protocol, vocabulary: Vocabulary) -> None:
        """
        See that the channel is not made, and that nothing of it is left.
        """
        self.exhaust()
        ours, theirs = socket.socketpair()
        with theirs:
            self.assertRaises(OSError, self.attach, channel, ours)
            self.assertEqual(self.clock.getDelayedCalls(), [])

    async def test_listener(self) -> None:
        """
        The dispatcher hears that it is over, and of no worker.
        """
        dispatcher = RecordingDispatcher()
        channel = ListenerChannel(self.clock, dispatcher, ListenerHello(1), 1)
        self.check(channel, FROM_LISTENER)
        await aMoment()
        self.assertEqual(dispatcher.events, [("channelClosed",)])

    async def test_worker(self) -> None:
        """
        The adopter hears why.
        """
        adopter = RecordingAdopter()
        self.check(WorkerChannel(self.clock, adopter), FROM_WORKER)
        await aMoment()
        self.assertEqual(adopter.events, [("lost", "Too many open files")])
