"""
Tests for L{portlisten._listener.dispatcher}: how the listener ends.
"""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet.defer import Deferred

from portlisten._listener.copy_check import CHECK_SECONDS
from portlisten._listener.dispatcher import FAREWELL_SECONDS
from portlisten._reactor.log_limit import MAXIMUM_LINES
from tests.support.channels import texts
from tests.support.dispatchers import (
    DispatcherTestCase,
    RecordingChannel,
)


class StopTests(DispatcherTestCase):
    """
    How the listener ends.
    """

    def stop(self, grace: float = 10.0) -> Deferred[None]:
        """
        Stop, and give it the time that it needs to look around.
        """
        stopped = self.dispatcher.stop(grace)
        self.check()
        return stopped

    def end(self) -> None:
        """
        Let the time pass until everything is over.
        """
        self.clock.pump([CHECK_SECONDS, 20, FAREWELL_SECONDS])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_idle(self) -> None:
        """
        With nothing to hand off, the dispatcher stops at once, and logs its counters.
        """
        self.successResultOf(self.stop())
        self.assertIn("since the start: accepted 0", texts(self.logged, "info")[-1])

    def test_nothingLeft(self) -> None:
        """
        When it has ended, nothing is left to be done later.
        """
        leftovers: list[Any] = []
        stopped = self.dispatcher.stop(0)
        stopped.addCallback(
            lambda result: self.clock.callLater(
                0, lambda: leftovers.extend(self.clock.getDelayedCalls())
            )
        )
        self.clock.pump([CHECK_SECONDS, 0])
        self.successResultOf(stopped)
        self.assertEqual(leftovers, [])

    def test_farewell(self) -> None:
        """
        Every worker gets BYE, even one that has not joined or must wait.  The stop is
        done when all of them have left.
        """
        joined = self.join()
        silent = RecordingChannel("worker 2")
        self.dispatcher.connected(silent)
        self.throttle.failed(7)
        held = self.join("worker 3", user=7)
        stopped = self.stop()
        for channel in (joined, silent, held):
            self.assertEqual(channel.calls, [("bye", "the listener stops")])
            self.assertNoResult(stopped)
            self.dispatcher.channelClosed(channel)
        self.check()
        self.successResultOf(stopped)

    def test_leftOut(self) -> None:
        """
        The log then tells of the lines that were left out.
        """
        for number in range(MAXIMUM_LINES + 2):
            self.join(f"worker {number}")
        stopped = self.stop()
        self.clock.advance(FAREWELL_SECONDS)
        self.successResultOf(stopped)
        self.assertEqual(
            [line for line in texts(self.logged, "info") if "left out" in line],
            [
                "2 more lines like this one were left out in 10 s: {channel} joined,"
                " with a window of {window}, for {names}"
            ],
        )

    def test_farewellTakesTooLong(self) -> None:
        """
        It does not wait for long for them.
        """
        worker = self.join()
        stopped = self.stop()
        self.clock.advance(FAREWELL_SECONDS - 0.1)
        self.assertNoResult(stopped)
        self.clock.advance(0.1)
        self.successResultOf(stopped)
        self.assertEqual(worker.calls, [("bye", "the listener stops")])

    def test_unclaimed(self) -> None:
        """
        Offered connections are waited for, until they are claimed.
        """
        worker = self.join()
        self.accept()
        stopped = self.stop(grace=3)
        self.assertEqual(worker.calls, [])
        self.dispatcher.claimed(worker, [1])
        self.check()
        self.assertEqual(worker.calls, [("bye", "the listener stops")])
        self.dispatcher.channelClosed(worker)
        self.check()
        self.successResultOf(stopped)

    def test_waiting(self) -> None:
        """
        Connections that wait are handed off while a worker takes them.
        """
        worker = self.join(window=1)
        clients = self.accept(2)
        self.stop(grace=3)
        for id in (1, 2):
            self.assertEqual((worker.ids[-1], worker.calls), (id, []))
            self.dispatcher.claimed(worker, [id])
            self.check()
        self.assertEqual(worker.calls, [("bye", "the listener stops")])
        self.assertTrue(all(map(self.isOpen, clients)))

    def test_graceRunsOut(self) -> None:
        """
        A connection that is unclaimed after the grace is left to its worker, which has
        a descriptor of it.
        """
        worker = self.join()
        [client] = self.accept()
        connection = worker.offers[0][1]
        own = socket.fromfd(connection.fileno(), socket.AF_INET, socket.SOCK_STREAM)
        self.addCleanup(own.close)
        stopped = self.stop(grace=3)
        self.clock.advance(2.9)
        self.assertEqual(worker.calls, [])
        self.clock.advance(0.1)
        self.assertEqual(worker.calls, [("bye", "the listener stops")])
        self.clock.advance(FAREWELL_SECONDS)
        self.successResultOf(stopped)
        own.sendall(b"x")
        self.assertEqual(client.recv(1), b"x")

    def test_nobodyToTakeIt(self) -> None:
        """
        If no worker comes, connections wait for the grace.  Then they are closed, which
        is logged.
        """
        [client] = self.accept()
        stopped = self.stop(grace=3)
        self.clock.advance(2.9)
        self.assertNoResult(stopped)
        self.assertTrue(self.isOpen(client))
        self.clock.advance(0.2)
        self.successResultOf(stopped)
        self.assertFalse(self.isOpen(client))
        self.assertEqual(
            texts(self.logged, "warn"),
            [
                f"the connection of 127.0.0.1:{client.getsockname()[1]} is closed:"
                " the listener stopped while it waited"
            ],
        )
        self.assertEqual(self.timeouts, 0)

    def test_nobodyExpected(self) -> None:
        """
        If no worker is expected to come, connections wait only while a worker is there.
        """
        worker = self.join(limit=1)
        _, client = self.accept(2)
        self.dispatcher.claimed(worker, [1])
        stopped = self.dispatcher.stop(3, expectsWorkers=lambda: False)
        self.check()
        self.assertEqual(worker.calls, [])
        self.dispatcher.died(worker)
        self.dispatcher.channelClosed(worker)
        self.check()
        self.successResultOf(stopped)
        self.assertFalse(self.isOpen(client))

    def test_somebodyComes(self) -> None:
        """
        A worker that comes within the grace is given what waits.
        """
        [client] = self.accept()
        stopped = self.stop(grace=3)
        self.clock.advance(2)
        worker = self.join()
        self.dispatcher.claimed(worker, worker.ids)
        self.assertEqual(worker.ids, [1])
        self.check()
        self.assertEqual(worker.calls, [("bye", "the listener stops")])
        self.assertTrue(self.isOpen(client))
        self.assertNoResult(stopped)

    def test_elsewhere(self) -> None:
        """
        What waits elsewhere is waited for as well; and nothing at all ends it at
        once.
        """
        waits = [True]
        stopped = self.dispatcher.stop(3, lambda: waits[0])
        self.clock.advance(2)
        self.assertNoResult(stopped)
        waits.clear()
        waits.append(False)
        self.check()
        self.successResultOf(stopped)

    def test_nobodyOfThatName(self) -> None:
        """
        The same holds if the workers want other names.
        """
        worker = self.join(names=("web",))
        [client] = self.accept(name="mail")
        stopped = self.stop(grace=3)
        self.clock.advance(2.9)
        self.assertEqual(worker.calls, [])
        self.clock.advance(0.2)
        self.assertEqual(worker.calls, [("bye", "the listener stops")])
        self.dispatcher.left(worker, "it says: enough")
        self.dispatcher.channelClosed(worker)
        self.check()
        self.successResultOf(stopped)
        self.assertFalse(self.isOpen(client))

    def test_died(self) -> None:
        """
        A dead worker is not waited for, but another worker is, for the dead one's
        offers.
        """
        worker = self.join()
        self.accept()
        stopped = self.stop(grace=3)
        self.die(worker)
        self.check()
        self.assertNoResult(stopped)
        self.clock.advance(3)
        self.successResultOf(stopped)
