"""
Tests for L{portlisten._reactor.persistent}.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from portlisten._reactor.persistent import (
    RETRY_SECONDS,
    SILENCE_SECONDS,
    Persistent,
)
from tests.support.channels import texts
from tests.support.reactors import BareReactor, Reader, run


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
        Registrations that do not fail are not changed.
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
            self.clock.advance(RETRY_SECONDS)
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
        A reader that is removed meanwhile is not registered.
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
        self.clock.advance(RETRY_SECONDS)
        self.assertEqual(self.reactor.readers, [])
        self.assertEqual(self.reactor.writers, [self.reader])

    def test_askedAgain(self) -> None:
        """
        A reader that is added again meanwhile is registered then, and once.
        """
        self.reactor.errors = [errno.ENOMEM]
        self.persistent.addReader(self.reader)
        self.persistent.addReader(self.reader)
        self.assertEqual(self.reactor.readers, [self.reader])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_closed(self) -> None:
        """
        A reader that is closed meanwhile is not registered.
        """
        self.reactor.errors = [errno.ENOMEM]
        self.persistent.addReader(self.reader)
        self.reader.descriptor = -1
        self.clock.advance(RETRY_SECONDS)
        self.assertEqual(self.reactor.readers, [])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_final(self) -> None:
        """
        An error is raised if a later try would fail as well.
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
            self.clock.pump([RETRY_SECONDS] * 5)
            self.persistent.removeReader(self.reader)
            self.clock.advance(SILENCE_SECONDS)
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
from portlisten._reactor.monotonic import makeMonotonic

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

makeMonotonic(reactor)
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
