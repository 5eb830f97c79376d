"""
Tests for L{portlisten._control.place}.
"""

from __future__ import annotations

import os
import socket
import stat

from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from portlisten._channel import paths
from portlisten._control.place import bindControl, controlPath
from portlisten.errors import PathError
from tests.support.channels import texts
from tests.support.descriptors import watchDescriptors


class PlaceTests(SynchronousTestCase):
    """
    Tests for the path of the control socket.
    """

    def setUp(self) -> None:
        watchDescriptors(self)
        self.channel = os.path.join(os.path.dirname(self.mktemp()), "path")

    def test_usual(self) -> None:
        """
        By default, the path is the channel's, and a suffix, if that fits a socket.
        """
        self.assertEqual(controlPath("/run/s"), "/run/s.ctl")
        self.assertEqual(controlPath("x" * 103), "x" * 103 + ".ctl")
        self.assertIsNone(controlPath("x" * 104))
        self.assertIsNone(controlPath("\u00e9" * 52))

    def test_given(self) -> None:
        """
        The operator may give another path, or want none.
        """
        self.assertEqual(controlPath("/run/s", "/run/c"), "/run/c")
        self.assertEqual(controlPath("x" * 107, "/run/c"), "/run/c")
        self.assertEqual(controlPath("/run/s", ""), "")

    def test_bind(self) -> None:
        """
        Only its owner, and root, may connect, with any umask.
        """
        self.addCleanup(os.umask, os.umask(0))
        path = f"{self.channel}.ctl"
        bound = bindControl(self.channel, path)
        self.addCleanup(bound.socket.close)
        self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o600)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
        self.assertTrue(bound.remove())

    def test_owner(self) -> None:
        """
        The path is given to its owner after it is bound.
        """
        given: list[tuple[object, ...]] = []
        self.patch(paths, "giveToUser", lambda *each: given.append(each))
        path = f"{self.channel}.ctl"
        bound = bindControl(self.channel, path, 54321)
        self.addCleanup(bound.socket.close)
        self.assertEqual(given, [(path, 0o600, 54321)])
        bound.remove()
        bindControl(self.channel, path).socket.close()
        self.assertEqual(len(given), 1)

    def test_notGiven(self) -> None:
        """
        If that is impossible, a line says so, and the listener starts all the same.
        """
        for error, reason in (
            (PermissionError(1, "Operation not permitted"), "Operation not permitted"),
            (PathError("it changed"), "it changed"),
        ):

            def fail(*_: object, error: Exception = error) -> None:
                raise error

            self.patch(paths, "giveToUser", fail)
            with capturedLogs() as logged:
                bound = bindControl(self.channel, f"{self.channel}.ctl", 54321)
            bound.remove()
            bound.socket.close()
            self.assertEqual(
                texts(logged, "warn"),
                [
                    "uid 54321 cannot use the control socket, and only root can:"
                    f" {reason}"
                ],
            )

    def test_taken(self) -> None:
        """
        A path that a living listener has is refused, and the option is named.
        """
        path = f"{self.channel}.ctl"
        bound = bindControl(self.channel, path)
        self.addCleanup(bound.socket.close)
        error = self.assertRaises(PathError, bindControl, self.channel, path)
        self.assertIn(f"--control: a listener lives at {path} already", str(error))
        bound.remove()

    def test_channel(self) -> None:
        """
        The channel's own path is refused.
        """
        same = os.path.join(os.path.dirname(self.channel), ".", "path")
        error = self.assertRaises(PathError, bindControl, self.channel, same)
        self.assertIn("is PATH, where workers connect", str(error))

    def test_wrong(self) -> None:
        """
        A path that no socket can have is refused.
        """
        for path, reason in [
            ("x" * 108, "is 108 bytes long"),
            (f"{self.channel}/s", "does not exist"),
        ]:
            error = self.assertRaises(PathError, bindControl, self.channel, path)
            self.assertIn("--control: ", str(error))
            self.assertIn(reason, str(error))
