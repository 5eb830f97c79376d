"""
Tests for L{portlisten._listener.orphans}, with real processes.
"""

from __future__ import annotations

import subprocess

from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from portlisten import _kernel
from portlisten._listener.orphans import CHILDREN_SECONDS, Orphans
from portlisten._model import InternetAddress, Kind, Port
from tests.support.channels import texts
from tests.support.descriptors import watchDescriptors
from tests.support.dispatchers import RecordingChannel

WEB = Port(0, InternetAddress("TCP", "127.0.0.1", 80), "web", Kind.LISTENER)
DNS = Port(1, InternetAddress("UDP", "127.0.0.1", 53), "dns", Kind.DATAGRAMS)


class Gone(RecordingChannel):
    """
    A worker whose process the kernel knows no more.
    """

    def process(self) -> int | None:
        """
        See L{IChannel}.
        """
        raise ProcessLookupError


class OrphansTests(SynchronousTestCase):
    """
    Tests for L{Orphans}.
    """

    def setUp(self) -> None:
        """
        Let a worker join that has a process.
        """
        watchDescriptors(self)
        logs = capturedLogs()
        self.logged = logs.__enter__()
        self.addCleanup(logs.__exit__, None, None, None)
        self.clock = Clock()
        self.orphans = Orphans(self.clock)
        self.channel = RecordingChannel("worker 1 (pid 11, uid 1)")
        self.channel.child = self.process()
        self.orphans.joined(self.channel, [WEB, DNS])

    def process(self) -> subprocess.Popen[bytes]:
        """
        Start a process.
        """
        process = subprocess.Popen(["sleep", "60"])

        def end() -> None:
            process.kill()
            process.wait()

        self.addCleanup(end)
        return process

    def end(self) -> None:
        """
        End the worker's process.  Nobody has waited for it yet.
        """
        child = self.channel.child
        assert child is not None
        child.kill()
        while not _kernel.processEnded(self.channel.process):
            pass

    def check(self, seconds: float) -> None:
        """
        Check for some time.
        """
        for _ in range(round(seconds * 2)):
            self.clock.advance(0.5)
            self.orphans.check()

    def test_lives(self) -> None:
        """
        Nothing is said of a process that lives.
        """
        self.check(60)
        self.assertEqual(self.logged, [])

    def test_ended(self) -> None:
        """
        If the process has ended and the channel stays open, one line names the process
        and the ports.
        """
        self.check(1)
        self.end()
        self.check(CHILDREN_SECONDS)
        self.assertEqual(self.logged, [])
        self.check(60)
        (line,) = texts(self.logged, "warn")
        self.assertIn("the process of worker 1 (pid 11, uid 1) has ended", line)
        self.assertIn("holds web=tcp:127.0.0.1:80, dns=udp:127.0.0.1:53: if", line)

    def test_gone(self) -> None:
        """
        Likewise if the kernel does not know the process any more.
        """
        self.orphans.joined(Gone("worker 2"), [WEB])
        self.check(60)
        (line,) = texts(self.logged, "warn")
        self.assertIn("the process of worker 2 has ended", line)

    def test_channelCloses(self) -> None:
        """
        Nothing is said if the children end soon as well.
        """
        self.end()
        self.check(CHILDREN_SECONDS)
        for _ in range(2):
            self.orphans.left(self.channel)
        self.check(60)
        self.assertEqual(self.logged, [])

    def test_unknown(self) -> None:
        """
        Nor if the kernel gives no access to the process.
        """
        self.channel.child = None
        self.check(60)
        self.assertEqual(self.logged, [])
