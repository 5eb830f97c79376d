"""
Tests for L{portlisten._control.words}.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from portlisten._control.words import brief, duration, plural, size


class WordsTests(SynchronousTestCase):
    """
    Tests for numbers in words.
    """

    def test_duration(self) -> None:
        """
        A duration has two units at the most, and none that is 0.
        """
        for seconds, text in [
            (0, "0 s"),
            (0.4, "0 s"),
            (8.2, "8 s"),
            (59.6, "1 min"),
            (95, "1 min 35 s"),
            (3600, "1 h"),
            (3601, "1 h"),
            (11_530, "3 h 12 min"),
            (86_399.7, "1 d"),
            (1_000_000, "11 d 13 h"),
            (-1, "?"),
            (float("nan"), "?"),
            (float("inf"), "?"),
        ]:
            self.assertEqual(duration(seconds), text)

    def test_exact(self) -> None:
        """
        Tenths of seconds are shown where they matter, up to a minute.
        """
        for seconds, text in [
            (0, "0.0 s"),
            (12.34, "12.3 s"),
            (59.94, "59.9 s"),
            (59.96, "1 min"),
            (95.5, "1 min 36 s"),
        ]:
            self.assertEqual(duration(seconds, exact=True), text)

    @given(st.floats(), st.booleans())
    def test_anyDuration(self, seconds: float, exact: bool) -> None:
        """
        Any number can be written.
        """
        self.assertTrue(duration(seconds, exact))

    def test_size(self) -> None:
        """
        A number of bytes has the unit that makes it short.
        """
        for count, text in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (45 * 2**20, "45.0 MiB"),
            (250 * 2**20, "250 MiB"),
            (1000 * 2**20, "1.0 GiB"),
            (2**50, "1024 TiB"),
        ]:
            self.assertEqual(size(count), text)

    def test_plural(self) -> None:
        """
        One thing is no plural.
        """
        self.assertEqual(
            [plural(0), plural(1), plural(2, "worker")],
            ["0 connections", "1 connection", "2 workers"],
        )

    def test_brief(self) -> None:
        """
        A long text is shortened.
        """
        self.assertEqual(brief("a" * 40), "a" * 40)
        self.assertEqual(brief("a" * 41), "a" * 37 + "...")
