"""
Tests for L{portlisten._monitor.charts}.
"""

from __future__ import annotations

import re
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from portlisten._monitor.charts import HEIGHT, WIDTH, ceiling, chart, number
from portlisten._monitor.history import Line


class ChartTests(SynchronousTestCase):
    """
    Tests for L{chart}, L{ceiling} and L{number}.
    """

    def test_ceiling(self) -> None:
        """
        The end of the scale is a round number that is not less than any value.
        """
        found = [ceiling(each) for each in (0, 1, 1.1, 4, 5, 50.1, 99, 101, 3748)]
        self.assertEqual(found, [1, 1, 2, 5, 5, 100, 100, 200, 5000])

    @given(st.floats(0, 1e15))
    def test_high(self, most: float) -> None:
        """
        So it is for each value, and at least two fifths of the picture are used.
        """
        self.assertGreaterEqual(ceiling(most), most)
        if most > 1:
            self.assertLessEqual(ceiling(most), most * 2.51)

    def test_number(self) -> None:
        """
        Small values have one digit after the point.
        """
        found = [number(each) for each in (None, 0.0, 3.14, 3.0, 31.4, 31415.9)]
        self.assertEqual(found, ["-", "0", "3.1", "3", "31", "31,416"])

    def test_line(self) -> None:
        """
        A line begins anew after a gap, and stays within the picture.
        """
        points = ((300.0, 0.0), (299.0, 5.0), (298.0, None), (2.0, 10.0), (0.0, 99.0))
        made = chart([Line("a", points)], 'a "b" <c>', 10)
        root = ElementTree.fromstring(made)
        self.assertEqual(root.attrib["aria-label"], 'a "b" <c>')
        [path] = [each.attrib["d"] for each in root if each.tag == "path"]
        self.assertEqual(path, "M0.0 100.0h.1L1.0 50.0M298.0 0.0h.1L300.0 0.0")
        numbers = [float(each) for each in re.findall(r"[\d.]+", path)]
        self.assertLessEqual(max(numbers), max(WIDTH, HEIGHT))

    def test_nothing(self) -> None:
        """
        Without lines, there is a picture all the same.
        """
        root = ElementTree.fromstring(chart([], "nothing", 1))
        self.assertEqual([each.tag for each in root], ["line"] * 3)
