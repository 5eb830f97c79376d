"""
Tests for L{_kernel.lives}.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys

from twisted.trial.unittest import SynchronousTestCase

from portlisten import _kernel
from tests.support.descriptors import watchDescriptors


class LivesTests(SynchronousTestCase):
    """
    Tests for L{_kernel.lives}.
    """

    def setUp(self) -> None:
        watchDescriptors(self)

    def test_all(self) -> None:
        """
        A process lives until it has ended, and not until somebody has waited for it.
        """
        process = subprocess.Popen(
            [sys.executable, "-c", "input()"], stdin=subprocess.PIPE
        )
        self.assertTrue(_kernel.lives(process.pid))
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        self.assertFalse(_kernel.lives(process.pid))
        process.communicate()
        self.assertFalse(_kernel.lives(process.pid))

    def test_older(self) -> None:
        """
        A kernel may have no pidfds.
        """

        def fail(pid: int) -> int:
            raise OSError(errno.ENOSYS, "no such call")

        self.patch(os, "pidfd_open", fail)
        self.assertTrue(_kernel.lives(os.getpid()))
        self.assertFalse(_kernel.lives(2**22 + 1))
