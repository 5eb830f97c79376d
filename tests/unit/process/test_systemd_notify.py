"""
Tests for L{portlisten._process.systemd_notify}.
"""

from __future__ import annotations

import os
import socket
import time
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from portlisten._process import systemd_notify
from portlisten._process.systemd_notify import Manager
from tests.support.descriptors import watchDescriptors


class ManagerTests(SynchronousTestCase):
    """
    Tests for L{Manager}, with a list of the messages that it sends.
    """

    def setUp(self) -> None:
        """
        Keep the sent messages.
        """
        self.sent: list[str] = []
        self.manager = Manager(self.sent.append)

    def test_ready(self) -> None:
        """
        A process with one part is ready when that is.
        """
        part = self.manager.begin()
        self.assertEqual(self.sent, [])
        part.ready("serving")
        self.assertEqual(self.sent, ["STATUS=serving", "READY=1"])

    def test_once(self) -> None:
        """
        The process becomes ready once, even if parts end or begin later.
        """
        part = self.manager.begin()
        part.ready("serving")
        part.status("waiting")
        part.ready("serving again")
        self.manager.begin().ready("another")
        self.assertEqual(self.sent.count("READY=1"), 1)
        self.assertEqual(self.sent[-1], "STATUS=serving again; another")

    def test_reload(self) -> None:
        """
        A reload begins with the time, and ends with READY, if the process is ready and
        does not stop.
        """
        part = self.manager.begin()
        self.manager.reloading()
        self.manager.reloaded()
        self.assertEqual(self.sent, [])
        part.ready("serving")
        before = time.monotonic_ns() // 1000
        self.manager.reloading()
        self.manager.reloaded()
        message, ready = self.sent[-2:]
        first, second = message.split("\n")
        self.assertEqual((first, ready), ("RELOADING=1", "READY=1"))
        name, _, value = second.partition("=")
        self.assertEqual(name, "MONOTONIC_USEC")
        self.assertTrue(before <= int(value) <= time.monotonic_ns() // 1000)
        self.manager.stopping()
        count = len(self.sent)
        self.manager.reloading()
        self.manager.reloaded()
        self.assertEqual(len(self.sent), count)

    def test_sameStatus(self) -> None:
        """
        A state that has not changed is not sent again.
        """
        part = self.manager.begin()
        part.status("one")
        part.ready("one")
        part.status("one")
        self.assertEqual(self.sent, ["STATUS=one", "READY=1"])
        part.status("two")
        part.status("one")
        self.assertEqual(self.sent[2:], ["STATUS=two", "STATUS=one"])

    def test_allParts(self) -> None:
        """
        A process with several is ready when all are.
        """
        first, second = self.manager.begin(), self.manager.begin()
        first.ready("one")
        self.assertEqual(self.sent, ["STATUS=one"])
        second.status("no luck")
        second.ready("two")
        self.assertEqual(
            self.sent[1:], ["STATUS=one; no luck", "STATUS=one; two", "READY=1"]
        )

    def test_watchdog(self) -> None:
        """
        If a watchdog waits, it is told in time, and otherwise not.
        """
        self.assertIsNone(self.manager.keepAlive())
        self.assertEqual(self.sent, [])
        manager = Manager(self.sent.append, 30.0)
        self.assertEqual(manager.keepAlive(), 15.0)
        self.assertEqual(self.sent, ["WATCHDOG=1"])

    def test_watchdogSeconds(self) -> None:
        """
        The time is the environment's, if it is for this process.
        """
        found = systemd_notify.watchdogSeconds
        pid = str(os.getpid())
        self.assertEqual(found({"WATCHDOG_USEC": "2500000"}), 2.5)
        self.assertEqual(found({"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": pid}), 1.0)
        for wrong in (
            {},
            {"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"},
            {"WATCHDOG_USEC": "0"},
            {"WATCHDOG_USEC": "-1"},
            {"WATCHDOG_USEC": "soon"},
        ):
            self.assertIsNone(found(wrong))

    def test_stopping(self) -> None:
        """
        When the process stops, that is said once, and nothing after it.
        """
        part = self.manager.begin()
        for _ in range(2):
            self.manager.stopping()
        part.status("it has no more to say")
        part.ready("nor this")
        part.ended()
        self.assertEqual(self.sent, ["STOPPING=1\nSTATUS=finishing what is in service"])

    def test_ended(self) -> None:
        """
        A part may end while the process goes on: it is not waited for, even if it
        is the last that was.
        """
        first, second = self.manager.begin(), self.manager.begin()
        first.ready("one")
        for _ in range(2):
            second.ended()
        second.status("it has no more to say")
        self.assertEqual(self.sent, ["STATUS=one", "READY=1"])
        first.ended()
        self.manager.begin().ready("another")
        self.assertEqual(self.sent[2:], ["STATUS=another"])

    def test_nothing(self) -> None:
        """
        A process whose only part ends before it was ready is not ready.
        """
        self.manager.begin().ended()
        self.assertEqual(self.sent, [])

    def test_watch(self) -> None:
        """
        The reactor reports the end of the process, once.
        """
        triggers: list[Any] = []

        class Reactor:
            def addSystemEventTrigger(self, *what: Any) -> None:
                triggers.append(what)

        for _ in range(2):
            self.manager.watch(Reactor())
        ((phase, event, trigger),) = triggers
        self.assertEqual((phase, event), ("before", "shutdown"))
        trigger()
        self.assertIn("STOPPING=1", self.sent[0])
        Manager(None).watch(Reactor())
        self.assertEqual(len(triggers), 1)

    def test_odd(self) -> None:
        """
        A path may have anything in it.
        """
        self.manager.begin().status("at /run/\udcffü…")
        self.assertEqual(self.sent, ["STATUS=at /run/???"])


class EnvironmentTests(SynchronousTestCase):
    """
    Tests for L{systemd_notify.manager}.
    """

    def setUp(self) -> None:
        """
        Have it look anew, here and in the tests to come.
        """
        watchDescriptors(self)
        systemd_notify.manager.cache_clear()
        self.addCleanup(systemd_notify.manager.cache_clear)

    def test_nobody(self) -> None:
        """
        Without a service manager, nothing is opened and nothing sent.
        """
        for nothing in (None, ""):
            self.patch(os, "environ", {"NOTIFY_SOCKET": nothing})
            systemd_notify.manager.cache_clear()
            systemd_notify.manager().begin().ready("serving")

    def test_systemd(self) -> None:
        """
        systemd gets the messages at the socket that it names.
        """
        path = self.mktemp()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.bind(path)
            # The library looks at the real ones.
            self.patchEnvironment("NOTIFY_SOCKET", path)
            manager = systemd_notify.manager()
            self.assertIs(systemd_notify.manager(), manager)
            manager.begin().ready("serving")
            self.assertEqual(sock.recv(100), b"STATUS=serving")
            self.assertEqual(sock.recv(100), b"READY=1")
        # There is nothing to close it with; it goes with its notifier.
        manager._send.__self__.socket.close()  # type: ignore[attr-defined]

    def patchEnvironment(self, name: str, value: str) -> None:
        """
        Change the environment for one test.
        """
        before = os.environ.get(name)
        os.environ[name] = value
        if before is None:
            self.addCleanup(os.environ.pop, name)
        else:
            self.addCleanup(os.environ.__setitem__, name, before)
