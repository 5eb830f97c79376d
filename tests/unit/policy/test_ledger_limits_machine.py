"""
Stateful tests of L{portlisten._policy.ledger} with L{portlisten._policy.source_limits}:
each source is counted right, in any order of events.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hypothesis.stateful import invariant, run_state_machine_as_test
from twisted.trial.unittest import SynchronousTestCase

from portlisten._policy.ledger import Ledger
from portlisten._policy.source_limits import Limits, SourceLimits
from tests.support.settings import SETTINGS
from tests.unit.policy.test_ledger_machine import LedgerMachine


class CountedLedger:
    """
    A ledger whose ports have limits that nobody reaches.  Each connection has a source
    of its own.  If mypyc has compiled the ledger, no class here can be its subclass.
    """

    def __init__(self, *arguments: Any) -> None:
        self.table = SourceLimits(Limits())
        make: Any = Ledger
        self._ledger = make(*arguments, tables=[self.table])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)

    def addConnections(
        self, port: int, connections: Iterable[Any], now: float, *more: Any, **_: Any
    ) -> Any:
        """
        See L{Ledger.addConnections}.
        """
        batch = list(connections)
        sources = [self.table.arrive(object(), now)[0] for _ in batch]
        return self._ledger.addConnections(port, batch, now, *more, sources=sources)


class LimitedMachine(LedgerMachine):
    """
    The ledger gets all possible events in any possible order, and counts.
    """

    LEDGER = CountedLedger

    @invariant()
    def sourcesAreRight(self) -> None:
        """
        What counts are the connections that the ledger knows, and those that nobody
        will report.
        """
        ledger: Any = self.ledger
        places = ledger.whereabouts()
        known = places.waiting + places.offered + places.claimed + places.departed
        assert ledger.table.alive == known + len(ledger.left)
        sources = ledger.table.sources
        assert sum(each.alive for each in sources) == ledger.table.alive
        assert sum(each.waiting for each in sources) == places.waiting


class LimitedMachineTests(SynchronousTestCase):
    """
    The machine, through many histories.
    """

    def test_counts(self) -> None:
        """
        In any order of events, each source has as many connections as live.
        """
        run_state_machine_as_test(LimitedMachine, settings=SETTINGS)
