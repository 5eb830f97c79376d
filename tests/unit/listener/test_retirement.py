"""
Tests for L{portlisten._listener.retirement}, and for how the dispatcher retires.
"""

from __future__ import annotations

import socket

from portlisten._listener.retirement import ALL_IS_HANDED_OVER, LET_GO
from portlisten._model import Kind
from portlisten._policy.link import asksToJoinAgain
from tests.support.dispatchers import (
    CLAIM_TIMEOUT,
    RecordingChannel,
)
from tests.support.retiring import BYE, DONE, GRACE, RetirementTestCase


class RetirementTests(RetirementTestCase):
    """
    The listener hands over what waits, and lets the workers go.
    """

    def test_reason(self) -> None:
        """
        The reason that the workers hear asks them to join again at once.
        """
        self.assertTrue(asksToJoinAgain(LET_GO))
        self.assertFalse(asksToJoinAgain(ALL_IS_HANDED_OVER))

    def test_nothing(self) -> None:
        """
        Without workers and clients, it is over when the next listener has joined.
        """
        done = self.retire()
        self.check()
        self.assertNoResult(done)
        self.succeed()
        self.check()
        self.successResultOf(done)
        self.assertEqual(self.successor.calls, [DONE])

    def test_waiting(self) -> None:
        """
        What waits is offered to the next listener, and is its own when claimed.
        """
        (client,) = self.accept()
        done = self.retire()
        self.succeed(Kind.LISTENER)
        self.assertEqual(len(self.successor.offers), 1)
        own = socket.socket(fileno=socket.dup(self.successor.offers[0][1].fileno()))
        self.addCleanup(own.close)
        self.check()
        self.assertNoResult(done)
        self.claim(self.successor, 1)
        self.check()
        self.successResultOf(done)
        self.assertTrue(self.isOpen(client))
        self.assertEqual(self.ledger.counters.handedOver, 1)
        self.assertEqual(self.ledger.held, 0)

    def test_notInRoster(self) -> None:
        """
        The next listener is no worker that an operator sees.
        """
        self.retire()
        self.succeed()
        self.assertEqual(self.dispatcher.roster.drained, ())
        self.assertEqual(self.dispatcher.roster.ports(self.successor), frozenset())

    def test_idleWorker(self) -> None:
        """
        A worker without offers is let go at once, and may have had its BYE before.
        """
        worker = self.join()
        done = self.retire()
        self.assertEqual(worker.calls, [BYE])
        self.succeed()
        self.check()
        self.assertNoResult(done)
        self.leave(worker)
        self.check()
        self.successResultOf(done)

    def test_offers(self) -> None:
        """
        A worker with offers gets no more, and is let go when it has answered them.
        """
        self.accept()
        worker = self.join()
        done = self.retire()
        self.succeed()
        self.assertEqual(worker.calls, [])
        self.accept()
        self.assertEqual((len(worker.offers), len(self.successor.offers)), (1, 1))
        self.claim(self.successor, 1)
        self.claim(worker, 1)
        self.check()
        self.leave(worker)
        self.clock.advance(2)
        self.successResultOf(done)
        counters = self.ledger.counters
        self.assertEqual((counters.handedOver, counters.leftWithWorker), (1, 1))

    def test_hung(self) -> None:
        """
        A worker that hangs is revoked, and its offers go to the next listener.
        """
        self.accept()
        worker = self.join()
        done = self.retire()
        self.succeed()
        self.clock.advance(CLAIM_TIMEOUT + 1)
        self.assertEqual(worker.calls[0][0], "revoke")
        self.assertEqual(self.successor.offers, [])
        self.dispatcher.left(worker, "it was revoked")
        self.dispatcher.channelClosed(worker)
        self.assertEqual(len(self.successor.offers), 1)
        self.claim(self.successor, 1)
        self.check()
        self.successResultOf(done)

    def test_workerDies(self) -> None:
        """
        If a worker dies meanwhile, what it had goes to the next listener.
        """
        self.accept(2)
        worker = self.join()
        done = self.retire()
        self.succeed()
        self.claim(worker, 1)
        self.die(worker)
        self.check()
        self.assertEqual(len(self.successor.offers), 2)
        self.claim(self.successor, 1, 2)
        self.check()
        self.successResultOf(done)

    def test_newcomer(self) -> None:
        """
        A worker that has not said HELLO, or must wait for its first offer, is let go as
        well, and never admitted.
        """
        silent = RecordingChannel("worker 2")
        self.dispatcher.connected(silent)
        self.throttle.failed(7)
        held = self.join("worker 3", user=7)
        done = self.retire()
        self.assertEqual((silent.calls, held.calls), ([BYE], [BYE]))
        self.clock.advance(5)
        self.assertEqual(self.ledger.workers, 0)
        self.assertEqual(set(silent.calls), {BYE})
        self.succeed()
        self.dispatcher.channelClosed(silent)
        self.dispatcher.channelClosed(held)
        self.check()
        self.successResultOf(done)

    def test_tooLate(self) -> None:
        """
        After the grace it is over, whatever is left: the workers are let go, and what
        waits stays.
        """
        self.accept()
        worker = self.join("worker 1", 1)
        done = self.retire()
        self.clock.advance(GRACE - 1)
        self.assertNoResult(done)
        self.clock.advance(2)
        self.successResultOf(done)
        self.assertEqual(self.successor.calls, [DONE])
        self.assertEqual(worker.calls[0][0], "revoke")

    def test_inherits(self) -> None:
        """
        While more may come from the listener before this one, it is not over.
        """
        self.inherits = True
        done = self.retire()
        self.succeed()
        self.check()
        self.assertNoResult(done)
        self.accept()
        self.claim(self.successor, 1)
        self.inherits = False
        self.check()
        self.successResultOf(done)

    def test_once(self) -> None:
        """
        When it is over, nothing more is said.
        """
        done = self.retire()
        self.succeed()
        self.check()
        self.check()
        self.check()
        self.successResultOf(done)
        self.assertEqual(self.successor.calls, [DONE])


class UnwantedTests(RetirementTestCase):
    """
    The next listener lacks some ports.
    """

    def test_notOffered(self) -> None:
        """
        It gets nothing of these ports.  A worker that serves them stays until nothing
        waits there, and another one goes.
        """
        self.accept(3, name="mail", port=2)
        mail = self.join("worker 1", 1, names=("mail",))
        web = self.join("worker 2", names=("web",))
        done = self.retire("web", "")
        self.succeed()
        self.assertEqual(self.successor.offers, [])
        self.assertEqual((mail.calls, web.calls), ([], [BYE]))
        self.leave(web)
        for id in (1, 2, 3):
            self.assertNoResult(done)
            self.check()
            self.claim(mail, id)
        self.check()
        self.leave(mail)
        self.clock.advance(2)
        self.successResultOf(done)

    def test_backlog(self) -> None:
        """
        While clients wait in the backlog of such a port, its worker stays.
        """
        self.backlogs = {"mail"}
        mail = self.join(names=("mail",))
        done = self.retire("web", "")
        self.succeed()
        self.check()
        self.assertEqual(mail.calls, [])
        self.backlogs = set()
        self.check()
        self.leave(mail)
        self.check()
        self.successResultOf(done)

    def test_noWorker(self) -> None:
        """
        Nobody comes for what waits for no worker, so this keeps nobody waiting.
        """
        (client,) = self.accept(name="mail", port=2)
        done = self.retire("web", "")
        self.succeed()
        self.check()
        self.successResultOf(done)
        self.assertTrue(self.isOpen(client))
