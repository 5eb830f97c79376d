"""
Tests for L{portlisten._blocking.loop}.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

from twisted.trial.unittest import SynchronousTestCase

from portlisten._blocking.loop import Loop
from tests.support.channels import PATIENCE
from tests.support.descriptors import watchDescriptors
from tests.support.listening_sockets import eventually


class LoopTests(SynchronousTestCase):
    """
    Tests for L{Loop}, in its thread.
    """

    def setUp(self) -> None:
        watchDescriptors(self)
        self.loop = Loop()
        self.addCleanup(self.end)

    def end(self) -> None:
        """
        Stop the thread.
        """
        with self.loop.lock:
            self.loop.close()
        self.loop.join(PATIENCE)
        del self.loop

    def happens(self, ask: Callable[[Callable[[], None]], object]) -> float:
        """
        Wait for a call.

        @param ask: asks for it.
        @return: after how many seconds it was made.
        """
        event = threading.Event()
        start = time.monotonic()
        with self.loop.lock:
            ask(event.set)
        self.assertTrue(event.wait(PATIENCE))
        return time.monotonic() - start

    def sleeps(self) -> bool:
        """
        Whether the loop has begun to sleep, and has let go of the lock.
        """
        with self.loop.lock:
            return self.loop._asleep

    def test_soon(self) -> None:
        """
        A call is made in the next turn, also if the loop sleeps without an end.
        """
        self.loop.start("test")
        for _ in range(3):
            self.assertLess(self.happens(self.loop.call_soon), PATIENCE)

    def test_later(self) -> None:
        """
        A call is made after its delay, and earlier calls are made earlier.
        """
        self.loop.start("test")
        calls: list[str] = []
        with self.loop.lock:
            self.loop.call_later(5 * PATIENCE, calls.append, "never")
            self.loop.call_later(0.05, calls.append, "second")
            self.loop.call_later(0.01, calls.append, "first")
            cancelled = self.loop.call_later(0.02, calls.append, "cancelled")
            cancelled.cancel()
        took = self.happens(lambda then: self.loop.call_later(0.1, then))
        self.assertGreaterEqual(took, 0.1)
        self.assertEqual(calls, ["first", "second"])

    def test_muchLater(self) -> None:
        """
        A call may be due after more milliseconds than epoll takes.
        """
        self.loop.start("test")
        with self.loop.lock:
            self.loop.call_later(1e9, lambda: None)
        for _ in range(3):
            self.assertLess(self.happens(self.loop.call_soon), PATIENCE)

    def test_reader(self) -> None:
        """
        What is readable is reported, until it is watched no more.
        """
        reading, writing = os.pipe()
        self.addCleanup(os.close, reading)
        self.addCleanup(os.close, writing)
        self.loop.start("test")
        with self.loop.lock:
            event = threading.Event()

            def ready() -> None:
                os.read(reading, 1)
                event.set()

            self.loop.add_reader(reading, ready)
        for _ in range(2):
            event.clear()
            os.write(writing, b"x")
            self.assertTrue(event.wait(PATIENCE))
        with self.loop.lock:
            self.loop.remove_reader(reading)
            self.loop.remove_reader(reading)
        event.clear()
        os.write(writing, b"x")
        self.assertFalse(event.wait(0.05))

    def test_callAtOnce(self) -> None:
        """
        A call is made in the caller's thread if the lock is free.
        """
        self.loop.start("test")
        eventually(self.sleeps)
        threads: list[int] = []
        self.loop.call(lambda: threads.append(threading.get_ident()))
        self.assertEqual(threads, [threading.get_ident()])

    def test_callWithTheLock(self) -> None:
        """
        Code that has the lock is not disturbed: the call is made in the next turn.
        """
        self.loop.start("test")
        event = threading.Event()
        with self.loop.lock:
            self.loop.call(event.set)
            self.assertFalse(event.is_set())
        self.assertTrue(event.wait(PATIENCE))

    def test_callWhileAnotherHasTheLock(self) -> None:
        """
        A call does not wait for the lock.
        """
        self.loop.start("test")
        event = threading.Event()
        with self.loop.lock:
            other = threading.Thread(target=self.loop.call, args=(event.set,))
            other.start()
            other.join(PATIENCE)
            self.assertFalse(other.is_alive())
            self.assertFalse(event.is_set())
        self.assertTrue(event.wait(PATIENCE))

    def test_closed(self) -> None:
        """
        A loop that was closed makes no more calls.
        """
        self.loop.start("test")
        with self.loop.lock:
            self.loop.close()
        self.loop.join(PATIENCE)
        self.assertTrue(self.loop.is_closed())
        self.loop.call(self.fail)

    def test_bug(self) -> None:
        """
        If a call fails, that is logged, and the loop goes on.
        """
        self.loop.start("test")

        def fail() -> None:
            raise ValueError("a bug")

        with self.assertLogs("portlisten", "ERROR") as logged:
            with self.loop.lock:
                self.loop.call_soon(fail)
            self.happens(self.loop.call_soon)
        self.assertIn("a bug in portlisten", logged.output[0])
