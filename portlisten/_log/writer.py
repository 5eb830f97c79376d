"""
Writes the log without waiting for its reader.

A pipe may be full, a disk may be full, and journald may be stopped.  The process must
serve on.  It cannot set O_NONBLOCK: that flag belongs to all processes that share the
terminal or the pipe.  So a thread writes.  Up to L{MAXIMUM_BYTES} wait for it.  Beyond
that, lines are counted and dropped.  As soon as lines fit again, a line says how many
were dropped.

A thread does not survive a fork, and C{twistd} forks when it becomes a daemon.  So the
thread starts after that.  Until then, lines only wait.
"""

from __future__ import annotations

import atexit
import os
import select
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

#: How many bytes of lines may wait.
MAXIMUM_BYTES = 1024 * 1024

#: How much is written at a time, in bytes.  A pipe takes so much in one piece, so lines
#: of several processes do not mix.
PIECE_BYTES = 4096

#: How long to wait after a failure before the next try, in seconds.
RETRY_SECONDS = 0.5

#: How long the end of the process may wait for the log, in seconds.
FAREWELL_SECONDS = 1.0


class Sink:
    """
    Where lines go: a descriptor.

    @ivar descriptor: the descriptor, which stays the caller's.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def write(self, data: bytes) -> int:
        """
        Write bytes.  This may block.

        @return: how many were written.
        @raise OSError: if none can be written.
        """
        return os.write(self.descriptor, data)


class Writer:
    """
    Writes lines to a sink.

    @param sink: see L{Sink}.
    @param dropped: makes the line that says how many lines were dropped.
    """

    def __init__(
        self,
        sink: Any,
        dropped: Callable[[int], bytes],
        maximum: int = MAXIMUM_BYTES,
    ) -> None:
        self._sink = sink
        self._makeDropped = dropped
        self._maximum = maximum
        self._changed = threading.Condition()
        self._lines: deque[bytes | Callable[[], None]] = deque()
        self._size = 0
        self._dropped = 0
        self._failing = False
        self._writing = False
        self._thread: threading.Thread | None = None
        # Once the process ends: until when to wait for the sink.
        self._end: float | None = None
        _writers.append(self)

    def put(self, line: bytes) -> None:
        """
        Write a line soon, or count it.

        @param line: the line, with its end.
        """
        with self._changed:
            if self._size + len(line) > self._maximum:
                self._dropped += 1
            else:
                if self._dropped:
                    self._sayDropped()
                self._append(line)
            ending = self._end is not None
        if ending:
            self.flush()

    def call(self, function: Callable[[], None]) -> None:
        """
        Call a function in the thread, after the lines so far.  It may raise L{OSError}.
        """
        with self._changed:
            self._lines.append(function)
            self._changed.notify_all()

    def start(self) -> None:
        """
        Begin to write.  After this, the process must not become a daemon by a fork.
        """
        with self._changed:
            if self._thread is not None:
                return
            self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        # The main thread gets the signals.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            self._thread.start()
        except RuntimeError:  # the user has too many threads
            self._thread = None
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def end(self) -> None:
        """
        The process is about to end: from now on, wait for each line to be written, for
        L{FAREWELL_SECONDS} altogether.
        """
        if self._end is None:
            self._end = time.monotonic() + FAREWELL_SECONDS
        self.flush()

    def flush(self) -> None:
        """
        Wait until all lines are written, until writing fails, or until the time of
        L{end} is over.
        """
        self.start()
        end = time.monotonic() + FAREWELL_SECONDS if self._end is None else self._end
        with self._changed:
            if self._thread is None:
                return
            self._changed.notify_all()
            while self._lines or self._writing or self._dropped:
                left = end - time.monotonic()
                if left <= 0 or self._failing:
                    return
                self._changed.wait(left)

    def afterFork(self) -> None:
        """
        This process is a child of the one that wrote.  It has no thread, and the lines
        that waited for the thread are the parent's.
        """
        if self._thread is not None:
            self._thread = None
            self._changed = threading.Condition()
            self._lines.clear()
            self._size = self._dropped = 0
            self._failing = self._writing = False

    def _append(self, line: bytes) -> None:
        self._lines.append(line)
        self._size += len(line)
        self._changed.notify_all()

    def _sayDropped(self) -> None:
        count, self._dropped = self._dropped, 0
        self._append(self._makeDropped(count))

    # In the thread

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._lines:
                    if self._dropped:
                        self._sayDropped()
                        break
                    self._writing = False
                    self._changed.notify_all()
                    self._changed.wait()
                self._writing = True
                piece = self._take()
            if callable(piece):
                with suppress(OSError):
                    piece()
            else:
                self._write(piece)

    def _take(self) -> bytes | Callable[[], None]:
        """
        Take the next lines.  They still count as waiting.
        """
        first = self._lines.popleft()
        if callable(first):
            return first
        taken, size = [first], len(first)
        while self._lines:
            line = self._lines[0]
            if callable(line) or size + len(line) > PIECE_BYTES:
                break
            self._lines.popleft()
            taken.append(line)
            size += len(line)
        return b"".join(taken)

    def _write(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            try:
                written = self._sink.write(left)
            except BlockingIOError:
                self._await()
                continue
            except OSError:
                self._fail()
                continue
            left = left[written:]
            with self._changed:
                self._failing = False
                self._size -= written

    def _await(self) -> None:
        """
        Others have set O_NONBLOCK: wait until bytes can be written.
        """
        poll = select.poll()
        poll.register(self._sink.descriptor, select.POLLOUT)
        poll.poll(RETRY_SECONDS * 1000)

    def _fail(self) -> None:
        with self._changed:
            self._failing = True
            self._changed.notify_all()
        time.sleep(RETRY_SECONDS)


#: All writers of this process.
_writers: list[Writer] = []


def startAll() -> None:
    """
    Begin to write.  See L{Writer.start}.
    """
    for each in _writers:
        each.start()


def endAll() -> None:
    """
    Write what waits, since the process is about to end.  See L{Writer.end}.
    """
    for each in _writers:
        each.end()


def _afterFork() -> None:
    for each in _writers:
        each.afterFork()


atexit.register(endAll)
os.register_at_fork(after_in_child=_afterFork)
