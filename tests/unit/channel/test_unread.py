"""
Tests for L{portlisten._channel.unread}.
"""

from __future__ import annotations

import errno
import os
import socket

from twisted.trial.unittest import SynchronousTestCase

from portlisten import _kernel
from portlisten._channel.transport import ChannelTransport
from portlisten._channel.unread import Unread
from tests.support.descriptors import watchDescriptors
from tests.support.transports import Reactor, Recorder


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
        Let the peer read so many bytes in a row.
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
        If nothing was written, nothing is unread.
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
        Messages that are written later are counted as well.
        """
        self.write(10)
        self.read(10)
        self.settle()
        self.write(20, 30)
        self.assertEqual(self.settle(), 30)

    def test_onesByOnes(self) -> None:
        """
        If a descriptor cannot be sent, each message that goes instead is noted.
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
