"""
Tests for L{portlisten._reactor.monotonic}.
"""

from __future__ import annotations

import errno
import os
import time
from typing import Any

from twisted.internet.posixbase import PosixReactorBase
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from portlisten import _kernel
from portlisten._reactor.monotonic import (
    MonotonicReactor,
    makeMonotonic,
    makePersistent,
    monotonicReactor,
    posixReactor,
)
from portlisten._reactor.timer_clock import TimerClock
from tests.support.channels import texts
from tests.support.descriptors import watchDescriptors
from tests.support.reactors import BareReactor, Reader


class OwnTests(SynchronousTestCase):
    """
    Tests for L{makeMonotonic}.
    """

    def setUp(self) -> None:
        """
        Make a reactor by the wall clock, which stands.
        """
        watchDescriptors(self)
        self.wall = 1_000_000.0
        self.reactor = BareReactor()
        self.reactor.seconds = lambda: self.wall

    def test_monotonic(self) -> None:
        """
        The reactor's time is that of C{CLOCK_MONOTONIC}.
        """
        makeMonotonic(self.reactor)
        before = time.monotonic()
        self.assertTrue(before <= self.reactor.seconds() <= time.monotonic())

    def test_pending(self) -> None:
        """
        Calls that are pending keep the time that is left to them, and those that are
        overdue do not wait.
        """
        calls = [self.reactor.callLater(delay, list) for delay in (100, 1)]
        self.wall += 10
        before = time.monotonic()
        makeMonotonic(self.reactor)
        after = time.monotonic()
        for call, left in zip(calls, (90, 0), strict=True):
            self.assertTrue(before <= call.getTime() - left + 1e-6 <= after + 2e-6)
        before = time.monotonic()
        calls[0].reset(5)
        after = time.monotonic()
        self.assertTrue(before <= calls[0].getTime() - 5 + 1e-6 <= after + 2e-6)

    def test_called(self) -> None:
        """
        Calls are made when their time has come, those that were pending as well.
        """
        made: list[str] = []
        self.reactor.callLater(0, made.append, "before")
        never = self.reactor.callLater(100, made.append, "never")
        makeMonotonic(self.reactor)
        self.reactor.callLater(0, made.append, "after")
        self.reactor.runUntilCurrent()
        self.assertEqual(made, ["before", "after"])
        never.cancel()

    def test_registrations(self) -> None:
        """
        The reactor itself tries registrations again.
        """
        makeMonotonic(self.reactor)
        reader = Reader()
        self.reactor.errors = [errno.ENOMEM]
        self.reactor.addReader(reader)
        self.assertEqual(self.reactor.readers, [])
        (call,) = self.reactor.getDelayedCalls()
        call.reset(0)
        self.reactor.runUntilCurrent()
        self.assertEqual(self.reactor.readers, [reader])

    def test_twice(self) -> None:
        """
        To do it twice is to do it once.
        """
        makeMonotonic(self.reactor)
        call = self.reactor.callLater(100, list)
        due, add = call.getTime(), self.reactor.addReader
        makeMonotonic(self.reactor)
        self.assertEqual(call.getTime(), due)
        self.assertEqual(self.reactor.addReader, add)

    def test_anothers(self) -> None:
        """
        A reactor that is not Twisted's is left alone.
        """
        clock = Clock()
        before = dict(vars(clock))
        makeMonotonic(clock)
        self.assertEqual(vars(clock), before)


class OursTests(SynchronousTestCase):
    """
    Tests for L{monotonicReactor} and L{makePersistent}.
    """

    def make(self) -> tuple[BareReactor, MonotonicReactor]:
        """
        Make a reactor, and what stands for it.
        """
        reactor = BareReactor()
        our = monotonicReactor(reactor)
        self.addCleanup(os.close, our.callLater.__self__.fileno())
        return reactor, our

    def setUp(self) -> None:
        watchDescriptors(self)

    def test_same(self) -> None:
        """
        All get the same object for a reactor, and another one for another.
        """
        reactor, our = self.make()
        self.assertIs(monotonicReactor(reactor), our)
        self.assertIsNot(self.make()[1], our)

    def test_fake(self) -> None:
        """
        A reactor that is not Twisted's is used as it is, and so is one of these.
        """
        clock = Clock()
        self.assertIs(monotonicReactor(clock), clock)
        _, our = self.make()
        self.assertIs(monotonicReactor(our), our)

    def test_timeAlone(self) -> None:
        """
        Its time is monotonic, and the reactor's stays what it was.
        """
        reactor, our = self.make()
        seconds, add = reactor.seconds, reactor.addReader
        later: Any = our.callLater
        self.assertIsInstance(later.__self__, TimerClock)
        call = our.callLater(100, list)
        before = time.monotonic()
        self.assertTrue(before <= our.seconds() <= time.monotonic())
        self.assertEqual(reactor.getDelayedCalls(), [])
        self.assertEqual(our.getDelayedCalls(), [call])
        self.assertEqual((reactor.seconds, reactor.addReader), (seconds, add))
        call.cancel()

    def test_owned(self) -> None:
        """
        A reactor whose time is monotonic needs no other timer.
        """
        reactor = BareReactor()
        makeMonotonic(reactor)
        call = monotonicReactor(reactor).callLater(100, list)
        self.assertEqual(reactor.getDelayedCalls(), [call])

    def test_theRest(self) -> None:
        """
        In all else it is the reactor.
        """
        reactor, our = self.make()
        self.assertEqual(our.callFromThread, reactor.callFromThread)
        self.assertIs(our.running, reactor.running)

    def test_noTimer(self) -> None:
        """
        If there is no descriptor for a timer, time is the reactor's, and that is
        said.
        """

        def fail() -> int:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        self.patch(_kernel, "timer", fail)
        reactor = BareReactor()
        with capturedLogs() as logged:
            our = monotonicReactor(reactor)
        self.assertEqual(our.seconds, reactor.seconds)
        self.assertEqual(
            texts(logged, "error"),
            [
                "cannot make a timer (Too many open files): durations follow the wall"
                " clock"
            ],
        )

    def test_transport(self) -> None:
        """
        The transport of another's protocol gets registrations that are tried again,
        and keeps the reactor's own time.
        """

        class Transport:
            reactor: Any = None

        reactor, our = self.make()
        transport = Transport()
        makePersistent(transport, our)
        self.assertEqual(transport.reactor.callLater, reactor.callLater)
        reactor.errors = [errno.ENOMEM]
        transport.reactor.addReader(Reader())
        (call,) = our.getDelayedCalls()
        call.cancel()

    def test_transportUntouched(self) -> None:
        """
        Where the reactor does that itself, or is a test's, the transport stays as it
        is.
        """

        class Transport:
            reactor: Any = "its own"

        reactor = BareReactor()
        makeMonotonic(reactor)
        for each in (monotonicReactor(reactor), Clock()):
            transport = Transport()
            makePersistent(transport, each)
            self.assertEqual(transport.reactor, "its own")

    def test_posix(self) -> None:
        """
        Transports that are made without the reactor get registrations that are tried
        again.
        """

        class Posix(BareReactor, PosixReactorBase):
            pass

        reactor = Posix()
        our = monotonicReactor(reactor)
        self.addCleanup(os.close, our.callLater.__self__.fileno())
        self.assertIs(posixReactor(our), our.persistent)
        makeMonotonic(reactor)
        self.assertIs(posixReactor(our), reactor)

    def test_notPosix(self) -> None:
        """
        If a reactor may adopt in another way, they are not made.
        """

        class Own(BareReactor, PosixReactorBase):
            def adoptStreamConnection(self, *arguments: Any) -> Any:
                return None

        reactor = Own()
        makeMonotonic(reactor)
        self.assertIsNone(posixReactor(monotonicReactor(reactor)))
        self.assertIsNone(posixReactor(reactor))
        _, our = self.make()
        self.assertIsNone(posixReactor(our))
        self.assertIsNone(posixReactor(Clock()))
