"""
Tests for L{portlisten._listener.sharing}, with real sockets, and for what the
dispatcher does with it.
"""

from __future__ import annotations

import os
import socket
from typing import Any

from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from portlisten import _kernel
from portlisten._listener.sharing import CHECK_SECONDS, Sharing
from portlisten._model import InternetAddress, Kind, Port, UnixAddress
from portlisten._wire.listener_session import Joined
from tests.support.channels import texts
from tests.support.clocks import RunningClock
from tests.support.descriptors import watchDescriptors
from tests.support.dispatchers import DispatcherTestCase, RecordingChannel
from tests.support.ports import freePort

WEB = Port(7, InternetAddress("TCP", "127.0.0.1", 80), "shared", Kind.LISTENER)
GROUP = Port(8, InternetAddress("TCP", "127.0.0.1", 81), "group", Kind.GROUP)
DNS = Port(9, InternetAddress("UDP", "127.0.0.1", 53), "dns", Kind.DATAGRAMS)


class SharingTests(SynchronousTestCase):
    """
    Tests for L{Sharing}.
    """

    def setUp(self) -> None:
        """
        Share a port, which has a number, since only then it can be mended.
        """
        number = freePort(25400, 25500)
        watchDescriptors(self)
        logs = capturedLogs()
        self.logged = logs.__enter__()
        self.addCleanup(logs.__exit__, None, None, None)
        self.sock = socket.create_server(("127.0.0.1", number))
        self.addCleanup(self.sock.close)
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.addCleanup(self.udp.close)
        self.clock = RunningClock()
        self.sharing = self.share({WEB: [self.sock], DNS: [self.udp]})
        self.channel = RecordingChannel("worker 1")

    def share(self, sockets: dict[Port, list[socket.socket]]) -> Sharing:
        """
        Share some.
        """
        numbered = {port.number: each for port, each in sockets.items()}
        return Sharing(self.clock, [*sockets], numbered, 5, timeout=2.0, budget=5)

    def shutDown(self, sock: socket.socket) -> None:
        """
        Shut one down, as a worker.
        """
        with sock.dup() as workers:
            try:
                workers.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # with UDP it does, and says that it does not

    def end(self) -> None:
        """
        Part with the worker, and see that nothing is left to do.
        """
        self.sharing.removeWorker(self.channel)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_lend(self) -> None:
        """
        A worker gets the shared sockets that it wants.
        """
        self.assertTrue(self.sharing.addWorker(self.channel, [WEB, DNS]))
        self.assertEqual(
            self.channel.calls, [("lend", 7, self.sock), ("lend", 9, self.udp)]
        )
        self.assertEqual(str(self.sharing), ", 2 sockets shared with 1")
        self.end()

    def test_nothing(self) -> None:
        """
        Without shared ports, nothing is sent and nothing logged.
        """
        sharing = self.share({})
        self.assertTrue(sharing.addWorker(self.channel, [Port(0, WEB.address, "web")]))
        self.assertEqual(self.channel.calls, [])
        self.assertEqual(str(sharing), "")
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_divided(self) -> None:
        """
        If a port has several sockets, they are divided among the workers.
        """
        other = RecordingChannel("worker 2")
        sharing = self.share({GROUP: [self.sock, self.udp]})
        sharing.addWorker(self.channel, [GROUP])
        del self.channel.calls[:]
        sharing.addWorker(other, [GROUP])
        self.assertEqual(other.calls, [("lend", 8, self.udp)])
        self.assertEqual(self.channel.calls, [("withdraw", self.udp)])

    def test_mended(self) -> None:
        """
        A worker that shuts down a shared socket ends it for all workers.  Before long,
        the socket listens again at the same address, and its workers get it again,
        since their own ports have ended.
        """
        address = self.sock.getsockname()
        self.sharing.addWorker(self.channel, [WEB])
        self.shutDown(self.sock)
        del self.channel.calls[:]
        self.clock.advance(CHECK_SECONDS)
        self.assertFalse(_kernel.isShutDown(self.sock))
        self.assertEqual(self.channel.calls, [("lend", 7, self.sock)])
        with socket.create_connection(address, timeout=5):
            self.sock.accept()[0].close()
        (line,) = texts(self.logged, "error")
        self.assertIn("a worker shut shared=tcp:127.0.0.1:80 down", line)
        self.clock.advance(CHECK_SECONDS)
        self.assertEqual(len(texts(self.logged, "error")), 1)
        self.end()

    def test_mendedAfter(self) -> None:
        """
        If it was the last worker, it is mended when that is gone.
        """
        self.sharing.addWorker(self.channel, [WEB])
        self.shutDown(self.sock)
        self.end()
        self.assertFalse(_kernel.isShutDown(self.sock))

    def test_blocking(self) -> None:
        """
        A worker that makes a socket blocking does so for all workers.  This is
        repaired.
        """
        self.sharing.addWorker(self.channel, [WEB])
        os.set_blocking(self.sock.fileno(), True)
        self.clock.advance(CHECK_SECONDS)
        self.assertFalse(os.get_blocking(self.sock.fileno()))
        self.end()

    def test_unserved(self) -> None:
        """
        If clients wait though a worker has the socket, that is logged.
        """
        self.sharing.addWorker(self.channel, [WEB])
        with socket.create_connection(self.sock.getsockname()):
            self.clock.advance(20)
        (line,) = texts(self.logged, "warn")
        self.assertIn("1 client waits on shared=tcp:", line)
        self.end()

    def test_orphans(self) -> None:
        """
        If the process of a worker has ended and its channel is open, that is logged:
        of a worker that was drained, only after it was undrained.
        """

        class Gone(RecordingChannel):
            def process(self) -> int | None:
                raise ProcessLookupError

        self.channel = Gone("worker 1")
        self.sharing.addWorker(self.channel, [WEB])
        self.sharing.drainWorker(self.channel)
        self.clock.advance(20)
        self.assertEqual(texts(self.logged, "warn"), [])
        self.sharing.undrainWorker(self.channel, [WEB])
        self.clock.advance(20)
        (line,) = texts(self.logged, "warn")
        self.assertIn("the process of worker 1 has ended, and a child of it", line)
        self.end()

    def assertLost(self, port: Port, sock: socket.socket, why: str) -> None:
        """
        Expect that a socket that was shut down cannot be repaired, that this is logged
        once, and that it is withdrawn.
        """
        self.sharing = self.share({port: [sock]})
        self.sharing.addWorker(self.channel, [port])
        self.shutDown(sock)
        del self.channel.calls[:]
        for _ in range(2):
            self.clock.advance(CHECK_SECONDS)
        (line,) = texts(self.logged, "critical")
        self.assertIn(f"cannot be repaired: {why}", line)
        self.assertEqual(self.channel.calls, [("withdraw", sock)])
        self.end()

    def test_udp(self) -> None:
        """
        A UDP socket cannot be mended.
        """
        self.assertLost(DNS, self.udp, "there is no way to listen on such a socket")

    def test_unix(self) -> None:
        """
        Neither can a Unix socket.
        """
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(b"")
            sock.listen()
            self.assertLost(WEB, sock, "there is no way to listen on such a socket")

    def test_otherPort(self) -> None:
        """
        Neither can one whose number the kernel chose, since it chooses another.
        """
        with socket.create_server(("127.0.0.1", 0)) as sock:
            self.assertLost(WEB, sock, "it would be another port")

    def test_refuses(self) -> None:
        """
        Or the kernel may not want it.
        """

        class Unwilling(socket.socket):
            def listen(self, backlog: int = 0) -> None:
                raise OSError(98, "Address already in use")

        with Unwilling(fileno=self.sock.dup().detach()) as unwilling:
            self.assertLost(WEB, unwilling, "Address already in use")

    def test_unread(self) -> None:
        """
        A worker that does not read its shared sockets is revoked: descriptors in flight
        count against the listener's user.
        """
        self.channel.reads = False
        self.sharing.addWorker(self.channel, [WEB])
        self.clock.pump([CHECK_SECONDS] * 5)
        self.assertEqual(len(self.channel.calls), 1)
        self.clock.advance(CHECK_SECONDS)
        self.assertEqual(
            self.channel.calls[1],
            ("revoke", "it did not read its shared sockets within 2 s"),
        )
        self.end()

    def test_read(self) -> None:
        """
        After a worker has read its sockets, it may be slow to read later ones.
        """
        self.sharing.addWorker(self.channel, [WEB])
        self.clock.advance(CHECK_SECONDS)
        self.channel.reads = False
        self.clock.pump([CHECK_SECONDS] * 10)
        self.assertEqual(len(self.channel.calls), 1)
        self.end()

    def members(self, *labels: str) -> list[RecordingChannel]:
        """
        Share three sockets of one port with some workers, which read all.
        """
        sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
        for sock in sockets:
            self.addCleanup(sock.close)
        self.sharing = self.share({GROUP: sockets})
        channels = [RecordingChannel(label) for label in labels]
        for channel in channels:
            self.assertTrue(self.sharing.addWorker(channel, [GROUP]))
            self.clock.advance(CHECK_SECONDS)
        return channels

    def comeAndGo(self, channel: RecordingChannel) -> None:
        """
        A worker leaves and comes back, so others have its sockets meanwhile.
        """
        self.sharing.removeWorker(channel)
        self.clock.advance(CHECK_SECONDS / 2)
        self.sharing.addWorker(channel, [GROUP])
        self.clock.advance(CHECK_SECONDS / 2)

    def test_memberStopsReading(self) -> None:
        """
        If a member of a group read its first sockets and then stops reading, it is
        revoked while others come and go.
        """
        first, second = self.members("worker 1", "worker 2")
        second.reads = False
        for _ in range(6):
            self.comeAndGo(first)
        reason = "it did not read its shared sockets within 2 s"
        self.assertIn(("revoke", reason), second.calls)
        self.assertNotIn(("revoke", reason), first.calls)

    def test_memberReads(self) -> None:
        """
        A worker that reads is not revoked, even if it is sent many sockets.
        """
        first, second = self.members("worker 1", "worker 2")
        for _ in range(20):
            self.comeAndGo(first)
        self.assertGreater(len(second.calls), 20)
        self.assertNotIn("revoke", [call[0] for call in second.calls])

    def test_heard(self) -> None:
        """
        A worker that claims offers, and so reads, is not revoked, even if something is
        always unread.
        """
        self.sharing = self.share({GROUP: [self.sock, self.udp]})
        self.sharing.addWorker(self.channel, [Port(0, WEB.address, "web"), GROUP])
        self.channel.reads = False
        for _ in range(12):
            self.clock.advance(CHECK_SECONDS)
            self.sharing.workerReads(self.channel)
        self.assertNotIn("revoke", [call[0] for call in self.channel.calls])
        self.sharing.workerReads(RecordingChannel("stranger"))
        self.clock.pump([CHECK_SECONDS] * 6)
        self.assertIn("revoke", [call[0] for call in self.channel.calls])
        self.end()

    def test_lookComesAtOnce(self) -> None:
        """
        However short the time is, it has passed.
        """
        self.sharing = Sharing(self.clock, [WEB], {WEB.number: [self.sock]}, 5, 0.01, 5)
        first = RecordingChannel("first")
        self.sharing.addWorker(first, [WEB])
        self.clock.advance(CHECK_SECONDS - 0.001)
        self.channel.reads = False
        self.sharing.addWorker(self.channel, [WEB])
        self.clock.advance(0.001)
        self.assertNotIn("revoke", [call[0] for call in self.channel.calls])
        self.clock.advance(CHECK_SECONDS)
        self.assertIn("revoke", [call[0] for call in self.channel.calls])
        self.sharing.removeWorker(first)
        self.end()

    def test_stoppedItself(self) -> None:
        """
        Time in which the listener did not run is not the worker's.
        """
        self.channel.reads = False
        self.sharing.addWorker(self.channel, [WEB])
        Clock.advance(self.clock, 60)
        self.assertEqual(len(self.channel.calls), 1)
        self.end()

    def test_lentOnce(self) -> None:
        """
        A program that reads nothing after it joined is lent a socket that was mended
        only once, and is left alone; another is lent it again when it has read.
        """
        self.sharing.addWorker(self.channel, [WEB])
        self.clock.advance(CHECK_SECONDS)
        self.channel.reads = False
        del self.channel.calls[:]
        for _ in range(8):
            self.shutDown(self.sock)
            self.clock.advance(CHECK_SECONDS)
            self.assertFalse(_kernel.isShutDown(self.sock))
        self.assertEqual(self.channel.calls, [("lend", 7, self.sock)])
        self.channel.reads = True
        self.clock.advance(CHECK_SECONDS)
        self.assertEqual(self.channel.calls, [("lend", 7, self.sock)] * 2)
        self.clock.pump([CHECK_SECONDS] * 3)
        self.assertEqual(len(self.channel.calls), 2)
        self.end()

    def test_leavesMeanwhile(self) -> None:
        """
        A worker whose channel ends while it is sent something is sent no more.
        """

        class Fragile(RecordingChannel):
            def shareSocket(channel, port: int, sock: Any) -> None:
                super().shareSocket(port, sock)
                self.sharing.removeWorker(channel)

        self.sharing = self.share({GROUP: [self.sock, self.udp]})
        fragile = Fragile("worker 1")
        self.sharing.addWorker(fragile, [GROUP])
        self.assertEqual(len(fragile.calls), 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_unixPath(self) -> None:
        """
        A Unix socket can be shared with any name, and after its path was removed.
        """
        path = os.fsencode(self.mktemp())
        for number, name in enumerate((path, b"\0portlisten-" + os.urandom(8))):
            with socket.socket(socket.AF_UNIX) as sock:
                sock.bind(name)
                sock.listen()
                port = Port(number, UnixAddress(name), "unix", Kind.LISTENER)
                self.sharing = self.share({port: [sock]})
                if name == path:
                    os.rename(path, path + b".moved")
                channel = RecordingChannel("worker")
                self.assertTrue(self.sharing.addWorker(channel, [port]))
                self.assertEqual(channel.calls, [("lend", number, sock)])
                self.sharing.removeWorker(channel)

    def test_budget(self) -> None:
        """
        The number of sockets in flight is limited.  But if no other sockets are in
        flight, a worker gets its own, even if they are many.
        """
        others = [RecordingChannel(f"worker {number}") for number in range(3)]
        for other in others:
            other.reads = False
        self.assertTrue(self.sharing.addWorker(others[0], [WEB, DNS]))
        self.assertTrue(self.sharing.addWorker(others[1], [WEB, DNS]))
        self.assertFalse(self.sharing.addWorker(others[2], [WEB, DNS]))
        self.assertEqual(others[2].calls, [])
        for other in others[:2]:
            other.reads = True
        self.clock.advance(CHECK_SECONDS)
        self.assertTrue(self.sharing.addWorker(others[2], [WEB, DNS]))
        many = Sharing(self.clock, [GROUP], {GROUP.number: [self.sock] * 9}, 5, 2.0, 5)
        self.assertTrue(many.addWorker(self.channel, [GROUP]))


class DispatcherTests(DispatcherTestCase):
    """
    The dispatcher and workers with shared sockets.
    """

    def sharing(self) -> Sharing:
        """
        Share two sockets of one port.
        """
        self.sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
        for sock in self.sockets:
            self.addCleanup(sock.close)
        return Sharing(self.clock, [GROUP], {GROUP.number: self.sockets}, 5, 5.0, 5)

    def share(self, label: str, *others: Port) -> RecordingChannel:
        """
        Make a worker join that wants a group of sockets, and perhaps other ports.
        """
        channel = RecordingChannel(label)
        self.dispatcher.connected(channel)
        self.dispatcher.joined(channel, Joined(4, (GROUP, *others)))
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
        A worker that only uses shared sockets gets no offers, does not delay the stop,
        and may leave without BYE.
        """
        channel = self.share("worker 1")
        self.assertEqual(len(channel.calls), 2)
        self.accept()
        self.assertEqual(channel.ids, [])
        self.dispatcher.died(channel)
        self.dispatcher.channelClosed(channel)
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
        Such a worker sends no reports, so its death does not count against its user.
        """
        for number in range(20):
            channel = self.share(f"worker {number}")
            self.assertEqual(len(channel.calls), 2)
            self.dispatcher.died(channel)
            self.dispatcher.channelClosed(channel)

    def test_both(self) -> None:
        """
        A worker that wants both kinds of ports gets offers as well.
        """
        channel = self.share("worker 1", Port(0, GROUP.address, "web"))
        self.accept(name="web")
        self.assertEqual(channel.ids, [1])
        self.dispatcher.claimed(channel, [1])
        self.dispatcher.closed(channel, [1])
        self.dispatcher.left(channel, "it says: bye")

    def test_died(self) -> None:
        """
        When it dies its sockets go to another.
        """
        self.assertHeir(self.dispatcher.died)

    def test_parted(self) -> None:
        """
        Or when it leaves.
        """
        self.assertHeir(lambda channel: self.dispatcher.left(channel, "bye"))

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

    def test_unread(self) -> None:
        """
        A worker that does not read must wait when it comes again, and so must its
        user's other workers.
        """
        for number in range(2):
            channel = self.share(f"worker {number}")
            channel.reads = False
            self.clock.pump([CHECK_SECONDS] * 24)
            self.assertEqual(channel.calls[-1][0], "revoke")
            self.dispatcher.revoking(channel)
            self.dispatcher.left(channel, "it did not read")
            self.dispatcher.channelClosed(channel)
        self.assertEqual(self.share("worker 3").calls, [])

    def test_turnedAway(self) -> None:
        """
        If too many sockets are in flight, the next worker is turned away.
        """
        channels = []
        for number in range(4):
            channels.append(self.share(f"worker {number}"))
            channels[-1].reads = False
        self.assertEqual(
            channels[-1].calls,
            [("bye", "too many shared sockets are on their way to workers")],
        )
        self.assertIn("worker 3 is turned away", texts(self.logged, "warn")[-1])
        for channel in channels[:-1]:
            self.dispatcher.left(channel, "bye")
        for channel in channels:
            self.dispatcher.channelClosed(channel)

    def test_held(self) -> None:
        """
        A worker that must wait before its first offer gets no sockets until then.
        """
        for _ in range(2):
            victim = self.join("worker", user=1000)
            self.dispatcher.died(victim)
            self.dispatcher.channelClosed(victim)
        channel = self.share("worker 3")
        self.assertEqual(channel.calls, [])
        self.clock.advance(10)
        self.assertEqual(len(channel.calls), 2)
