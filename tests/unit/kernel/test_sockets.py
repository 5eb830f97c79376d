"""
Tests for L{portlisten._kernel.sockets}.
"""

from __future__ import annotations

import errno
import os
import socket
from typing import Any

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from portlisten._kernel import IPPROTO_MPTCP, sockets
from portlisten._model import Kind
from portlisten.errors import WrongSocket
from tests.support.descriptors import watchDescriptors
from tests.support.sockets import (
    LINGER,
    LOOPBACK,
    Scripted,
    connection,
    duplicate,
    listening,
    pair,
    pipe,
    speaksMultipath,
    stream,
)

# linux/include/uapi/linux/netlink.h
NETLINK_XFRM = 6


class CookieTests(SynchronousTestCase):
    """
    Tests for L{sockets.cookie}.
    """

    def setUp(self) -> None:
        """
        Watch over descriptors.
        """
        watchDescriptors(self)

    def test_same(self) -> None:
        """
        Each descriptor of a socket tells the same cookie.
        """
        _, accepted = connection(self)
        self.assertEqual(
            sockets.cookie(accepted), sockets.cookie(duplicate(self, accepted))
        )

    def test_different(self) -> None:
        """
        No two sockets have the same cookie, not even the ends of a connection.
        """
        cookies = {sockets.cookie(sock) for sock in connection(self) + pair(self)}
        self.assertEqual(len(cookies), 4)

    def test_multipath(self) -> None:
        """
        That holds for Multipath TCP too, whoever has asked for the listening socket's.
        """
        if not speaksMultipath():
            raise SkipTest("this host has no Multipath TCP")
        listener = listening(self, protocol=IPPROTO_MPTCP)
        listener.getsockopt(socket.SOL_SOCKET, sockets.SO_COOKIE, 8)
        found = {sockets.cookie(listener)}
        for _ in range(2):
            client = socket.socket(socket.AF_INET, socket.SOCK_STREAM, IPPROTO_MPTCP)
            self.addCleanup(client.close)
            client.connect(listener.getsockname())
            accepted, _address = listener.accept()
            self.addCleanup(accepted.close)
            number = sockets.cookie(accepted)
            self.assertEqual(number, sockets.cookie(duplicate(self, accepted)))
            found.add(number)
        self.assertEqual(len(found), 3)

    def test_noSocket(self) -> None:
        """
        Something that is no socket has no cookie.
        """
        error = self.assertRaises(OSError, sockets.cookie, pipe(self))
        self.assertEqual(error.errno, errno.ENOTSOCK)

    def test_defaultTimeout(self) -> None:
        """
        To look at a descriptor does not make it non-blocking, even with a default
        time-out: all holders share the flag.
        """
        self.addCleanup(socket.setdefaulttimeout, socket.getdefaulttimeout())
        _, accepted = connection(self)
        accepted.setblocking(True)
        socket.setdefaulttimeout(7)
        descriptor = os.dup(accepted.fileno())
        sockets.identify(descriptor)
        self.assertTrue(sockets.leadsToCookie(descriptor, sockets.cookie(accepted)))
        with sockets.received(descriptor) as sock:
            self.assertEqual(sock.type, socket.SOCK_STREAM)
            self.assertTrue(os.get_blocking(descriptor))


class KindTests(SynchronousTestCase):
    """
    Tests for L{sockets.kindOf}.
    """

    def setUp(self) -> None:
        """
        Watch over descriptors.
        """
        watchDescriptors(self)

    def assertRefused(self, sock: Any, reason: str) -> None:
        """
        Expect that it cannot be used, and why.
        """
        error = self.assertRaises(WrongSocket, sockets.kindOf, sock)
        self.assertIn(reason, str(error))

    def assertKind(self, sock: socket.socket, kind: Kind) -> None:
        """
        Compare.
        """
        self.assertIs(sockets.kindOf(sock), kind)

    def test_tcp(self) -> None:
        """
        TCP connections over IPv4 and IPv6 are recognized.
        """
        for family in LOOPBACK:
            self.assertKind(connection(self, family)[1], Kind.CONNECTIONS)

    def test_unix(self) -> None:
        """
        A Unix socket is a connection, too.
        """
        self.assertKind(pair(self)[0], Kind.CONNECTIONS)

    def test_asksTheKernel(self) -> None:
        """
        It believes the kernel, and not what the Python object was made with.
        """
        _, accepted = connection(self, socket.AF_INET6)
        disguised = socket.socket(
            socket.AF_INET, socket.SOCK_DGRAM, fileno=os.dup(accepted.fileno())
        )
        self.addCleanup(disguised.close)
        self.assertKind(disguised, Kind.CONNECTIONS)

    def test_noSocket(self) -> None:
        """
        A pipe is refused.
        """
        self.assertRefused(pipe(self), "no socket: Socket operation on non-socket")

    def test_datagram(self) -> None:
        """
        Unix sockets for datagrams and for packets are refused.
        """
        for kind in (socket.SOCK_DGRAM, socket.SOCK_SEQPACKET):
            self.assertRefused(pair(self, kind)[0], f"a socket of type {kind.name},")

    def test_numberOfTCP(self) -> None:
        """
        Sockets of other kinds that have the number of TCP are refused.
        """
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_XFRM) as sock:
            self.assertRefused(sock, "a netlink socket")
        try:
            sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
        except PermissionError as error:
            raise SkipTest("a raw socket needs CAP_NET_RAW") from error
        with sock:
            self.assertRefused(sock, "a socket of type SOCK_RAW")

    def test_udp(self) -> None:
        """
        There is UDP over IPv4 and IPv6.
        """
        for family in LOOPBACK:
            with socket.socket(family, socket.SOCK_DGRAM) as sock:
                self.assertKind(sock, Kind.DATAGRAMS)

    def test_listening(self) -> None:
        """
        There are listening sockets.
        """
        for family in LOOPBACK:
            self.assertKind(listening(self, family), Kind.LISTENER)
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(b"")
            sock.listen()
            self.assertKind(sock, Kind.LISTENER)

    def test_multipath(self) -> None:
        """
        Multipath TCP is TCP.
        """
        for family in LOOPBACK:
            self.assertKind(listening(self, family, IPPROTO_MPTCP), Kind.LISTENER)
            for sock in connection(self, family, IPPROTO_MPTCP):
                self.assertKind(sock, Kind.CONNECTIONS)

    def test_otherProtocol(self) -> None:
        """
        Streams over IP of another protocol than TCP are refused.
        """
        answers = {
            socket.SO_DOMAIN: socket.AF_INET6,
            socket.SO_TYPE: socket.SOCK_STREAM,
            socket.SO_PROTOCOL: socket.IPPROTO_SCTP,
            socket.SO_ACCEPTCONN: 0,
        }
        sock = Scripted(pair(self)[0], answers)
        self.assertRefused(sock, "an SCTP socket, not TCP")

    def test_otherFamily(self) -> None:
        """
        Streams of other address families are refused.
        """
        answers = {
            socket.SO_DOMAIN: socket.AF_VSOCK,
            socket.SO_TYPE: socket.SOCK_STREAM,
            socket.SO_PROTOCOL: 0,
            socket.SO_ACCEPTCONN: 0,
        }
        sock = Scripted(pair(self)[0], answers)
        self.assertRefused(sock, "a vsock socket")


class IdentifyTests(SynchronousTestCase):
    """
    Tests for L{sockets.identify} and L{sockets.family}, which leave descriptors
    open.
    """

    def setUp(self) -> None:
        """
        Watch over descriptors.
        """
        watchDescriptors(self)

    def test_taken(self) -> None:
        """
        A socket that can be taken has a kind and a cookie.
        """
        sock = listening(self, socket.AF_INET)
        self.assertEqual(
            sockets.identify(sock.fileno(), [Kind.LISTENER, Kind.DATAGRAMS]),
            (Kind.LISTENER, sockets.cookie(sock)),
        )
        _, accepted = connection(self, socket.AF_INET)
        self.assertEqual(
            sockets.identify(accepted.fileno()),
            (Kind.CONNECTIONS, sockets.cookie(accepted)),
        )

    def test_received(self) -> None:
        """
        A socket of a descriptor has the kernel's family, and owns the descriptor.
        """
        pairs = [connection(self, family) for family in LOOPBACK]
        for _, accepted in [*pairs, pair(self)]:
            family = accepted.family
            with sockets.received(os.dup(accepted.fileno())) as sock:
                self.assertEqual(sock.family, family)
                self.assertTrue(sockets.hasCookie(sock, sockets.cookie(accepted)))

    def test_receivedFile(self) -> None:
        """
        The descriptor of a file remains the caller's.
        """
        with open(os.devnull) as file:
            self.assertRaises(OSError, sockets.received, file.fileno())
            os.fstat(file.fileno())

    def test_hasCookie(self) -> None:
        """
        Another socket's cookie, or a cookie that the kernel does not tell, is none.
        """
        one, accepted = connection(self, socket.AF_INET)
        self.assertFalse(sockets.hasCookie(one, sockets.cookie(accepted)))
        number = sockets.cookie(one)
        self.assertTrue(sockets.hasCookie(one, number))
        self.assertTrue(sockets.leadsToCookie(one.fileno(), number))
        self.assertFalse(sockets.leadsToCookie(accepted.fileno(), number))
        self.assertFalse(sockets.leadsToCookie(pipe(self).fileno(), number))
        one.close()
        self.assertFalse(sockets.hasCookie(one, number))

    def test_hasCookieMultipath(self) -> None:
        """
        A socket of Multipath TCP has none, whatever C{SO_COOKIE} is.
        """
        try:
            sock = socket.socket(socket.AF_INET, proto=IPPROTO_MPTCP)
        except OSError as error:
            raise SkipTest("this kernel has no Multipath TCP") from error
        self.addCleanup(sock.close)
        self.assertFalse(sockets.hasCookie(sock, sockets.cookie(sock)))

    def test_wrong(self) -> None:
        """
        The error names the kind of a socket that cannot be taken.
        """
        _, accepted = connection(self, socket.AF_INET)
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.addCleanup(udp.close)
        for sock, takes, name in [
            (listening(self, socket.AF_INET), [Kind.CONNECTIONS], "a listening socket"),
            (udp, [Kind.LISTENER], "a UDP socket"),
            (accepted, [Kind.LISTENER, Kind.GROUP], "a connection"),
        ]:
            error = self.assertRaises(
                WrongSocket, sockets.identify, sock.fileno(), takes
            )
            self.assertEqual(str(error), name)
            sock.getsockname()  # it is open

    def test_family(self) -> None:
        """
        It tells IPv4 from IPv6.
        """
        for family in LOOPBACK:
            sock = listening(self, family)
            self.assertIs(sockets.family(sock.fileno()), family)
            sock.getsockname()


class ShutDownTests(SynchronousTestCase):
    """
    Tests for L{sockets.isShutDown}.
    """

    def setUp(self) -> None:
        """
        Watch over descriptors.
        """
        watchDescriptors(self)

    def shutDown(self, sock: socket.socket) -> None:
        """
        Shut a socket down, as somebody else who holds it.
        """
        with sock.dup() as other:
            self.assertFalse(sockets.isShutDown(sock))
            try:
                other.shutdown(socket.SHUT_RDWR)
            except OSError as error:
                self.assertEqual(error.errno, errno.ENOTCONN)
        self.assertTrue(sockets.isShutDown(sock))

    def test_tcp(self) -> None:
        """
        A TCP socket listens again when it is told to.
        """
        for family in LOOPBACK:
            sock = listening(self, family)
            self.shutDown(sock)
            sock.listen()
            self.assertFalse(sockets.isShutDown(sock))

    def test_waiting(self) -> None:
        """
        A socket with a waiting client is not shut down.
        """
        sock = listening(self)
        with socket.create_connection(sock.getsockname(), timeout=5):
            self.assertFalse(sockets.isShutDown(sock))

    def test_unix(self) -> None:
        """
        A Unix socket stays shut down.
        """
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(b"")
            sock.listen()
            self.shutDown(sock)
            sock.listen()
            self.assertTrue(sockets.isShutDown(sock))

    def test_udp(self) -> None:
        """
        Neither for one of UDP, whose shutdown is said to have failed.
        """
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("127.0.0.1", 0))
            self.shutDown(sock)


class AcceptTests(SynchronousTestCase):
    """
    Tests for L{sockets.accept} and L{sockets.queued}.
    """

    def setUp(self) -> None:
        """
        Watch over descriptors.
        """
        watchDescriptors(self)

    def test_accept(self) -> None:
        """
        The connection is of the listening socket's family, is not inherited, and
        comes with its client's address.
        """
        for family in LOOPBACK:
            server = listening(self, family)
            client = socket.create_connection(server.getsockname()[:2])
            self.addCleanup(client.close)
            accepted, address = sockets.accept(server, family)
            self.addCleanup(accepted.close)
            self.assertEqual(address, client.getsockname())
            self.assertEqual(accepted.family, family)
            self.assertFalse(os.get_inheritable(accepted.fileno()))
            self.assertEqual(sockets.family(accepted.fileno()), family)
            accepted.send(b"hello")
            self.assertEqual(client.recv(100), b"hello")

    def test_acceptMultipath(self) -> None:
        """
        Each connection has the protocol that its client speaks.  If the kernel does not
        tell, it counts as Multipath TCP, whose questions are then not answered.
        """
        for family in LOOPBACK:
            server = listening(self, family, IPPROTO_MPTCP)
            for protocol in (IPPROTO_MPTCP, 0):
                client = stream(self, family, protocol)
                client.connect(server.getsockname())
                accepted, _ = sockets.accept(server, family)
                self.addCleanup(accepted.close)
                self.assertEqual(accepted.proto, protocol or socket.IPPROTO_TCP)
                self.assertEqual(accepted.family, family)
        client = stream(self, family, 0)
        client.connect(server.getsockname())

        def fail(*arguments: object) -> None:
            raise OSError(errno.ENOBUFS, "no buffers")

        self.patch(sockets, "retry", fail)
        accepted, _ = sockets.accept(server, family)
        self.addCleanup(accepted.close)
        self.assertEqual(accepted.proto, IPPROTO_MPTCP)

    def test_queuedMultipath(self) -> None:
        """
        The backlog of a socket of Multipath TCP is counted as well.
        """
        server = listening(self, protocol=IPPROTO_MPTCP)
        server.listen(7)
        for protocol in (IPPROTO_MPTCP, 0):
            stream(self, socket.AF_INET, protocol).connect(server.getsockname())
        self.assertEqual(sockets.queued(server), (2, 7))

    def test_nobody(self) -> None:
        """
        There may be nobody.
        """
        server = listening(self)
        server.setblocking(False)
        self.assertRaises(BlockingIOError, sockets.accept, server, socket.AF_INET)

    def test_queued(self) -> None:
        """
        It counts those that wait to be accepted, and tells how many may.
        """
        server = listening(self)
        server.listen(7)
        self.assertEqual(sockets.queued(server), (0, 7))
        for count in (1, 2):
            client = socket.create_connection(server.getsockname())
            self.addCleanup(client.close)
            self.assertEqual(sockets.queued(server), (count, 7))
        accepted, _ = server.accept()
        accepted.close()
        self.assertEqual(sockets.queued(server), (1, 7))

    def test_unknown(self) -> None:
        """
        The kernel does not tell for sockets other than TCP.
        """
        self.assertIsNone(sockets.queued(pair(self)[0]))
        self.assertIsNone(sockets.queued(pipe(self)))


class CloseCopyTests(SynchronousTestCase):
    """
    Tests for L{sockets.closeCopy}.
    """

    def setUp(self) -> None:
        """
        Let a worker hold the connection, too.
        """
        watchDescriptors(self)
        self.client, self.accepted = connection(self)
        self.worker = duplicate(self, self.accepted)

    def test_closes(self) -> None:
        """
        It closes the descriptor.
        """
        sockets.closeCopy(self.accepted)
        self.assertEqual(self.accepted.fileno(), -1)

    def test_leftToOthers(self) -> None:
        """
        The connection goes on, both ways, for its other holders.
        """
        sockets.closeCopy(self.accepted)
        self.client.sendall(b"question")
        self.assertEqual(self.worker.recv(100), b"question")
        self.worker.sendall(b"answer")
        self.assertEqual(self.client.recv(100), b"answer")

    def test_resetsLinger(self) -> None:
        """
        What another holder has set, so that closing would wait for the client
        or reset it, is undone first.
        """
        for seconds in (0, 600):
            worker = duplicate(self, self.worker)
            self.worker.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, LINGER.pack(1, seconds)
            )
            sockets.closeCopy(worker)
            set = self.worker.getsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, LINGER.size
            )
            self.assertEqual(LINGER.unpack(set)[0], 0)

    def test_noReset(self) -> None:
        """
        The last holder ends the connection in order, though one that died had
        asked for a reset.
        """
        self.worker.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER.pack(1, 0))
        self.worker.close()
        sockets.closeCopy(self.accepted)
        self.assertEqual(self.client.recv(1), b"")

    def test_noSocket(self) -> None:
        """
        A descriptor that takes no such option is closed all the same.
        """
        sock = pipe(self)
        sockets.closeCopy(sock)
        self.assertEqual(sock.fileno(), -1)


class LimitTests(SynchronousTestCase):
    """
    The kernel's limits.
    """

    def test_maximumPath(self) -> None:
        """
        A socket's path may be as long as L{sockets.MAXIMUM_PATH}, and no longer.
        """
        for length, bound in (
            (sockets.MAXIMUM_PATH, True),
            (sockets.MAXIMUM_PATH + 1, False),
        ):
            with socket.socket(socket.AF_UNIX) as sock:
                try:
                    sock.bind("x" * length)
                except OSError:
                    self.assertFalse(bound)
                else:
                    os.unlink("x" * length)
                    self.assertTrue(bound)
