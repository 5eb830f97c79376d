"""
Tests for L{portlisten._process.forking}.  How signals are reset is also tested where
programs are started.
"""

from __future__ import annotations

import os
import signal
from typing import Any, NoReturn

from twisted.trial.unittest import SynchronousTestCase

from portlisten._process import forking
from tests.support.children import inChild
from tests.support.descriptors import watchDescriptors


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
        Signals with a handler are blocked until the child has reset them, and stay as
        they were in the parent.
        """

        def handle(*_: object) -> None:
            raise AssertionError("the handler of the parent ran")

        reader, writer = os.pipe()

        def child(blocked: forking.Mask) -> NoReturn:
            try:
                mask: set[Any] = signal.pthread_sigmask(signal.SIG_BLOCK, [])
                found = [signal.SIGUSR2 in mask]
                forking.resetSignals(blocked)
                mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
                found.append(mask == blocked == before)
                found.append(signal.getsignal(signal.SIGUSR2) is signal.SIG_DFL)
                os.write(writer, str(found).encode())
            finally:
                os._exit(0)

        before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        handler = signal.signal(signal.SIGUSR2, handle)
        try:
            pid = forking.fork(child)
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
            self.assertEqual(mask, before)
        finally:
            signal.signal(signal.SIGUSR2, handler)
        os.close(writer)
        os.waitpid(pid, 0)
        with open(reader) as file:
            self.assertEqual(file.read(), "[True, True, True]")

    def test_cannot(self) -> None:
        """
        If no process can be started, the signals are as before.
        """

        def fail() -> int:
            raise BlockingIOError

        def child(blocked: forking.Mask) -> NoReturn:
            raise AssertionError("no child was started")

        before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        handler = signal.signal(signal.SIGUSR2, lambda *_: None)
        self.addCleanup(signal.signal, signal.SIGUSR2, handler)
        self.patch(os, "fork", fail)
        self.assertRaises(BlockingIOError, forking.fork, child)
        self.assertEqual(signal.pthread_sigmask(signal.SIG_BLOCK, []), before)

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
