"""
Tests for L{portlisten._sharing}, with real sockets, and for what the dispatcher
does with it.
"""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from portlisten import _linux
from portlisten._frames import Kind, Port
from portlisten._sharing import Sharing
from tests.support import watchDescriptors
from tests.test_channel import texts
from tests.test_dispatcher import DispatcherTestCase, RecordingChannel

WEB = Port(7, IPv4Address("TCP", "127.0.0.1", 80), "shared", Kind.LISTENER)
GROUP = Port(8, IPv4Address("TCP", "127.0.0.1", 81), "group", Kind.GROUP)
DNS = Port(9, IPv4Address("UDP", "127.0.0.1", 53), "dns", Kind.DATAGRAMS)


def freeNumber() -> int:
    """
    Find a TCP port that nobody has.
    """
    with socket.create_server(("127.0.0.1", 0)) as sock:
        number: int = sock.getsockname()[1]
        return number


class SharingTests(SynchronousTestCase):
    """
    Tests for L{Sharing}.
    """

    def setUp(self) -> None:
        """
        Share a port, which has a number, since only then it can be mended.
        """
        watchDescriptors(self)
        logs = capturedLogs()
        self.logged = logs.__enter__()
        self.addCleanup(logs.__exit__, None, None, None)
        self.sock = socket.create_server(("127.0.0.1", freeNumber()))
        self.addCleanup(self.sock.close)
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.addCleanup(self.udp.close)
        self.sharing = Sharing({WEB: [self.sock], DNS: [self.udp]}, 5)
        self.channel = RecordingChannel("worker 1")

    def test_lend(self) -> None:
        """
        A worker is lent what it wants.
        """
        self.sharing.joined(self.channel, [WEB, DNS])
        self.assertEqual(
            self.channel.calls, [("lend", 7, self.sock), ("lend", 9, self.udp)]
        )

    def test_divided(self) -> None:
        """
        Where there are several sockets they are divided.
        """
        other = RecordingChannel("worker 2")
        sharing = Sharing({GROUP: [self.sock, self.udp]}, 5)
        sharing.joined(self.channel, [GROUP])
        del self.channel.calls[:]
        sharing.joined(other, [GROUP])
        self.assertEqual(other.calls, [("lend", 8, self.udp)])
        self.assertEqual(self.channel.calls, [("withdraw", self.udp)])

    def test_mended(self) -> None:
        """
        A worker that shuts a shared socket down ends it for everybody: once that
        worker is gone the socket listens again, where it was.
        """
        address = self.sock.getsockname()
        self.sharing.joined(self.channel, [WEB])
        with self.sock.dup() as workers:
            workers.shutdown(socket.SHUT_RDWR)
        self.sharing.left(self.channel)
        self.assertTrue(_linux.listening(self.sock))
        with socket.create_connection(address, timeout=5):
            self.sock.accept()[0].close()
        (line,) = texts(self.logged, "error")
        self.assertIn("a worker shut shared=tcp:127.0.0.1:80 down", line)
        self.sharing.left(self.channel)
        self.assertEqual(len(texts(self.logged, "error")), 1)

    def test_notMended(self) -> None:
        """
        If that fails, it is said.
        """
        self.sharing.joined(self.channel, [WEB])
        with self.sock.dup() as workers:
            workers.shutdown(socket.SHUT_RDWR)

        class Unwilling(socket.socket):
            def listen(self, backlog: int = 0) -> None:
                raise OSError(98, "Address already in use")

        with Unwilling(fileno=self.sock.dup().detach()) as unwilling:
            sharing = Sharing({WEB: [unwilling]}, 5)
            sharing.left(self.channel)
        (line,) = texts(self.logged, "critical")
        self.assertIn("cannot be mended: Address already in use", line)


class DispatcherTests(DispatcherTestCase):
    """
    What the dispatcher does with those that share.
    """

    def sharing(self) -> Sharing:
        """
        Share two sockets of one port.
        """
        self.sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
        for sock in self.sockets:
            self.addCleanup(sock.close)
        return Sharing({GROUP: self.sockets}, 5)

    def share(self, label: str, *others: Port) -> RecordingChannel:
        """
        Have a worker join that shares.
        """
        channel = RecordingChannel(label)
        self.dispatcher.connected(channel)
        self.dispatcher.joined(channel, 4, [GROUP, *others])
        return channel

    def assertHeir(self, end: Any) -> None:
        """
        Expect that something has a worker's sockets go to another.
        """
        first, second = self.share("worker 1"), self.share("worker 2")
        del second.calls[:]
        end(first)
        self.assertEqual([call[:2] for call in second.calls], [("lend", 8)])

    def test_borrower(self) -> None:
        """
        One that only shares is offered nothing, no reason to wait at the end, and
        its end may be in good order.
        """
        channel = self.share("worker 1")
        self.assertEqual(len(channel.calls), 2)
        self.accept()
        self.assertEqual(channel.ids, [])
        self.dispatcher.died(channel)
        self.dispatcher.disconnected(channel)
        self.assertEqual(texts(self.logged, "warn"), [])
        self.assertEqual(
            texts(self.logged, "info"),
            [
                "worker 1 joined, with a window of 4, for group",
                "worker 1 is gone",
            ],
        )

    def test_notThrottled(self) -> None:
        """
        Nobody knows what it did, so its death is no strike against its user.
        """
        for number in range(20):
            channel = self.share(f"worker {number}")
            self.assertEqual(len(channel.calls), 2)
            self.dispatcher.died(channel)
            self.dispatcher.disconnected(channel)

    def test_both(self) -> None:
        """
        One that does both is offered what it wants.
        """
        channel = self.share("worker 1", Port(0, GROUP.address, "web"))
        self.accept(name="web")
        self.assertEqual(channel.ids, [1])
        self.dispatcher.claimed(channel, [1])
        self.dispatcher.closed(channel, [1])
        self.dispatcher.parted(channel, "it says: bye")

    def test_died(self) -> None:
        """
        When it dies its sockets go to another.
        """
        self.assertHeir(self.dispatcher.died)

    def test_parted(self) -> None:
        """
        Or when it leaves.
        """
        self.assertHeir(lambda channel: self.dispatcher.parted(channel, "bye"))

    def test_draining(self) -> None:
        """
        Or as soon as it stops.
        """
        self.assertHeir(self.dispatcher.draining)

    def test_revoking(self) -> None:
        """
        Or when it is given up.
        """
        self.assertHeir(self.dispatcher.revoking)

    def test_held(self) -> None:
        """
        One that has to wait gets nothing until then.
        """
        for _ in range(2):
            victim = self.join("worker", user=1000)
            self.dispatcher.died(victim)
            self.dispatcher.disconnected(victim)
        channel = self.share("worker 3")
        self.assertEqual(channel.calls, [])
        self.clock.advance(10)
        self.assertEqual(len(channel.calls), 2)
