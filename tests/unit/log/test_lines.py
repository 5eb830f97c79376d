"""
Tests for L{portlisten._log.lines}.
"""

from __future__ import annotations

import json
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from portlisten._log.lines import MAXIMUM_BYTES, encode, merge, timeOf


def parsed(line: str | None) -> Any:
    """
    Read a line of JSON strictly.
    """
    assert line is not None
    assert "\n" not in line

    def refuse(name: str) -> None:
        raise AssertionError(name)

    return json.loads(line, parse_constant=refuse)


class EncodeTests(SynchronousTestCase):
    """
    Tests for L{encode}.
    """

    def test_time(self) -> None:
        """
        Times are those of UTC, to the millisecond, and are not rounded up.
        """
        self.assertEqual(timeOf(0), "1970-01-01T00:00:00.000Z")
        self.assertEqual(timeOf(1795788672.1239), "2026-11-27T14:11:12.123Z")

    def test_keys(self) -> None:
        """
        The four keys come first.  Keys that do not apply are absent.
        """
        fields = {
            "pid": None,
            "worker": "web-1",
            "count": 3,
            "channel": "x",
            "ok": True,
        }
        made = parsed(encode("worker-lost", "warn", "it\ndied", 0, fields))
        self.assertEqual(list(made)[:4], ["time", "event", "level", "message"])
        self.assertEqual(
            made,
            {
                "time": "1970-01-01T00:00:00.000Z",
                "event": "worker-lost",
                "level": "warn",
                "message": "it\ndied",
                "worker": "web-1",
                "count": 3,
                "ok": True,
            },
        )

    def test_values(self) -> None:
        """
        Whatever a field has, the line is JSON.  A field replaces no key.
        """
        fields = {
            "event": "other",
            "nan": float("nan"),
            "list": ("a", 1, ValueError("b")),
            "object": ValueError("c"),
            "surrogate": "\udcff",
        }
        made = parsed(encode("log", "info", "", 0, fields))
        self.assertEqual(made["event"], "log")
        self.assertEqual(made["nan"], "nan")
        self.assertEqual(made["list"], ["a", 1, "b"])
        self.assertEqual(made["object"], "c")

    def test_long(self) -> None:
        """
        A long line is cut so that it stays a line: the beginning of a text is kept, and
        the end of a traceback.
        """
        fields: dict[str, Any] = {"traceback": "x" * 9000 + "end", "peer": "[::1]:5"}
        line = encode("bug", "critical", "begin" + "y" * 9000, 0, fields)
        self.assertLessEqual(len(line), MAXIMUM_BYTES)
        made = parsed(line)
        self.assertTrue(made["message"].startswith("beginy"))
        self.assertTrue(made["traceback"].endswith("xend"))
        self.assertEqual(made["peer"], "[::1]:5")
        line = encode("bug", "info", "\N{PILE OF POO}" * 9000, 0, {"a": "ä" * 9000})
        self.assertLessEqual(len(line), MAXIMUM_BYTES)
        self.assertEqual(parsed(line)["event"], "bug")


class MergeTests(SynchronousTestCase):
    """
    Tests for L{merge}.
    """

    def test_added(self) -> None:
        """
        Keys are added where they are absent.  The label of the process cannot be
        forged.
        """
        line = '{"event": "mine", "pid": 1, "process": "listener"}'
        keys = {"event": "output", "pid": 7, "slot": 2, "worker": None}
        made = parsed(merge(line, 0, keys, {"process": "web-2"}))
        self.assertEqual(
            made,
            {
                "event": "mine",
                "pid": 1,
                "process": "web-2",
                "time": "1970-01-01T00:00:00.000Z",
                "slot": 2,
            },
        )

    def test_noObject(self) -> None:
        """
        Other lines are left alone, also those that only look like JSON.
        """
        for line in (
            "",
            "GET / 200",
            "[1]",
            "{",
            "{'a': 1}",
            '{"a": NaN}',
            '{"a": Infinity}',
            '{"a": 1e999}',
            '{"a": ' + "[" * 100000,
            '{"a": ' + "9" * 5000 + "}",
        ):
            self.assertIsNone(merge(line, 0, {}, {}), line[:20])
