"""
Tests for L{portlisten._kernel.sockets}.
"""

from __future__ import annotations

import array
import builtins
import errno
import io
import os
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from typing import Any
from unittest import SkipTest, skipUnless

from twisted.trial.unittest import SynchronousTestCase

from portlisten._kernel import sockets
from portlisten._model import Kind
from portlisten.errors import WrongSocket
from tests.support import descriptors, watchDescriptors

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

    def test_noSocket(self) -> None:
        """
        Something that is no socket has no cookie.
        """
        error = self.assertRaises(OSError, sockets.cookie, pipe(self))
        self.assertEqual(error.errno, errno.ENOTSOCK)


class PristineMixin:
    """
    What L{sockets.pristine} says of a TCP connection.
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
            self.assertIs(sockets.pristine(sock), expected)  # type: ignore[attr-defined]

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
    L{sockets.pristine} over IPv4.
    """

    family = socket.AF_INET


class PristineIPv6Tests(PristineMixin, SynchronousTestCase):
    """
    L{sockets.pristine} over IPv6.
    """

    family = socket.AF_INET6


class NotToldTests(SynchronousTestCase):
    """
    Where L{sockets.pristine} says that it cannot say.
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
        self.assertIsNone(sockets.pristine(pair(self)[0]))

    def test_datagram(self) -> None:
        """
        Of a datagram socket it cannot say.
        """
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            self.assertIsNone(sockets.pristine(sock))

    def test_listening(self) -> None:
        """
        Of a listening socket it cannot say.
        """
        self.assertIsNone(sockets.pristine(listening(self)))

    def test_closed(self) -> None:
        """
        Of a descriptor that is closed it cannot say.
        """
        _, accepted = connection(self)
        accepted.close()
        self.assertIsNone(sockets.pristine(accepted))

    def test_oldKernel(self) -> None:
        """
        A kernel that does not count the bytes sent cannot say.
        """
        _, accepted = connection(self)
        info = accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192)
        old: Any = Scripted(accepted, {socket.TCP_INFO: info})
        self.assertIsNone(sockets.pristine(old))


class QuestionsTests(SynchronousTestCase):
    """
    How L{sockets.pristine} asks while bytes come in: the kernel's answers are put in.
    """

    def setUp(self) -> None:
        """
        Connect.
        """
        watchDescriptors(self)
        _, self.accepted = connection(self)

    def ask(self, *answers: tuple[Any, Any]) -> bool | None:
        """
        Ask, and get these answers in turn: how many bytes wait to be read, and how many
        were received in all.
        """
        self.answers = list(answers)

        def give(found: Any) -> Any:
            if isinstance(found, Exception):
                raise found
            return found

        def waiting(sock: socket.socket, request: int = 0) -> int:
            found, self.then = self.answers.pop(0)
            self.asked.append("looked" if not request else "asked")
            number: int = give(found)
            return number

        def progress(sock: socket.socket) -> Any:
            found = give(self.then)
            if isinstance(found, int):
                return sockets._Progress(found, False, False)
            return found

        self.asked: list[str] = []
        self.patch(sockets, "_queued", waiting)
        self.patch(sockets, "_available", waiting)
        self.patch(sockets, "_progress", progress)
        return sockets.pristine(self.accepted)

    def test_untouched(self) -> None:
        """
        If as much was received as waited, one round is enough.
        """
        self.assertIs(self.ask((5, 5)), True)

    def test_cameMeanwhile(self) -> None:
        """
        What comes between the two questions was not read by anybody.
        """
        self.assertIs(self.ask((5, 9), (9, 9)), True)
        self.assertIs(self.ask((0, 1), (1, 7), (7, 8), (8, 8)), True)

    def test_read(self) -> None:
        """
        If more was received than waited, and nothing came meanwhile, it was read.
        """
        self.assertIs(self.ask((5, 9), (5, 9)), False)
        self.assertIs(self.ask((5, 9), (5, 12), (8, 12)), False)

    def test_allTheTime(self) -> None:
        """
        If bytes come in all the time, nothing is certain.
        """
        answers = [(number, number + 1) for number in range(100)]
        self.assertIsNone(self.ask(*answers))
        self.assertLess(len(self.asked), 50)

    def test_served(self) -> None:
        """
        If something was written, it does not matter what waits.
        """
        served = sockets._Progress(5, True, False)
        self.assertIs(self.ask((5, served)), False)

    def test_fails(self) -> None:
        """
        A question that fails is asked again, with the other.
        """
        error = OSError(errno.ENOMEM, "no memory")
        self.assertIs(self.ask((error, None), (5, 5)), True)
        self.assertIs(self.ask((4, error), (5, 5)), True)

    def test_failsOnce(self) -> None:
        """
        That it failed is no sign that something was read.
        """
        error = OSError(errno.ENOMEM, "no memory")
        self.assertIs(self.ask((5, 9), (0, error), (9, 9)), True)

    def test_handshake(self) -> None:
        """
        Before the handshake is over, it looks at what waits, of which the kernel does
        not say how much it is.
        """
        greeting = sockets._Progress(5, False, True)
        self.assertIs(self.ask((0, greeting), (5, greeting)), True)
        self.assertEqual(self.asked, ["asked", "looked"])

    def test_handshakeRead(self) -> None:
        """
        What was read before that was read.
        """
        greeting = sockets._Progress(5, False, True)
        answers = [(0, greeting), (2, greeting), (2, greeting)]
        self.assertIs(self.ask(*answers), False)

    def test_handshakeEnds(self) -> None:
        """
        It may end between two questions, which are asked again then.
        """
        greeting = sockets._Progress(3, False, True)
        self.assertIs(self.ask((0, greeting), (3, 9), (9, 9)), True)
        self.assertEqual(self.asked, ["asked", "looked", "asked"])

    def test_available(self) -> None:
        """
        What waits is looked at, and stays there.
        """
        client, accepted = connection(self)
        accepted.setblocking(False)
        self.assertEqual(sockets._available(accepted), 0)
        client.sendall(b"hello")
        arrived(accepted)
        self.assertEqual(sockets._available(accepted), 5)
        self.assertEqual(accepted.recv(10), b"hello")

    def test_busyClient(self) -> None:
        """
        While a client writes as fast as it can, its connection never counts as touched.
        """
        client, accepted = connection(self)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        over = threading.Event()

        def write() -> None:
            for _ in range(20_000):
                client.send(b"x")
            over.set()

        thread = threading.Thread(target=write)
        thread.start()
        answers = set()
        while not over.is_set():
            answers.add(sockets.pristine(accepted))
        thread.join()
        self.assertIn(True, answers)
        self.assertNotIn(False, answers)


class DepartedTests(SynchronousTestCase):
    """
    Tests for L{sockets.departed}.
    """

    def setUp(self) -> None:
        """
        Connect a client that stays.
        """
        watchDescriptors(self)
        self.stays, self.accepted = connection(self)

    def hasLeft(self, accepted: socket.socket) -> bool | None:
        """
        Whether a client has left, or may have, which is L{None}; and the one that
        stays has not.
        """
        gone, ended = sockets.departed([self.accepted, accepted])
        self.assertNotIn(self.accepted, [*gone, *ended])
        return None if accepted in ended else accepted in gone

    def test_nobody(self) -> None:
        """
        Of nobody, nobody has left.
        """
        self.assertEqual(sockets.departed([]), ([], []))
        self.stays.sendall(b"question")
        arrived(self.accepted)
        self.assertEqual(sockets.departed([self.accepted]), ([], []))

    def test_closed(self) -> None:
        """
        A client that closed and had sent nothing may have left: it looks as if it had
        only ended its side.
        """
        client, accepted = connection(self)
        client.close()
        arrived(accepted, select.POLLRDHUP)
        self.assertIsNone(self.hasLeft(accepted))

    def test_ended(self) -> None:
        """
        So may one have that ended its side.
        """
        client, accepted = connection(self)
        client.shutdown(socket.SHUT_WR)
        arrived(accepted, select.POLLRDHUP)
        self.assertIsNone(self.hasLeft(accepted))

    def test_closedAfterData(self) -> None:
        """
        One that sent something before may still want that to be done.
        """
        client, accepted = connection(self)
        client.sendall(b"x")
        client.close()
        arrived(accepted, select.POLLRDHUP)
        self.assertIs(self.hasLeft(accepted), False)

    def test_reset(self) -> None:
        """
        One that reset the connection has left, whatever it sent before.
        """
        for data in (b"", b"question"):
            client, accepted = connection(self)
            client.sendall(data)
            linger = LINGER.pack(1, 0)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            client.close()
            arrived(accepted, select.POLLRDHUP)
            self.assertTrue(self.hasLeft(accepted))

    def test_unix(self) -> None:
        """
        Of a Unix socket the kernel tells these apart.
        """
        client, accepted = pair(self)
        self.assertIs(self.hasLeft(accepted), False)
        client.send(b"x")
        client.close()
        self.assertIs(self.hasLeft(accepted), False)
        client, accepted = pair(self)
        client.shutdown(socket.SHUT_WR)
        self.assertIsNone(self.hasLeft(accepted))
        client.close()
        self.assertTrue(self.hasLeft(accepted))

    def test_unknown(self) -> None:
        """
        One of which the kernel does not say what it sent is kept.
        """
        client, accepted = connection(self)
        client.close()
        arrived(accepted, select.POLLRDHUP)
        self.patch(sockets, "_progress", lambda sock: None)
        self.assertIs(self.hasLeft(accepted), False)

        def fail(sock: socket.socket) -> None:
            raise OSError(errno.ENOMEM, "no memory")

        self.patch(sockets, "_progress", fail)
        self.assertIs(self.hasLeft(accepted), False)


class PeerProcessTests(SynchronousTestCase):
    """
    Tests for L{sockets.peerProcess}, L{sockets.hasEnded} and L{sockets.hungUp}.
    """

    def setUp(self) -> None:
        """
        Start a process at the other end of a Unix socket.
        """
        watchDescriptors(self)
        path = os.path.relpath(self.mktemp())
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path)
            server.listen()
            code = f"""
import socket, sys
sock = socket.socket(socket.AF_UNIX)
sock.connect({path!r})
sys.stdin.read()
"""
            self.process = subprocess.Popen(
                [sys.executable, "-c", code], stdin=subprocess.PIPE
            )
            self.addCleanup(self.end)
            server.settimeout(30)
            self.socket, _ = server.accept()
        self.addCleanup(self.socket.close)

    def end(self) -> None:
        """
        End the process.
        """
        self.process.kill()
        self.process.communicate()

    def assertFound(self, pid: int) -> None:
        """
        See that the process is found, and its end.
        """
        pidfd = sockets.peerProcess(self.socket, pid)
        assert pidfd is not None
        self.addCleanup(os.close, pidfd)
        self.assertIs(sockets.hasEnded(pidfd), False)
        self.process.send_signal(signal.SIGSTOP)
        self.assertIs(sockets.hasEnded(pidfd), False)
        self.end()
        self.assertIs(sockets.hasEnded(pidfd), True)

    def test_byTheSocket(self) -> None:
        """
        The kernel knows the process, whatever number it is said to have.
        """
        try:
            size = array.array("i").itemsize
            data = self.socket.getsockopt(socket.SOL_SOCKET, sockets.SO_PEERPIDFD, size)
            os.close(array.array("i", data)[0])
        except OSError:
            raise SkipTest("this kernel does not know the process") from None
        self.assertFound(os.getpid())

    def test_byTheNumber(self) -> None:
        """
        An older kernel finds it by its number.
        """
        self.patch(sockets, "SO_PEERPIDFD", -1)
        self.assertFound(self.process.pid)

    def test_nobody(self) -> None:
        """
        There may be none with that number.
        """
        self.patch(sockets, "SO_PEERPIDFD", -1)
        self.end()
        for pid in (0, -1):
            self.assertIsNone(sockets.peerProcess(self.socket, pid))

    def test_hungUp(self) -> None:
        """
        The other end is closed when its process has ended.
        """
        self.assertIs(sockets.hungUp(self.socket), False)
        self.end()
        self.assertIs(sockets.hungUp(self.socket), True)

    def test_shutDown(self) -> None:
        """
        An end that is shut down in one direction is not closed, nor is one that sent
        something.
        """
        for how in (socket.SHUT_WR, socket.SHUT_RD):
            ours, theirs = pair(self)
            theirs.send(b"x")
            theirs.shutdown(how)
            self.assertIs(sockets.hungUp(ours), False)
            theirs.close()
            self.assertIs(sockets.hungUp(ours), True)


class InsistTests(SynchronousTestCase):
    """
    Tests for L{sockets.insist}.
    """

    def insist(self, *numbers: int) -> Any:
        """
        Make a call that fails with these errors first.
        """
        self.left = list(numbers)

        def call(one: int, two: int) -> int:
            if self.left:
                number = self.left.pop(0)
                raise OSError(number, os.strerror(number))
            return one + two

        return sockets.insist(call, 1, 2)

    def test_succeeds(self) -> None:
        """
        It gives what the call gives.
        """
        self.assertEqual(self.insist(), 3)

    def test_passing(self) -> None:
        """
        An error that may pass is not the end.
        """
        self.assertEqual(self.insist(errno.ENOMEM, errno.EINTR, errno.ENOBUFS), 3)

    def test_other(self) -> None:
        """
        Any other is, at once.
        """
        error = self.assertRaises(OSError, self.insist, errno.EBADF, errno.EBADF)
        self.assertEqual((error.errno, len(self.left)), (errno.EBADF, 1))

    def test_goesOn(self) -> None:
        """
        So is one that does not pass.
        """
        error = self.assertRaises(OSError, self.insist, *[errno.ENOMEM] * 1000)
        self.assertEqual(error.errno, errno.ENOMEM)
        self.assertGreater(len(self.left), 900)

    def test_cookie(self) -> None:
        """
        A cookie is asked for again if the kernel lacks memory.
        """
        sock = pair(self)[0]
        answers: list[Any] = [OSError(errno.ENOMEM, "no memory"), None]

        class Forgetful:
            def getsockopt(self, *args: int) -> Any:
                answer = answers.pop(0)
                if answer is not None:
                    raise answer
                return sock.getsockopt(*args)

        forgetful: Any = Forgetful()
        self.assertEqual(sockets.cookie(forgetful), sockets.cookie(sock))


class CredentialsTests(SynchronousTestCase):
    """
    Tests for L{sockets.credentials}.
    """

    def test_own(self) -> None:
        """
        They say who is at the other end: here, this process.
        """
        credentials = sockets.credentials(pair(self)[0])
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
            sockets.SO_PEERGROUPS: OSError(errno.ENOPROTOOPT, "unknown"),
        }
        sock: Any = Scripted(pair(self)[0], answers)
        self.assertEqual(
            sockets.credentials(sock), sockets.Credentials(1, 2, 3, (), False)
        )

    def test_manyGroupsUntold(self) -> None:
        """
        Nor where it does not tell them a second time.
        """
        answers = {
            socket.SO_PEERCRED: struct.pack("=iii", 1, 2, 3),
            sockets.SO_PEERGROUPS: OSError(errno.ERANGE, "too many"),
        }
        with socket.socket() as sock:
            scripted: Any = Scripted(sock, answers)
            self.assertFalse(sockets.credentials(scripted).groupsKnown)

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
    ) -> sockets.Credentials:
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
                    return sockets.credentials(accepted)
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


class PeerPidfdTests(SynchronousTestCase):
    """
    Tests for L{sockets.peerProcess} and L{sockets.hasEnded}.
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
        process = sockets.peerProcess(sock, self.child.pid)
        assert process is not None
        self.addCleanup(os.close, process)
        return process

    def test_lives(self) -> None:
        """
        A process that lives has not ended.
        """
        left, right = socket.socketpair()
        with left, right:
            self.assertFalse(sockets.hasEnded(self.process(left)))

    def test_byNumber(self) -> None:
        """
        Where the kernel has no pidfd of it, its number leads to it.
        """
        with Waited() as sock:
            process = self.process(sock)
        self.assertFalse(sockets.hasEnded(process))
        self.end()
        self.assertTrue(sockets.hasEnded(process))

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
            self.assertIsNone(sockets.peerProcess(sock, 0))


class ReapTests(SynchronousTestCase):
    """
    Tests for L{sockets.reap}.
    """

    def test_gone(self) -> None:
        """
        A child that somebody else has waited for is forgotten.
        """
        with subprocess.Popen(["true"]) as child:
            child.wait()
        self.patch(sockets, "_children", [child.pid])
        sockets.reap()
        self.assertEqual(sockets._children, [])


class MayChangeUsersTests(SynchronousTestCase):
    """
    Tests for L{sockets.mayChangeUsers}.
    """

    def answer(self, status: str) -> bool:
        """
        Have the kernel say this of the process.
        """
        self.patch(builtins, "open", lambda name: io.StringIO(status))
        return sockets.mayChangeUsers()

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
        self.assertTrue(sockets.mayChangeUsers())


class RefuseDescriptorsTests(SynchronousTestCase):
    """
    Tests for L{sockets.refuseDescriptors}.
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
            if not sockets.refuseDescriptors(server):
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
        self.assertIs(sockets.refuseDescriptors(pipe(self)), False)


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
        Of others than TCP sockets the kernel does not say.
        """
        self.assertIsNone(sockets.queued(pair(self)[0]))
        self.assertIsNone(sockets.queued(pipe(self)))


class ForgetTests(SynchronousTestCase):
    """
    Tests for L{sockets.forget}.
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
        sockets.forget(self.accepted)
        self.assertEqual(self.accepted.fileno(), -1)

    def test_leftToOthers(self) -> None:
        """
        The connection goes on, both ways, for whoever else holds it.
        """
        sockets.forget(self.accepted)
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
            sockets.forget(worker)
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
        sockets.forget(self.accepted)
        self.assertEqual(self.client.recv(1), b"")

    def test_noSocket(self) -> None:
        """
        A descriptor that takes no such option is closed all the same.
        """
        sock = pipe(self)
        sockets.forget(sock)
        self.assertEqual(sock.fileno(), -1)


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
        Expect that it is of no use, and why.
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
        What can be taken has a kind and a cookie.
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
    Tests for L{sockets.shutDown}.
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
            self.assertFalse(sockets.shutDown(sock))
            try:
                other.shutdown(socket.SHUT_RDWR)
            except OSError as error:
                self.assertEqual(error.errno, errno.ENOTCONN)
        self.assertTrue(sockets.shutDown(sock))

    def test_tcp(self) -> None:
        """
        A TCP socket listens again when it is told to.
        """
        for family in LOOPBACK:
            sock = listening(self, family)
            self.shutDown(sock)
            sock.listen()
            self.assertFalse(sockets.shutDown(sock))

    def test_waiting(self) -> None:
        """
        One that somebody waits at is not shut down.
        """
        sock = listening(self)
        with socket.create_connection(sock.getsockname(), timeout=5):
            self.assertFalse(sockets.shutDown(sock))

    def test_unix(self) -> None:
        """
        For a Unix socket there is no way back.
        """
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(b"")
            sock.listen()
            self.shutDown(sock)
            sock.listen()
            self.assertTrue(sockets.shutDown(sock))

    def test_udp(self) -> None:
        """
        Neither for one of UDP, whose shutdown is said to have failed.
        """
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("127.0.0.1", 0))
            self.shutDown(sock)


class UnreadTests(SynchronousTestCase):
    """
    Tests for L{sockets.unread}.
    """

    def test_unread(self) -> None:
        """
        It is something until the peer has read it, and then nothing.
        """
        watchDescriptors(self)
        theirs, ours = pair(self)
        self.assertEqual(sockets.unread(ours), 0)
        ours.send(b"hello")
        self.assertGreater(sockets.unread(ours), 0)
        theirs.recv(100)
        self.assertEqual(sockets.unread(ours), 0)


class ChargeTests(SynchronousTestCase):
    """
    Tests for L{sockets.charge}.
    """

    def setUp(self) -> None:
        """
        Forget what is known already.
        """
        watchDescriptors(self)
        sockets.charge.cache_clear()

    def test_asTheKernel(self) -> None:
        """
        It is what the kernel charges for a message of that size, with descriptors or
        without.
        """
        for size in (1, 30, 1000, 5000, 40_000):
            for count in (0, 3):
                theirs, ours = pair(self)
                socket.send_fds(ours, [bytes(size)], [theirs.fileno()] * count)
                self.assertEqual(sockets.charge(size), sockets.unread(ours))

    def test_sums(self) -> None:
        """
        Several messages are charged for one by one.
        """
        _, ours = pair(self)
        sizes = (1, 30, 1000)
        for size in sizes:
            ours.send(bytes(size))
        self.assertEqual(sum(map(sockets.charge, sizes)), sockets.unread(ours))

    def test_once(self) -> None:
        """
        The kernel is asked once for each size.
        """
        charge = sockets.charge(77)

        def fail() -> None:
            raise AssertionError("asked again")

        self.patch(socket, "socketpair", fail)
        self.assertEqual(sockets.charge(77), charge)

    def test_tooLarge(self) -> None:
        """
        Of what does not fit a socket it cannot say.
        """
        error = self.assertRaises(OSError, sockets.charge, 1 << 23)
        self.assertEqual(error.errno, errno.ENOBUFS)


class TimerTests(SynchronousTestCase):
    """
    Tests for L{sockets.timer} and L{sockets.setTimer}.
    """

    def setUp(self) -> None:
        """
        Make a timer.
        """
        watchDescriptors(self)
        self.timer = sockets.timer()
        self.addCleanup(os.close, self.timer)

    def readable(self, seconds: float) -> bool:
        """
        Whether it becomes readable within a time.
        """
        poll = select.poll()
        poll.register(self.timer, select.POLLIN)
        return bool(poll.poll(seconds * 1000))

    def test_idle(self) -> None:
        """
        It is never readable by itself, does not block and is not inherited.
        """
        self.assertFalse(self.readable(0))
        self.assertRaises(BlockingIOError, os.read, self.timer, 8)
        self.assertFalse(os.get_inheritable(self.timer))

    def test_set(self) -> None:
        """
        It becomes readable when its time is over.
        """
        began = time.monotonic()
        sockets.setTimer(self.timer, 0.3)
        self.assertFalse(self.readable(0))
        self.assertTrue(self.readable(10))
        self.assertTrue(0.3 <= time.monotonic() - began < 5)

    def test_again(self) -> None:
        """
        It can be set again, to later as well, and is not readable meanwhile.
        """
        sockets.setTimer(self.timer, 0.01)
        self.assertTrue(self.readable(10))
        sockets.setTimer(self.timer, 1000.5)
        self.assertFalse(self.readable(0.05))
        sockets.setTimer(self.timer, 0.01)
        self.assertTrue(self.readable(10))

    def test_past(self) -> None:
        """
        A time that is over already is over at once.
        """
        for delay in (0, -5, 1e-12):
            sockets.setTimer(self.timer, delay)
            self.assertTrue(self.readable(10))

    def test_fails(self) -> None:
        """
        What is no timer cannot be set.
        """
        error = self.assertRaises(OSError, sockets.setTimer, -1, 1)
        self.assertEqual(error.errno, errno.EBADF)

    def test_noDescriptor(self) -> None:
        """
        There may be no descriptor for one.
        """
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
        try:
            error = self.assertRaises(OSError, sockets.timer)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        self.assertEqual(error.errno, errno.EMFILE)


class InitialEnvironmentTests(SynchronousTestCase):
    """
    Tests for L{sockets.initialEnvironment}.
    """

    def test_unchanged(self) -> None:
        """
        It is what a process was started with, whatever became of that.
        """
        program = (
            "import os; from portlisten._kernel import sockets; del os.environ['ODD']\n"
            "print(ascii(sockets.initialEnvironment()['ODD']))"
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
    Tests for L{sockets.receive}.
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
        data, descriptors = sockets.receive(self.ours, *args)
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
        self.send(b"x", sockets.MAXIMUM_DESCRIPTORS)
        self.assertEqual(len(self.receive()[1]), sockets.MAXIMUM_DESCRIPTORS)
        error = self.assertRaises(
            OSError, self.send, b"x", sockets.MAXIMUM_DESCRIPTORS + 1
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
        self.assertEqual(sockets.receive(cut), (b"x", [7]))

    def test_nothing(self) -> None:
        """
        When there is nothing to read now, it says so.
        """
        self.assertRaises(BlockingIOError, sockets.receive, self.ours)

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
        self.assertRaises(ConnectionResetError, sockets.receive, self.ours)


class ReceiveBytesTests(SynchronousTestCase):
    """
    Tests for L{sockets.receiveBytes} and L{sockets.refusesDescriptors}.
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
            received = sockets.receiveBytes(self.ours, 3, refuses)
            self.assertEqual(received, (b"hel", False))
            received = sockets.receiveBytes(self.ours, refuses=refuses)
            self.assertEqual(received, (b"lo", False))
            self.assertRaises(
                BlockingIOError, sockets.receiveBytes, self.ours, 3, refuses
            )

    def test_end(self) -> None:
        """
        At the end there are none.
        """
        self.theirs.close()
        for refuses in (False, True):
            received = sockets.receiveBytes(self.ours, refuses=refuses)
            self.assertEqual(received, (b"", False))

    def test_descriptors(self) -> None:
        """
        If descriptors come, it says so, and they stay in the socket, with the bytes.
        """
        before = descriptors()
        socket.send_fds(self.theirs, [b"hello"], [self.ours.fileno(), 0])
        for _ in range(2):
            received = sockets.receiveBytes(self.ours)
            self.assertEqual(received, (b"hello", True))
        self.assertEqual(descriptors(), before)
        data, came = sockets.receive(self.ours)
        for descriptor in came:
            os.close(descriptor)
        self.assertEqual((data, len(came)), (b"hello", 2))

    def test_descriptorsLater(self) -> None:
        """
        Bytes that came before them can be read.
        """
        self.theirs.send(b"before")
        self.assertEqual(sockets.receiveBytes(self.ours), (b"before", False))
        socket.send_fds(self.theirs, [b"with"], [0])
        self.assertEqual(sockets.receiveBytes(self.ours), (b"with", True))

    def test_refuses(self) -> None:
        """
        The kernel says whether it refuses descriptors.
        """
        self.assertIs(sockets.refusesDescriptors(self.ours), False)
        self.assertIs(sockets.refusesDescriptors(pipe(self)), False)
        if not sockets.refuseDescriptors(self.ours):
            raise SkipTest("this kernel cannot refuse descriptors")
        self.assertIs(sockets.refusesDescriptors(self.ours), True)


class CloseElsewhereTests(SynchronousTestCase):
    """
    Tests for L{sockets.closeElsewhere} and L{sockets.reap}.
    """

    def setUp(self) -> None:
        """
        Connect.
        """
        watchDescriptors(self)
        self.theirs, self.ours = pair(self)
        # A bystander, whose end must not be kept open by the child.
        self.bystander, self.other = pair(self)
        self.addCleanup(self.reapAll)

    def reapAll(self) -> None:
        """
        Wait for all children.
        """
        deadline = time.monotonic() + 20
        while sockets._children:
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.01)
            sockets.reap()

    def test_closes(self) -> None:
        """
        The socket is closed, for its other end as well, and so is what was queued in
        it.
        """
        queued, left = pair(self)
        socket.send_fds(self.theirs, [b"x"], [queued.fileno()])
        queued.close()
        sockets.closeElsewhere(self.ours)
        self.assertEqual(self.ours.fileno(), -1)
        arrived(self.theirs)
        self.reapAll()
        self.assertRaises(BrokenPipeError, self.theirs.send, b"x")
        self.assertEqual(left.recv(1), b"")

    def test_nothingElse(self) -> None:
        """
        The child keeps no other descriptor open, though it may hang.
        """
        client = self.linger()
        sockets.closeElsewhere(self.ours)
        self.bystander.close()
        arrived(self.other)
        self.assertEqual(self.other.recv(1), b"")
        client.close()

    def linger(self) -> socket.socket:
        """
        Queue a connection that nobody can close without waiting for half a minute.

        @return: its client.
        """
        client, accepted = connection(self)
        accepted.setblocking(False)
        try:
            while True:
                accepted.send(b"x" * 65536)
        except BlockingIOError:
            pass
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER.pack(1, 30))
        socket.send_fds(self.theirs, [b"x"], [accepted.fileno()])
        accepted.close()
        return client

    def test_lingers(self) -> None:
        """
        A queued descriptor that takes long to close does not take our time.
        """
        client = self.linger()
        began = time.monotonic()
        sockets.closeElsewhere(self.ours)
        sockets.reap()
        self.assertLess(time.monotonic() - began, 5)
        self.assertEqual(len(sockets._children), 1)
        client.close()
        self.reapAll()

    def test_last(self) -> None:
        """
        The child closes it after us, however slow we are: the last one waits.
        """

        class Slow(socket.socket):
            def close(self) -> None:
                time.sleep(0.3)
                super().close()

        client = self.linger()
        began = time.monotonic()
        sockets.closeElsewhere(Slow(fileno=self.ours.detach()))
        self.assertLess(time.monotonic() - began, 5)
        client.close()
        self.reapAll()

    def test_noProcess(self) -> None:
        """
        If there is no process to be had, the socket stays open.
        """

        def fail() -> int:
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

        self.patch(os, "fork", fail)
        self.assertRaises(OSError, sockets.closeElsewhere, self.ours)
        self.theirs.send(b"x")
        self.assertEqual(self.ours.recv(1), b"x")
        self.assertEqual(sockets._children, [])


class SendTests(SynchronousTestCase):
    """
    Tests for L{sockets.send}.
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
        self.assertEqual(sockets.send(self.ours, b"hello", []), 5)
        self.assertEqual(sockets.receive(self.theirs), (b"hello", []))

    def test_descriptors(self) -> None:
        """
        Descriptors go on the first byte, and stay open here.
        """
        descriptor = self.sent.fileno()
        self.assertEqual(sockets.send(self.ours, b"hello", [descriptor] * 2), 5)
        data, received = sockets.receive(self.theirs, 1)
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
            sockets.send(self.ours, b"x", descriptors)

    def test_broken(self) -> None:
        """
        When nobody is there to receive, it says so.
        """
        self.theirs.close()
        for sent in ([], [self.sent.fileno()]):
            self.assertRaises(BrokenPipeError, sockets.send, self.ours, b"x", sent)


class RoomTests(SynchronousTestCase):
    """
    Tests for L{sockets.room}.
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
        room = sockets.room(self.ours)
        for _ in range(room - 1):
            sockets.send(self.ours, b"x", [self.theirs.fileno()])
            sockets.send(self.ours, b"x" * 16, [])
        self.assertGreater(room, 1)
        self.assertTrue(select.select([], [self.ours], [], 0)[1])

    def test_atLeastOne(self) -> None:
        """
        The smallest buffer has room for one.
        """
        self.ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        self.assertEqual(sockets.room(self.ours), 1)


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
