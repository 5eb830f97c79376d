"""
Tests for L{portlisten._monitor.start}.
"""

from __future__ import annotations

import json
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from portlisten._control.convert import ControlError
from portlisten._monitor.start import (
    MAXIMUM_SOCKETS,
    MonitorStart,
    encodeStart,
    parseStart,
)


class StartTests(SynchronousTestCase):
    """
    Tests for L{encodeStart} and L{parseStart}.
    """

    def test_both(self) -> None:
        """
        What is written can be read, and is one line.
        """
        for message in (
            MonitorStart("ssl:1:privateKey=ü\n", 0),
            MonitorStart("", 1),
            MonitorStart("", MAXIMUM_SOCKETS, "json"),
        ):
            line = encodeStart(message)
            self.assertEqual(line.index(b"\n"), len(line) - 1)
            self.assertEqual(parseStart(line[:-1]), message)

    def test_wrong(self) -> None:
        """
        Anything else is an error that says what is wrong.
        """
        good = {"version": 1, "description": "", "sockets": 1, "logFormat": "text"}
        many = MAXIMUM_SOCKETS + 1
        cases: list[tuple[dict[str, Any], str]] = [
            ({"version": 2}, "another version than 1"),
            ({"version": True}, "another version than 1"),
            ({"version": "1"}, "another version than 1"),
            ({"more": 1}, "other fields"),
            ({"logFormat": "xml"}, "an unknown format of the log"),
            ({"logFormat": ["text"]}, "an unknown format of the log"),
            ({"description": None}, "a wrong type"),
            ({"sockets": True}, "a wrong type"),
            ({"sockets": "1"}, "a wrong type"),
            ({"sockets": 1.0}, "a wrong type"),
            ({"sockets": -1}, "neither sockets nor a description"),
            ({"sockets": many}, "neither sockets nor a description"),
            ({"sockets": 0}, "neither sockets nor a description"),
            ({"description": "tcp:1"}, "neither sockets nor a description"),
        ]
        for wrong, reason in cases:
            self.check(json.dumps({**good, **wrong}).encode(), reason)
        for name, reason in (
            ("version", "another version"),
            ("sockets", "other fields"),
        ):
            less = {key: value for key, value in good.items() if key != name}
            self.check(json.dumps(less).encode(), reason)
        for line in (b"", b"nonsense", b"[]", b"\xff", b"1", b"[" * 60000):
            self.check(line, "start message")

    def check(self, line: bytes, reason: str) -> None:
        """
        Check that a line is refused.
        """
        error = self.assertRaises(ControlError, parseStart, line)
        self.assertIn(reason, str(error))
        self.assertNotIn("\n", str(error))
