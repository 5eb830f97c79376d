"""
Tests for L{portlisten._kernel.scheduling}.
"""

from __future__ import annotations

import os
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from portlisten._kernel import scheduling
from tests.support.children import inChild


def policies() -> list[int]:
    """
    The policy of this process before, during and after.
    """
    found = [os.sched_getscheduler(0)]
    assert scheduling.runInBatches()
    assert scheduling.runInBatches()
    found.append(os.sched_getscheduler(0))
    scheduling.runAsBefore()
    found.append(os.sched_getscheduler(0))
    return found


def chosen() -> list[int]:
    """
    The same if the operator has chosen a policy.
    """
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    assert not scheduling.runInBatches()
    scheduling.runAsBefore()
    return [os.sched_getscheduler(0)]


def refused() -> list[int]:
    """
    The same if the kernel refuses.
    """
    with mock.patch("os.sched_setscheduler", side_effect=PermissionError):
        assert not scheduling.runInBatches()
    assert scheduling.runInBatches()
    with mock.patch("os.sched_setscheduler", side_effect=PermissionError):
        scheduling.runAsBefore()
    return [os.sched_getscheduler(0)]


class SchedulingTests(SynchronousTestCase):
    """
    Tests for L{scheduling.runInBatches} and L{scheduling.runAsBefore}, each in a
    process of its own.
    """

    def test_undone(self) -> None:
        """
        The policy is the usual one again.
        """
        expected = [os.SCHED_OTHER, os.SCHED_BATCH, os.SCHED_OTHER]
        self.assertEqual(inChild(policies), str(expected))

    def test_chosen(self) -> None:
        """
        A policy that the operator has chosen stays.
        """
        self.assertEqual(inChild(chosen), str([os.SCHED_IDLE]))

    def test_refused(self) -> None:
        """
        If the kernel refuses, the process goes on.
        """
        self.assertEqual(inChild(refused), str([os.SCHED_BATCH]))


class GiveWayTests(SynchronousTestCase):
    """
    Tests for L{scheduling.giveWay}.
    """

    def test_refused(self) -> None:
        """
        If the kernel refuses, the process goes on.
        """
        yields = mock.Mock(side_effect=PermissionError)
        self.patch(os, "sched_yield", yields)
        scheduling.giveWay()
        yields.assert_called_once_with()
