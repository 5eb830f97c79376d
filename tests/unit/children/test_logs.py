"""
Tests for L{portlisten._children.logs}.
"""

from __future__ import annotations

from twisted.logger import capturedLogs, formatEventAsClassicLogText
from twisted.trial.unittest import SynchronousTestCase

from portlisten._children.logs import LineLogger


class LineLoggerTests(SynchronousTestCase):
    """
    Tests for L{LineLogger}.
    """

    def test_line(self) -> None:
        """
        The label stands where other lines have their part of the program, and the line
        is not changed.
        """
        with capturedLogs() as logged:
            LineLogger("web-1", "web", 1)("{a} %s {0!r}")
        [event] = logged
        text = formatEventAsClassicLogText(event)
        assert text is not None
        self.assertTrue(text.endswith(" [web-1] {a} %s {0!r}\n"), text)
