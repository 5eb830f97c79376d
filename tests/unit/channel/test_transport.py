"""
Tests for L{portlisten._channel.transport}, on real sockets; the kernel's errors are put
in where L{portlisten._kernel.sockets.send} would see them.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from typing import Any

from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import (
    IPushProducer,
    ISystemHandle,
    IUNIXTransport,
)
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from portlisten import _kernel
from portlisten._channel import transport as _transport
from portlisten._channel.transport import KERNEL_RETRY_SECONDS, ChannelTransport, Unread
from tests.support import watchDescriptors
from tests.support.channels import texts


class Reactor(Clock):
    """
    A clock that remembers who wants to read and to write.
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
    Writes down what it is told.
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
        Have the next attempts to send fail with these errors.
        """
        errors = list(numbers)
        send = _kernel.send

        def fail(sock: socket.socket, data: bytes, descriptors: list[int]) -> int:
            if errors:
                number = errors.pop(0)
                raise OSError(number, os.strerror(number))
            return send(sock, data, descriptors)

        self.patch(_kernel, "send", fail)


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
        What does not fit is sent when it does, with its descriptor.
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
        Of more descriptors than a message takes, none comes later than its frame.
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
        What was written before it goes before it.
        """
        self.transport.write(b"one")
        self.transport.writeNow(b"two")
        self.assertWaits()
        self.transport.doWrite()
        self.assertEqual(self.received(), (b"onetwo", 0))

    def test_full(self) -> None:
        """
        What does not fit goes when it does.
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
        Where the kernel is short of something, it waits as all else does.
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
        asked = []
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
        One may not be sent: its frame goes without it.
        """
        self.useless(errno.EPERM)

    def test_EBADF(self) -> None:
        """
        One is closed: its frame goes without it.
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
        What was sent one by one by then counts.
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
        So does an error that nobody knows, where no descriptor can be at fault.
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


class ReadingTests(TransportTestCase):
    """
    Tests for what comes in.
    """

    def test_all(self) -> None:
        """
        Descriptors come before their bytes, with close-on-exec, and all that is
        there comes in one turn.
        """
        socket.send_fds(self.peer, [b"one"], [self.pipe()[0]])
        self.peer.send(b"two")
        self.assertIsNone(self.transport.doRead())
        self.assertEqual(self.protocol.data, b"onetwo")
        (descriptor,) = self.protocol.descriptors
        flags = fcntl.fcntl(descriptor, fcntl.F_GETFD)
        os.close(descriptor)
        self.assertTrue(flags & fcntl.FD_CLOEXEC)

    def test_bounded(self) -> None:
        """
        One turn reads so many messages, or so many bytes, and no more.
        """
        for _ in range(_transport.READS_PER_TURN + 1):
            # Messages with descriptors are not read together.
            socket.send_fds(self.peer, [b"x"], [self.peer.fileno()])
        self.transport.doRead()
        self.assertEqual(len(self.protocol.data), _transport.READS_PER_TURN)
        self.transport.doRead()
        self.peer.send(bytes(_transport.BYTES_PER_TURN + 1))
        self.protocol.data = b""
        self.transport.doRead()
        self.assertEqual(len(self.protocol.data), _transport.BYTES_PER_TURN)
        for descriptor in self.protocol.descriptors:
            os.close(descriptor)

    def test_end(self) -> None:
        """
        The peer's end is the end, once all was read.
        """
        self.peer.send(b"last words")
        self.peer.close()
        self.assertIsInstance(self.transport.doRead(), ConnectionDone)
        self.assertEqual(self.protocol.data, b"last words")

    def test_urgent(self) -> None:
        """
        Urgent data is data: what would be readable for ever and never read would keep
        the reactor busy, also where the kernel cannot refuse descriptors.
        """
        self.patch(_kernel, "refusesDescriptors", lambda sock: False)
        ours, peer = socket.socketpair()
        protocol = Recorder()
        with peer:
            transport = ChannelTransport(self.reactor, ours, protocol, False)
            transport.start()
            peer.send(b"!", socket.MSG_OOB)
            transport.doRead()
            self.assertEqual(protocol.data, b"!")
            transport.connectionLost(Failure(ConnectionDone()))

    def test_error(self) -> None:
        """
        A reset, as by a peer that went with something unread, is no end yet: the
        next read finds that.
        """
        self.transport.write(b"never read")
        self.transport.doWrite()
        self.peer.close()
        self.assertIsNone(self.transport.doRead())
        self.assertIn(self.transport, self.reactor.readers)
        self.assertIsInstance(self.transport.doRead(), ConnectionDone)

    def test_noMore(self) -> None:
        """
        A protocol that closes in the middle is given no more.
        """

        def leave(data: bytes) -> None:
            self.protocol.data += data
            self.transport.loseConnection()

        self.protocol.dataReceived = leave  # type: ignore[method-assign]
        socket.send_fds(self.peer, [b"one"], [self.peer.fileno()])
        socket.send_fds(self.peer, [b"two"], [self.peer.fileno()])
        self.transport.doRead()
        self.assertEqual(self.protocol.data, b"one")
        for descriptor in self.protocol.descriptors:
            os.close(descriptor)


class BytesOnlyTests(TransportTestCase):
    """
    Tests for a transport to which no descriptors may come.
    """

    class Recorder(Recorder):
        """
        Writes down that some came.
        """

        def __init__(self) -> None:
            super().__init__()
            self.came: list[bytes] = []

        def descriptorsCame(self) -> None:
            self.came.append(self.data)

    def setUp(self) -> None:
        """
        Make another one that takes no descriptors.
        """
        super().setUp()
        one, self.other = socket.socketpair()
        self.addCleanup(self.other.close)
        self.addCleanup(one.close)
        self.recorder = self.Recorder()
        self.bytesOnly = ChannelTransport(
            self.reactor, one, self.recorder, descriptors=False
        )
        self.bytesOnly.start()

    def test_bytes(self) -> None:
        """
        Bytes come as they do otherwise.
        """
        self.other.send(b"one")
        self.other.send(b"two")
        self.assertIsNone(self.bytesOnly.doRead())
        self.assertEqual(self.recorder.data, b"onetwo")
        self.assertEqual(self.recorder.came, [])
        self.other.close()
        self.assertIsInstance(self.bytesOnly.doRead(), ConnectionDone)

    def test_descriptors(self) -> None:
        """
        Descriptors are not received.  The protocol is told that some came, and gets the
        bytes that they came with, and nothing is read after those.
        """
        before = len(os.listdir("/proc/self/fd"))
        self.other.send(b"before")
        self.bytesOnly.doRead()
        socket.send_fds(self.other, [b"with"], self.pipe())
        self.other.send(b"after")
        self.assertIsNone(self.bytesOnly.doRead())
        self.assertEqual(self.recorder.data, b"beforewith")
        self.assertEqual(self.recorder.came, [b"before"])
        self.assertEqual(self.recorder.descriptors, [])
        self.assertEqual(len(os.listdir("/proc/self/fd")), before + 2)
        self.assertNotIn(self.bytesOnly, self.reactor.readers)
        self.bytesOnly.startReading()
        self.bytesOnly.resumeProducing()
        self.assertNotIn(self.bytesOnly, self.reactor.readers)

    def test_writing(self) -> None:
        """
        It can still be written to then.
        """
        socket.send_fds(self.other, [b"with"], [self.other.fileno()])
        self.bytesOnly.doRead()
        self.bytesOnly.write(b"word")
        self.bytesOnly.doWrite()
        self.assertEqual(self.other.recv(10), b"word")

    def test_refused(self) -> None:
        """
        Where the kernel refuses descriptors itself, bytes are read without a look at
        what comes with them.
        """
        self.patch(_kernel, "refusesDescriptors", lambda sock: True)
        asked: list[bool] = []
        receive = _kernel.receiveBytes

        def spy(sock: socket.socket, size: int, refuses: bool) -> Any:
            asked.append(refuses)
            return receive(sock, size, refuses)

        self.patch(_kernel, "receiveBytes", spy)
        one, other = socket.socketpair()
        self.addCleanup(other.close)
        self.addCleanup(one.close)
        recorder = self.Recorder()
        transport = ChannelTransport(self.reactor, one, recorder, descriptors=False)
        transport.start()
        other.send(b"one")
        transport.doRead()
        self.assertEqual((recorder.data, asked), (b"one", [True]))


class ReadFailureTests(TransportTestCase):
    """
    Tests for reads that fail.
    """

    def setUp(self) -> None:
        """
        See what is logged.
        """
        super().setUp()
        logs = capturedLogs()
        self.logged = logs.__enter__()
        self.addCleanup(logs.__exit__, None, None, None)

    def failReads(self, *numbers: int) -> None:
        """
        Have the next reads fail with these errors.
        """
        errors = list(numbers)
        receive = _kernel.receive

        def fail(sock: socket.socket, size: int) -> tuple[bytes, list[int]]:
            if errors:
                number = errors.pop(0)
                raise OSError(number, os.strerror(number))
            return receive(sock, size)

        self.patch(_kernel, "receive", fail)

    def test_again(self) -> None:
        """
        A read for which the kernel lacks memory is tried again after a pause: it is no
        end, and nothing is lost.  That is said once.
        """
        self.failReads(errno.ENOMEM, errno.ENOMEM)
        self.peer.send(b"data")
        for _ in range(2):
            self.assertIn(self.transport, self.reactor.readers)
            self.assertIsNone(self.transport.doRead())
            self.assertNotIn(self.transport, self.reactor.readers)
            self.reactor.advance(KERNEL_RETRY_SECONDS)
        self.assertIsNone(self.transport.doRead())
        self.assertEqual(self.protocol.data, b"data")
        self.assertIsNone(self.protocol.lost)
        self.assertEqual(
            texts(self.logged, "warn"),
            [
                "reading from a channel fails, and is tried again every 0.1 s: Cannot"
                " allocate memory"
            ],
        )

    def test_saidAgain(self) -> None:
        """
        If it worked in between, it is said anew.
        """
        for _ in range(2):
            self.failReads(errno.ENOBUFS)
            self.transport.doRead()
            self.reactor.advance(KERNEL_RETRY_SECONDS)
            self.peer.send(b"data")
            self.transport.doRead()
        self.assertEqual(len(texts(self.logged, "warn")), 2)

    def test_unknown(self) -> None:
        """
        So is a read that fails for a reason that nobody knows.
        """
        self.failReads(errno.EIO)
        self.assertIsNone(self.transport.doRead())
        self.reactor.advance(KERNEL_RETRY_SECONDS)
        self.assertIn(self.transport, self.reactor.readers)

    def test_never(self) -> None:
        """
        If no later read can do better, the connection is lost.
        """
        for number in (errno.EBADF, errno.ENOTSOCK, errno.ENOTCONN, errno.EINVAL):
            self.failReads(number)
            self.assertIsInstance(self.transport.doRead(), ConnectionLost)
        self.assertEqual(self.logged, [])

    def test_nothing(self) -> None:
        """
        That there is nothing to read is no failure.
        """
        self.assertIsNone(self.transport.doRead())
        self.assertIn(self.transport, self.reactor.readers)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_lost(self) -> None:
        """
        The pause ends with the connection.
        """
        self.failReads(errno.ENOMEM)
        self.transport.doRead()
        self.transport.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_aborted(self) -> None:
        """
        One that was aborted meanwhile reads no more.
        """
        self.failReads(errno.ENOMEM)
        self.transport.doRead()
        self.patch(self.transport, "_abort", list)
        self.transport.abortConnection()
        self.reactor.advance(KERNEL_RETRY_SECONDS)
        self.assertEqual(self.reactor.readers, set())


class UnreadTests(SynchronousTestCase):
    """
    Tests for L{Unread}, with what the kernel says of a real channel.
    """

    def setUp(self) -> None:
        """
        Make a channel of which is noted what is written.
        """
        watchDescriptors(self)
        ours, self.peer = socket.socketpair()
        self.addCleanup(ours.close)
        self.addCleanup(self.peer.close)
        self.sent = Unread()
        self.transport = ChannelTransport(Reactor(), ours, Recorder(), sent=self.sent)
        self.transport.start()
        self.socket = ours

    def write(self, *sizes: int, descriptors: int = 0) -> None:
        """
        Write messages of so many bytes, each with so many descriptors.
        """
        for size in sizes:
            for _ in range(descriptors):
                self.transport.sendFileDescriptor(self.peer.fileno())
            self.transport.write(bytes(size))
            self.transport.doWrite()

    def read(self, size: int) -> None:
        """
        Have the peer read so many bytes in a row.
        """
        _, descriptors, _, _ = socket.recv_fds(self.peer, size, 253)
        for descriptor in descriptors:
            os.close(descriptor)

    def settle(self) -> int:
        """
        How many bytes may have been read, as the kernel says.
        """
        return self.sent.settle(_kernel.unread(self.socket))

    def test_nothing(self) -> None:
        """
        Of nothing, nothing is unread.
        """
        self.assertFalse(self.sent)
        self.assertEqual(self.settle(), 0)

    def test_unread(self) -> None:
        """
        Of what was written and not read, only the first message may have been read in
        part.
        """
        self.write(10, 20, 30)
        self.assertTrue(self.sent)
        self.assertEqual(self.settle(), 10)
        self.assertEqual(self.sent.written, 60)

    def test_read(self) -> None:
        """
        Message by message that is read, more may have been.
        """
        self.write(10, 2000, 30)
        for size, known in ((10, 2010), (2000, 2040), (30, 2040)):
            self.read(size)
            self.assertEqual(self.settle(), known)
        self.assertFalse(self.sent)

    def test_readInPart(self) -> None:
        """
        A message that was read in part counts as read, and the next one does not.
        """
        self.write(10, 20, 30)
        self.read(1)
        self.assertEqual(self.settle(), 10)
        self.read(9)
        self.read(19)
        self.assertEqual(self.settle(), 30)

    def test_sizes(self) -> None:
        """
        It finds its way among messages of all sizes, whatever the kernel charges for
        each of them.
        """
        sizes = [1, 5000, 700, 64, 8000, 12, 300, 2900]
        self.write(*sizes)
        ends = [sum(sizes[: number + 1]) for number in range(len(sizes))]
        for size, end in zip(sizes, [*ends[1:], ends[-1]], strict=True):
            self.read(size)
            self.assertEqual(self.settle(), end)

    def test_descriptors(self) -> None:
        """
        It counts the descriptors that may be unread.
        """
        self.write(10, 20, descriptors=2)
        self.settle()
        self.assertEqual(self.sent.descriptors, 4)
        self.read(10)
        self.settle()
        self.assertEqual(self.sent.descriptors, 2)
        self.read(20)
        self.settle()
        self.assertEqual(self.sent.descriptors, 0)

    def test_later(self) -> None:
        """
        What is written later is counted on.
        """
        self.write(10)
        self.read(10)
        self.settle()
        self.write(20, 30)
        self.assertEqual(self.settle(), 30)

    def test_onesByOnes(self) -> None:
        """
        Where a descriptor cannot be sent, each message that goes instead is noted.
        """
        closed = os.dup(0)
        os.close(closed)
        self.transport.sendFileDescriptor(self.peer.fileno())
        self.transport.sendFileDescriptor(closed)
        self.transport.sendFileDescriptor(self.peer.fileno())
        self.transport.write(b"frames")
        for _ in range(3):
            self.transport.doWrite()
        self.assertEqual(self.sent.descriptors, 2)
        self.assertEqual(self.sent.written, 6)
        self.assertEqual(self.settle(), 1)

    def test_unknownCharge(self) -> None:
        """
        If the kernel cannot say what it charges, more counts as read than is: nobody is
        accused wrongly.
        """

        def fail(size: int) -> int:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        self.patch(_kernel, "charge", fail)
        self.write(10, 20)
        self.assertEqual(self.settle(), 30)
        self.read(10)
        self.read(20)
        self.assertEqual(self.settle(), 30)
        self.assertFalse(self.sent)

    def test_notNoted(self) -> None:
        """
        Without one, a transport notes nothing, and knows what it was given to write.
        """
        one, other = socket.socketpair()
        self.addCleanup(one.close)
        self.addCleanup(other.close)
        transport = ChannelTransport(Reactor(), one, Recorder())
        transport.start()
        transport.write(b"frame")
        transport.writeNow(b"more")
        transport.doWrite()
        self.assertIsNone(transport.sent)
        self.assertEqual(transport.queued, 9)


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

        reactor.addReader = fail  # type: ignore[assignment]
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
