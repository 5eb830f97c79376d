"""
Tests for L{portlisten._worker.shutdown}.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from portlisten._policy.link import DISCONNECT_SECONDS
from portlisten._worker.adoption import Adopter
from portlisten._worker.datagram import DatagramWorker
from portlisten._worker.shutdown import IConnectionSource, Shutdown
from portlisten._worker.worker import Worker
from tests.support.channels import texts
from tests.support.clocks import TurningClock
from tests.support.workers import ClockedReactor, Conversations

GRACE = 10.0


@implementer(IConnectionSource)
class Source:
    """
    Notes what is asked of it, and answers as told.
    """

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.stoppedTaking = False
        self.disconnected = False

    def stopTaking(self) -> None:
        self.calls.append("stopTaking")

    def hasStoppedTaking(self) -> bool:
        return self.stoppedTaking

    def disconnect(self) -> None:
        self.calls.append("disconnect")

    def isDisconnected(self) -> bool:
        return self.disconnected


class Connection:
    """
    A connection in service.
    """

    def __init__(self) -> None:
        self.drains = 0

    def drain(self) -> None:
        self.drains += 1


class SourceTests(SynchronousTestCase):
    """
    The workers provide what a shutdown asks of them.
    """

    def test_workers(self) -> None:
        """
        Each kind of worker is an L{IConnectionSource}.
        """
        for worker in (Worker, DatagramWorker):
            made = worker(ClockedReactor(), "path", Conversations())
            verifyObject(IConnectionSource, made)


class ShutdownTests(SynchronousTestCase):
    """
    Tests for L{Shutdown}.
    """

    def setUp(self) -> None:
        """
        Make one that was not requested, and whose factory is started.
        """
        self.clock = TurningClock()
        self.factory = Conversations()
        self.source = Source()
        adopter = Adopter(self.clock, self.factory, 0.1, self.settled)
        self.adopter: Any = adopter
        self.shutdown = Shutdown(self.clock, GRACE, self.source, adopter)
        adopter.begin()

    def settled(self) -> None:
        """
        A connection has ended.
        """
        self.shutdown.settle()

    def request(self) -> Deferred[None]:
        """
        Stop the worker.
        """
        return self.shutdown.request()

    def serve(self) -> Connection:
        """
        Have a connection in service.
        """
        connection = Connection()
        self.adopter.serving.add(connection)
        return connection

    def assertDone(self, stopped: Deferred[None]) -> None:
        """
        Check that the worker has stopped, and left nothing.
        """
        self.assertTrue(self.shutdown.done)
        self.assertIsNone(self.successResultOf(stopped))
        self.assertEqual(self.factory.calls, ["start", "stop"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_notRequested(self) -> None:
        """
        Before it is requested, L{Shutdown.settle} ends nothing.
        """
        self.source.stoppedTaking = self.source.disconnected = True
        self.shutdown.settle()
        self.assertFalse(self.shutdown.requested)
        self.assertFalse(self.shutdown.done)
        self.assertEqual(self.source.calls, [])

    def test_lastTaken(self) -> None:
        """
        It says when the last connection has come, while others are in service.
        """
        self.serve()
        stopped = self.request()
        taken = self.shutdown.lastTaken()
        self.shutdown.settle()
        self.assertNoResult(taken)
        self.source.stoppedTaking = True
        self.shutdown.settle()
        self.assertIsNone(self.successResultOf(taken))
        self.assertIsNone(self.successResultOf(self.shutdown.lastTaken()))
        self.assertNoResult(stopped)
        self.adopter.serving.clear()
        self.source.disconnected = True
        self.shutdown.settle()
        self.assertDone(stopped)
        self.assertIsNone(self.successResultOf(self.shutdown.lastTaken()))

    def test_lastTakenTooLate(self) -> None:
        """
        If the worker does not hear that the last one has come, it says so at the end.
        """
        stopped = self.request()
        taken = self.shutdown.lastTaken()
        self.clock.pump([GRACE, 0, DISCONNECT_SECONDS, 0])
        self.assertIsNone(self.successResultOf(taken))
        self.assertDone(stopped)

    def test_nothingToDo(self) -> None:
        """
        If no connection can come and none is in service, it is done at once.
        """
        self.source.stoppedTaking = self.source.disconnected = True
        self.assertDone(self.request())
        self.assertEqual(self.source.calls, ["stopTaking", "disconnect"])

    def test_stages(self) -> None:
        """
        It leaves, waits until no connection can come and none is in service, parts,
        and waits until it has parted.
        """
        connection = self.serve()
        stopped = self.request()
        self.assertTrue(self.shutdown.requested)
        self.assertEqual(connection.drains, 1)
        self.source.stoppedTaking = True
        self.shutdown.settle()
        self.assertEqual(self.source.calls, ["stopTaking"])
        self.source.stoppedTaking = False
        self.adopter.connectionEnded(connection)
        self.assertEqual(self.source.calls, ["stopTaking"])
        self.source.stoppedTaking = True
        self.shutdown.settle()
        self.assertEqual(self.source.calls, ["stopTaking", "disconnect"])
        self.shutdown.settle()
        self.assertFalse(self.shutdown.done)
        self.source.disconnected = True
        self.shutdown.settle()
        self.assertDone(stopped)

    def test_grace(self) -> None:
        """
        When the grace is over it parts with connections in service, and logs that.
        """
        self.serve()
        self.source.disconnected = True
        stopped = self.request()
        with capturedLogs() as logged:
            for _ in range(20):
                self.clock.advance(0.49)
            self.assertFalse(self.shutdown.done)
            self.clock.pump([0.2, 0])
        self.assertEqual(
            texts(logged, "warn"), ["1 connections are still in service after 10 s"]
        )
        self.assertDone(stopped)

    def test_farewell(self) -> None:
        """
        If the listener does not let it part, it is done after a while.
        """
        self.source.stoppedTaking = True
        stopped = self.request()
        self.clock.pump([DISCONNECT_SECONDS - 0.1, 0])
        self.assertNoResult(stopped)
        self.clock.pump([0.1, 0])
        self.assertDone(stopped)

    def test_partsWhileItParts(self) -> None:
        """
        The source may be disconnected before L{IConnectionSource.disconnect} returns.
        """

        def disconnect() -> None:
            self.source.disconnected = True
            self.shutdown.settle()

        self.source.disconnect = disconnect  # type: ignore[method-assign]
        self.source.stoppedTaking = True
        self.assertDone(self.request())

    def test_leavesWhileItLeaves(self) -> None:
        """
        The source may be disconnected before L{IConnectionSource.stopTaking} returns.
        """

        def stopTaking() -> None:
            self.source.stoppedTaking = self.source.disconnected = True
            self.shutdown.settle()

        self.source.stopTaking = stopTaking  # type: ignore[method-assign]
        self.assertDone(self.request())

    def test_again(self) -> None:
        """
        To request it again changes nothing: all requests end with it.
        """
        first, second = self.request(), self.request()
        self.assertEqual(self.source.calls, ["stopTaking"])
        self.source.stoppedTaking = self.source.disconnected = True
        self.shutdown.settle()
        self.assertDone(first)
        self.assertDone(second)
        self.assertDone(self.request())
        self.assertEqual(self.source.calls, ["stopTaking", "disconnect"])

    def test_settlesAfterwards(self) -> None:
        """
        When it is done, nothing happens any more.
        """
        self.source.stoppedTaking = self.source.disconnected = True
        stopped = self.request()
        self.shutdown.settle()
        self.assertDone(stopped)
        self.assertEqual(self.source.calls, ["stopTaking", "disconnect"])
