"""
Tests for L{portlisten._listener.admission}, and for what the dispatcher does with it.
"""

from __future__ import annotations

from portlisten.errors import ProtocolError
from tests.support.channels import texts
from tests.support.dispatchers import (
    DispatcherTestCase,
    RecordingChannel,
)


class ThrottleTests(DispatcherTestCase):
    """
    Workers that die at once, again and again.
    """

    def crash(self, times: int, user: int = 1000) -> None:
        """
        Have workers join and die.
        """
        for number in range(times):
            self.die(self.join(f"crash {number}", user=user))

    def throttled(self) -> RecordingChannel:
        """
        Have a worker join, which has to wait for 2 s.
        """
        self.crash(1)
        return self.join()

    def test_waits(self) -> None:
        """
        Such a worker has to wait before it is offered anything, and that is
        logged.
        """
        worker = self.throttled()
        self.accept()
        self.clock.advance(1.9)
        self.assertEqual(worker.offers, [])
        self.assertEqual(
            texts(self.logged, "warn")[-1],
            "worker 1 has to wait for 2 s: those before it died at once",
        )
        self.clock.advance(0.1)
        self.assertEqual(worker.ids, [1])

    def test_others(self) -> None:
        """
        One of another user does not.
        """
        self.throttled()
        other = self.join("worker 2", user=1001)
        self.accept()
        self.assertEqual(other.ids, [1])

    def test_hungWorkers(self) -> None:
        """
        To hang is as bad as to die.
        """
        worker = self.join()
        self.accept()
        self.dispatcher.revoking(worker)
        self.dispatcher.parted(worker, "revoked")
        self.assertEqual(self.join("worker 2").offers, [])

    def test_good(self) -> None:
        """
        One connection that was finished clears the name of those that died
        before, and the death of its worker later counts for nothing.
        """
        worker = self.throttled()
        self.clock.advance(2.0)
        self.accept(2)
        for id in (1, 2):
            self.dispatcher.claimed(worker, [id])
            self.dispatcher.closed(worker, [id])
        self.die(worker)
        self.accept()
        self.assertEqual(self.join("worker 2").ids, [1])

    def test_goodBefore(self) -> None:
        """
        A worker that was there before says nothing of those that die since.
        """
        worker = self.join()
        self.crash(3)
        self.accept()
        self.dispatcher.claimed(worker, [1])
        self.dispatcher.closed(worker, [1])
        self.assertEqual(self.join("worker 2").ids, [])

    def test_clientsWhoLeft(self) -> None:
        """
        A client that left is nothing that a worker has finished.
        """
        worker = self.join()
        self.accept()
        self.dispatcher.claimed(worker, [1])
        self.dispatcher.gone(worker, [1])
        self.die(worker)
        self.accept()
        self.assertEqual(self.join("worker 2").ids, [])

    def test_diesWaiting(self) -> None:
        """
        A worker that dies while it waits is forgotten, and counts for nothing.
        """
        self.die(self.throttled())
        self.accept()
        self.assertEqual(self.dispatcher.channels, 0)
        worker = self.join("worker 2")
        self.clock.advance(2)
        self.assertEqual(worker.ids, [1])

    def test_partsWaiting(self) -> None:
        """
        A worker that parts while it waits is forgotten.
        """
        worker = self.throttled()
        self.dispatcher.revoking(worker)
        self.dispatcher.parted(worker, "it says: no")
        self.accept()
        self.clock.advance(2)
        self.assertEqual(worker.offers, [])

    def test_claimsWaiting(self) -> None:
        """
        A worker that waits has nothing to claim.
        """
        worker = self.throttled()
        self.assertRaises(ProtocolError, self.dispatcher.claimed, worker, [1])

    def test_drainsWaiting(self) -> None:
        """
        A worker that drains while it waits is told that no offer follows, and
        none does.
        """
        worker = self.throttled()
        self.dispatcher.draining(worker)
        self.assertEqual(worker.calls, [("drained",)])
        self.accept()
        self.clock.advance(2)
        self.assertEqual(worker.offers, [])
        self.die(worker)
        self.assertEqual(self.dispatcher.channels, 0)
