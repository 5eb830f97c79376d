"""
Tests for L{portlisten._listener.copy_check}.
"""

from __future__ import annotations

import os
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from portlisten._listener import copy_check
from portlisten._listener.copy_check import CHECK_SECONDS, SLICE, CopyCheck
from tests.support.dispatchers import HOLD, DispatcherTestCase


class Copy:
    """
    A connection whose copy is held.

    @ivar answer: what the kernel says of it.
    @ivar asked: how often it was asked.
    """

    def __init__(self) -> None:
        self.answer: bool | None = True
        self.asked = 0

    def untouched(self) -> bool | None:
        self.asked += 1
        return self.answer


class CopyCheckTests(SynchronousTestCase):
    """
    Tests for L{CopyCheck}.
    """

    def setUp(self) -> None:
        self.copies: list[Any] = []
        self.check = CopyCheck(lambda: list(self.copies))

    def hold(self, count: int) -> list[Copy]:
        """
        Hold more copies.
        """
        more = [Copy() for _ in range(count)]
        self.copies += more
        return more

    def test_few(self) -> None:
        """
        If the copies are few, each check covers all, even new ones.
        """
        self.assertEqual(self.check.check(), [])
        one, other = self.hold(2)
        self.assertEqual(self.check.check(), [])
        other.answer = False
        (third,) = self.hold(1)
        third.answer = False
        self.assertEqual(self.check.check(), [other, third])
        self.assertEqual((one.asked, other.asked, third.asked), (2, 2, 1))

    def test_uncertain(self) -> None:
        """
        If the kernel does not say whether it was touched, it is checked again.
        """
        (copy,) = self.hold(1)
        copy.answer = None
        self.assertEqual(self.check.check(), [])
        copy.answer = False
        self.assertEqual(self.check.check(), [copy])

    def test_many(self) -> None:
        """
        If the copies are many, each check covers a slice, and each copy gets its turn.
        """
        copies = self.hold(2 * SLICE + 1)
        for round in (1, 2):
            for count in (SLICE, 2 * SLICE, 2 * SLICE + 1):
                self.check.check()
                asked = [copy.asked for copy in copies]
                expected = [round] * count + [round - 1] * (len(copies) - count)
                self.assertEqual(asked, expected)

    def test_touchedLater(self) -> None:
        """
        A touched one of many is found in the turn of its slice.
        """
        copies = self.hold(SLICE + 1)
        copies[0].answer = copies[-1].answer = False
        self.assertEqual(self.check.check(), [copies[0]])
        self.assertEqual(self.check.check(), [copies[-1]])


class DispatcherTests(DispatcherTestCase):
    """
    What the dispatcher does with it.
    """

    queue = 8

    def test_slices(self) -> None:
        """
        If the copies are more than a slice, all touched ones are closed after a few
        checks.  A copy that was closed meanwhile does no harm.
        """
        self.patch(copy_check, "SLICE", 2)
        worker = self.join(window=8)
        clients = self.accept(5)
        self.dispatcher.claimed(worker, worker.ids)
        for _, connection in worker.offers:
            os.write(connection.fileno(), b"x")
        self.clock.advance(CHECK_SECONDS)
        self.assertEqual(self.ledger.held, 3)
        self.dispatcher.closed(worker, [3, 4])
        self.clock.advance(CHECK_SECONDS)
        self.clock.advance(CHECK_SECONDS)
        self.assertEqual(self.ledger.held, 0)
        self.assertLess(3 * CHECK_SECONDS, HOLD)
        self.assertEqual([client.recv(10) for client in clients], [b"x"] * 5)
