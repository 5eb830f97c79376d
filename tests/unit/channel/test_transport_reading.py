"""
Tests for what L{portlisten._channel.transport} reads, on real sockets.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from typing import Any

from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.logger import capturedLogs
from twisted.python.failure import Failure

from portlisten import _kernel
from portlisten._channel import limits
from portlisten._channel.limits import KERNEL_RETRY_SECONDS
from portlisten._channel.transport import ChannelTransport
from tests.support.channels import texts
from tests.support.transports import Recorder, TransportTestCase


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
        for _ in range(limits.READS_PER_TURN + 1):
            # Messages with descriptors are not read together.
            socket.send_fds(self.peer, [b"x"], [self.peer.fileno()])
        self.transport.doRead()
        self.assertEqual(len(self.protocol.data), limits.READS_PER_TURN)
        self.transport.doRead()
        self.peer.send(bytes(limits.BYTES_PER_TURN + 1))
        self.protocol.data = b""
        self.transport.doRead()
        self.assertEqual(len(self.protocol.data), limits.BYTES_PER_TURN)
        for descriptor in self.protocol.descriptors:
            os.close(descriptor)

    def test_paused(self) -> None:
        """
        If the protocol wants to read no more, neither bytes nor the end are read.
        """
        heard = self.protocol.dataReceived

        def pause(data: bytes) -> None:
            heard(data)
            self.transport.pauseProducing()

        self.patch(self.protocol, "dataReceived", pause)
        for data in (b"one", b"two"):
            # Messages with descriptors are not read together.
            socket.send_fds(self.peer, [data], [self.peer.fileno()])
        self.peer.shutdown(socket.SHUT_WR)
        self.assertIsNone(self.transport.doRead())
        self.assertEqual(self.protocol.data, b"one")
        self.transport.resumeProducing()
        self.assertIsNone(self.transport.doRead())
        self.assertEqual(self.protocol.data, b"onetwo")
        self.transport.resumeProducing()
        self.assertIsInstance(self.transport.doRead(), ConnectionDone)
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
        Make the next reads fail with these errors.
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
        An empty socket is no failure.
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
        A transport that was aborted meanwhile reads no more.
        """
        self.failReads(errno.ENOMEM)
        self.transport.doRead()
        self.patch(self.transport, "_abort", list)
        self.transport.abortConnection()
        self.reactor.advance(KERNEL_RETRY_SECONDS)
        self.assertEqual(self.reactor.readers, set())
