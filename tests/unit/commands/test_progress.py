"""
Tests for L{portlisten._commands.progress}.  See also C{tests.unit.process.test_output}.
"""

from __future__ import annotations

import io
import sys

from twisted.trial.unittest import SynchronousTestCase

from portlisten._commands.progress import writable


class WritableTests(SynchronousTestCase):
    """
    Tests for L{writable}.
    """

    def test_writable(self) -> None:
        """
        What standard output cannot write is replaced.
        """
        self.patch(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="latin-1"))
        self.assertEqual(writable("fünf → 5"), "fünf ? 5")
