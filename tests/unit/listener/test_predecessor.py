"""
Tests for L{portlisten._listener.predecessor}.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

from portlisten._handover.takeover import Takeover
from portlisten._listener import predecessor, successor
from portlisten._process import signals
from portlisten.errors import CannotTakeOver
from tests.support.predecessors import TakingOverTestCase


class ConnectTests(TakingOverTestCase):
    """
    Tests for L{predecessor.connect}.
    """

    def connect(
        self, control: str | None = None, users: tuple[int, ...] = ()
    ) -> Takeover | None:
        """
        Connect.
        """
        found = predecessor.connect(self.path, control, users or (os.geteuid(),))
        if found is not None:
            self.addCleanup(found.close)
        return found

    def fails(self, *arguments: Any) -> str:
        """
        It fails.

        @return: why, without the usual beginning.
        """
        error = self.assertRaises(CannotTakeOver, self.connect, *arguments)
        text = str(error)
        start = f"cannot take over from the listener at {self.path}"
        self.assertTrue(text.startswith(start), text)
        return text.removeprefix(start)

    def test_lives(self) -> None:
        """
        If a listener lives at the path, its control socket is found.
        """
        self.live()
        found = self.connect()
        assert found is not None
        self.assertEqual(found.link.getpeername(), f"{self.path}.ctl")
        self.assertEqual(found.where, f"the listener at {self.path}")
        self.assertIs(found.interrupted, signals.stopRequested)

    def test_nobody(self) -> None:
        """
        If nothing is at the path, or a dead listener's socket, there is none.
        """
        self.assertIsNone(self.connect())
        self.live().close()
        self.assertIsNone(self.connect())

    def test_stops(self) -> None:
        """
        If the listener stops, it is not taken over.
        """
        self.live()
        self.patch(successor, "isStopping", lambda path, silent: True)
        self.assertIsNone(self.connect())

    def test_noControl(self) -> None:
        """
        A listener without a control socket cannot be replaced.
        """
        self.live()
        self.assertIn(" without its control socket", self.fails(""))

    def test_missing(self) -> None:
        """
        Neither can one whose control socket is elsewhere, or of an old release.
        """
        self.live()
        self.assertIn("no control socket at", self.fails(f"{self.folder}/other"))

    def test_refused(self) -> None:
        """
        So it is if nobody listens there.
        """
        self.live()
        other = f"{self.folder}/other"
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(other)
        self.assertIn("was started with another --control", self.fails(other))

    def test_noSocket(self) -> None:
        """
        Another error is named.
        """
        self.live()
        other = f"{self.folder}/file/x"
        Path(self.folder, "file").touch()
        self.assertEqual(self.fails(other), f": {other}: Not a directory")

    def test_full(self) -> None:
        """
        If the listener does not accept, it may be stopped.
        """
        self.live()
        other = f"{self.folder}/other"
        with (
            socket.socket(socket.AF_UNIX) as sock,
            socket.socket(socket.AF_UNIX) as first,
        ):
            sock.bind(other)
            sock.listen(0)
            first.connect(other)
            text = self.fails(other)
        self.assertIn("it does not answer: see whether it is stopped", text)

    def test_stranger(self) -> None:
        """
        A process of another user may not pass itself off as the listener.
        """
        self.live()
        self.assertEqual(
            self.fails(None, (4711,)),
            f": a process of uid {os.geteuid()} is at its control socket,"
            f" {self.path}.ctl",
        )
