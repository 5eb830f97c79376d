"""
Tests for L{portlisten._handover.messages}.
"""

from __future__ import annotations

import json

from twisted.trial.unittest import SynchronousTestCase

from portlisten._control.convert import ControlError, Refusal
from portlisten._control.messages import encodeError
from portlisten._handover.messages import (
    VERSIONS,
    Commit,
    Message,
    Ready,
    Running,
    Stopping,
    agreed,
    decode,
    encode,
)

MESSAGES: list[Message] = [
    Ready((2**63 + 1, 5), ("http", "")),
    Commit(True, (12, 13)),
    Commit(False, ()),
    Commit(False, (), (("192.0.2.7", 1.5), ("2001:db8::/32", None))),
    Commit(False, (12,), (), ("web-1", "web-1")),
    Running(7),
    Stopping(),
]


class MessageTests(SynchronousTestCase):
    """
    Tests for L{encode}, L{decode} and L{agreed}.
    """

    def test_all(self) -> None:
        """
        Each message arrives as it was, in one line.
        """
        for message in MESSAGES:
            line = encode(message)
            self.assertEqual(line.count(b"\n"), 1)
            self.assertEqual(decode(line), message)

    def test_unknownFields(self) -> None:
        """
        A field that is not known is ignored.
        """
        line = json.dumps({"handover": "running", "pid": 3, "later": 1}).encode()
        self.assertEqual(decode(line), Running(3))

    def test_older(self) -> None:
        """
        A listener that speaks version 1 says nothing of what is denied, and can read
        what one says that denies nothing.
        """
        line = json.dumps({"handover": "commit", "paused": True, "drained": [3]})
        self.assertEqual(decode(line.encode()), Commit(True, (3,)))
        fields = json.loads(encode(Commit(True, (3,))))
        self.assertEqual(fields, {**json.loads(line), "denied": [], "labels": []})

    def test_refusal(self) -> None:
        """
        The other end may say why it ends the handover.
        """
        error = self.assertRaises(Refusal, decode, encodeError("no \x1b[1m time"))
        self.assertEqual(str(error), "no ?[1m time")

    def test_wrong(self) -> None:
        """
        Anything else is an error.
        """
        wrong: list[object] = [
            {},
            {"handover": "halt"},
            {"handover": ["ready"]},
            {"handover": "ready", "names": []},
            {"handover": "ready", "names": [1], "cookies": []},
            {"handover": "ready", "names": [], "cookies": [True]},
            {"handover": "ready", "names": "a", "cookies": []},
            {"handover": "commit", "paused": 1, "drained": []},
            {"handover": "commit", "paused": False, "drained": ["1"]},
            {"handover": "commit", "paused": False, "drained": [], "labels": [1]},
            *(
                {"handover": "commit", "paused": False, "drained": [], "denied": each}
                for each in (
                    None,
                    "192.0.2.7",
                    ["192.0.2.7"],
                    [["192.0.2.7"]],
                    [["192.0.2.7", "1"]],
                    [["192.0.2.7", True]],
                    [["192.0.2.7", float("nan")]],
                    [["192.0.2.7", 1, 2]],
                    [[7, 1]],
                    [["192.0.2.7/24", 1]],
                )
            ),
            {"handover": "running", "pid": True},
            {"handover": "running", "pid": None},
            [],
            None,
        ]
        for each in wrong:
            self.assertRaises(ControlError, decode, json.dumps(each).encode())
        self.assertRaises(ControlError, decode, b"\xff")

    def test_agreed(self) -> None:
        """
        The ends need a version in common.
        """
        self.assertEqual(agreed(["9", str(VERSIONS[0])]), VERSIONS[0])
        self.assertIsNone(agreed(["9"]))
        self.assertIsNone(agreed([]))
