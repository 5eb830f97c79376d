"""
Tests for L{portlisten._listener.retirement}, and for what happens if the next
listener dies.
"""

from __future__ import annotations

import socket

from portlisten._listener.connection import AcceptedConnection
from portlisten._wire.frames import Serving
from portlisten._wire.listener_session import Draining
from tests.support.dispatchers import (
    DispatcherTestCase,
    RecordingChannel,
    portOf,
)
from tests.support.retiring import BYE, GRACE, RetirementTestCase


class TakeBackTests(RetirementTestCase):
    """
    The next listener dies meanwhile.
    """

    def undo(self) -> None:
        """
        Let the next listener die.
        """
        self.dispatcher.takeBack()
        if self.ledger.knows(self.successor):
            self.dispatcher.died(self.successor)
        self.dispatcher.channelClosed(self.successor)

    def test_offers(self) -> None:
        """
        What it had not claimed goes to workers again, also to those that had got no
        more offers.
        """
        self.accept(1)
        worker = self.join()
        done = self.retire()
        self.succeed()
        self.accept(2)
        self.claim(self.successor, 1)
        self.undo()
        self.assertEqual(len(worker.offers), 2)
        self.clock.advance(2 * GRACE)
        self.assertNoResult(done)
        self.assertNotIn(BYE, worker.calls)

    def test_early(self) -> None:
        """
        It may die before it has joined.
        """
        self.accept()
        done = self.retire()
        self.undo()
        worker = self.join()
        self.assertEqual(len(worker.offers), 1)
        self.check()
        self.assertNoResult(done)
        self.assertEqual(worker.calls, [])

    def test_again(self) -> None:
        """
        After that, another listener may take over.
        """
        self.retire()
        self.undo()
        self.dispatcher.takeBack()
        self.successor = RecordingChannel("another one", 0)
        done = self.retire()
        self.succeed()
        self.check()
        self.successResultOf(done)

    def test_drains(self) -> None:
        """
        A worker that drains by itself meanwhile gets no offers after that.
        """
        self.accept()
        worker = self.join()
        self.retire()
        self.dispatcher.received(worker, iter([Draining()]))
        self.undo()
        self.accept()
        self.assertEqual(len(worker.offers), 1)

    def test_revoked(self) -> None:
        """
        Neither does a worker that was revoked.
        """
        self.accept()
        worker = self.join()
        self.retire()
        self.dispatcher.revoking(worker)
        self.undo()
        self.accept()
        self.assertEqual(len(worker.offers), 1)

    def test_gone(self) -> None:
        """
        A worker that has left is left alone.
        """
        self.accept()
        worker = self.join()
        self.retire()
        self.die(worker)
        self.undo()
        self.assertIs(self.ledger.knows(worker), False)


class ServingTests(DispatcherTestCase):
    """
    Workers bring connections from the listener before.
    """

    def test_serving(self) -> None:
        """
        The worker with the fewest in all gets the next connection.
        """
        one, other = self.join("worker 1"), self.join("worker 2")
        self.dispatcher.received(one, iter([Serving(3)]))
        self.accept(2)
        self.assertEqual((len(one.offers), len(other.offers)), (0, 2))

    def test_waited(self) -> None:
        """
        A connection that has waited elsewhere has only the rest of its patience.
        """
        (client,) = self.accept()
        self.clock.advance(1)
        client, accepted = socket.socketpair()
        self.addCleanup(client.close)
        connection = AcceptedConnection(accepted, None)
        self.dispatcher.accepted(portOf(), [connection], 59.5)
        self.clock.advance(1)
        self.assertEqual(self.ledger.counters.timedOut, 1)
        self.assertEqual(client.recv(1), b"")
