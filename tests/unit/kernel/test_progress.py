"""
Tests for L{portlisten._kernel.progress}.
"""

from __future__ import annotations

import errno
import select
import socket
import threading
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from portlisten._kernel import IPPROTO_MPTCP, progress
from tests.support.descriptors import watchDescriptors
from tests.support.sockets import (
    LINGER,
    Scripted,
    arrived,
    connection,
    duplicate,
    listening,
    pair,
)


class UntouchedTests(SynchronousTestCase):
    """
    Tests for L{progress.untouched} of a TCP connection over IPv4.
    """

    family = socket.AF_INET
    protocol = 0

    def setUp(self) -> None:
        """
        Connect.
        """
        watchDescriptors(self)
        self.client, self.accepted = connection(self, self.family, self.protocol)

    def assertUntouched(self, expected: bool) -> None:
        """
        Compare, and look from each holder's descriptor.
        """
        copy = duplicate(self, self.accepted)
        for sock in (self.accepted, copy):
            self.assertIs(progress.untouched(sock), expected)

    def test_fresh(self) -> None:
        """
        A fresh connection is untouched.
        """
        self.assertUntouched(True)

    def test_unreadData(self) -> None:
        """
        It stays so when the client has sent something that nobody read.
        """
        self.client.sendall(b"hello")
        arrived(self.accepted)
        self.assertUntouched(True)

    def test_unreadEnd(self) -> None:
        """
        It stays so when the client has ended its side.
        """
        self.client.shutdown(socket.SHUT_WR)
        arrived(self.accepted, select.POLLRDHUP)
        self.assertUntouched(True)

    def test_unreadDataAndEnd(self) -> None:
        """
        It stays so when the client has sent something and ended its side.
        """
        self.client.sendall(b"hello")
        self.client.shutdown(socket.SHUT_WR)
        arrived(self.accepted, select.POLLRDHUP)
        self.assertUntouched(True)

    def test_clientClosed(self) -> None:
        """
        It stays so when the client is gone, and left something to be read.
        """
        self.client.sendall(b"hello")
        self.client.close()
        arrived(self.accepted, select.POLLRDHUP)
        self.assertUntouched(True)

    def test_peeked(self) -> None:
        """
        Looking at what the client sent takes nothing from the connection.
        """
        self.client.sendall(b"hello")
        arrived(self.accepted)
        self.accepted.recv(5, socket.MSG_PEEK)
        self.assertUntouched(True)

    def test_read(self) -> None:
        """
        It is touched once somebody has read what the client sent.
        """
        self.client.sendall(b"hello")
        arrived(self.accepted)
        self.accepted.recv(5)
        self.assertUntouched(False)

    def test_readInPart(self) -> None:
        """
        One byte that was read is enough.
        """
        self.client.sendall(b"hello")
        arrived(self.accepted)
        self.accepted.recv(1)
        self.assertUntouched(False)

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
        self.assertUntouched(False)

    def test_written(self) -> None:
        """
        It is touched once somebody has written to it.
        """
        self.accepted.sendall(b"h")
        arrived(self.client)
        self.assertUntouched(False)

    def test_writtenAndNotSent(self) -> None:
        """
        It is touched when what was written still waits to be sent.
        """
        self.accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
        self.accepted.sendall(b"h")
        self.client.setblocking(False)
        self.assertRaises(BlockingIOError, self.client.recv, 1)
        self.assertUntouched(False)

    def test_writingEnded(self) -> None:
        """
        It is touched once somebody has ended its writing side.
        """
        self.accepted.shutdown(socket.SHUT_WR)
        self.assertUntouched(False)

    def test_writingEndedAfterClient(self) -> None:
        """
        It is touched, too, if the client had ended its side before.
        """
        self.client.shutdown(socket.SHUT_WR)
        arrived(self.accepted, select.POLLRDHUP)
        self.accepted.shutdown(socket.SHUT_RDWR)
        self.assertUntouched(False)

    def test_reset(self) -> None:
        """
        A connection that the client has reset counts as touched.
        """
        self.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER.pack(1, 0))
        self.client.close()
        arrived(self.accepted, select.POLLHUP)
        self.assertUntouched(False)


class UntouchedIPv6Tests(UntouchedTests):
    """
    Tests for L{progress.untouched} of a TCP connection over IPv6.
    """

    family = socket.AF_INET6


class UntouchedMultipathTests(UntouchedTests):
    """
    Tests for L{progress.untouched} of a connection of Multipath TCP.
    """

    protocol = IPPROTO_MPTCP

    def test_kernel(self) -> None:
        """
        The kernel has what is asked for, and the connection is what it should be.
        """
        protocol = self.accepted.getsockopt(socket.SOL_SOCKET, socket.SO_PROTOCOL)
        self.assertEqual(protocol, IPPROTO_MPTCP)

    def endAfterFirstQuestion(self) -> None:
        """
        Make the client end its side when the first question was answered.
        """
        ended = False

        def patch(name: str) -> None:
            ask = getattr(progress, name)

            def askAndEnd(*arguments: Any) -> Any:
                nonlocal ended
                answer = ask(*arguments)
                if not ended:
                    ended = True
                    self.client.shutdown(socket.SHUT_WR)
                    arrived(self.accepted, select.POLLRDHUP)
                return answer

            self.patch(progress, name, askAndEnd)

        patch("queuedBytes")
        patch("_events")

    def test_endDuringQuestions(self) -> None:
        """
        If one byte was read, the end does not count as a byte that waits, although it
        comes between two questions.
        """
        self.client.sendall(b"hello")
        arrived(self.accepted)
        self.accepted.recv(1)
        self.endAfterFirstQuestion()
        self.assertIs(progress.untouched(self.accepted), False)

    def test_unreadDuringQuestions(self) -> None:
        """
        If nothing was read, it is untouched all the same.
        """
        self.client.sendall(b"hello")
        arrived(self.accepted)
        self.endAfterFirstQuestion()
        self.assertIs(progress.untouched(self.accepted), True)

    def test_olderKernel(self) -> None:
        """
        It is unknown if the kernel does not count the bytes, or has no C{MPTCP_INFO}.
        """
        self.assertIs(progress.untouched(self.accepted), True)
        older: Any = Scripted(self.accepted, {1: bytes(56)})
        older.proto = IPPROTO_MPTCP
        self.assertIsNone(progress.untouched(older))
        older = Scripted(self.accepted, {1: OSError(errno.EOPNOTSUPP, "not supported")})
        older.proto = IPPROTO_MPTCP
        self.assertIsNone(progress.untouched(older))


class UntouchedMultipathIPv6Tests(UntouchedMultipathTests):
    """
    Tests for L{progress.untouched} of a connection of Multipath TCP over IPv6.
    """

    family = socket.AF_INET6


class NotToldTests(SynchronousTestCase):
    """
    Where L{progress.untouched} does not know.
    """

    def setUp(self) -> None:
        """
        Watch over descriptors.
        """
        watchDescriptors(self)

    def test_unix(self) -> None:
        """
        It is unknown for a Unix socket.
        """
        self.assertIsNone(progress.untouched(pair(self)[0]))

    def test_datagram(self) -> None:
        """
        It is unknown for a datagram socket.
        """
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            self.assertIsNone(progress.untouched(sock))

    def test_listening(self) -> None:
        """
        It is unknown for a listening socket.
        """
        self.assertIsNone(progress.untouched(listening(self)))

    def test_closed(self) -> None:
        """
        It is unknown for a closed descriptor.
        """
        _, accepted = connection(self)
        accepted.close()
        self.assertIsNone(progress.untouched(accepted))

    def test_oldKernel(self) -> None:
        """
        A kernel that does not count the bytes sent cannot say.
        """
        _, accepted = connection(self)
        info = accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192)
        old: Any = Scripted(accepted, {socket.TCP_INFO: info})
        self.assertIsNone(progress.untouched(old))


class QuestionsTests(SynchronousTestCase):
    """
    How L{progress.untouched} asks while bytes come in: the kernel's answers are put in.
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

        def received(sock: socket.socket) -> Any:
            found = give(self.then)
            if isinstance(found, int):
                return progress._Progress(found, False, False)
            return found

        self.asked: list[str] = []
        self.patch(progress, "queuedBytes", waiting)
        self.patch(progress, "_peekable", waiting)
        self.patch(progress, "_progress", received)
        return progress.untouched(self.accepted)

    def test_untouched(self) -> None:
        """
        If as much was received as waited, one round is enough.
        """
        self.assertIs(self.ask((5, 5)), True)

    def test_cameMeanwhile(self) -> None:
        """
        Bytes that come between the two system calls do not count as read.
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
        served = progress._Progress(5, True, False)
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
        greeting = progress._Progress(5, False, True)
        self.assertIs(self.ask((0, greeting), (5, greeting)), True)
        self.assertEqual(self.asked, ["asked", "looked"])

    def test_handshakeRead(self) -> None:
        """
        Bytes that were read before count as read.
        """
        greeting = progress._Progress(5, False, True)
        answers = [(0, greeting), (2, greeting), (2, greeting)]
        self.assertIs(self.ask(*answers), False)

    def test_handshakeEnds(self) -> None:
        """
        It may end between two questions, which are asked again then.
        """
        greeting = progress._Progress(3, False, True)
        self.assertIs(self.ask((0, greeting), (3, 9), (9, 9)), True)
        self.assertEqual(self.asked, ["asked", "looked", "asked"])

    def test_peekable(self) -> None:
        """
        Bytes that wait are peeked at, and stay there.
        """
        client, accepted = connection(self)
        accepted.setblocking(False)
        self.assertEqual(progress._peekable(accepted), 0)
        client.sendall(b"hello")
        arrived(accepted)
        self.assertEqual(progress._peekable(accepted), 5)
        self.assertEqual(accepted.recv(10), b"hello")

    def test_busyClient(self) -> None:
        """
        While a client writes as fast as it can, its connection never counts as touched.
        """
        client, accepted = connection(self)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        begun, over = threading.Event(), threading.Event()

        def write() -> None:
            begun.wait()
            for _ in range(20_000):
                client.send(b"x")
            over.set()

        thread = threading.Thread(target=write)
        thread.start()
        answers = set()
        begun.set()
        while not over.is_set():
            answers.add(progress.untouched(accepted))
        thread.join()
        answers.add(progress.untouched(accepted))
        self.assertIn(True, answers)
        self.assertNotIn(False, answers)


class DepartedTests(SynchronousTestCase):
    """
    Tests for L{progress.departed}.
    """

    protocol = 0

    def setUp(self) -> None:
        """
        Connect a client that stays.
        """
        watchDescriptors(self)
        self.stays, self.accepted = self.connect()

    def connect(self) -> tuple[socket.socket, socket.socket]:
        """
        Connect.
        """
        return connection(self, protocol=self.protocol)

    def hasLeft(self, accepted: socket.socket) -> bool | None:
        """
        Whether a client has left, or may have, which is L{None}; and the one that
        stays has not.
        """
        gone, ended = progress.departed([self.accepted, accepted])
        self.assertNotIn(self.accepted, [*gone, *ended])
        return None if accepted in ended else accepted in gone

    def test_nobody(self) -> None:
        """
        Without connections, no client has left.
        """
        self.assertEqual(progress.departed([]), ([], []))
        self.stays.sendall(b"question")
        arrived(self.accepted)
        self.assertEqual(progress.departed([self.accepted]), ([], []))

    def test_closed(self) -> None:
        """
        A client that closed and had sent nothing may have left: it looks as if it had
        only ended its side.
        """
        client, accepted = self.connect()
        client.close()
        arrived(accepted, select.POLLRDHUP)
        self.assertIsNone(self.hasLeft(accepted))

    def test_ended(self) -> None:
        """
        So may one have that ended its side.
        """
        client, accepted = self.connect()
        client.shutdown(socket.SHUT_WR)
        arrived(accepted, select.POLLRDHUP)
        self.assertIsNone(self.hasLeft(accepted))

    def test_closedAfterData(self) -> None:
        """
        A client that sent bytes before may still want an answer.
        """
        client, accepted = self.connect()
        client.sendall(b"x")
        client.close()
        arrived(accepted, select.POLLRDHUP)
        self.assertIs(self.hasLeft(accepted), False)

    def test_reset(self) -> None:
        """
        A client that reset the connection has left, even if it sent bytes before.
        """
        for data in (b"", b"question"):
            client, accepted = self.connect()
            client.sendall(data)
            linger = LINGER.pack(1, 0)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            client.close()
            arrived(accepted, select.POLLRDHUP)
            self.assertTrue(self.hasLeft(accepted))

    def test_unix(self) -> None:
        """
        For a Unix socket the kernel tells these cases apart.
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
        If the kernel does not tell what a client sent, its connection is kept.
        """
        client, accepted = self.connect()
        client.close()
        arrived(accepted, select.POLLRDHUP)
        self.patch(progress, "_progress", lambda sock: None)
        self.assertIs(self.hasLeft(accepted), False)

        def fail(sock: socket.socket) -> None:
            raise OSError(errno.ENOMEM, "no memory")

        self.patch(progress, "_progress", fail)
        self.assertIs(self.hasLeft(accepted), False)


class DepartedMultipathTests(DepartedTests):
    """
    Tests for L{progress.departed}, for connections of Multipath TCP.
    """

    protocol = IPPROTO_MPTCP
