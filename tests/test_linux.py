"""
Tests for L{portlisten._linux}.
"""

from __future__ import annotations

import array
import builtins
import errno
import io
import os
import select
import socket
import struct
import subprocess
import sys
from typing import Any
from unittest import SkipTest, skipUnless

from twisted.trial.unittest import SynchronousTestCase

from portlisten import _linux
from portlisten._frames import Kind
from tests.support import watchDescriptors

LOOPBACK = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}

LINGER = struct.Struct("=ii")


def pipe(test: SynchronousTestCase) -> socket.socket:
    """
    Make a pipe, one of whose ends passes itself off as a socket.
    """
    sock = pair(test)[0]
    for end in os.pipe():
        os.dup2(end, sock.fileno(), inheritable=False)
        os.close(end)
    return sock


def listening(test: SynchronousTestCase, family: int = socket.AF_INET) -> socket.socket:
    """
    Make a listening TCP socket.
    """
    sock = socket.create_server((LOOPBACK[family], 0), family=family)
    test.addCleanup(sock.close)
    return sock


def connection(
    test: SynchronousTestCase, family: int = socket.AF_INET
) -> tuple[socket.socket, socket.socket]:
    """
    Make a TCP connection.

    @return: the client's end, and the one that was accepted.
    """
    server = listening(test, family)
    client = socket.create_connection(server.getsockname()[:2])
    test.addCleanup(client.close)
    accepted, _ = server.accept()
    test.addCleanup(accepted.close)
    return client, accepted


def pair(
    test: SynchronousTestCase, kind: int = socket.SOCK_STREAM
) -> tuple[socket.socket, socket.socket]:
    """
    Make two connected Unix sockets.
    """
    pair = socket.socketpair(socket.AF_UNIX, kind)
    for end in pair:
        end.setblocking(False)
        test.addCleanup(end.close)
    return pair


def duplicate(test: SynchronousTestCase, sock: socket.socket) -> socket.socket:
    """
    Make another holder of the same socket, as a worker is.
    """
    copy = sock.dup()
    test.addCleanup(copy.close)
    return copy


def arrived(sock: socket.socket, event: int = select.POLLIN) -> None:
    """
    Wait for what the other end has sent.
    """
    poll = select.poll()
    poll.register(sock, event)
    assert poll.poll(10_000)


class Scripted:
    """
    A socket that answers C{getsockopt} as told, for what this machine's kernel
    cannot be brought to say.
    """

    family = socket.AF_INET

    def __init__(self, sock: socket.socket, answers: dict[int, Any]) -> None:
        self.fileno = sock.fileno
        self._answers = answers

    def getsockopt(self, level: int, name: int, size: int = 0) -> Any:
        """
        Give the answer, or raise it.
        """
        answer = self._answers[name]
        if isinstance(answer, OSError):
            raise answer
        return answer


class CookieTests(SynchronousTestCase):
    """
    Tests for L{_linux.cookie}.
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
            _linux.cookie(accepted), _linux.cookie(duplicate(self, accepted))
        )

    def test_different(self) -> None:
        """
        No two sockets have the same cookie, not even the ends of a connection.
        """
        cookies = {_linux.cookie(sock) for sock in connection(self) + pair(self)}
        self.assertEqual(len(cookies), 4)

    def test_noSocket(self) -> None:
        """
        Something that is no socket has no cookie.
        """
        error = self.assertRaises(OSError, _linux.cookie, pipe(self))
        self.assertEqual(error.errno, errno.ENOTSOCK)


class PristineMixin:
    """
    What L{_linux.pristine} says of a TCP connection.
    """

    family: socket.AddressFamily

    def setUp(self) -> None:
        """
        Connect.
        """
        watchDescriptors(self)  # type: ignore[arg-type]
        self.client, self.accepted = connection(self, self.family)  # type: ignore[arg-type]

    def assertPristine(self, expected: bool) -> None:
        """
        Compare, and look from each holder's descriptor.
        """
        copy = duplicate(self, self.accepted)  # type: ignore[arg-type]
        for sock in (self.accepted, copy):
            self.assertIs(_linux.pristine(sock), expected)  # type: ignore[attr-defined]

    def test_fresh(self) -> None:
        """
        A fresh connection is pristine.
        """
        self.assertPristine(True)

    def test_unreadData(self) -> None:
        """
        It stays so when the client has sent something that nobody read.
        """
        self.client.sendall(b"hello")
        arrived(self.accepted)
        self.assertPristine(True)

    def test_unreadEnd(self) -> None:
        """
        It stays so when the client has ended its side.
        """
        self.client.shutdown(socket.SHUT_WR)
        arrived(self.accepted, select.POLLRDHUP)
        self.assertPristine(True)

    def test_unreadDataAndEnd(self) -> None:
        """
        It stays so when the client has sent something and ended its side.
        """
        self.client.sendall(b"hello")
        self.client.shutdown(socket.SHUT_WR)
        arrived(self.accepted, select.POLLRDHUP)
        self.assertPristine(True)

    def test_clientClosed(self) -> None:
        """
        It stays so when the client is gone, and left something to be read.
        """
        self.client.sendall(b"hello")
        self.client.close()
        arrived(self.accepted, select.POLLRDHUP)
        self.assertPristine(True)

    def test_peeked(self) -> None:
        """
        Looking at what the client sent takes nothing from the connection.
        """
        self.client.sendall(b"hello")
        arrived(self.accepted)
        self.accepted.recv(5, socket.MSG_PEEK)
        self.assertPristine(True)

    def test_read(self) -> None:
        """
        It is not pristine once somebody has read what the client sent.
        """
        self.client.sendall(b"hello")
        arrived(self.accepted)
        self.accepted.recv(5)
        self.assertPristine(False)

    def test_readInPart(self) -> None:
        """
        One byte that was read is enough.
        """
        self.client.sendall(b"hello")
        arrived(self.accepted)
        self.accepted.recv(1)
        self.assertPristine(False)

    def test_readBeforeEnd(self) -> None:
        """
        The client's end does not make up for a byte that was read, whether it
        came before or after.
        """
        self.client.sendall(b"h")
        arrived(self.accepted)
        self.accepted.recv(1)
        self.client.shutdown(socket.SHUT_WR)
        arrived(self.accepted, select.POLLRDHUP)
        self.assertPristine(False)

    def test_written(self) -> None:
        """
        It is not pristine once somebody has written to it.
        """
        self.accepted.sendall(b"h")
        arrived(self.client)
        self.assertPristine(False)

    def test_writtenAndNotSent(self) -> None:
        """
        It is not pristine when what was written still waits to be sent.
        """
        self.accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
        self.accepted.sendall(b"h")
        self.client.setblocking(False)
        self.assertRaises(BlockingIOError, self.client.recv, 1)
        self.assertPristine(False)

    def test_writingEnded(self) -> None:
        """
        It is not pristine once somebody has ended its writing side.
        """
        self.accepted.shutdown(socket.SHUT_WR)
        self.assertPristine(False)

    def test_writingEndedAfterClient(self) -> None:
        """
        It is not pristine either if the client had ended its side before.
        """
        self.client.shutdown(socket.SHUT_WR)
        arrived(self.accepted, select.POLLRDHUP)
        self.accepted.shutdown(socket.SHUT_RDWR)
        self.assertPristine(False)

    def test_reset(self) -> None:
        """
        A connection that the client has reset is of no use to anybody.
        """
        self.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER.pack(1, 0))
        self.client.close()
        arrived(self.accepted, select.POLLHUP)
        self.assertPristine(False)


class PristineTests(PristineMixin, SynchronousTestCase):
    """
    L{_linux.pristine} over IPv4.
    """

    family = socket.AF_INET


class PristineIPv6Tests(PristineMixin, SynchronousTestCase):
    """
    L{_linux.pristine} over IPv6.
    """

    family = socket.AF_INET6


class NotToldTests(SynchronousTestCase):
    """
    Where L{_linux.pristine} says that it cannot say.
    """

    def setUp(self) -> None:
        """
        Watch over descriptors.
        """
        watchDescriptors(self)

    def test_unix(self) -> None:
        """
        Of a Unix socket it cannot say.
        """
        self.assertIsNone(_linux.pristine(pair(self)[0]))

    def test_datagram(self) -> None:
        """
        Of a datagram socket it cannot say.
        """
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            self.assertIsNone(_linux.pristine(sock))

    def test_listening(self) -> None:
        """
        Of a listening socket it cannot say.
        """
        self.assertIsNone(_linux.pristine(listening(self)))

    def test_closed(self) -> None:
        """
        Of a descriptor that is closed it cannot say.
        """
        _, accepted = connection(self)
        accepted.close()
        self.assertIsNone(_linux.pristine(accepted))

    def test_oldKernel(self) -> None:
        """
        A kernel that does not count the bytes sent cannot say.
        """
        _, accepted = connection(self)
        info = accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192)
        old: Any = Scripted(accepted, {socket.TCP_INFO: info})
        self.assertIsNone(_linux.pristine(old))


class CredentialsTests(SynchronousTestCase):
    """
    Tests for L{_linux.credentials}.
    """

    def test_own(self) -> None:
        """
        They say who is at the other end: here, this process.
        """
        credentials = _linux.credentials(pair(self)[0])
        self.assertEqual(
            (credentials.pid, credentials.uid, credentials.gid),
            (os.getpid(), os.geteuid(), os.getegid()),
        )
        self.assertEqual(sorted(credentials.groups), sorted(os.getgroups()))

    def test_groupsUntold(self) -> None:
        """
        Where the kernel does not tell the groups, there are none.
        """
        answers = {
            socket.SO_PEERCRED: struct.pack("=iii", 1, 2, 3),
            _linux.SO_PEERGROUPS: OSError(errno.ENOPROTOOPT, "unknown"),
        }
        sock: Any = Scripted(pair(self)[0], answers)
        self.assertEqual(
            _linux.credentials(sock), _linux.Credentials(1, 2, 3, (), False)
        )

    def test_manyGroupsUntold(self) -> None:
        """
        Nor where it does not tell them a second time.
        """
        answers = {
            socket.SO_PEERCRED: struct.pack("=iii", 1, 2, 3),
            _linux.SO_PEERGROUPS: OSError(errno.ERANGE, "too many"),
        }
        with socket.socket() as sock:
            scripted: Any = Scripted(sock, answers)
            self.assertFalse(_linux.credentials(scripted).groupsKnown)

    @skipUnless(os.geteuid() == 0, "only root may become somebody else")
    def test_largeNumbers(self) -> None:
        """
        Users and groups may have numbers of 32 bits, and a user may be in as many
        groups as the kernel allows.
        """
        for count in (0, 255, 256, 65536):
            groups = tuple(range(4_000_000_000, 4_000_000_000 + count))
            who = self.somebody(3_000_000_000, 3_500_000_000, groups)
            self.assertEqual((who.uid, who.gid), (3_000_000_000, 3_500_000_000))
            self.assertEqual((who.groups, who.groupsKnown), (groups, True))

    def somebody(
        self, uid: int, gid: int, groups: tuple[int, ...]
    ) -> _linux.Credentials:
        """
        Have a process of somebody else connect.
        """
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(b"")
            server.listen()
            address = server.getsockname()
            child = os.fork()
            if not child:
                try:
                    os.setgroups(groups)
                    os.setresgid(gid, gid, gid)
                    os.setresuid(uid, uid, uid)
                    with socket.socket(socket.AF_UNIX) as client:
                        client.connect(address)
                        client.recv(1)
                finally:
                    os._exit(0)
            try:
                server.settimeout(30)
                with server.accept()[0] as accepted:
                    return _linux.credentials(accepted)
            finally:
                os.waitpid(child, 0)


class Waited(socket.socket):
    """
    A Unix socket of which the kernel does not tell the process at its other end.

    @cvar code: why not.
    """

    code = errno.ENOPROTOOPT

    def getsockopt(self, *_: Any) -> Any:
        raise OSError(self.code, os.strerror(self.code))


class PeerProcessTests(SynchronousTestCase):
    """
    Tests for L{_linux.peerProcess} and L{_linux.hasEnded}.
    """

    def setUp(self) -> None:
        watchDescriptors(self)
        self.child = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
        self.addCleanup(self.end)

    def end(self) -> None:
        """
        Have the child end, and wait for it.
        """
        self.child.communicate()

    def process(self, sock: socket.socket) -> int:
        """
        Find the process, which is the child if the kernel does not say.
        """
        process = _linux.peerProcess(sock, self.child.pid)
        assert process is not None
        self.addCleanup(os.close, process)
        return process

    def test_lives(self) -> None:
        """
        A process that lives has not ended.
        """
        left, right = socket.socketpair()
        with left, right:
            self.assertFalse(_linux.hasEnded(self.process(left)))

    def test_byNumber(self) -> None:
        """
        Where the kernel has no pidfd of it, its number leads to it.
        """
        with Waited() as sock:
            process = self.process(sock)
        self.assertFalse(_linux.hasEnded(process))
        self.end()
        self.assertTrue(_linux.hasEnded(process))

    def test_ended(self) -> None:
        """
        One that somebody has waited for has ended.
        """
        self.end()
        with Waited() as sock:
            self.assertRaises(ProcessLookupError, self.process, sock)

    def test_endedAndReplaced(self) -> None:
        """
        Of one that the kernel says has ended, the number is another's.
        """
        for code in (errno.EINVAL, errno.ESRCH):
            with Waited() as sock:
                sock.code = code
                self.assertRaises(ProcessLookupError, self.process, sock)

    def test_elsewhere(self) -> None:
        """
        Of one in another pid namespace nothing is known.
        """
        with Waited() as sock:
            self.assertIsNone(_linux.peerProcess(sock, 0))


class ReapTests(SynchronousTestCase):
    """
    Tests for L{_linux.reap}.
    """

    def test_gone(self) -> None:
        """
        A child that somebody else has waited for is forgotten.
        """
        with subprocess.Popen(["true"]) as child:
            child.wait()
        self.patch(_linux, "_children", [child.pid])
        _linux.reap()
        self.assertEqual(_linux._children, [])


class MayChangeUsersTests(SynchronousTestCase):
    """
    Tests for L{_linux.mayChangeUsers}.
    """

    def answer(self, status: str) -> bool:
        """
        Have the kernel say this of the process.
        """
        self.patch(builtins, "open", lambda name: io.StringIO(status))
        return _linux.mayChangeUsers()

    def test_root(self) -> None:
        """
        Root may, unless it lacks one of two capabilities.
        """
        for capabilities, may in (
            ("000001ffffffffff", True),
            ("00000000000000c0", True),
            ("0000000000000080", False),
            ("0000000000000040", False),
            ("0000000000000000", False),
        ):
            status = f"Name:\ta: b\nCapEff:\t{capabilities}\n"
            self.assertEqual(self.answer(status), may)

    def test_untold(self) -> None:
        """
        If the kernel does not say, it may.
        """
        self.assertTrue(self.answer("Name:\ttwistd\n"))

        def fail(name: str) -> None:
            raise FileNotFoundError

        self.patch(builtins, "open", fail)
        self.assertTrue(_linux.mayChangeUsers())


class RefuseDescriptorsTests(SynchronousTestCase):
    """
    Tests for L{_linux.refuseDescriptors}.
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
            if not _linux.refuseDescriptors(server):
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
        self.assertIs(_linux.refuseDescriptors(pipe(self)), False)


class AcceptTests(SynchronousTestCase):
    """
    Tests for L{_linux.accept} and L{_linux.queued}.
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
            accepted, address = _linux.accept(server, family)
            self.addCleanup(accepted.close)
            self.assertEqual(address, client.getsockname())
            self.assertEqual(accepted.family, family)
            self.assertFalse(os.get_inheritable(accepted.fileno()))
            self.assertEqual(_linux.family(accepted.fileno()), family)
            accepted.send(b"hello")
            self.assertEqual(client.recv(100), b"hello")

    def test_nobody(self) -> None:
        """
        There may be nobody.
        """
        server = listening(self)
        server.setblocking(False)
        self.assertRaises(BlockingIOError, _linux.accept, server, socket.AF_INET)

    def test_queued(self) -> None:
        """
        It counts those that wait to be accepted, and tells how many may.
        """
        server = listening(self)
        server.listen(7)
        self.assertEqual(_linux.queued(server), (0, 7))
        for count in (1, 2):
            client = socket.create_connection(server.getsockname())
            self.addCleanup(client.close)
            self.assertEqual(_linux.queued(server), (count, 7))
        accepted, _ = server.accept()
        accepted.close()
        self.assertEqual(_linux.queued(server), (1, 7))

    def test_unknown(self) -> None:
        """
        Of others than TCP sockets the kernel does not say.
        """
        self.assertIsNone(_linux.queued(pair(self)[0]))
        self.assertIsNone(_linux.queued(pipe(self)))


class ForgetTests(SynchronousTestCase):
    """
    Tests for L{_linux.forget}.
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
        _linux.forget(self.accepted)
        self.assertEqual(self.accepted.fileno(), -1)

    def test_leftToOthers(self) -> None:
        """
        The connection goes on, both ways, for whoever else holds it.
        """
        _linux.forget(self.accepted)
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
            _linux.forget(worker)
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
        _linux.forget(self.accepted)
        self.assertEqual(self.client.recv(1), b"")

    def test_noSocket(self) -> None:
        """
        A descriptor that takes no such option is closed all the same.
        """
        sock = pipe(self)
        _linux.forget(sock)
        self.assertEqual(sock.fileno(), -1)


class KindTests(SynchronousTestCase):
    """
    Tests for L{_linux.kindOf}.
    """

    def setUp(self) -> None:
        """
        Watch over descriptors.
        """
        watchDescriptors(self)

    def assertRefused(self, sock: Any, reason: str) -> None:
        """
        Expect that it is of no use, and why.
        """
        error = self.assertRaises(_linux.WrongSocket, _linux.kindOf, sock)
        self.assertIn(reason, str(error))

    def assertKind(self, sock: socket.socket, kind: Kind) -> None:
        """
        Compare.
        """
        self.assertIs(_linux.kindOf(sock), kind)

    def test_tcp(self) -> None:
        """
        Over IPv4 and IPv6 there are connections.
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
    Tests for L{_linux.identify} and L{_linux.family}, which leave descriptors
    open.
    """

    def setUp(self) -> None:
        """
        Watch over descriptors.
        """
        watchDescriptors(self)

    def test_taken(self) -> None:
        """
        What can be taken has a kind and a cookie.
        """
        sock = listening(self, socket.AF_INET)
        self.assertEqual(
            _linux.identify(sock.fileno(), [Kind.LISTENER, Kind.DATAGRAMS]),
            (Kind.LISTENER, _linux.cookie(sock)),
        )
        _, accepted = connection(self, socket.AF_INET)
        self.assertEqual(
            _linux.identify(accepted.fileno()),
            (Kind.CONNECTIONS, _linux.cookie(accepted)),
        )

    def test_wrong(self) -> None:
        """
        What cannot be taken is called what it is.
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
                _linux.WrongSocket, _linux.identify, sock.fileno(), takes
            )
            self.assertEqual(str(error), name)
            sock.getsockname()  # it is open

    def test_family(self) -> None:
        """
        It tells IPv4 from IPv6.
        """
        for family in LOOPBACK:
            sock = listening(self, family)
            self.assertIs(_linux.family(sock.fileno()), family)
            sock.getsockname()


class ShutDownTests(SynchronousTestCase):
    """
    Tests for L{_linux.shutDown}.
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
            self.assertFalse(_linux.shutDown(sock))
            try:
                other.shutdown(socket.SHUT_RDWR)
            except OSError as error:
                self.assertEqual(error.errno, errno.ENOTCONN)
        self.assertTrue(_linux.shutDown(sock))

    def test_tcp(self) -> None:
        """
        A TCP socket listens again when it is told to.
        """
        for family in LOOPBACK:
            sock = listening(self, family)
            self.shutDown(sock)
            sock.listen()
            self.assertFalse(_linux.shutDown(sock))

    def test_waiting(self) -> None:
        """
        One that somebody waits at is not shut down.
        """
        sock = listening(self)
        with socket.create_connection(sock.getsockname(), timeout=5):
            self.assertFalse(_linux.shutDown(sock))

    def test_unix(self) -> None:
        """
        For a Unix socket there is no way back.
        """
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(b"")
            sock.listen()
            self.shutDown(sock)
            sock.listen()
            self.assertTrue(_linux.shutDown(sock))

    def test_udp(self) -> None:
        """
        Neither for one of UDP, whose shutdown is said to have failed.
        """
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("127.0.0.1", 0))
            self.shutDown(sock)


class UnreadTests(SynchronousTestCase):
    """
    Tests for L{_linux.unread}.
    """

    def test_unread(self) -> None:
        """
        It is something until the peer has read it, and then nothing.
        """
        watchDescriptors(self)
        theirs, ours = pair(self)
        self.assertEqual(_linux.unread(ours), 0)
        ours.send(b"hello")
        self.assertGreater(_linux.unread(ours), 0)
        theirs.recv(100)
        self.assertEqual(_linux.unread(ours), 0)


class InitialEnvironmentTests(SynchronousTestCase):
    """
    Tests for L{_linux.initialEnvironment}.
    """

    def test_unchanged(self) -> None:
        """
        It is what a process was started with, whatever became of that.
        """
        program = (
            "import os; from portlisten import _linux; del os.environ['ODD']\n"
            "print(ascii(_linux.initialEnvironment()['ODD']))"
        )
        environment = {**os.environ, "ODD": "a=b\n\udcff"}
        output = subprocess.run(
            [sys.executable, "-c", program],
            env=environment,
            stdout=subprocess.PIPE,
            check=True,
        )
        self.assertEqual(output.stdout, b"'a=b\\n\\udcff'\n")


class ReceiveTests(SynchronousTestCase):
    """
    Tests for L{_linux.receive}.
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
        data, descriptors = _linux.receive(self.ours, *args)
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
        self.send(b"x", _linux.MAXIMUM_DESCRIPTORS)
        self.assertEqual(len(self.receive()[1]), _linux.MAXIMUM_DESCRIPTORS)
        error = self.assertRaises(
            OSError, self.send, b"x", _linux.MAXIMUM_DESCRIPTORS + 1
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
        What is cut off in the middle of a descriptor is no descriptor.
        """
        descriptor = array.array("i", [7]).tobytes()
        ancillary = [
            (socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptor + descriptor[:3])
        ]

        class Cut:
            def recvmsg(self, *args: int) -> Any:
                return b"x", ancillary, socket.MSG_CTRUNC, None

        cut: Any = Cut()
        self.assertEqual(_linux.receive(cut), (b"x", [7]))

    def test_nothing(self) -> None:
        """
        When there is nothing to read now, it says so.
        """
        self.assertRaises(BlockingIOError, _linux.receive, self.ours)

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
        self.assertRaises(ConnectionResetError, _linux.receive, self.ours)


class SendTests(SynchronousTestCase):
    """
    Tests for L{_linux.send}.
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
        self.assertEqual(_linux.send(self.ours, b"hello", []), 5)
        self.assertEqual(_linux.receive(self.theirs), (b"hello", []))

    def test_descriptors(self) -> None:
        """
        Descriptors go on the first byte, and stay open here.
        """
        descriptor = self.sent.fileno()
        self.assertEqual(_linux.send(self.ours, b"hello", [descriptor] * 2), 5)
        data, received = _linux.receive(self.theirs, 1)
        for each in received:
            self.addCleanup(os.close, each)
            self.assertTrue(os.path.sameopenfile(each, descriptor))
        self.assertEqual((data, len(received)), (b"h", 2))

    def test_full(self) -> None:
        """
        When there is no room for anything, nothing was taken, and it says so.
        """
        self.assertRaises(BlockingIOError, self.fill, [])
        self.assertRaises(BlockingIOError, self.fill, [self.sent.fileno()])

    def fill(self, descriptors: list[int]) -> None:
        """
        Send until that fails.
        """
        while True:
            _linux.send(self.ours, b"x", descriptors)

    def test_broken(self) -> None:
        """
        When nobody is there to receive, it says so.
        """
        self.theirs.close()
        for descriptors in ([], [self.sent.fileno()]):
            self.assertRaises(
                BrokenPipeError, _linux.send, self.ours, b"x", descriptors
            )


class RoomTests(SynchronousTestCase):
    """
    Tests for L{_linux.room}.
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
        room = _linux.room(self.ours)
        for _ in range(room - 1):
            _linux.send(self.ours, b"x", [self.theirs.fileno()])
            _linux.send(self.ours, b"x" * 16, [])
        self.assertGreater(room, 1)
        self.assertTrue(select.select([], [self.ours], [], 0)[1])

    def test_atLeastOne(self) -> None:
        """
        The smallest buffer has room for one.
        """
        self.ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        self.assertEqual(_linux.room(self.ours), 1)


class LimitTests(SynchronousTestCase):
    """
    The kernel's limits.
    """

    def test_maximumPath(self) -> None:
        """
        A socket's path may be as long as L{_linux.MAXIMUM_PATH}, and no longer.
        """
        for length, bound in (
            (_linux.MAXIMUM_PATH, True),
            (_linux.MAXIMUM_PATH + 1, False),
        ):
            with socket.socket(socket.AF_UNIX) as sock:
                try:
                    sock.bind("x" * length)
                except OSError:
                    self.assertFalse(bound)
                else:
                    os.unlink("x" * length)
                    self.assertTrue(bound)
