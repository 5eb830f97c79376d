"""
Tests for L{portlisten._kernel.host}.
"""

from __future__ import annotations

import builtins

from twisted.trial.unittest import SynchronousTestCase

from portlisten._kernel import host


class HostTests(SynchronousTestCase):
    """
    What the host allows.
    """

    def test_known(self) -> None:
        """
        The limits are the host's.
        """
        with open("/proc/sys/net/core/somaxconn") as file:
            self.assertEqual(host.longestBacklog(), int(file.read()))
        with open("/proc/sys/fs/nr_open") as file:
            self.assertEqual(host.mostOpenFiles(), int(file.read()))

    def test_unknown(self) -> None:
        """
        Where the host does not say, the backlog is a usual one.
        """

        def fail(name: str) -> None:
            raise FileNotFoundError

        self.patch(builtins, "open", fail)
        self.assertEqual(host.longestBacklog(), 4096)
        self.assertIsNone(host.mostOpenFiles())
