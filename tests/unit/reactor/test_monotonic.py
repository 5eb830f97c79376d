"""
Tests for L{portlisten._reactor.monotonic}: with real timers and a reactor that does
as it is told, and in processes of their own with real reactors.
"""

from __future__ import annotations

import errno
import os
import select
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from typing import Any

from twisted.internet.base import ReactorBase
from twisted.internet.interfaces import IReactorTime, IReadDescriptor
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from portlisten import _kernel
from portlisten._reactor.monotonic import (
    LATE,
    QUIET,
    RETRY,
    Deadline,
    OurReactor,
    Persistent,
    RunningTime,
    TimerClock,
    makePersistent,
    ours,
    own,
)
from tests.support.channels import texts
from tests.support.clocks import TurningClock
from tests.support.descriptors import watchDescriptors


class BareReactor(ReactorBase):
    """
    A reactor of Twisted's kind, whose registrations fail as told.

    @ivar errors: the numbers of the errors of the next registrations.
    @ivar removalErrors: likewise, of what takes one back.
    """

    def __init__(self) -> None:
        self.readers: list[object] = []
        self.writers: list[object] = []
        self.errors: list[int] = []
        self.removalErrors: list[int] = []
        super().__init__()

    def installWaker(self) -> None:
        """
        It needs none.
        """

    def _may(self, errors: list[int]) -> None:
        if errors:
            number = errors.pop(0)
            raise OSError(number, os.strerror(number))

    def addReader(self, reader: object) -> None:
        self._may(self.errors)
        if reader not in self.readers:
            self.readers.append(reader)

    def addWriter(self, writer: object) -> None:
        self._may(self.errors)
        self.writers.append(writer)

    def removeReader(self, reader: object) -> None:
        self._may(self.removalErrors)
        if reader in self.readers:
            self.readers.remove(reader)

    def removeWriter(self, writer: object) -> None:
        self._may(self.removalErrors)
        if writer in self.writers:
            self.writers.remove(writer)


class Reader:
    """
    Something with a descriptor, as far as it matters.
    """

    def __init__(self, descriptor: int = 12345) -> None:
        self.descriptor = descriptor

    def fileno(self) -> int:
        return self.descriptor


def run(code: str) -> str:
    """
    Run a program in a process of its own.

    @return: what it printed.
    """
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        check=True,
        timeout=30,
        capture_output=True,
        text=True,
    ).stdout


class OwnTests(SynchronousTestCase):
    """
    Tests for L{own}.
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
        own(self.reactor)
        before = time.monotonic()
        self.assertTrue(before <= self.reactor.seconds() <= time.monotonic())

    def test_pending(self) -> None:
        """
        Calls that are pending keep the time that is left to them, and those that are
        overdue do not wait.
        """
        calls = [self.reactor.callLater(delay, list) for delay in (100, 1)]
        self.wall += 10
        own(self.reactor)
        left = [call.getTime() - time.monotonic() for call in calls]
        self.assertLess(abs(left[0] - 90), 1)
        self.assertLess(abs(left[1]), 1)
        calls[0].reset(5)
        self.assertLess(abs(calls[0].getTime() - time.monotonic() - 5), 1)

    def test_called(self) -> None:
        """
        Calls are made when their time has come, those that were pending as well.
        """
        made: list[str] = []
        self.reactor.callLater(0, made.append, "before")
        never = self.reactor.callLater(100, made.append, "never")
        own(self.reactor)
        self.reactor.callLater(0, made.append, "after")
        self.reactor.runUntilCurrent()
        self.assertEqual(made, ["before", "after"])
        never.cancel()

    def test_registrations(self) -> None:
        """
        The reactor itself tries registrations again.
        """
        own(self.reactor)
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
        own(self.reactor)
        call = self.reactor.callLater(100, list)
        due, add = call.getTime(), self.reactor.addReader
        own(self.reactor)
        self.assertEqual(call.getTime(), due)
        self.assertEqual(self.reactor.addReader, add)

    def test_anothers(self) -> None:
        """
        A reactor that is not Twisted's is left alone.
        """
        clock = Clock()
        before = dict(vars(clock))
        own(clock)
        self.assertEqual(vars(clock), before)


class OursTests(SynchronousTestCase):
    """
    Tests for L{ours} and L{makePersistent}.
    """

    def make(self) -> tuple[BareReactor, OurReactor]:
        """
        Make a reactor, and what stands for it.
        """
        reactor = BareReactor()
        our = ours(reactor)
        self.addCleanup(os.close, our.callLater.__self__.fileno())
        return reactor, our

    def setUp(self) -> None:
        watchDescriptors(self)

    def test_same(self) -> None:
        """
        All get the same object for a reactor, and another one for another.
        """
        reactor, our = self.make()
        self.assertIs(ours(reactor), our)
        self.assertIsNot(self.make()[1], our)

    def test_fake(self) -> None:
        """
        A reactor that is not Twisted's is used as it is, and so is one of these.
        """
        clock = Clock()
        self.assertIs(ours(clock), clock)
        _, our = self.make()
        self.assertIs(ours(our), our)

    def test_timeAlone(self) -> None:
        """
        Its time is monotonic, and the reactor's stays what it was.
        """
        reactor, our = self.make()
        seconds, add = reactor.seconds, reactor.addReader
        self.assertIsInstance(our.callLater.__self__, TimerClock)  # type: ignore[attr-defined]
        call = our.callLater(100, list)
        self.assertLess(abs(our.seconds() - time.monotonic()), 1)
        self.assertEqual(reactor.getDelayedCalls(), [])
        self.assertEqual(our.getDelayedCalls(), [call])
        self.assertEqual((reactor.seconds, reactor.addReader), (seconds, add))
        call.cancel()

    def test_owned(self) -> None:
        """
        A reactor whose time is monotonic needs no other timer.
        """
        reactor = BareReactor()
        own(reactor)
        call = ours(reactor).callLater(100, list)
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
            our = ours(reactor)
        self.assertEqual(our.seconds, reactor.seconds)
        self.assertEqual(
            texts(logged, "error"),
            [
                "no timer of our own (Too many open files): durations follow the wall"
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
        own(reactor)
        for each in (ours(reactor), Clock()):
            transport = Transport()
            makePersistent(transport, each)
            self.assertEqual(transport.reactor, "its own")


class TimerClockTests(SynchronousTestCase):
    """
    Tests for L{TimerClock}: on a real timer, by a reactor that waits for that alone.
    """

    def setUp(self) -> None:
        """
        Make the clock.  The wall clock is patched away.
        """
        watchDescriptors(self)

        def fail() -> float:
            raise AssertionError("the wall clock was asked")

        self.reactor = BareReactor()
        self.reactor.seconds = fail
        self.patch(time, "time", fail)
        self.clock = TimerClock(self.reactor)
        self.addCleanup(os.close, self.clock.fileno())
        self.made: list[object] = []

    def turn(self, patience: float = 5.0) -> bool:
        """
        Let the reactor go round once.

        @return: whether there was something to read.
        """
        if self.clock not in self.reactor.readers:
            return False
        readable, _, _ = select.select([self.clock.fileno()], [], [], patience)
        if readable:
            self.clock.doRead()
        return bool(readable)

    def callLater(self, delay: float, what: object) -> Any:
        """
        Have a call be made later, and noted.
        """
        return self.clock.callLater(delay, self.made.append, what)

    def test_interfaces(self) -> None:
        """
        It tells the time, and reads.
        """
        verifyObject(IReactorTime, self.clock)
        verifyObject(IReadDescriptor, self.clock)
        self.assertEqual(self.clock.logPrefix(), "portlisten")

    def test_seconds(self) -> None:
        """
        Its time is that of C{CLOCK_MONOTONIC}.
        """
        before = time.monotonic()
        self.assertTrue(before <= self.clock.seconds() <= time.monotonic())

    def test_idle(self) -> None:
        """
        The reactor does not hear of it while nothing is pending.
        """
        self.assertEqual(self.reactor.readers, [])
        call = self.callLater(100, "never")
        other = self.callLater(0.001, "now")
        self.assertEqual(self.reactor.readers, [self.clock])
        self.turn()
        self.assertFalse(other.active())
        self.assertEqual(self.reactor.readers, [self.clock])
        call.cancel()
        self.assertEqual(self.reactor.readers, [])

    def test_idleAfterwards(self) -> None:
        """
        Once the last call was made, the reactor hears of it no more.
        """
        self.callLater(0.001, "now")
        self.turn()
        self.assertEqual(self.made, ["now"])
        self.assertEqual(self.reactor.readers, [])

    def test_notTooEarly(self) -> None:
        """
        A call waits for its time, and no longer.
        """
        began = time.monotonic()
        self.callLater(0.3, "now")
        self.assertFalse(self.turn(0.01))
        self.assertEqual(self.made, [])
        self.assertTrue(self.turn())
        self.assertTrue(0.3 <= time.monotonic() - began < 3)

    def test_order(self) -> None:
        """
        Calls are made in the order of their times, whatever the order in which they
        were asked for.
        """
        for delay in (0.3, 0.1, 0.2):
            self.callLater(delay, delay)
        while self.turn():
            pass
        self.assertEqual(self.made, [0.1, 0.2, 0.3])

    def test_together(self) -> None:
        """
        All that are due are made in one turn.
        """
        for number in range(3):
            self.callLater(number / 1000, number)
        time.sleep(0.01)
        self.turn()
        self.assertEqual(self.made, [0, 1, 2])

    def test_arguments(self) -> None:
        """
        A call gets its arguments.
        """
        self.clock.callLater(
            0, lambda *args, **kw: self.made.append((args, kw)), 1, two=2
        )
        self.turn()
        self.assertEqual(self.made, [((1,), {"two": 2})])

    def test_cancel(self) -> None:
        """
        A call that was cancelled is not made, and others are.
        """
        self.callLater(0.001, "first").cancel()
        self.callLater(0.05, "second")
        self.turn()
        self.assertEqual(self.made, ["second"])

    def test_cancelFirst(self) -> None:
        """
        When the first call is cancelled, the timer goes by the next.
        """
        first = self.callLater(0.001, "first")
        self.callLater(100, "second")
        first.cancel()
        self.assertFalse(self.turn(0.05))
        self.clock.getDelayedCalls()[0].cancel()

    def test_cancelledByAnother(self) -> None:
        """
        One that is due can be cancelled by one that is made before it.
        """
        second = self.callLater(0.05, "second")
        self.clock.callLater(0, second.cancel)
        time.sleep(0.06)
        self.turn()
        self.assertEqual(self.made, [])
        self.assertEqual(self.reactor.readers, [])

    def test_reset(self) -> None:
        """
        A call can be put off, and brought forward.
        """
        later = self.callLater(0.001, "put off")
        later.reset(0.5)
        sooner = self.callLater(100, "brought forward")
        sooner.reset(0.001)
        while not self.made:
            self.turn()
        self.assertEqual(self.made, ["brought forward"])
        while self.turn():
            pass
        self.assertEqual(self.made, ["brought forward", "put off"])

    def test_delay(self) -> None:
        """
        A call can be delayed further, any number of times.
        """
        call = self.callLater(0.001, "late")
        for _ in range(3):
            call.delay(0.1)
        began = time.monotonic()
        while self.turn():
            pass
        self.assertEqual(self.made, ["late"])
        self.assertGreater(time.monotonic() - began, 0.2)

    def test_delayedByAnother(self) -> None:
        """
        One that is due can be put off by one that is made before it.
        """
        self.clock.callLater(0, lambda: second.reset(0.3))
        second = self.callLater(0.001, "second")
        time.sleep(0.01)
        self.turn()
        self.assertEqual(self.made, [])
        while self.turn():
            pass
        self.assertEqual(self.made, ["second"])

    def test_raises(self) -> None:
        """
        A call that raises is logged, and does not keep others from being made.
        """
        self.clock.callLater(0, lambda: 1 / 0)
        self.callLater(0, "after")
        self.turn()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(self.made, ["after"])

    def test_nextTurn(self) -> None:
        """
        A call with no delay that a call asks for waits for the next turn.
        """
        self.clock.callLater(0, self.callLater, 0, "next")
        self.turn()
        self.assertEqual(self.made, [])
        self.turn()
        self.assertEqual(self.made, ["next"])

    def test_pending(self) -> None:
        """
        The calls that are pending are told.
        """
        calls = [self.callLater(delay, delay) for delay in (100, 200, 0)]
        self.turn()
        self.assertEqual(set(self.clock.getDelayedCalls()), set(calls[:2]))
        for call in calls[:2]:
            call.cancel()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_many(self) -> None:
        """
        It copes with many calls, half of which are cancelled.
        """
        calls = [
            self.callLater(number * 7 % 100 / 1000, number) for number in range(1000)
        ]
        for call in calls[::2]:
            call.cancel()
        expected = sorted(range(1, 1000, 2), key=lambda each: calls[each].getTime())
        while self.turn():
            pass
        self.assertEqual(self.made, expected)

    def test_reactorStops(self) -> None:
        """
        When the reactor has done with all descriptors, the next call registers
        again.
        """
        call = self.callLater(100, "never")
        self.reactor.readers.clear()
        self.clock.connectionLost(Failure(ZeroDivisionError()))
        other = self.callLater(100, "never")
        self.assertEqual(self.reactor.readers, [self.clock])
        call.cancel()
        other.cancel()

    def test_noRegistration(self) -> None:
        """
        If the reactor cannot register the timer, that is tried again, by its own
        time for once.
        """
        self.reactor.seconds = lambda: 0.0
        self.reactor.errors = [errno.ENOMEM]
        self.callLater(0, "at last")
        self.assertEqual(self.reactor.readers, [])
        (again,) = self.reactor.getDelayedCalls()
        self.assertEqual(again.getTime(), RETRY)
        again.func()  # type: ignore[attr-defined]
        self.turn()
        self.assertEqual(self.made, ["at last"])


PROGRAM = """
import time
from twisted.internet import {reactor}
{reactor}.install()
from twisted.internet import reactor
from portlisten._reactor.monotonic import TimerClock, ours

began = time.monotonic()
# The wall clock is an hour slow from here on, and the reactor knows nothing else.
wall = time.time
reactor.seconds = lambda: wall() - 3600
our = ours(reactor)
assert isinstance(our.callLater.__self__, TimerClock)
made = []
never = our.callLater(1000, made.append, "never")

def last():
    never.cancel()
    assert not our.getDelayedCalls()
    print(*made, 0.1 <= time.monotonic() - began < 5)
    reactor.callFromThread(reactor.stop)

def first():
    made.append("first")
    our.callLater(0, made.append, "second")

our.callLater(0.1, last)
our.callLater(0.01, first)
our.callLater(0.05, made.append, "third")
reactor.run()
"""


class ReactorsTests(SynchronousTestCase):
    """
    L{TimerClock} in Twisted's reactors.
    """

    def runs(self, reactor: str) -> None:
        """
        Run a program with a reactor.
        """
        output = run(PROGRAM.format(reactor=reactor))
        self.assertEqual(output, "first second third True\n")

    def test_epoll(self) -> None:
        """
        It works in the one that is usual on Linux.
        """
        self.runs("epollreactor")

    def test_poll(self) -> None:
        """
        It works in that of poll(2).
        """
        self.runs("pollreactor")

    def test_select(self) -> None:
        """
        It works in that of select(2).
        """
        self.runs("selectreactor")

    def test_asyncio(self) -> None:
        """
        It works in that of asyncio.
        """
        self.runs("asyncioreactor")


class PersistentTests(SynchronousTestCase):
    """
    Tests for L{Persistent}.
    """

    def setUp(self) -> None:
        """
        Make a reactor, and one that stands for it.
        """
        logs = capturedLogs()
        self.logged = logs.__enter__()
        self.addCleanup(logs.__exit__, None, None, None)
        self.reactor = BareReactor()
        self.clock = Clock()
        self.persistent = Persistent(self.reactor, self.clock)
        self.reader = Reader()

    def test_works(self) -> None:
        """
        What does not fail is not noticed.
        """
        self.persistent.addReader(self.reader)
        self.persistent.addWriter(self.reader)
        self.assertEqual(self.reactor.readers, [self.reader])
        self.assertEqual(self.reactor.writers, [self.reader])
        self.persistent.removeReader(self.reader)
        self.persistent.removeWriter(self.reader)
        self.assertEqual(self.reactor.readers + self.reactor.writers, [])
        self.assertEqual(self.logged, [])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def again(self, add: Callable[[object], None], registered: list[object]) -> None:
        """
        See that a registration is tried until it succeeds.
        """
        self.reactor.errors = [errno.ENOMEM, errno.ENOSPC, errno.EINTR]
        add(self.reader)
        for _ in range(3):
            self.assertEqual(registered, [])
            self.clock.advance(RETRY)
        self.assertEqual(registered, [self.reader])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_reader(self) -> None:
        """
        A reader for whom the kernel lacks something is registered later.
        """
        self.again(self.persistent.addReader, self.reactor.readers)

    def test_writer(self) -> None:
        """
        So is a writer.
        """
        self.again(self.persistent.addWriter, self.reactor.writers)

    def test_removed(self) -> None:
        """
        One that is removed meanwhile is not registered.
        """
        for add, remove in (
            (self.persistent.addReader, self.persistent.removeReader),
            (self.persistent.addWriter, self.persistent.removeWriter),
        ):
            self.reactor.errors = [errno.ENOMEM]
            add(self.reader)
            remove(self.reader)
            self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.reactor.readers + self.reactor.writers, [])

    def test_apart(self) -> None:
        """
        To remove a reader does not keep it from being registered as a writer.
        """
        self.reactor.errors = [errno.ENOMEM, errno.ENOMEM]
        self.persistent.addReader(self.reader)
        self.persistent.addWriter(self.reader)
        self.persistent.removeReader(self.reader)
        self.clock.advance(RETRY)
        self.assertEqual(self.reactor.readers, [])
        self.assertEqual(self.reactor.writers, [self.reader])

    def test_askedAgain(self) -> None:
        """
        One that is added again meanwhile is registered then, and once.
        """
        self.reactor.errors = [errno.ENOMEM]
        self.persistent.addReader(self.reader)
        self.persistent.addReader(self.reader)
        self.assertEqual(self.reactor.readers, [self.reader])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_closed(self) -> None:
        """
        One that is closed meanwhile is forgotten.
        """
        self.reactor.errors = [errno.ENOMEM]
        self.persistent.addReader(self.reader)
        self.reader.descriptor = -1
        self.clock.advance(RETRY)
        self.assertEqual(self.reactor.readers, [])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_final(self) -> None:
        """
        What a later try would fail with as well is raised.
        """
        for number in (errno.EBADF, errno.EPERM, errno.EINVAL, errno.ELOOP):
            self.reactor.errors = [number]
            error = self.assertRaises(OSError, self.persistent.addReader, self.reader)
            self.assertEqual(error.errno, number)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.logged, [])

    def test_removalAgain(self) -> None:
        """
        A removal that fails is tried again at once.
        """
        self.persistent.addReader(self.reader)
        self.reactor.removalErrors = [errno.ENOMEM, errno.ENOMEM]
        self.persistent.removeReader(self.reader)
        self.assertEqual(self.reactor.readers, [])
        self.assertEqual(self.reactor.removalErrors, [])

    def test_removalFails(self) -> None:
        """
        A removal that goes on failing raises nothing, and ends.
        """
        self.reactor.removalErrors = [errno.ENOMEM] * 1000
        self.persistent.removeReader(self.reader)
        self.persistent.removeWriter(self.reader)
        self.assertGreater(len(self.reactor.removalErrors), 900)

    def test_removalOfTheClosed(self) -> None:
        """
        It is tried once for what has no descriptor any more.
        """
        self.reader.descriptor = -1
        self.reactor.removalErrors = [errno.EBADF] * 2
        self.persistent.removeReader(self.reader)
        self.assertEqual(self.reactor.removalErrors, [errno.EBADF])

    def test_saidOnce(self) -> None:
        """
        That registrations fail is said once, and anew when they have succeeded for a
        while.
        """
        for _ in range(2):
            self.reactor.errors = [errno.ENOSPC] * 5
            self.persistent.addReader(self.reader)
            self.clock.pump([RETRY] * 5)
            self.persistent.removeReader(self.reader)
            self.clock.advance(QUIET)
        self.assertEqual(
            texts(self.logged, "error"),
            [
                "the reactor's registration fails: No space left on device; it is tried"
                " again every 0.1 s"
            ]
            * 2,
        )


EPOLL = """
import errno, socket
from twisted.internet import epollreactor
epollreactor.install()
from twisted.internet import reactor
from twisted.internet.abstract import FileDescriptor
from portlisten._reactor.monotonic import own

class Fails:
    def __init__(self, poller, count):
        self.poller, self.count = poller, count

    def __getattr__(self, name):
        method = getattr(self.poller, name)
        if name not in ("register", "unregister", "modify"):
            return method
        def call(*args):
            if self.count:
                self.count -= 1
                raise OSError(errno.ENOMEM, "no memory")
            return method(*args)
        return call

one, other = socket.socketpair()

class Reads(FileDescriptor):
    def fileno(self):
        return one.fileno()

    def doRead(self):
        data = one.recv(100)
        print(data.decode(), flush=True)
        if data == b"first":
            reactor._poller = Fails(poller, 3)
            reactor.removeReader(self)
            other.send(b"second")
            reactor._poller = Fails(poller, 3)
            reactor.addReader(self)
        else:
            reactor.stop()

own(reactor)
poller = reactor._poller
reactor._poller = Fails(poller, 2)
reactor.addReader(Reads(reactor))
other.send(b"first")
reactor.callLater(10, print, "too late")
reactor.run()
"""


class EpollTests(SynchronousTestCase):
    """
    L{Persistent} in the reactor that is usual on Linux.
    """

    def test_memory(self) -> None:
        """
        Reading begins, ends and begins again though epoll_ctl(2) fails several times
        each time.
        """
        self.assertEqual(run(EPOLL), "first\nsecond\n")


class DeadlineTests(SynchronousTestCase):
    """
    Tests for L{Deadline}.
    """

    def setUp(self) -> None:
        """
        Make one of a second.
        """
        self.clock = TurningClock()
        self.calls: list[tuple[object, ...]] = []
        self.deadline = Deadline(
            self.clock, 1.0, lambda *args: self.calls.append(args), "one", 2
        )

    def test_oneTurn(self) -> None:
        """
        When the time is over, I/O has one turn before it calls back.
        """
        self.clock.advance(1.0)
        self.assertEqual(self.calls, [])
        self.assertTrue(self.deadline.active())
        self.clock.advance(0)
        self.assertEqual(self.calls, [("one", 2)])
        self.assertFalse(self.deadline.active())
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_notEarly(self) -> None:
        """
        It does not call back before that.
        """
        self.clock.pump([0.99, 0, 0])
        self.assertEqual(self.calls, [])
        self.assertTrue(self.deadline.active())

    def test_cancelEarly(self) -> None:
        """
        It can be cancelled before its time is over, and again.
        """
        self.deadline.cancel()
        self.deadline.cancel()
        self.assertFalse(self.deadline.active())
        self.clock.pump([1.0, 0])
        self.assertEqual(self.calls, [])

    def test_cancelBetween(self) -> None:
        """
        It can be cancelled in the turn that I/O has.
        """
        self.clock.advance(1.0)
        self.deadline.cancel()
        self.assertFalse(self.deadline.active())
        self.clock.advance(0)
        self.assertEqual(self.calls, [])

    def test_cancelAfterwards(self) -> None:
        """
        It can be cancelled after it has called back, to no effect.
        """
        self.clock.pump([1.0, 0])
        self.deadline.cancel()
        self.assertEqual(len(self.calls), 1)

    def test_somewhatLate(self) -> None:
        """
        A process that is busy may be a little late.
        """
        self.clock.pump([1.0 + LATE, 0])
        self.assertEqual(len(self.calls), 1)

    def test_muchTooLate(self) -> None:
        """
        If it is much too late, the process stood still, and the whole time begins
        anew.
        """
        self.clock.pump([1.5 + LATE, 0, 0.75, 0])
        self.assertEqual(self.calls, [])
        self.assertTrue(self.deadline.active())
        self.clock.pump([0.25, 0])
        self.assertEqual(len(self.calls), 1)

    def test_cancelAnew(self) -> None:
        """
        It can be cancelled once it has begun anew.
        """
        self.clock.advance(1000)
        self.deadline.cancel()
        self.clock.pump([1.0, 0])
        self.assertEqual(self.calls, [])
        self.assertEqual(self.clock.getDelayedCalls(), [])


class RunningTimeTests(SynchronousTestCase):
    """
    Tests for L{RunningTime}.
    """

    def setUp(self) -> None:
        """
        Look at a clock that stands.
        """
        self.clock = Clock()
        self.clock.rightNow = 1000.0
        self.now = RunningTime(self.clock.seconds, 0.2)
        self.began = self.now()

    def after(self, seconds: float) -> float:
        """
        How much time has passed since the beginning, as seen some time later.
        """
        self.clock.advance(seconds)
        return round(self.now() - self.began, 6)

    def test_runs(self) -> None:
        """
        While the process runs, time passes as it does.
        """
        self.assertEqual(self.after(0.1), 0.1)
        self.assertEqual(self.after(0.2), 0.3)
        self.assertEqual(self.after(0), 0.3)

    def test_stoodStill(self) -> None:
        """
        Of a time without a look, however long, only the most counts.
        """
        self.assertEqual(self.after(3600), 0.2)
        self.assertEqual(self.after(0.1), 0.3)
        self.assertEqual(self.after(3600), 0.5)

    def test_begins(self) -> None:
        """
        It begins with the clock's time.
        """
        self.assertEqual(self.began, 1000.0)
