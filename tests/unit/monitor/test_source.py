"""
Tests for L{portlisten._monitor.source}.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from portlisten._monitor import source


class SourceTests(SynchronousTestCase):
    """
    Tests for L{source.Source}.
    """

    def test_contract(self) -> None:
        """
        It can be asked for its latest answer.
        """
        self.assertTrue(callable(source.Source.latest))
