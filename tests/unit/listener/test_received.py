"""
Tests for L{portlisten._listener.dispatcher.Dispatcher.received}: what comes of all that
a worker said in one read.
"""

from __future__ import annotations

from typing import Any
from unittest import mock

from portlisten import _kernel
from portlisten._wire.frames import Claim, ClientGone, Closed
from portlisten._wire.listener_session import Draining, Joined, Refused
from portlisten.errors import ProtocolError
from tests.support.dispatchers import DispatcherTestCase, RecordingChannel, portOf


class ReceivedTests(DispatcherTestCase):
    """
    A worker that says several things at once.
    """

    def setUp(self) -> None:
        super().setUp()
        self.worker = self.join(window=2)
        self.accept(2)
        self.accept(2)
        self.assertEqual(self.worker.ids, [1, 2])
        self.worker.flushes.clear()
        self.roomChanges = 0

    def say(self, *events: Any, to: RecordingChannel | None = None) -> None:
        """
        Make the worker send frames.
        """
        self.dispatcher.received(to or self.worker, events)

    def test_together(self) -> None:
        """
        The offers that several events lead to are sent together, and the change of
        capacity is reported once.
        """
        self.say(Claim((1,)), Closed((1,)), Claim((2,)))
        self.assertEqual(self.worker.ids, [1, 2, 3, 4])
        self.assertEqual(self.worker.flushes, [4])
        self.assertEqual(self.roomChanges, 1)
        self.assertEqual(self.ledger.counters.claimed, 2)

    def test_givesWay(self) -> None:
        """
        If there are other workers, it lets other processes run before it reads or
        accepts more.  A single worker would wait for it.
        """
        yields = mock.Mock()
        self.patch(_kernel, "giveWay", yields)
        self.say(Claim((1,)))
        self.accept(2)
        yields.assert_not_called()
        self.join("worker 2")
        self.accept(1)
        yields.assert_not_called()
        self.accept(2)
        self.say(Claim((2,)))
        self.assertEqual(yields.call_count, 2)

    def test_clientGone(self) -> None:
        """
        A client that left is counted apart.
        """
        self.say(Claim((1, 2)), ClientGone((1,)), Closed((2,)))
        self.assertEqual(self.ledger.counters.goneBeforeAdoption, 1)

    def test_refused(self) -> None:
        """
        Refused connections are handed off again.
        """
        self.say(Claim((2,)), Refused((1,), "no room"))
        self.assertEqual(self.ledger.counters.refused, 1)

    def test_joined(self) -> None:
        """
        A worker that joins is offered what waits.
        """
        other = RecordingChannel("worker 2")
        self.dispatcher.connected(other)
        self.say(Joined(4, (portOf(),)), to=other)
        self.assertEqual(len(other.offers), 2)
        self.assertEqual(len(other.flushes), 1)

    def test_drained(self) -> None:
        """
        Offers that follow from frames before DRAIN go out before DRAINED, and no offers
        go out after it.
        """
        said: list[int] = []
        self.worker.drained = lambda: said.append(  # type: ignore[method-assign]
            len(self.worker.offers)
        )
        self.say(Claim((1,)), Draining(), Claim((2,)))
        self.assertEqual(said, [3])
        self.assertEqual(self.worker.ids, [1, 2, 3])

    def test_failsOnce(self) -> None:
        """
        An offer before the answer to DRAIN that fails is not made again.
        """
        tries: list[int] = []

        def fail(id: int, *args: object, **kw: object) -> None:
            tries.append(id)
            raise ZeroDivisionError

        self.worker.offer = fail  # type: ignore[method-assign]
        self.assertRaises(ZeroDivisionError, self.say, Claim((1,)), Draining())
        self.assertEqual(tries, [3])

    def test_wrong(self) -> None:
        """
        If one is wrong, those before it count, it does not, and those behind it are
        left for later.
        """
        events = iter([Claim((1,)), Claim((66,)), Claim((2,))])
        self.assertRaises(ProtocolError, self.dispatcher.received, self.worker, events)
        self.assertEqual(self.worker.ids, [1, 2, 3])
        self.assertEqual(self.ledger.counters.claimed, 1)
        self.dispatcher.received(self.worker, events)
        self.assertEqual(self.ledger.counters.claimed, 2)
