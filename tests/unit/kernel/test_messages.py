"""
Tests for L{portlisten._kernel.messages}.
"""

from __future__ import annotations

import array
import errno
import os
import select
import socket
from typing import Any
from unittest import SkipTest, mock

from twisted.trial.unittest import SynchronousTestCase

from portlisten._kernel import messages
from tests.support.descriptors import descriptors, watchDescriptors
from tests.support.sockets import pair, pipe


class SendTests(SynchronousTestCase):
    """
    Tests for L{messages.send}.
    """

    def setUp(self) -> None:
        """
        Connect, and have something to send.
        """
        watchDescriptors(self)
        self.ours, self.theirs = pair(self)
        self.sent = pair(self)[0]

    def test_bytes(self) -> None:
        """
        Bytes may go alone.
        """
        self.assertEqual(messages.send(self.ours, b"hello", []), 5)
        self.assertEqual(messages.receive(self.theirs), (b"hello", []))

    def test_descriptors(self) -> None:
        """
        Descriptors go on the first byte, and stay open here.
        """
        descriptor = self.sent.fileno()
        self.assertEqual(messages.send(self.ours, b"hello", [descriptor] * 2), 5)
        data, received = messages.receive(self.theirs, 1)
        for each in received:
            self.addCleanup(os.close, each)
            self.assertTrue(os.path.sameopenfile(each, descriptor))
        self.assertEqual((data, len(received)), (b"h", 2))

    def test_full(self) -> None:
        """
        If the socket is full, the write fails, and nothing is sent.
        """
        self.assertRaises(BlockingIOError, self.fill, [])
        self.assertRaises(BlockingIOError, self.fill, [self.sent.fileno()])

    def fill(self, descriptors: list[int]) -> None:
        """
        Send until that fails.
        """
        while True:
            messages.send(self.ours, b"x", descriptors)

    def test_broken(self) -> None:
        """
        When nobody is there to receive, it says so.
        """
        self.theirs.close()
        for sent in ([], [self.sent.fileno()]):
            self.assertRaises(BrokenPipeError, messages.send, self.ours, b"x", sent)


class ReceiveTests(SynchronousTestCase):
    """
    Tests for L{messages.receive}.
    """

    def setUp(self) -> None:
        """
        Connect, and have something to send.
        """
        watchDescriptors(self)
        self.theirs, self.ours = pair(self)
        self.sent = pair(self)[0]

    def send(self, data: bytes, count: int) -> None:
        """
        Send bytes, and so many descriptors of the same socket.
        """
        socket.send_fds(self.theirs, [data], [self.sent.fileno()] * count)

    def receive(self, *args: int) -> tuple[bytes, list[int]]:
        """
        Receive, and close the descriptors in the end.
        """
        data, descriptors = messages.receive(self.ours, *args)
        for descriptor in descriptors:
            self.addCleanup(os.close, descriptor)
        return data, descriptors

    def test_bytes(self) -> None:
        """
        Bytes may come alone.
        """
        self.theirs.send(b"hello")
        self.assertEqual(self.receive(), (b"hello", []))

    def test_size(self) -> None:
        """
        It takes no more bytes than it was asked to.
        """
        self.theirs.send(b"hello")
        self.assertEqual(self.receive(3), (b"hel", []))
        self.assertEqual(self.receive(3), (b"lo", []))

    def test_descriptors(self) -> None:
        """
        Descriptors come along, and lead to what was sent.
        """
        self.send(b"x", 2)
        data, descriptors = self.receive()
        self.assertEqual(data, b"x")
        self.assertEqual(len(descriptors), 2)
        for descriptor in descriptors:
            self.assertTrue(os.path.sameopenfile(descriptor, self.sent.fileno()))

    def test_closeOnExec(self) -> None:
        """
        Programs that the process runs inherit none of them.
        """
        self.send(b"x", 1)
        (descriptor,) = self.receive()[1]
        self.assertFalse(os.get_inheritable(descriptor))

    def test_asManyAsThereAre(self) -> None:
        """
        As many descriptors as any message may carry are received whole.
        """
        self.send(b"x", messages.MAXIMUM_DESCRIPTORS)
        self.assertEqual(len(self.receive()[1]), messages.MAXIMUM_DESCRIPTORS)
        error = self.assertRaises(
            OSError, self.send, b"x", messages.MAXIMUM_DESCRIPTORS + 1
        )
        self.assertEqual(error.errno, errno.EINVAL)

    def test_otherAncillaryData(self) -> None:
        """
        Ancillary data of another kind is no descriptor.
        """
        self.ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.send(b"x", 1)
        data, descriptors = self.receive()
        self.assertEqual((data, len(descriptors)), (b"x", 1))

    def test_incompleteDescriptor(self) -> None:
        """
        A descriptor that is cut off is no descriptor.
        """
        descriptor = array.array("i", [7]).tobytes()
        ancillary = [
            (socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptor + descriptor[:3])
        ]

        class Cut:
            def recvmsg(self, *args: int) -> Any:
                return b"x", ancillary, socket.MSG_CTRUNC, None

        cut: Any = Cut()
        self.assertEqual(messages.receive(cut), (b"x", [7]))

    def test_nothing(self) -> None:
        """
        If nothing can be read now, the read fails.
        """
        self.assertRaises(BlockingIOError, messages.receive, self.ours)

    def test_end(self) -> None:
        """
        The end is no bytes.
        """
        self.theirs.close()
        self.assertEqual(self.receive(), (b"", []))

    def test_broken(self) -> None:
        """
        When there never will be anything to read, it says so.
        """
        self.ours.send(b"never read")
        self.theirs.close()
        self.assertRaises(ConnectionResetError, messages.receive, self.ours)


class ReceiveBytesTests(SynchronousTestCase):
    """
    Tests for L{messages.receiveBytes} and L{messages.refusesDescriptors}.
    """

    def setUp(self) -> None:
        """
        Connect.
        """
        watchDescriptors(self)
        self.theirs, self.ours = pair(self)

    def test_bytes(self) -> None:
        """
        Bytes are read, whatever the kernel refuses, and no more than wanted.
        """
        for refuses in (False, True):
            self.theirs.send(b"hello")
            received = messages.receiveBytes(self.ours, 3, refuses)
            self.assertEqual(received, (b"hel", False))
            received = messages.receiveBytes(self.ours, refuses=refuses)
            self.assertEqual(received, (b"lo", False))
            self.assertRaises(
                BlockingIOError, messages.receiveBytes, self.ours, 3, refuses
            )

    def test_end(self) -> None:
        """
        At the end no bytes are read.
        """
        self.theirs.close()
        for refuses in (False, True):
            received = messages.receiveBytes(self.ours, refuses=refuses)
            self.assertEqual(received, (b"", False))

    def test_descriptors(self) -> None:
        """
        If descriptors come, it says so, and they stay in the socket, with the bytes.
        """
        before = descriptors()
        socket.send_fds(self.theirs, [b"hello"], [self.ours.fileno(), 0])
        for _ in range(2):
            received = messages.receiveBytes(self.ours)
            self.assertEqual(received, (b"hello", True))
        self.assertEqual(descriptors(), before)
        data, came = messages.receive(self.ours)
        for descriptor in came:
            os.close(descriptor)
        self.assertEqual((data, len(came)), (b"hello", 2))

    def test_descriptorsLater(self) -> None:
        """
        Bytes that came before them can be read.
        """
        self.theirs.send(b"before")
        self.assertEqual(messages.receiveBytes(self.ours), (b"before", False))
        socket.send_fds(self.theirs, [b"with"], [0])
        self.assertEqual(messages.receiveBytes(self.ours), (b"with", True))

    def test_refuses(self) -> None:
        """
        The kernel says whether it refuses descriptors.
        """
        self.assertIs(messages.refusesDescriptors(self.ours), False)
        self.assertIs(messages.refusesDescriptors(pipe(self)), False)
        if not messages.refuseDescriptors(self.ours):
            raise SkipTest("this kernel cannot refuse descriptors")
        self.assertIs(messages.refusesDescriptors(self.ours), True)


class RefuseDescriptorsTests(SynchronousTestCase):
    """
    Tests for L{messages.refuseDescriptors}.
    """

    def setUp(self) -> None:
        """
        Watch over descriptors.
        """
        watchDescriptors(self)

    def test_refused(self) -> None:
        """
        A peer can send bytes, and no descriptors.
        """
        path = self.mktemp()
        with (
            socket.socket(socket.AF_UNIX) as server,
            socket.socket(socket.AF_UNIX) as client,
        ):
            server.bind(path)
            server.listen()
            if not messages.refuseDescriptors(server):
                raise SkipTest("this kernel cannot refuse descriptors")
            client.connect(path)
            self.assertRaises(
                PermissionError, socket.send_fds, client, [b"x"], [client.fileno()]
            )
            client.send(b"y")
            with server.accept()[0] as accepted:
                self.assertEqual(accepted.recv(10), b"y")

    def test_cannot(self) -> None:
        """
        It says so where that cannot be had.
        """
        self.assertIs(messages.refuseDescriptors(pipe(self)), False)


class OffersThatFitTests(SynchronousTestCase):
    """
    Tests for L{messages.offersThatFit}.
    """

    def setUp(self) -> None:
        """
        Connect.
        """
        watchDescriptors(self)
        self.ours, self.theirs = pair(self)

    def test_staysWritable(self) -> None:
        """
        After all but one of as many offers, of two messages each, the socket
        is still writable.
        """
        count = messages.offersThatFit(self.ours)
        for _ in range(count - 1):
            messages.send(self.ours, b"x", [self.theirs.fileno()])
            messages.send(self.ours, b"x" * 16, [])
        self.assertGreater(count, 1)
        self.assertTrue(select.select([], [self.ours], [], 0)[1])

    def test_atLeastOne(self) -> None:
        """
        The smallest buffer has room for one.
        """
        self.ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        self.assertEqual(messages.offersThatFit(self.ours), 1)

    def test_enlarged(self) -> None:
        """
        More fit a buffer that was enlarged, which never gets smaller.
        """

        def size() -> int:
            return self.ours.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)

        before = size()
        messages.enlargeSendBuffer(self.ours)
        self.assertGreaterEqual(size(), before)
        self.ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        small = messages.offersThatFit(self.ours)
        messages.enlargeSendBuffer(self.ours)
        self.assertGreater(messages.offersThatFit(self.ours), small)

    def test_largeEnough(self) -> None:
        """
        A larger buffer stays as it is.
        """
        sock = mock.Mock()
        sock.getsockopt.return_value = 1 << 22
        messages.enlargeSendBuffer(sock)
        sock.setsockopt.assert_not_called()

    def test_notEnlarged(self) -> None:
        """
        If the kernel refuses, the buffer stays as it is.
        """
        sock = mock.Mock()
        sock.getsockopt.return_value = 4096
        sock.setsockopt.side_effect = PermissionError
        messages.enlargeSendBuffer(sock)
        sock.setsockopt.assert_called_once()


class UnreadTests(SynchronousTestCase):
    """
    Tests for L{messages.unread}.
    """

    def test_unread(self) -> None:
        """
        It is something until the peer has read it, and then nothing.
        """
        watchDescriptors(self)
        theirs, ours = pair(self)
        self.assertEqual(messages.unread(ours), 0)
        ours.send(b"hello")
        self.assertGreater(messages.unread(ours), 0)
        theirs.recv(100)
        self.assertEqual(messages.unread(ours), 0)


class ChargeTests(SynchronousTestCase):
    """
    Tests for L{messages.charge}.
    """

    def setUp(self) -> None:
        """
        Forget what is known already.
        """
        watchDescriptors(self)
        messages.charge.cache_clear()

    def test_asTheKernel(self) -> None:
        """
        It is what the kernel charges for a message of that size, with descriptors or
        without.
        """
        for size in (1, 30, 1000, 5000, 40_000):
            for count in (0, 3):
                theirs, ours = pair(self)
                socket.send_fds(ours, [bytes(size)], [theirs.fileno()] * count)
                self.assertEqual(messages.charge(size), messages.unread(ours))

    def test_sums(self) -> None:
        """
        Several messages are charged for one by one.
        """
        _, ours = pair(self)
        sizes = (1, 30, 1000)
        for size in sizes:
            ours.send(bytes(size))
        self.assertEqual(sum(map(messages.charge, sizes)), messages.unread(ours))

    def test_once(self) -> None:
        """
        The kernel is asked once for each size.
        """
        charge = messages.charge(77)

        def fail() -> None:
            raise AssertionError("asked again")

        self.patch(socket, "socketpair", fail)
        self.assertEqual(messages.charge(77), charge)

    def test_tooLarge(self) -> None:
        """
        The charge of a message that fits no socket is unknown.
        """
        error = self.assertRaises(OSError, messages.charge, 1 << 23)
        self.assertEqual(error.errno, errno.ENOBUFS)
