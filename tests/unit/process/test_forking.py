"""
Tests for L{portlisten._process.forking}.  How signals are reset is also tested where
programs are started.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from portlisten._process import forking
from tests.support.descriptors import watchDescriptors


def inChild(test: Callable[[], object]) -> str:
    """
    Run something in a forked child.

    @return: the text of its result, or of the exception that it raised.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.dup2(writer, 1)
            try:
                result = test()
            except Exception as error:
                result = repr(error)
            os.write(1, str(result).encode())
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with open(reader) as file:
        return file.read()


class ForkingTests(SynchronousTestCase):
    """
    Tests for L{forking}.
    """

    def setUp(self) -> None:
        watchDescriptors(self)

    def test_signalName(self) -> None:
        """
        Every signal can be named.
        """
        self.assertEqual(forking.signalName(15), "SIGTERM")
        self.assertEqual(forking.signalName(40), "signal 40")

    def test_signals(self) -> None:
        """
        Signals with a handler are blocked until the child has reset them.
        """

        def handle(*_: object) -> None:
            raise AssertionError("the handler of the parent ran")

        before = signal.signal(signal.SIGUSR2, handle)
        try:
            blocked = forking.blockHandled()
            try:
                mask: set[Any] = signal.pthread_sigmask(signal.SIG_BLOCK, [])
                self.assertIn(signal.SIGUSR2, mask)

                def reset() -> object:
                    forking.resetSignals(blocked)
                    left = signal.pthread_sigmask(signal.SIG_BLOCK, [])
                    return left == blocked, signal.getsignal(signal.SIGUSR2).name  # type: ignore[union-attr]

                self.assertEqual(inChild(reset), "(True, 'SIG_DFL')")
            finally:
                forking.unblock(blocked)
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
            self.assertEqual(mask, blocked)
        finally:
            signal.signal(signal.SIGUSR2, before)

    def test_closeFrom(self) -> None:
        """
        All descriptors from a number on are closed, but for those to keep.
        """

        def close() -> object:
            for number in (50, 51, 60):
                os.dup2(1, number)
            forking.closeFrom(51, keep=[60])
            left = [each for each in map(int, os.listdir("/proc/self/fd")) if each > 49]
            return sorted(left)

        self.assertEqual(inChild(close), "[50, 60]")
