"""
Tests for L{portlisten._listener.departed_workers} with the real ledger and real
connections, and with scripted channels and a scripted clock.
"""

from __future__ import annotations

import subprocess

from portlisten._listener.connection import AcceptedConnection
from portlisten._listener.copy_check import CHECK_SECONDS
from portlisten._listener.departed_workers import PROCESS_END_SECONDS
from portlisten._listener.dispatcher import FAREWELL_SECONDS
from portlisten._listener.interfaces import IChannel
from tests.support.channels import texts
from tests.support.descriptors import descriptors
from tests.support.dispatchers import (
    CLAIM_TIMEOUT,
    HOLD,
    DispatcherTestCase,
)


class DeathTests(DispatcherTestCase):
    """
    What becomes of a dead worker's connections.
    """

    def test_unclaimed(self) -> None:
        """
        Offers that it had not claimed go to another worker.
        """
        one = self.join("worker 1")
        [client] = self.accept()
        other = self.join("worker 2")
        self.die(one)
        self.assertIs(other.offers[0][1], one.offers[0][1])
        self.assertTrue(self.isOpen(client))
        self.assertEqual(
            texts(self.logged, "warn"),
            ["worker 1 died, 1 connections to hand off again, 0 lost in service"],
        )

    def test_untouched(self) -> None:
        """
        Claimed connections that it had not touched go to another worker.
        """
        one = self.join("worker 1")
        self.accept()
        self.adopt(one).close()
        other = self.join("worker 2")
        self.die(one)
        self.assertIs(other.offers[0][1], one.offers[0][1])

    def test_touched(self) -> None:
        """
        Connections that it had touched are closed, counted, and offered to no other
        worker.
        """
        one = self.join("worker 1")
        [client] = self.accept()
        own = self.adopt(one)
        own.sendall(b"x")
        own.close()
        other = self.join("worker 2")
        self.die(one)
        self.assertEqual(other.offers, [])
        self.assertEqual(client.recv(10), b"x")
        self.assertFalse(self.isOpen(client))
        self.assertEqual(
            texts(self.logged, "warn"),
            [
                "worker 1 died, 0 connections to hand off again, 1 lost in service",
                f"the connection of 127.0.0.1:{client.getsockname()[1]} is closed:"
                " the worker that served it died",
            ],
        )

    def test_uncertain(self) -> None:
        """
        If the kernel cannot say whether a connection was touched, it is asked several
        times.  Then the connection counts as touched, so that no client is served
        twice.
        """
        one = self.join("worker 1")
        self.accept(2)
        for id, _ in one.offers:
            self.dispatcher.claimed(one, [id])
        connections = [connection for _, connection in one.offers]
        left = 5

        def untouched(connection: AcceptedConnection) -> bool | None:
            nonlocal left
            if connection is connections[0]:
                return None
            left -= 1
            return None if left else True

        self.patch(AcceptedConnection, "untouched", untouched)
        other = self.join("worker 2")
        self.die(one)
        self.assertEqual([each for _, each in other.offers], connections[1:])
        self.assertEqual(self.ledger.counters.lostInService, 1)

    def test_parted(self) -> None:
        """
        If a worker leaves, its unclaimed offers go to another worker, and its claimed
        connections are its own.
        """
        one = self.join("worker 1")
        clients = self.accept(2)
        own = self.adopt(one)
        other = self.join("worker 2")
        self.dispatcher.left(one, "it says: enough")
        self.dispatcher.channelClosed(one)
        self.assertEqual(other.offers, [(1, one.offers[0][1])])
        self.assertIn(
            "worker 1 left, 1 connections to hand off again: it says: enough",
            texts(self.logged, "info"),
        )
        self.assertTrue(self.isOpen(clients[1]))
        own.close()
        self.clock.advance(HOLD + CHECK_SECONDS)
        self.assertFalse(self.isOpen(clients[1]))

    def test_hung(self) -> None:
        """
        A worker that leaves an offer unclaimed is revoked, once; and the offer
        goes to another when that is done, and not before.
        """
        one = self.join("worker 1")
        self.accept()
        other = self.join("worker 2")
        self.clock.advance(CLAIM_TIMEOUT - 0.1)
        self.assertEqual(one.calls, [])
        self.clock.pump([0.1, CHECK_SECONDS, CHECK_SECONDS])
        self.assertEqual(one.calls, [("revoke", "an offer unclaimed for 5 s")])
        self.assertEqual(
            texts(self.logged, "warn"),
            ["worker 1 hangs, and is revoked: an offer unclaimed for 5 s"],
        )
        self.assertEqual(other.offers, [])
        self.dispatcher.left(one, "revoked")
        self.assertEqual(other.ids, [1])

    def test_hungOrphan(self) -> None:
        """
        If its process has ended, and its channel is open, the line says so.
        """
        one = self.join("worker 1")

        def gone() -> int | None:
            raise ProcessLookupError

        self.patch(one, "process", gone)
        self.accept()
        self.clock.advance(CLAIM_TIMEOUT + CHECK_SECONDS)
        self.assertEqual(
            texts(self.logged, "warn"),
            [
                "worker 1 hangs, and is revoked: an offer unclaimed for 5 s; its"
                " process has ended, and a child of it holds the channel"
            ],
        )


class DepartedTests(DispatcherTestCase):
    """
    What becomes of the connections that a worker had claimed when it left.
    """

    def setUp(self) -> None:
        """
        Have a worker in a process that does not read, and claims a connection.
        """
        super().setUp()
        self.ended: list[IChannel] = []
        self.dispatcher.departed.channelEnded = self.ended.append
        self.one = self.join("worker 1")
        self.one.reads = False
        self.child = subprocess.Popen(["sleep", "60"])
        self.addCleanup(self.kill)
        self.one.child = self.child
        [self.client] = self.accept()
        self.own = self.adopt(self.one)
        self.other = self.join("worker 2")

    def kill(self) -> None:
        """
        End the process, with all that it held.
        """
        self.child.kill()
        self.child.wait()

    def part(self) -> None:
        """
        Have the worker part, and its channel be gone.
        """
        self.dispatcher.left(self.one, "revoked")
        self.dispatcher.channelClosed(self.one)

    def test_channelClosed(self) -> None:
        """
        If a worker closes its channel and its process goes on, its claimed connections
        are its own.  When the process ends, another worker gets them.
        """
        self.one.reads = True
        self.die(self.one)
        self.clock.advance(PROCESS_END_SECONDS + 2 * CHECK_SECONDS)
        self.assertIn(
            "worker 1 left, 0 connections to hand off again: it closed the channel"
            " without BYE, and its process still runs",
            texts(self.logged, "info"),
        )
        self.assertEqual((self.ledger.held, self.other.offers), (1, []))
        self.assertEqual(self.ended, [])
        self.kill()
        self.clock.advance(CHECK_SECONDS)
        self.assertEqual(len(self.other.offers), 1)
        self.assertEqual(self.ended, [self.one])

    def test_diesSlowly(self) -> None:
        """
        A process may take a moment to end when its channel is closed.
        """
        self.one.reads = True
        self.die(self.one)
        self.clock.advance(CHECK_SECONDS)
        self.assertEqual((self.other.offers, self.ended), ([], []))
        self.kill()
        self.clock.advance(CHECK_SECONDS)
        self.assertEqual(len(self.other.offers), 1)
        self.assertIn(
            "worker 1 died, 1 connections to hand off again, 0 lost in service",
            texts(self.logged, "warn"),
        )
        self.assertEqual(self.ended, [self.one])

    def test_stopsMeanwhile(self) -> None:
        """
        The end of the listener does not wait for that.
        """
        self.one.reads = True
        self.die(self.one)
        stopped = self.dispatcher.stop(0)
        self.clock.advance(CHECK_SECONDS)
        self.dispatcher.channelClosed(self.other)
        self.clock.advance(2 * CHECK_SECONDS)
        self.successResultOf(stopped)

    def test_standsStill(self) -> None:
        """
        While it has not read that it was revoked it can do nothing, so its connection
        is kept for as long as that lasts.
        """
        self.part()
        self.clock.advance(5 * HOLD)
        self.assertEqual(self.ledger.held, 1)
        self.assertEqual(self.other.offers, [])

    def test_goesOn(self) -> None:
        """
        Once it has read that, it has as long as others to touch its connection, which
        then is its own.
        """
        self.part()
        self.clock.advance(5 * HOLD)
        self.one.reads = True
        self.clock.advance(HOLD - CHECK_SECONDS)
        self.assertEqual(self.ledger.held, 1)
        self.clock.advance(3 * CHECK_SECONDS)
        self.assertEqual(self.ledger.held, 0)
        self.assertEqual(self.other.offers, [])
        self.assertTrue(self.isOpen(self.client))

    def test_ends(self) -> None:
        """
        If its process ends with the connection untouched, another worker gets it.
        """
        self.part()
        self.clock.advance(5 * HOLD)
        self.own.close()
        self.kill()
        self.check()
        self.assertIs(self.other.offers[0][1], self.one.offers[0][1])
        self.assertTrue(self.isOpen(self.client))
        self.assertEqual(
            texts(self.logged, "warn"),
            [
                "the process of worker 1 has ended, 1 connections to hand off again,"
                " 0 lost in service"
            ],
        )

    def test_endsAwake(self) -> None:
        """
        The same holds for a worker that has read its last frame, as long as the
        connection is kept.
        """
        self.one.reads = True
        self.part()
        self.clock.advance(HOLD / 2)
        self.own.close()
        self.kill()
        self.check()
        self.assertEqual(len(self.other.offers), 1)

    def test_endsTouched(self) -> None:
        """
        If the worker had touched the connection, it is lost, and no other worker gets
        it.
        """
        self.part()
        self.own.sendall(b"x")
        self.own.close()
        self.kill()
        self.check()
        self.assertEqual(self.other.offers, [])
        self.assertEqual(self.client.recv(10), b"x")
        self.assertFalse(self.isOpen(self.client))
        self.assertIn(
            "the process of worker 1 has ended, 0 connections to hand off again, 1 lost"
            " in service",
            texts(self.logged, "warn"),
        )

    def test_goesOnAndEnds(self) -> None:
        """
        When the worker has touched its connections, its process is no longer watched,
        and the process's end is not logged.
        """
        self.part()
        self.own.sendall(b"x")
        self.check()
        self.assertEqual(self.ledger.held, 0)
        self.kill()
        self.clock.advance(HOLD)
        self.assertEqual(texts(self.logged, "warn"), [])
        self.assertEqual(self.other.offers, [])

    def test_unknownProcess(self) -> None:
        """
        If the end of a process cannot be watched, the connection is kept as long as any
        other, and then is the worker's own.
        """
        self.one.child = None
        self.part()
        self.clock.advance(HOLD + 2 * CHECK_SECONDS)
        self.assertEqual(self.ledger.held, 0)
        self.kill()
        self.clock.advance(HOLD)
        self.assertEqual(self.other.offers, [])

    def test_nothingHeld(self) -> None:
        """
        The process is watched only as long as copies of its connections are kept.
        """
        self.one.reads = True
        before = len(descriptors())
        self.part()
        self.assertEqual(len(descriptors()), before + 1)
        self.clock.advance(HOLD + 2 * CHECK_SECONDS)
        # The copy is closed as well.
        self.assertEqual(len(descriptors()), before - 1)
        self.assertEqual(self.ended, [self.one])

    def test_unread(self) -> None:
        """
        A closed channel is kept while descriptors in it are unread: they count for
        their user.
        """
        self.own.sendall(b"x")
        self.check()
        self.part()
        self.assertEqual(self.dispatcher.departed.unreadBy(1000), 1)
        self.assertEqual(self.dispatcher.departed.unreadBy(0), 0)
        self.clock.advance(5 * HOLD)
        self.assertEqual(self.ended, [])
        self.assertNotIn(("dismiss",), self.one.calls)
        self.one.reads = True
        self.check()
        self.assertEqual(self.dispatcher.departed.unreadBy(1000), 0)
        self.assertEqual(self.ended, [self.one])
        self.assertEqual(self.one.calls.count(("dismiss",)), 1)

    def test_unreadIsCounted(self) -> None:
        """
        How many descriptors are unread is counted from time to time, and not when that
        is asked: it is asked for each process that connects.
        """
        self.part()
        asked = []

        def inFlight() -> int:
            asked.append(True)
            return 3

        self.patch(self.one, "inFlight", inFlight)
        self.assertEqual(self.dispatcher.departed.unreadBy(1000), 1)
        self.assertEqual(asked, [])
        self.check()
        self.assertEqual(self.dispatcher.departed.unreadBy(1000), 3)
        self.assertEqual(asked, [True])

    def test_users(self) -> None:
        """
        If too many copies of workers that stand still are held, the user that has most
        of them loses its oldest: this worker's copy is kept.
        """
        self.part()
        crowd = self.join("worker 3", 30, user=1001)
        self.dispatcher.draining(self.other)
        self.accept(25)
        crowd.child = self.child
        crowd.reads = False
        self.dispatcher.claimed(crowd, crowd.ids)
        self.dispatcher.left(crowd, "revoked")
        kept = [self.one.offers[0], *crowd.offers[1:]]
        self.assertEqual(self.ledger.copies(), [connection for _, connection in kept])

    def test_read(self) -> None:
        """
        A closed channel with nothing unread is dropped at once.
        """
        self.one.reads = True
        self.own.sendall(b"x")
        self.check()
        self.die(self.one)
        self.assertEqual(self.ended, [self.one])
        self.assertEqual(self.one.calls, [("dismiss",)])

    def test_stop(self) -> None:
        """
        At the end nothing is waited for any more.
        """
        self.part()
        stopped = self.dispatcher.stop(0)
        self.clock.advance(2 * CHECK_SECONDS + FAREWELL_SECONDS)
        self.successResultOf(stopped)
        self.assertEqual(self.ended[0], self.one)
