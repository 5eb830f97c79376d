"""
Tests for L{portlisten._kernel.living}, with real sockets.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import subprocess
import sys
from collections.abc import Iterable
from contextlib import closing
from unittest import mock

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from portlisten import _kernel
from portlisten._kernel import living, sock_diag
from tests.support.descriptors import watchDescriptors
from tests.support.ports import freePort
from tests.support.sockets import LOOPBACK, arrived, duplicate, pair, reset

# linux/include/net/tcp_states.h
FIN_WAIT = {4, 5}
TIME_WAIT = 6

# Messages of netlink(7): their types, and a flag
SOCKET, ERROR, DONE = 20, 2, 3
INTERRUPTED = 0x10


def message(kind: int, content: bytes, flags: int = 2) -> bytes:
    """
    Make a message of netlink(7).
    """
    return struct.pack("=IHHII", 16 + len(content), kind, flags, 1, 0) + content


def code(number: int) -> bytes:
    """
    What ends an answer.
    """
    return struct.pack("=i", number)


class LiveConnectionsTests(SynchronousTestCase):
    """
    Tests for L{living.liveConnections}.

    @ivar ports: numbers of ports that are free.
    @ivar server: a listening socket.
    @ivar port: its port.
    """

    def setUp(self) -> None:
        # Other programs' clients on this machine do not get these numbers by chance.
        self.ports = [freePort(29000, 29050), freePort(29050, 29100)]
        watchDescriptors(self)
        self.server = self.listen()
        self.port: int = self.server.getsockname()[1]

    def listen(self, family: int = socket.AF_INET) -> socket.socket:
        """
        Listen at the loopback address.
        """
        server = socket.socket(family)
        self.addCleanup(server.close)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((LOOPBACK[socket.AddressFamily(family)], self.ports.pop()))
        server.listen(1000)
        return server

    def connect(self) -> socket.socket:
        """
        Connect a client.
        """
        client = socket.create_connection(self.server.getsockname()[:2])
        self.addCleanup(client.close)
        return client

    def connection(self) -> tuple[socket.socket, socket.socket]:
        """
        Connect a client, and accept it.
        """
        client = self.connect()
        accepted, _ = self.server.accept()
        self.addCleanup(accepted.close)
        return client, accepted

    def cookies(self) -> set[int]:
        """
        Find the connections that live.
        """
        return {each.cookie for each in _kernel.liveConnections(self.port)}

    def state(self, client: tuple[str, int]) -> set[int]:
        """
        Find the states of the sockets at the port whose client has this address.
        """
        found = set()
        request = sock_diag._INET_REQUEST.pack(
            socket.AF_INET, socket.IPPROTO_TCP, 0, 0xFFF, self.port.to_bytes(2, "big")
        )
        with closing(sock_diag.ask(request, 72, dump=True)) as answer:
            for each in answer:
                _, state, _, peer = struct.unpack_from("!BBxxHH", each)
                if peer == client[1]:
                    found.add(state)
        return found

    def test_held(self) -> None:
        """
        A connection that this process holds is found, with both addresses and the
        number by which it is known everywhere.
        """
        _, first = self.connection()
        _, second = self.connection()
        found = _kernel.liveConnections(self.port)
        self.assertEqual(
            {each.cookie for each in found},
            {_kernel.cookie(first), _kernel.cookie(second)},
        )
        self.assertEqual({each[1:] for each in found}, {("127.0.0.1", "127.0.0.1")})

    def test_address(self) -> None:
        """
        The client's address is the client's, and not the port's.
        """
        with socket.socket() as client:
            client.bind(("127.0.0.7", 0))
            client.connect(self.server.getsockname())
            accepted, address = self.server.accept()
            with accepted:
                [found] = _kernel.liveConnections(self.port)
        self.assertEqual((found.peer, found.host), (address[0], "127.0.0.1"))

    def test_ipv6(self) -> None:
        """
        Connections over IPv6 are found as well.  If a port takes both, the address is
        written as the C{socket} module does it.
        """
        self.server = self.listen(socket.AF_INET6)
        self.port = self.server.getsockname()[1]
        _, accepted = self.connection()
        cookie = _kernel.cookie(accepted)
        expected = [living.LiveConnection(cookie, "::1", "::1")]
        self.assertEqual(_kernel.liveConnections(self.port), expected)

    def test_dualStack(self) -> None:
        """
        If a port takes both, a client's address is the one that accept(2) gives.
        """
        server = socket.create_server(
            ("::", self.ports.pop()), family=socket.AF_INET6, dualstack_ipv6=True
        )
        self.addCleanup(server.close)
        port = server.getsockname()[1]
        for host in ("127.0.0.1", "::1"):
            client = socket.create_connection((host, port))
            accepted, address = server.accept()
            with client, accepted:
                [found] = _kernel.liveConnections(port)
                self.assertEqual(found.cookie, _kernel.cookie(accepted))
                self.assertEqual(found.peer, address[0])
                self.assertEqual(found.host, accepted.getsockname()[0])

    def test_nobody(self) -> None:
        """
        The listening socket is no connection, nor is one that waits to be accepted, nor
        one of another port.
        """
        self.connect()
        self.server, other = self.listen(), self.server
        self.connection()
        self.assertEqual(self.cookies(), set())
        other.accept()[0].close()

    def test_closed(self) -> None:
        """
        What is closed here is not found any more, though its client goes on.
        """
        client, accepted = self.connection()
        _, other = self.connection()
        accepted.close()
        self.assertEqual(self.cookies(), {_kernel.cookie(other)})
        self.assertLessEqual(self.state(client.getsockname()), FIN_WAIT)

    def test_timeWait(self) -> None:
        """
        A connection that has ended in good order is not found.
        """
        client, accepted = self.connection()
        address = client.getsockname()
        accepted.close()
        arrived(client)
        client.close()
        self.assertEqual(self.cookies(), set())
        # The kernel keeps no more than net.ipv4.tcp_max_tw_buckets of these.
        self.assertLessEqual(self.state(address), {TIME_WAIT})

    def test_clientClosed(self) -> None:
        """
        A client that has ended its side is found as long as somebody holds its
        connection.
        """
        client, accepted = self.connection()
        client.close()
        arrived(accepted, select.POLLRDHUP)
        self.assertEqual(self.cookies(), {_kernel.cookie(accepted)})

    def test_shutDown(self) -> None:
        """
        So is a connection of which the server has ended its side.
        """
        client, accepted = self.connection()
        accepted.shutdown(socket.SHUT_WR)
        arrived(client, select.POLLRDHUP)
        self.assertLessEqual(self.state(client.getsockname()), FIN_WAIT)
        self.assertEqual(self.cookies(), {_kernel.cookie(accepted)})

    def test_reset(self) -> None:
        """
        A connection that was reset is not found, even if somebody holds it.
        """
        client, accepted = self.connection()
        reset(client)
        arrived(accepted, select.POLLHUP)
        self.assertEqual(self.cookies(), set())

    def test_copy(self) -> None:
        """
        A connection lives until the last process has closed it.
        """
        _, accepted = self.connection()
        copy = duplicate(self, accepted)
        accepted.close()
        self.assertEqual(self.cookies(), {_kernel.cookie(copy)})
        copy.close()
        self.assertEqual(self.cookies(), set())

    def test_inFlight(self) -> None:
        """
        A connection lives while it is on its way from one process to another.
        """
        _, accepted = self.connection()
        cookie = _kernel.cookie(accepted)
        sender, receiver = pair(self)
        socket.send_fds(sender, [b"x"], [accepted.fileno()])
        accepted.close()
        self.assertEqual(self.cookies(), {cookie})
        receiver.close()
        self.assertEqual(self.cookies(), set())

    def test_otherProcess(self) -> None:
        """
        A connection lives while another process holds it.
        """
        _, accepted = self.connection()
        cookie = _kernel.cookie(accepted)
        command = [sys.executable, "-c", "input()"]
        number = accepted.fileno()
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, pass_fds=[number]
        ) as holder:
            accepted.close()
            self.assertEqual(self.cookies(), {cookie})
            holder.communicate(b"\n")
        self.assertEqual(self.cookies(), set())

    def test_many(self) -> None:
        """
        The kernel answers in several messages, which are read in several steps.
        """
        expected = {_kernel.cookie(self.connection()[1]) for _ in range(600)}
        steps = list(living.findLive(self.port))
        self.assertGreater(len(steps), 2)
        self.assertEqual({each.cookie for some in steps for each in some}, expected)
        self.assertEqual(self.cookies(), expected)

    def test_givenUp(self) -> None:
        """
        If not all steps are made, nothing stays open.
        """
        for _ in range(living.STEP + 1):
            self.connection()
        steps = living.findLive(self.port)
        self.assertEqual(len(next(steps)), living.STEP)
        steps.close()

    def test_tooMany(self) -> None:
        """
        Not more are looked at than the limit says.
        """
        for _ in range(3):
            self.connection()
        self.patch(living, "MAXIMUM_SOCKETS", 3)
        self.assertEqual(len(self.cookies()), 3)
        self.patch(living, "MAXIMUM_SOCKETS", 2)
        error = self.assertRaises(OSError, _kernel.liveConnections, self.port)
        self.assertEqual(error.errno, errno.EOVERFLOW)

    def test_namespace(self) -> None:
        """
        In another network namespace, they are not found.
        """
        self.connection()
        program = (
            "import socket, sys; from portlisten import _kernel;"
            " sock = socket.socket(fileno=int(sys.argv[1]));"
            " port = sock.getsockname()[1];"
            " print(_kernel.liveConnections(port))"
        )
        number = self.server.fileno()
        try:
            found = subprocess.run(
                ["unshare", "--net", sys.executable, "-c", program, str(number)],
                pass_fds=[number],
                capture_output=True,
                text=True,
                check=False,
            )
        except FileNotFoundError:
            raise SkipTest("unshare is not installed") from None
        if found.stderr.startswith("unshare:"):
            raise SkipTest(found.stderr)
        self.assertEqual(found.stdout, "[]\n", found.stderr)


class AnswerTests(SynchronousTestCase):
    """
    Answers that this machine's kernel does not give when it is asked for them.
    """

    def setUp(self) -> None:
        watchDescriptors(self)

    def ask(self, answers: Iterable[bytes]) -> list[living.LiveConnection]:
        """
        Ask a kernel that answers so.
        """
        with mock.patch.object(socket, "socket") as kernel:
            sock = kernel.return_value.__enter__.return_value
            sock.recv.side_effect = answers
            return _kernel.liveConnections(80)

    def held(self, cookie: int, inode: int = 1) -> bytes:
        """
        Make the message about a connection.
        """
        hosts = [socket.inet_aton(host) for host in ("192.0.2.1", "192.0.2.77")]
        return message(
            SOCKET,
            struct.pack(
                "=8x16s16sIIIIIIII",
                *(*hosts, 0),
                *(cookie & 0xFFFFFFFF, cookie >> 32),
                *(0, 0, 0, 0, inode),
            ),
        )

    def test_twice(self) -> None:
        """
        A connection that the kernel tells of twice counts once.  The upper half of its
        number is read as well.
        """
        done = message(DONE, code(0))
        cookie = 5 << 32 | 7
        found = self.ask([self.held(cookie), self.held(cookie) + done, done])
        expected = living.LiveConnection(cookie, "192.0.2.77", "192.0.2.1")
        self.assertEqual(found, [expected])

    def test_noModule(self) -> None:
        """
        If the kernel has no C{inet_diag}, or no C{tcp_diag}, that is an error.
        """
        for kind in (ERROR, DONE):
            with self.assertRaises(FileNotFoundError):
                self.ask([message(kind, code(-errno.ENOENT))])

    def test_interrupted(self) -> None:
        """
        If sockets changed meanwhile, the kernel is asked again, but not without end.
        """
        done = message(DONE, code(0))
        bad = [self.held(1), message(DONE, code(0), INTERRUPTED)]
        self.assertEqual(len(self.ask([*bad, *bad, self.held(2) + done, done])), 1)
        with self.assertRaises(InterruptedError):
            self.ask(bad * 4)

    def test_malformed(self) -> None:
        """
        An answer that is too short, or not whole, is an error like others.
        """
        whole = self.held(1)
        for data in (
            whole[:-1],
            whole[:10],
            message(SOCKET, bytes(71)),
            message(DONE, b""),
            message(ERROR, b"\0"),
            struct.pack("=IHHII", 0, SOCKET, 2, 1, 0),
        ):
            with self.assertRaises(OSError) as raised:
                self.ask([data])
            self.assertEqual(raised.exception.errno, errno.EBADMSG)

    def test_refused(self) -> None:
        """
        If netlink sockets are forbidden, as by systemd, that is an error.
        """
        error = OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
        with mock.patch.object(socket, "socket", side_effect=error):
            raised = self.assertRaises(OSError, _kernel.liveConnections, 80)
        self.assertEqual(raised.errno, errno.EAFNOSUPPORT)
