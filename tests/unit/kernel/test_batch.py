"""
Tests for L{portlisten._kernel.batch}, and for the same in C.
"""

from __future__ import annotations

import errno
import fcntl
import gc
import os
import resource
import shutil
import socket
import struct
import sys
import tempfile
import warnings
from typing import Any

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from portlisten import _kernel
from portlisten._kernel import IPPROTO_MPTCP, batch, sockets
from tests import twins
from tests.support.batches import TWINS
from tests.support.descriptors import watchDescriptors

FAMILIES = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)


class Subclass(_kernel.Connection):
    """
    A class of connections, as the listener has one.
    """

    __slots__ = ()


class BatchTests(SynchronousTestCase):
    """
    Tests for the code in Python.

    @cvar name: which of the twins is tested.
    """

    name = "Python"

    def setUp(self) -> None:
        watchDescriptors(self)
        self.twin = TWINS[self.name]
        if self.twin is None:
            raise SkipTest("it was not built: there was no compiler")
        self.folder = tempfile.mkdtemp(prefix="batch.")
        self.addCleanup(shutil.rmtree, self.folder)

    def place(
        self, count: int, family: socket.AddressFamily = socket.AF_INET
    ) -> twins.Place:
        """
        Listen, and let clients connect.
        """
        place = twins.Place(family, self.folder, count)
        self.addCleanup(place.close)
        return place

    def accept(self, place: twins.Place, most: int = 100) -> tuple[list[Any], int]:
        """
        Accept.  At the end, close what was accepted.
        """
        connections, number = self.twin.acceptMany(
            self.twin.Connection, place.listening, int(place.kind), most
        )
        for each in connections:
            self.addCleanup(each.closeCopy)
        return connections, number

    def test_accepts(self) -> None:
        """
        All connections that wait are accepted, in their order.  Each knows its client's
        address as C{socket.accept} gives it, its family, and its cookie.
        """
        for family in FAMILIES:
            place = self.place(5, family)
            connections, number = self.accept(place)
            self.assertEqual(number, 0)
            self.assertEqual(
                [each.address for each in connections],
                [client.getsockname() for client in place.clients],
            )
            for each in connections:
                self.assertEqual((each.family, each.proto), (int(family), 0))
                with socket.socket(fileno=os.dup(each.fileno())) as sock:
                    self.assertEqual(each.cookie, sockets.cookie(sock))
            self.assertEqual(len({each.cookie for each in connections}), 5)

    def test_longPath(self) -> None:
        """
        The path of a client, or its abstract name, may be as long as the kernel allows.
        """
        place = self.place(0, socket.AF_UNIX)
        path = self.folder + "/" + "x" * (sockets.MAXIMUM_PATH - len(self.folder) - 1)
        for name in (path, "\0x" + path[1:]):
            with socket.socket(socket.AF_UNIX) as client:
                client.bind(name)
                client.connect(place.listening.getsockname())
                (connection,), _ = self.accept(place)
                self.assertEqual(connection.address, client.getsockname())

    def test_flags(self) -> None:
        """
        No program that the process runs inherits a connection.  Its other holders do
        not find it non-blocking.
        """
        (connection,), _ = self.accept(self.place(1))
        self.assertFalse(os.get_inheritable(connection.fileno()))
        flags = fcntl.fcntl(connection.fileno(), fcntl.F_GETFL)
        self.assertFalse(flags & os.O_NONBLOCK)

    def test_most(self) -> None:
        """
        No more connections are accepted than were asked for.
        """
        place = self.place(3)
        for most, count in ((0, 0), (2, 2), (2, 1), (2, 0)):
            connections, number = self.accept(place, most)
            self.assertEqual((len(connections), number), (count, 0))

    def test_kind(self) -> None:
        """
        The connections are of the class that was asked for.
        """
        kind = type("Kind", (self.twin.Connection,), {"__slots__": ()})
        place = self.place(2)
        connections, _ = self.twin.acceptMany(kind, place.listening, place.kind, 9)
        self.assertEqual([type(each) for each in connections], [kind, kind])
        for each in connections:
            each.closeCopy()

    def test_portsErrors(self) -> None:
        """
        If the socket is closed, does not listen, or is none, that error is returned.
        """

        class Pipe:
            proto = 0

            def fileno(self) -> int:
                return reading

            def _accept(self) -> Any:
                raise OSError(errno.ENOTSOCK, "not a socket")

        reading, writing = os.pipe()
        self.addCleanup(os.close, reading)
        self.addCleanup(os.close, writing)
        closed, bound = socket.socket(), socket.socket()
        closed.close()
        self.addCleanup(bound.close)
        bound.setblocking(False)
        for sock, number in (
            (closed, errno.EBADF),
            (bound, errno.EINVAL),
            (Pipe(), errno.ENOTSOCK),
        ):
            self.assertEqual(
                self.twin.acceptMany(self.twin.Connection, sock, socket.AF_INET, 3),
                ([], number),
            )

    def test_noDescriptors(self) -> None:
        """
        If descriptors run out, the connections that were accepted before are returned,
        and the others wait.
        """
        place = self.place(5)
        free = [os.dup(0), os.dup(0)]
        for each in free:
            os.close(each)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(free) + 1, hard))
        try:
            connections, number = self.accept(place)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        self.assertEqual((len(connections), number), (2, errno.EMFILE))
        self.assertEqual(place.queued(), 3)
        self.assertEqual(len(self.accept(place)[0]), 3)

    def test_closeCopy(self) -> None:
        """
        To close the copy closes this descriptor alone.  It does not linger, even if
        another holder wants that.  It can be done twice.
        """
        place = self.place(1)
        (connection,), _ = self.accept(place)
        with socket.socket(fileno=os.dup(connection.fileno())) as other:
            linger = struct.pack("ii", 1, 30)
            other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            connection.closeCopy()
            connection.closeCopy()
            self.assertEqual(connection.fileno(), -1)
            left = other.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, len(linger))
            self.assertEqual(struct.unpack("ii", left)[0], 0)
            other.sendall(b"still here")
            self.assertEqual(place.clients[0].recv(100), b"still here")

    def test_reset(self) -> None:
        """
        A client whose connection is reset sees that.  It can be done twice.
        """
        place = self.place(1)
        (connection,), _ = self.accept(place)
        connection.reset()
        connection.reset()
        self.assertEqual(connection.fileno(), -1)
        self.assertRaises(ConnectionResetError, place.clients[0].recv, 1)

    def test_packed(self) -> None:
        """
        Each knows the bytes of its client's address, if it has one.
        """
        expected = {
            socket.AF_INET: socket.inet_pton(socket.AF_INET, "127.0.0.1"),
            socket.AF_INET6: socket.inet_pton(socket.AF_INET6, "::1"),
            socket.AF_UNIX: b"",
        }
        for family in FAMILIES:
            (connection,), _ = self.accept(self.place(1, family))
            self.assertEqual(connection.packed, expected[family])

    def test_packedOf(self) -> None:
        """
        So it is if the address is given: an IPv4 address that is mapped to IPv6 is one
        of IPv4, a scope does not count, and no address has no bytes.
        """
        for address, expected in (
            (("192.0.2.7", 80), bytes([192, 0, 2, 7])),
            (("::ffff:192.0.2.7", 80, 0, 0), bytes([192, 0, 2, 7])),
            (("fe80::1%lo", 80, 0, 1), bytes.fromhex("fe80" + 27 * "0" + "1")),
            (("nonsense", 80), b""),
            (("x" * 200, 80), b""),
            (("::1",), b""),
            ("/run/client", b""),
            (None, b""),
        ):
            with socket.socket() as sock:
                connection = self.twin.Connection(sock, address)
                self.assertEqual(connection.packed, expected, address)

    def test_dropped(self) -> None:
        """
        A connection that nobody has any more is closed.
        """
        place = self.place(1)
        with warnings.catch_warnings():
            # In Python, it is a socket that was not closed.
            warnings.simplefilter("ignore")
            self.twin.acceptMany(self.twin.Connection, place.listening, place.kind, 9)
        self.assertEqual(place.clients[0].recv(1), b"")

    def test_fromSocket(self) -> None:
        """
        A connection can be made of a socket, and closes it.
        """
        place = self.place(1)
        accepted, address = place.listening.accept()
        self.addCleanup(accepted.close)
        connection = self.twin.Connection(accepted, address)
        self.assertEqual(connection.fileno(), accepted.fileno())
        self.assertEqual(connection.cookie, sockets.cookie(accepted))
        self.assertEqual(connection.family, socket.AF_INET)
        self.assertIs(connection.address, address)
        connection.closeCopy()
        self.assertEqual(accepted.fileno(), -1)
        self.assertEqual(connection.fileno(), -1)

    def test_fromClosed(self) -> None:
        """
        No connection can be made of a closed socket.
        """
        sock = socket.socket()
        sock.close()
        error = self.assertRaises(OSError, self.twin.Connection, sock, None)
        self.assertEqual(error.errno, errno.EBADF)

    def test_options(self) -> None:
        """
        Options can be read as from a socket.
        """
        (connection,), _ = self.accept(self.place(1))
        get = connection.getsockopt
        number = get(socket.SOL_SOCKET, socket.SO_TYPE)
        self.assertEqual(number, socket.SOCK_STREAM)
        self.assertEqual(
            get(socket.SOL_SOCKET, socket.SO_TYPE, 4), struct.pack("i", number)
        )
        self.assertEqual(len(get(socket.IPPROTO_TCP, socket.TCP_INFO, 104)), 104)
        self.assertIs(_kernel.untouched(connection), True)
        for size in (-1, 1025):
            self.assertRaises(OSError, get, socket.SOL_SOCKET, socket.SO_TYPE, size)
        for wrong in ((12345,), (12345, 4)):
            error = self.assertRaises(OSError, get, socket.SOL_SOCKET, *wrong)
            self.assertEqual(error.errno, errno.ENOPROTOOPT)
        connection.closeCopy()
        error = self.assertRaises(OSError, get, socket.SOL_SOCKET, socket.SO_TYPE)
        self.assertEqual(error.errno, errno.EBADF)

    def test_multipath(self) -> None:
        """
        A connection of Multipath TCP has its inode for a cookie.  A client that speaks
        plain TCP gets a plain connection.
        """
        try:
            listening = socket.socket(proto=IPPROTO_MPTCP)
        except OSError:
            raise SkipTest("this kernel has no Multipath TCP") from None
        self.addCleanup(listening.close)
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        for protocol, multipath in ((IPPROTO_MPTCP, True), (0, False)):
            with socket.socket(proto=protocol) as client:
                client.connect(listening.getsockname())
                listening.setblocking(True)
                (connection,), _ = self.twin.acceptMany(
                    self.twin.Connection, listening, socket.AF_INET, 1
                )
                inode = os.fstat(connection.fileno()).st_ino | 1 << 63
                self.assertEqual(connection.proto == IPPROTO_MPTCP, multipath)
                self.assertEqual(connection.cookie == inode, multipath)
                with socket.socket(fileno=os.dup(connection.fileno())) as sock:
                    self.assertEqual(connection.cookie, sockets.cookie(sock))
                connection.closeCopy()


class LibraryTests(BatchTests):
    """
    The same tests for the code in C, and some for it alone.
    """

    name = "C"

    def test_wrongKind(self) -> None:
        """
        Only connections can be made.
        """
        place = self.place(1)
        for kind in (int, batch.Connection, "Connection"):
            self.assertRaises(
                TypeError, self.twin.acceptMany, kind, place.listening, place.kind, 1
            )
        self.assertEqual(place.queued(), 1)

    def test_wrongSocket(self) -> None:
        """
        What is no socket raises an exception, as in Python.
        """
        accept, kind = self.twin.acceptMany, self.twin.Connection
        self.assertRaises(AttributeError, accept, kind, 3, socket.AF_INET, 1)
        self.assertRaises(AttributeError, kind, 3, None)
        self.assertRaises(TypeError, accept, kind)
        self.assertRaises(TypeError, kind, sock=3)

    def test_noLeak(self) -> None:
        """
        Nothing that a call makes stays.
        """
        place = self.place(0)
        arguments = (self.twin.Connection, place.listening, place.kind, 1)
        gc.collect()  # what other tests have left
        kinds = [sys.getrefcount(self.twin.Connection), 0]
        for _ in range(100):
            with socket.create_connection(place.listening.getsockname()):
                while not place.queued():
                    pass
                (connection,), _ = self.twin.acceptMany(*arguments)
                self.assertEqual(sys.getrefcount(connection.address), 2)
                connection.closeCopy()
                del connection
            self.twin.acceptMany(*arguments)
        kinds[1] = sys.getrefcount(self.twin.Connection)
        self.assertEqual(*kinds)

    def test_none(self) -> None:
        """
        References of L{None} are counted, as Pythons before 3.12 want it.
        """
        (connection,), _ = self.accept(self.place(1))
        connection.closeCopy()
        before = sys.getrefcount(None)
        for _ in range(10000):
            connection.closeCopy()
        self.assertLess(abs(sys.getrefcount(None) - before), 1000)


class ComparisonTests(SynchronousTestCase):
    """
    Both twins, with the same random errors.
    """

    def test_same(self) -> None:
        """
        They accept the same and return the same, and no connection is lost if memory
        fails.
        """
        compiler = shutil.which("cc")
        if compiler is None or TWINS["C"] is None:
            raise SkipTest("there is no compiler, or the library was not built")
        with tempfile.TemporaryDirectory() as folder:
            ended = twins.run(compiler, folder, "--rounds=200")
        self.assertEqual(ended.returncode, 0, ended.stdout)
        self.assertIn("the twins are the same", ended.stdout)
