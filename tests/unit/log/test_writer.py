"""
Tests for L{portlisten._log.writer}.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import threading
from collections.abc import Callable

from twisted.trial.unittest import SynchronousTestCase

from portlisten._log import writer as module
from portlisten._log.writer import Sink, Writer

#: How long a test waits for the thread, in seconds.
PATIENCE = 30.0


class Gate:
    """
    A sink that blocks while its gate is closed.

    @ivar error: what to raise instead of writing.
    """

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.entered = threading.Event()
        self.changed = threading.Condition()
        self.data = b""
        self.error = 0
        self.most = 1 << 20

    def write(self, data: bytes) -> int:
        self.entered.set()
        self.opened.wait(PATIENCE)
        with self.changed:
            self.changed.notify_all()
            if self.error:
                raise OSError(self.error, os.strerror(self.error))
            self.data += data[: self.most]
            return len(data[: self.most])

    def await_(self, condition: Callable[[], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(condition, PATIENCE)


def dropped(count: int) -> bytes:
    return b"dropped %d\n" % count


class WriterTests(SynchronousTestCase):
    """
    Tests for L{Writer}.
    """

    def setUp(self) -> None:
        self.patch(module, "_writers", [])
        self.patch(module, "RETRY_SECONDS", 0.01)
        self.sink = Gate()
        self.addCleanup(self.sink.opened.set)
        self.writer = Writer(self.sink, dropped, maximum=100)

    def test_late(self) -> None:
        """
        Before the start, nothing is written, and no thread runs: the process may fork.
        """
        threads = threading.active_count()
        self.sink.opened.set()
        self.writer.put(b"a\n")
        self.assertEqual(threading.active_count(), threads)
        self.assertEqual(self.sink.data, b"")
        self.writer.start()
        self.writer.start()
        self.sink.await_(lambda: self.sink.data == b"a\n")
        self.assertEqual(threading.active_count(), threads + 1)

    def test_blocked(self) -> None:
        """
        While the sink blocks, no call waits for it.  What does not fit is counted, and
        the count is written where the lines would have been.
        """
        self.writer.start()
        self.writer.put(b"first\n")
        self.sink.entered.wait(PATIENCE)
        for number in range(50):
            self.writer.put(b"line %04d\n" % number)
        self.sink.opened.set()
        self.sink.await_(lambda: b"dropped" in self.sink.data)
        self.writer.put(b"last\n")
        self.sink.await_(lambda: self.sink.data.endswith(b"last\n"))
        lines = self.sink.data.decode().splitlines()
        self.assertEqual(lines[:3], ["first", "line 0000", "line 0001"])
        written = sum(line.startswith("line") for line in lines)
        counts = re.findall(r"dropped (\d+)", self.sink.data.decode())
        self.assertEqual(written + sum(map(int, counts)), 50)
        self.assertEqual(len(counts), 1)
        self.assertEqual(lines[-2:], [f"dropped {counts[0]}", "last"])

    def test_fails(self) -> None:
        """
        A write that fails is tried again, and no line is torn.
        """
        self.sink.error = errno.ENOSPC
        self.sink.opened.set()
        self.writer.start()
        for number in range(50):
            self.writer.put(b"line %04d\n" % number)
        with self.sink.changed:
            self.sink.changed.wait(PATIENCE)
            self.sink.error, self.sink.most = 0, 3
        self.sink.await_(lambda: b"dropped" in self.sink.data[:-4])
        self.writer.flush()
        lines = self.sink.data.decode().splitlines()
        for line in lines:
            self.assertRegex(line, r"^(line \d{4}|dropped \d+)$")
        counts = re.findall(r"dropped (\d+)", self.sink.data.decode())
        self.assertEqual(len(lines) - len(counts) + sum(map(int, counts)), 50)

    def test_end(self) -> None:
        """
        At the end, the writer waits for lines, though not for ever, and not at all if
        writing fails.
        """
        self.patch(module, "FAREWELL_SECONDS", 0.05)
        self.writer.put(b"a\n")
        self.writer.end()
        self.assertEqual(self.sink.data, b"")
        self.writer.put(b"b\n")
        self.sink.opened.set()
        self.sink.await_(lambda: self.sink.data == b"a\nb\n")

    def test_endFlushes(self) -> None:
        """
        What waits at the end is written before the call returns, and so is each later
        line.
        """
        self.sink.opened.set()
        self.writer.put(b"a\n")
        self.writer.end()
        self.assertEqual(self.sink.data, b"a\n")
        self.writer.put(b"b\n")
        self.assertEqual(self.sink.data, b"a\nb\n")

    def test_call(self) -> None:
        """
        A function is called between lines.
        """
        self.sink.opened.set()
        seen: list[bytes] = []
        self.writer.put(b"a\n")
        self.writer.call(lambda: seen.append(self.sink.data))
        self.writer.put(b"b\n")
        self.writer.end()
        self.assertEqual(seen, [b"a\n"])
        self.assertEqual(self.sink.data, b"a\nb\n")

    def test_signals(self) -> None:
        """
        The thread gets no signals, and the main thread still gets them.
        """
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        masks: list[set[int]] = []
        self.sink.opened.set()
        self.writer.call(
            lambda: masks.append(
                {int(each) for each in signal.pthread_sigmask(signal.SIG_BLOCK, ())}
            )
        )
        self.writer.end()
        self.assertIn(signal.SIGTERM, masks[0])
        self.assertEqual(signal.pthread_sigmask(signal.SIG_BLOCK, ()), blocked)

    def test_fork(self) -> None:
        """
        A child of the process writes none of the lines of its parent, and can write
        its own.
        """
        reader, writing = os.pipe()
        self.addCleanup(os.close, reader)
        module._writers.clear()
        writer = Writer(Sink(writing), dropped)
        writer.put(b"parent\n")
        writer.end()
        child = os.fork()
        if not child:
            try:
                writer.put(b"child\n")
                writer.flush()
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        os.close(writing)
        self.assertEqual(os.read(reader, 100), b"parent\nchild\n")
