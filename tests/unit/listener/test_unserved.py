"""
Tests for L{portlisten._listener.unserved}, with real sockets.
"""

from __future__ import annotations

import errno
import os
import socket

from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from portlisten import _kernel
from portlisten._listener.unserved import Queues
from portlisten._model import InternetAddress, Kind, Port, UnixAddress
from tests.support.channels import texts
from tests.support.descriptors import watchDescriptors
from tests.support.dispatchers import RecordingChannel

WEB = Port(0, InternetAddress("TCP", "127.0.0.1", 80), "web", Kind.LISTENER)
LOCAL = Port(1, UnixAddress(b"/run/www"), "", Kind.LISTENER)
GROUP = Port(2, InternetAddress("TCP", "127.0.0.1", 81), "group", Kind.GROUP)
DNS = Port(3, InternetAddress("UDP", "127.0.0.1", 53), "dns", Kind.DATAGRAMS)


class QueuesTests(SynchronousTestCase):
    """
    Tests for L{Queues}.
    """

    def setUp(self) -> None:
        """
        Share ports of all kinds.
        """
        watchDescriptors(self)
        logs = capturedLogs()
        logged = logs.__enter__()
        assert isinstance(logged, list)
        self.logged = logged
        self.addCleanup(logs.__exit__, None, None, None)
        self.web = socket.create_server(("127.0.0.1", 0))
        self.local = socket.socket(socket.AF_UNIX)
        self.local.bind(os.path.relpath(self.mktemp()))
        self.local.listen()
        self.group = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(("127.0.0.1", 0))
        for each in (self.web, self.local, *self.group, self.udp):
            self.addCleanup(each.close)
        self.clock = Clock()
        self.queues = Queues(
            self.clock,
            [WEB, LOCAL, GROUP, DNS],
            {0: [self.web], 1: [self.local], 2: self.group, 3: [self.udp]},
        )
        self.first = RecordingChannel("worker 1 (pid 11, uid 1)")
        self.second = RecordingChannel("worker 2 (pid 22, uid 1)")
        self.holders = {
            each: [self.first] for each in (self.web, self.local, *self.group)
        }

    def connect(self, sock: socket.socket) -> None:
        """
        Connect a client.
        """
        client = socket.socket(sock.family)
        self.addCleanup(client.close)
        client.connect(sock.getsockname())

    def look(self, seconds: float) -> None:
        """
        Look for some time.
        """
        for _ in range(round(seconds * 2)):
            self.clock.advance(0.5)
            self.queues.look(lambda sock: self.holders.get(sock, []))

    def test_unserved(self) -> None:
        """
        A line names the port and the workers, says how many clients wait and what to
        look for; and another says when they are accepted.
        """
        for sock, label in (
            (self.web, "web=tcp:127.0.0.1:80"),
            (self.local, "unix:/run/www"),
            (self.group[1], "group=tcp:127.0.0.1:81"),
        ):
            self.connect(sock)
            self.look(20)
            (line,) = texts(self.logged, "warn")
            start = f"1 client waits on {label}, and nobody was accepted there for 5 s"
            self.assertTrue(line.startswith(start), line)
            self.assertIn("though worker 1 (pid 11, uid 1) can accept", line)
            self.assertIn("LISTEN_PID", line)
            self.assertEqual(texts(self.logged, "info"), [])
            sock.accept()[0].close()
            self.look(1)
            self.assertEqual(
                texts(self.logged, "info"), [f"clients of {label} are served again"]
            )
            del self.logged[:]

    def test_served(self) -> None:
        """
        Nothing is said of a port that is served, however many come.
        """
        self.connect(self.web)
        for _ in range(60):
            self.connect(self.web)
            self.look(0.5)
            self.web.accept()[0].close()
        self.assertEqual(self.logged, [])

    def test_slow(self) -> None:
        """
        A server that accepts too slowly is not told what to look for.
        """
        for _ in range(30):
            self.connect(self.web)
        for _ in range(30):
            self.look(0.5)
            self.web.accept()[0].close()
            self.connect(self.web)
        (line,) = texts(self.logged, "warn")
        self.assertRegex(
            line,
            r"^30 clients wait on web=tcp:127.0.0.1:80, \d+ of them for 5 s or longer,"
            r" though worker 1 \(pid 11, uid 1\) can accept: the server is overloaded$",
        )

    def test_datagrams(self) -> None:
        """
        Datagrams wait for nobody.
        """
        self.holders[self.udp] = [self.first]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.sendto(b"x", self.udp.getsockname())
        self.look(60)
        self.assertEqual(self.logged, [])

    def test_noWorker(self) -> None:
        """
        Without a worker, nobody is accused; nor is the next one at once, though the
        last one was.
        """
        self.connect(self.web)
        self.look(20)
        del self.logged[:]
        for holders in ([self.second], [self.first]):
            self.holders = {}
            self.look(20)
            self.holders = {self.web: holders}
            self.look(9)
            self.assertEqual(self.logged, [])
            self.look(9)
            (line,) = texts(self.logged, "warn")
            self.assertIn(holders[0].label, line)
            del self.logged[:]

    def test_nextWorker(self) -> None:
        """
        A worker that follows another, or joins one, is given time.
        """
        self.connect(self.web)
        self.look(5)
        self.holders[self.web] = [self.first, self.second]
        self.look(10)
        self.assertEqual(self.logged, [])
        self.look(1)
        (line,) = texts(self.logged, "warn")
        self.assertIn("worker 1 (pid 11, uid 1), worker 2 (pid 22, uid 1) can", line)

    def test_manyWorkers(self) -> None:
        """
        A line names a few workers, and counts the others.
        """
        self.connect(self.web)
        self.holders[self.web] = [RecordingChannel(f"w{n}") for n in range(7)]
        self.look(20)
        (line,) = texts(self.logged, "warn")
        self.assertIn("though w0, w1, w2, w3, 3 more can accept", line)

    def test_untold(self) -> None:
        """
        If the kernel does not say who waits, nobody is accused, and this is logged
        once.
        """

        def fail(sock: object) -> frozenset[int]:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported")

        self.patch(_kernel, "clientsWaiting", fail)
        self.connect(self.web)
        self.connect(self.local)
        self.look(60)
        self.assertEqual(texts(self.logged, "warn"), [])
        (line,) = texts(self.logged, "info")
        self.assertIn("(Address family not supported)", line)
