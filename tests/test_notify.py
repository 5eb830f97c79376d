"""
Tests for L{portlisten._notify}.
"""

from __future__ import annotations

import socket

from twisted.trial.unittest import SynchronousTestCase

from portlisten import _notify
from portlisten._notify import Manager
from tests.support import watchDescriptors


class ManagerTests(SynchronousTestCase):
    """
    Tests for L{Manager}, with somebody who keeps what is sent.
    """

    def setUp(self) -> None:
        """
        Keep what is sent.
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
        It is ready once, whatever it loses and finds again, or begins later.
        """
        part = self.manager.begin()
        part.ready("serving")
        part.status("waiting")
        part.ready("serving again")
        self.manager.begin().ready("another")
        self.assertEqual(self.sent.count("READY=1"), 1)
        self.assertEqual(self.sent[-1], "STATUS=serving again; another")

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

    def test_stopping(self) -> None:
        """
        It stops when all do, and says that once.
        """
        first, second = self.manager.begin(), self.manager.begin()
        first.stopping()
        first.stopping()
        first.status("it has no more to say")
        self.assertEqual(self.sent, [])
        second.stopping()
        second.stopping()
        self.assertEqual(self.sent, ["STOPPING=1\nSTATUS=finishing what is in service"])

    def test_readyWithoutIt(self) -> None:
        """
        A part that was given up is not waited for.
        """
        first, second = self.manager.begin(), self.manager.begin()
        second.stopping()
        first.ready("one")
        self.assertEqual(self.sent, ["STATUS=one", "READY=1"])

    def test_odd(self) -> None:
        """
        A path may have anything in it.
        """
        self.manager.begin().status("at /run/\udcffü…")
        self.assertEqual(self.sent, ["STATUS=at /run/???"])


class EnvironmentTests(SynchronousTestCase):
    """
    Tests for L{_notify.manager}.
    """

    def setUp(self) -> None:
        """
        Have it look anew, here and in the tests to come.
        """
        watchDescriptors(self)
        _notify.manager.cache_clear()
        self.addCleanup(_notify.manager.cache_clear)

    def test_nobody(self) -> None:
        """
        Where nobody wants to know, nothing is opened and nothing said.
        """
        for nothing in (None, ""):
            self.patch(_notify.os, "environ", {"NOTIFY_SOCKET": nothing})
            _notify.manager.cache_clear()
            _notify.manager().begin().ready("serving")

    def test_systemd(self) -> None:
        """
        systemd hears of it by the socket that it names.
        """
        path = self.mktemp()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.bind(path)
            # The library looks at the real ones.
            self.patchEnvironment("NOTIFY_SOCKET", path)
            manager = _notify.manager()
            self.assertIs(_notify.manager(), manager)
            manager.begin().ready("serving")
            self.assertEqual(sock.recv(100), b"STATUS=serving")
            self.assertEqual(sock.recv(100), b"READY=1")
        # There is nothing to close it with; it goes with its notifier.
        manager._send.__self__.socket.close()  # type: ignore[attr-defined]

    def patchEnvironment(self, name: str, value: str) -> None:
        """
        Change the environment for one test.
        """
        before = _notify.os.environ.get(name)
        _notify.os.environ[name] = value
        if before is None:
            self.addCleanup(_notify.os.environ.pop, name)
        else:
            self.addCleanup(_notify.os.environ.__setitem__, name, before)
