"""
Tests for L{portlisten._monitor.host}, without processes.
"""

from __future__ import annotations

import os
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from portlisten._config.ports import PortSettings
from portlisten._monitor import host
from portlisten._monitor.host import BoundPlace, MonitorHost, bindPlace
from portlisten._monitor.place import parsePlace
from portlisten._ports.binding import BoundPort
from portlisten.errors import CannotBind
from tests.support.channels import texts
from tests.support.descriptors import watchDescriptors
from tests.support.statuses import NOBODY


class FakeMonitor:
    """
    A monitor that ends when the test says so.
    """

    def __init__(
        self,
        reactor: Any,
        sockets: Any,
        description: str,
        status: Any,
        user: Any,
        logFormat: str,
    ) -> None:
        self.sockets = sockets
        self.description = description
        self.user = user
        self.started = False
        self.logFormat = logFormat
        self.gone: list[Deferred[None]] = []
        self.begun: Deferred[tuple[str, ...]] = Deferred()

    def start(self) -> None:
        """
        Note it.
        """
        self.started = True

    def stop(self) -> Deferred[None]:
        """
        End later.
        """
        self.gone.append(Deferred())
        return self.gone[-1]

    def end(self) -> None:
        """
        End.
        """
        for each in self.gone:
            each.callback(None)
        if not self.begun.called:
            self.begun.callback(("it is told to stop",))


def nobodyAsks(request: object, client: object) -> Any:
    """
    Answer no request.
    """
    raise AssertionError(request)


class HostTests(SynchronousTestCase):
    """
    Tests for L{MonitorHost} and L{bindPlace}.
    """

    def setUp(self) -> None:
        """
        Make a host.
        """
        watchDescriptors(self)
        logs = capturedLogs()
        self.logged: Any = logs.__enter__()
        self.addCleanup(logs.__exit__, None, None, None)
        self.monitors: list[FakeMonitor] = []
        self.patch(host, "Monitor", self.make)
        self.host = self.makeHost()
        self.addCleanup(self.host.release)

    def makeHost(self) -> MonitorHost:
        """
        Make a host.
        """
        return MonitorHost(Clock(), nobodyAsks, NOBODY, "json")

    def make(self, *arguments: Any, **more: Any) -> FakeMonitor:
        """
        Make a monitor.
        """
        self.monitors.append(FakeMonitor(*arguments, **more))
        return self.monitors[-1]

    def place(self) -> BoundPlace:
        """
        Bind a port.
        """
        return bindPlace(parsePlace("0"))

    def isBound(self, place: BoundPlace) -> bool:
        """
        Whether its ports are bound.
        """
        return bool(place.ports)

    def test_bind(self) -> None:
        """
        A plain port is bound here, and any other endpoint by the monitor.
        """
        place = self.place()
        self.assertEqual((place.text, len(place.ports)), ("", 1))
        self.assertTrue(str(place).startswith("tcp:127.0.0.1:"))
        place.close()
        place.close()
        place = bindPlace("ssl:1")
        self.assertEqual((str(place), place.ports), ("ssl:1", []))

        def fail(settings: PortSettings) -> list[BoundPort]:
            raise CannotBind(f"cannot bind {settings}")

        self.assertRaises(CannotBind, bindPlace, parsePlace("0"), fail)
        self.assertEqual(bindPlace("ssl:1", fail).text, "ssl:1")

    def test_start(self) -> None:
        """
        The monitor gets the sockets, and the listener's user if this process can give
        it that.
        """
        for euid, user, shown in (
            (0, NOBODY, NOBODY),
            (7, None, 7),
        ):
            self.patch(os, "geteuid", lambda euid=euid: euid)
            place = self.place()
            address = str(place)
            self.host.start(place)
            made = self.monitors[-1]
            self.assertTrue(made.started)
            self.assertEqual((made.user, made.description), (user, ""))
            self.assertEqual(made.sockets, place.ports[0].sockets)
            self.assertEqual(
                texts(self.logged, "info")[-1],
                f"the monitor serves at {address}, as uid {shown}",
            )
            place.close()
        self.host.start(BoundPlace("ssl:1"))
        self.assertEqual(self.monitors[-1].sockets, [])
        self.assertEqual(self.monitors[-1].description, "ssl:1")

    def test_change(self) -> None:
        """
        The new monitor starts when the old one has ended, and its ports are closed.
        """
        old, new = self.place(), self.place()
        self.host.start(old)
        changed = self.host.change(new)
        self.assertNoResult(changed)
        self.assertEqual(len(self.monitors), 1)
        self.assertTrue(self.isBound(old))
        self.monitors[0].end()
        self.assertNoResult(changed)
        self.assertEqual(len(self.monitors), 2)
        self.assertTrue(self.monitors[1].started)
        self.monitors[1].begun.callback(())
        self.assertEqual(self.successResultOf(changed), ())
        self.assertEqual((self.isBound(old), self.isBound(new)), (False, True))
        changed = self.host.change(None)
        self.monitors[1].end()
        self.assertEqual(self.successResultOf(changed), ())
        self.assertEqual((len(self.monitors), self.isBound(new)), (2, False))
        # And from nowhere.
        changed = self.host.change(last := self.place())
        self.monitors[2].begun.callback(())
        self.assertEqual(self.successResultOf(changed), ())
        self.assertEqual((len(self.monitors), self.isBound(last)), (3, True))

    def test_notReady(self) -> None:
        """
        A new monitor that does not get ready is stopped, and its ports are closed.
        """
        place = self.place()
        changed = self.host.change(place)
        (monitor,) = self.monitors
        monitor.begun.callback(("it exited with 1", "no such file"))
        self.assertNoResult(changed)
        self.assertTrue(self.isBound(place))
        monitor.end()
        self.assertEqual(
            self.successResultOf(changed), ("it exited with 1", "no such file")
        )
        self.assertFalse(self.isBound(place))
        self.assertEqual(len(self.monitors), 1)

    def test_stopped(self) -> None:
        """
        If all stops while the old monitor ends, no new one starts.
        """
        for stop in (MonitorHost.stop, MonitorHost.release):
            self.host = self.makeHost()
            old, new = self.place(), self.place()
            self.host.start(old)
            number = len(self.monitors)
            changed = self.host.change(new)
            stop(self.host)
            self.monitors[-1].end()
            self.successResultOf(changed)
            self.assertEqual(len(self.monitors), number)
            self.assertEqual((self.isBound(old), self.isBound(new)), (False, False))

    def test_release(self) -> None:
        """
        Stopping leaves the ports bound, so that clients wait; releasing closes them.
        """
        place = self.place()
        self.host.start(place)
        gone = self.host.stop()
        self.assertNoResult(gone)
        self.monitors[0].end()
        self.successResultOf(gone)
        self.assertTrue(self.isBound(place))
        self.host.release()
        self.assertFalse(self.isBound(place))
        self.host.release()
        self.successResultOf(self.host.stop())
