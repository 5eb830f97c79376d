"""
Tests for L{portlisten._channel.transport}, on real sockets.  The kernel's errors are
put in where L{portlisten._kernel.sockets.send} would see them.
"""

from __future__ import annotations

import errno
import os
import socket
from typing import Any

from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import (
    ISystemHandle,
    IUNIXTransport,
)
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from portlisten import _kernel
from portlisten._channel.limits import KERNEL_RETRY_SECONDS
from portlisten._channel.transport import ChannelTransport
from tests.support.descriptors import watchDescriptors
from tests.support.transports import Flushes, Reactor, Recorder, TransportTestCase


class SendingTests(TransportTestCase):
    """
    Tests for what goes out.
    """

    def test_interfaces(self) -> None:
        """
        It is what the channel's Protocols need.
        """
        verifyObject(IUNIXTransport, self.transport)
        verifyObject(ISystemHandle, self.transport)
        self.assertEqual(self.transport.logPrefix(), "portlisten")
        self.assertEqual(self.transport.getHost().name, None)
        self.assertEqual(self.transport.getPeer().name, None)

    def test_together(self) -> None:
        """
        All descriptors that are due go in one message, ahead of their frames.
        """
        sent: list[tuple[bytes, list[int]]] = []
        send = _kernel.send

        def spy(sock: socket.socket, data: bytes, descriptors: list[int]) -> int:
            sent.append((data, descriptors))
            return send(sock, data, descriptors)

        self.patch(_kernel, "send", spy)
        for end in self.pipe():
            self.transport.sendFileDescriptor(end)
            self.transport.write(b"frame")
        self.assertIn(self.transport, self.reactor.writers)
        self.transport.doWrite()
        self.assertEqual([len(descriptors) for _, descriptors in sent], [2])
        self.assertEqual(self.received(), (b"frameframe", 2))
        self.assertNotIn(self.transport, self.reactor.writers)

    def test_flush(self) -> None:
        """
        A pull producer hears of each flush.
        """
        flushes = Flushes()
        self.transport.registerProducer(flushes, False)
        self.transport.write(b"one")
        self.assertEqual(flushes.count, 0)
        self.transport.doWrite()
        self.assertEqual(flushes.count, 1)

    def test_nothing(self) -> None:
        """
        A descriptor does not go out without a byte, which would lose it.
        """
        self.transport.sendFileDescriptor(self.pipe()[0])
        self.assertEqual(self.transport.writeSomeData(b""), 0)
        self.transport.write(b"x")
        self.transport.doWrite()
        self.assertEqual(self.received(), (b"x", 1))

    def test_full(self) -> None:
        """
        Bytes that do not fit are sent later, with their descriptors.
        """
        self.failing(errno.EAGAIN)
        self.transport.sendFileDescriptor(self.pipe()[0])
        self.transport.write(b"x")
        self.assertIsNone(self.transport.doWrite())
        self.assertIn(self.transport, self.reactor.writers)
        self.transport.doWrite()
        self.assertEqual(self.received(), (b"x", 1))
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_manyDescriptors(self) -> None:
        """
        If a message cannot take all descriptors, none comes later than its frame.
        """
        end, _ = self.pipe()
        count = _kernel.MAXIMUM_DESCRIPTORS + 10
        for _ in range(count):
            self.transport.sendFileDescriptor(end)
        self.transport.write(b"their frames")
        self.transport.doWrite()
        data, received = self.received()
        self.assertEqual((data, received), (b"t", _kernel.MAXIMUM_DESCRIPTORS))
        self.transport.doWrite()
        data, received = self.received()
        self.assertEqual((data, received), (b"heir frames", 10))


class AtOnceTests(TransportTestCase):
    """
    Tests for L{ChannelTransport.writeNow} and for how often the reactor is asked.
    """

    def setUp(self) -> None:
        """
        Count flushes.
        """
        super().setUp()
        self.flushes = Flushes()
        self.transport.registerProducer(self.flushes, False)

    def assertWaits(self) -> None:
        """
        Expect that the reactor has been asked to write the rest.
        """
        self.assertIn(self.transport, self.reactor.writers)
        self.assertEqual(self.flushes.count, 0)

    def test_sent(self) -> None:
        """
        It is in the kernel when this returns, with its descriptors, and the pull
        producer knows; and the reactor was not asked.
        """
        self.transport.sendFileDescriptor(self.pipe()[0])
        self.transport.writeNow(b"frame")
        self.assertEqual(self.received(), (b"frame", 1))
        self.assertEqual(self.flushes.count, 1)
        self.assertNotIn(self.transport, self.reactor.writers)

    def test_behind(self) -> None:
        """
        Bytes that were written before are sent first.
        """
        self.transport.write(b"one")
        self.transport.writeNow(b"two")
        self.assertWaits()
        self.transport.doWrite()
        self.assertEqual(self.received(), (b"onetwo", 0))

    def test_full(self) -> None:
        """
        Bytes that do not fit are sent later.
        """
        self.failing(errno.EAGAIN)
        self.transport.writeNow(b"frame")
        self.assertWaits()
        self.transport.doWrite()
        self.assertEqual(self.received(), (b"frame", 0))
        self.assertEqual(self.flushes.count, 1)

    def test_part(self) -> None:
        """
        So does the rest of what did not fit whole.
        """
        send = _kernel.send
        self.patch(
            _kernel,
            "send",
            lambda sock, data, descriptors: send(sock, data[:2], descriptors),
        )
        self.transport.writeNow(b"frame")
        self.assertWaits()
        self.assertEqual(self.received(), (b"fr", 0))
        self.transport.doWrite()
        self.transport.doWrite()
        self.assertEqual(self.received(), (b"ame", 0))
        self.assertEqual(self.flushes.count, 1)
        self.assertNotIn(self.transport, self.reactor.writers)

    def test_short(self) -> None:
        """
        If the kernel is short of something, it waits as all else does.
        """
        self.failing(errno.ENOBUFS)
        self.transport.writeNow(b"one")
        self.assertNotIn(self.transport, self.reactor.writers)
        self.transport.writeNow(b"two")
        self.reactor.advance(KERNEL_RETRY_SECONDS)
        self.assertWaits()
        self.transport.doWrite()
        self.assertEqual(self.received(), (b"onetwo", 0))

    def test_lost(self) -> None:
        """
        That the peer is gone is for the reactor to find, and not for one who
        writes.
        """
        self.failing(errno.EPIPE, errno.EPIPE)
        self.transport.writeNow(b"frame")
        self.assertWaits()
        self.assertIsNone(self.protocol.lost)
        self.assertIsInstance(self.transport.doWrite(), ConnectionLost)

    def test_ending(self) -> None:
        """
        One that is about to end sends it first; one that was aborted does not.
        """
        self.transport.unregisterProducer()
        self.transport.loseConnection()
        self.transport.writeNow(b"last")
        self.assertIsInstance(self.transport.doWrite(), ConnectionDone)
        self.assertEqual(self.received(), (b"last", 0))
        self.transport.abortConnection()
        self.transport.writeNow(b"too late")
        self.assertEqual(self.received(), (b"", 0))

    def test_nested(self) -> None:
        """
        The pull producer may write again.
        """
        more = [b"two", b"three"]

        def resume() -> None:
            if more:
                self.transport.writeNow(more.pop(0))

        self.flushes.resumeProducing = resume  # type: ignore[method-assign]
        self.transport.writeNow(b"one")
        self.assertEqual(self.received(), (b"onetwothree", 0))
        self.assertNotIn(self.transport, self.reactor.writers)

    def test_nothing(self) -> None:
        """
        With nothing to write, writing is over at once.
        """
        self.transport.startWriting()
        self.assertWaits()
        self.transport.doWrite()
        self.assertEqual(self.flushes.count, 1)
        self.assertNotIn(self.transport, self.reactor.writers)

    def test_askedOnce(self) -> None:
        """
        The reactor is asked to write once, and not for each frame.
        """
        asked: list[Any] = []
        self.patch(self.reactor, "addWriter", asked.append)
        for _ in range(3):
            self.transport.write(b"frame")
        self.assertEqual(asked, [self.transport])


class FaultTests(TransportTestCase):
    """
    Tests for what the kernel may say to an offer: nothing is lost by any of it.
    """

    def offer(self) -> None:
        """
        Send two descriptors, with a frame each.
        """
        for end in self.pipe():
            self.transport.sendFileDescriptor(end)
            self.transport.write(b"frame")

    def shortage(self, number: int) -> None:
        """
        Check that the transport waits, and then sends everything.
        """
        self.failing(number, number)
        self.offer()
        self.assertIsNone(self.transport.doWrite())
        self.assertNotIn(self.transport, self.reactor.writers)
        self.transport.write(b"more")
        self.assertNotIn(self.transport, self.reactor.writers)
        self.reactor.advance(KERNEL_RETRY_SECONDS)
        self.assertIn(self.transport, self.reactor.writers)
        self.transport.doWrite()
        self.reactor.advance(KERNEL_RETRY_SECONDS)
        self.transport.doWrite()
        self.assertEqual(self.received(), (b"frameframemore", 2))
        self.assertIsNone(self.protocol.lost)

    def test_ENOBUFS(self) -> None:
        """
        No buffer: it waits.
        """
        self.shortage(errno.ENOBUFS)

    def test_ENOMEM(self) -> None:
        """
        No memory: it waits.
        """
        self.shortage(errno.ENOMEM)

    def test_ETOOMANYREFS(self) -> None:
        """
        Too many descriptors in flight: it waits.
        """
        self.shortage(errno.ETOOMANYREFS)

    def useless(self, number: int) -> None:
        """
        Check that one bad descriptor of two is left out, and no more.
        """
        # Of both, then of the first alone.
        self.failing(number, number)
        self.offer()
        while self.transport in self.reactor.writers:
            self.assertIsNone(self.transport.doWrite())
        self.assertEqual(self.received(), (b"frameframe", 1))
        self.assertIsNone(self.protocol.lost)

    def test_EPERM(self) -> None:
        """
        If a descriptor may not be sent, its frame goes without it.
        """
        self.useless(errno.EPERM)

    def test_EBADF(self) -> None:
        """
        If a descriptor is closed, its frame goes without it.
        """
        self.useless(errno.EBADF)

    def test_reallyClosed(self) -> None:
        """
        The same with a descriptor that really is closed, the second of three.
        """
        first, last = self.pipe()
        closed = os.dup(first)
        os.close(closed)
        for descriptor in (first, closed, last):
            self.transport.sendFileDescriptor(descriptor)
            self.transport.write(b"frame")
        while self.transport in self.reactor.writers:
            self.assertIsNone(self.transport.doWrite())
        self.assertEqual(self.received(), (b"frameframeframe", 2))

    def test_shortageAfterUseless(self) -> None:
        """
        A shortage in the middle of that is waited for, too.
        """
        self.failing(errno.EPERM, errno.EPERM, errno.ENOMEM)
        self.offer()
        self.assertIsNone(self.transport.doWrite())
        self.reactor.advance(KERNEL_RETRY_SECONDS)
        while self.transport in self.reactor.writers:
            self.assertIsNone(self.transport.doWrite())
        self.assertEqual(self.received(), (b"frameframe", 1))

    def test_fullAfterUseless(self) -> None:
        """
        Descriptors that were sent one by one before count.
        """
        self.failing(errno.EPERM)
        first, last = self.pipe()
        for descriptor in (first, last):
            self.transport.sendFileDescriptor(descriptor)
        self.transport.write(b"frames")
        send = _kernel.send
        calls: list[int] = []

        def fullOnce(sock: socket.socket, data: bytes, descriptors: list[int]) -> int:
            calls.append(len(descriptors))
            if len(calls) == 3:
                raise BlockingIOError(errno.EAGAIN, "full")
            return send(sock, data, descriptors)

        self.patch(_kernel, "send", fullOnce)
        while self.transport in self.reactor.writers:
            self.assertIsNone(self.transport.doWrite())
        self.assertEqual(self.received(), (b"frames", 2))

    def test_EPIPE(self) -> None:
        """
        A peer that is gone ends the connection, with or without descriptors.
        """
        for descriptors in (0, 1):
            self.failing(errno.EPIPE)
            if descriptors:
                self.offer()
            else:
                self.transport.write(b"x")
            self.assertIsInstance(self.transport.doWrite(), ConnectionLost)

    def test_unknown(self) -> None:
        """
        So does an unknown error, if no descriptor can be at fault.
        """
        self.failing(errno.EIO)
        self.transport.write(b"x")
        self.assertIsInstance(self.transport.doWrite(), ConnectionLost)

    def test_EPIPEAfterUseless(self) -> None:
        """
        So does a peer that goes in the middle of that.
        """
        self.failing(errno.EPERM, errno.EPERM, errno.EPIPE)
        self.offer()
        self.assertIsInstance(self.transport.doWrite(), ConnectionLost)


class EndTests(TransportTestCase):
    """
    Tests for the end of a connection.
    """

    def test_protocolFirst(self) -> None:
        """
        The protocol hears of it while the socket is open, which is closed then,
        and not shut down.
        """
        duplicate = self.transport.getHandle().dup()
        self.addCleanup(duplicate.close)
        self.transport.connectionLost(Failure(ConnectionDone()))
        self.assertTrue(self.protocol.stillOpen)
        self.assertEqual(self.transport.fileno(), -1)
        self.assertRaises(BlockingIOError, self.peer.recv, 1)

    def test_lose(self) -> None:
        """
        C{loseConnection} sends what is unsent first.
        """
        self.transport.write(b"bye")
        self.transport.loseConnection()
        self.assertIsInstance(self.transport.doWrite(), ConnectionDone)
        self.assertEqual(self.received(), (b"bye", 0))

    def test_abort(self) -> None:
        """
        C{abortConnection} does not, and comes a little later, once.
        """
        self.transport.sendFileDescriptor(self.pipe()[0])
        self.transport.write(b"unsent")
        self.transport.abortConnection()
        self.transport.abortConnection()
        self.transport.write(b"either")
        self.assertEqual(self.reactor.readers | self.reactor.writers, set())
        self.assertIsNone(self.protocol.lost)
        self.reactor.advance(0)
        assert self.protocol.lost is not None
        self.protocol.lost.trap(ConnectionAborted)
        self.assertEqual(self.received(), (b"", 0))
        self.transport.abortConnection()
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_abortTooLate(self) -> None:
        """
        A connection that is lost before that is lost once.
        """
        self.transport.abortConnection()
        self.transport.connectionLost(Failure(ConnectionDone()))
        self.reactor.advance(0)
        assert self.protocol.lost is not None
        self.protocol.lost.trap(ConnectionDone)

    def test_pausing(self) -> None:
        """
        A pause ends with the connection.
        """
        self.failing(errno.ENOMEM)
        self.transport.write(b"x")
        self.transport.doWrite()
        self.transport.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(self.reactor.getDelayedCalls(), [])


class StartTests(SynchronousTestCase):
    """
    Tests for L{ChannelTransport.start}.
    """

    def test_fails(self) -> None:
        """
        A protocol that raises leaves neither a reader nor a socket.
        """
        watchDescriptors(self)
        ours, peer = socket.socketpair()
        self.addCleanup(peer.close)
        reactor = Reactor()

        class Failing(Recorder):
            def connectionMade(self) -> None:
                raise ValueError("no")

        protocol = Failing()
        transport = ChannelTransport(reactor, ours, protocol)
        self.assertRaises(ValueError, transport.start)
        self.assertEqual(reactor.readers, set())
        assert protocol.lost is not None
        protocol.lost.trap(ValueError)
        self.assertTrue(protocol.stillOpen)
        self.assertEqual(transport.fileno(), -1)

    def test_noRegistration(self) -> None:
        """
        If the reactor cannot read for it, the connection is lost, of which the protocol
        hears.
        """
        watchDescriptors(self)
        ours, peer = socket.socketpair()
        self.addCleanup(peer.close)
        reactor = Reactor()

        def fail(reader: object) -> None:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))

        reactor.addReader = fail
        protocol = Recorder()
        transport = ChannelTransport(reactor, ours, protocol)
        self.assertRaises(OSError, transport.start)
        assert protocol.lost is not None
        protocol.lost.trap(OSError)
        self.assertEqual(transport.fileno(), -1)

    def test_leavesAtOnce(self) -> None:
        """
        A protocol that closes at once is not read for.
        """
        ours, peer = socket.socketpair()
        self.addCleanup(peer.close)
        self.addCleanup(ours.close)
        reactor = Reactor()

        class Leaving(Recorder):
            def connectionMade(self) -> None:
                transport: Any = self.transport
                transport.abortConnection()

        ChannelTransport(reactor, ours, Leaving()).start()
        self.assertEqual(reactor.readers, set())
