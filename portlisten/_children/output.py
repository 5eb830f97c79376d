"""
The output of a process, as lines.

L{Lines} divides bytes into lines.  L{Output} reads a pipe in the reactor.  A process
that writes without end gets only a part of each turn of the reactor: it waits while its
pipe is full.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IDelayedCall, IReadDescriptor
from zope.interface import implementer

from portlisten import _kernel
from portlisten._children.logs import log

#: How long a line may be, in bytes.  A longer line is divided.
MAXIMUM_LINE_BYTES = 8192

#: How much is read in a turn of the reactor, in bytes.
PIECE_BYTES = 16384

#: How many lines are passed on in a turn of the reactor.
LINES_A_TURN = 64

#: What may not be in a line of a log: the control characters but the tab, and other
#: ends of a line.
_CONTROL = dict.fromkeys(
    (*range(9), *range(10, 32), *range(127, 160), 0x2028, 0x2029),
    "\N{REPLACEMENT CHARACTER}",
)


class Lines:
    """
    Divides bytes into lines of text.
    """

    def __init__(self) -> None:
        self._bytes = bytearray()

    def add(self, data: bytes) -> None:
        """
        Add bytes.
        """
        self._bytes += data

    def next(self, ended: bool) -> str | None:
        """
        Take the next line, without its end.  What is not UTF-8, and control characters
        but the tab, are replaced.

        @param ended: whether no bytes will be added.  Then the last line needs no end.
        @return: L{None} if no line is complete.
        """
        end = self._bytes.find(b"\n", 0, MAXIMUM_LINE_BYTES + 1)
        if end >= 0:
            taken, length = self._bytes[:end].removesuffix(b"\r"), end + 1
        elif len(self._bytes) > MAXIMUM_LINE_BYTES:
            length = _cut(self._bytes, MAXIMUM_LINE_BYTES)
            taken = self._bytes[:length]
        elif ended and self._bytes:
            taken, length = self._bytes[:], len(self._bytes)
        else:
            return None
        del self._bytes[:length]
        return taken.decode("utf-8", "replace").translate(_CONTROL)


def _cut(data: bytearray, length: int) -> int:
    """
    Find where to divide a line, so that no character is divided.
    """
    for cut in range(length, length - 4, -1):
        if data[cut] & 0xC0 != 0x80:
            return cut
    return length  # it is not UTF-8


@implementer(IReadDescriptor)
class Reader:
    """
    A descriptor that a reactor watches.

    @param read: called when it can be read.
    @param lost: called when the reactor drops it.
    """

    def __init__(
        self, descriptor: int, read: Callable[[], None], lost: Callable[[], None]
    ) -> None:
        self._descriptor = descriptor
        self._read = read
        self._lost = lost

    def fileno(self) -> int:
        """
        See L{IReadDescriptor}.
        """
        return self._descriptor

    def doRead(self) -> None:
        """
        See L{IReadDescriptor}.
        """
        self._read()

    def connectionLost(self, reason: object) -> None:
        """
        See L{IReadDescriptor}.
        """
        self._lost()

    def logPrefix(self) -> str:
        """
        See L{IReadDescriptor}.
        """
        return "-"


class Output:
    """
    Reads a pipe to its end.

    @param descriptor: the pipe, which must not block.  It is owned by this object.
    @param onLine: called with each line.
    @param onEnd: called once, after the last line; not after L{close}.
    @param label: the label of the process, for the log.
    """

    def __init__(
        self,
        reactor: Any,
        descriptor: int,
        onLine: Callable[[str], None],
        onEnd: Callable[[], None],
        label: str = "a process",
    ) -> None:
        self._reactor = reactor
        self._label = label
        self._reader = Reader(descriptor, self._read, self._end)
        self._descriptor = descriptor
        self._onLine = onLine
        self._onEnd = onEnd
        self._lines = Lines()
        self._reading = False
        self._later: IDelayedCall | None = None
        # How many bytes are still to be read, once the process has ended.
        self._left: int | None = None
        self._done = False

    def start(self) -> None:
        """
        Begin to read.

        @raise OSError: if the reactor cannot watch the pipe.
        """
        self._reactor.addReader(self._reader)
        self._reading = True

    def finish(self) -> None:
        """
        Read what is in the pipe now, and then close it.  Call this when the process has
        ended.  A process of another session may still have the pipe open, and write to
        it without end.
        """
        if self._descriptor != -1:
            self._left = _kernel.unreadBytes(self._descriptor)
            if not self._left:
                self._end()

    def close(self) -> None:
        """
        Close the pipe at once, and pass on nothing more.
        """
        self._done = True
        self._closePipe()
        later, self._later = self._later, None
        if later is not None:
            later.cancel()

    def _closePipe(self) -> None:
        self._pause()
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor != -1:
            os.close(descriptor)

    def _pause(self) -> None:
        if self._reading:
            self._reading = False
            self._reactor.removeReader(self._reader)

    def _end(self) -> None:
        """
        Pass on what was read, and nothing more.  The reactor calls this as well, in the
        place of a last read, if the pipe is empty and nobody has its other end.
        """
        self._closePipe()
        if self._later is None and not self._done:
            self._deliver()

    def _read(self) -> None:
        size = PIECE_BYTES if self._left is None else min(PIECE_BYTES, self._left)
        try:
            data = os.read(self._descriptor, size)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._lines.add(data)
        if self._left is not None:
            self._left -= len(data)
        if not data or self._left == 0:
            self._closePipe()
        self._deliver()

    def _deliver(self) -> None:
        """
        Pass on lines.  If more are left, read no more before the next turn.
        """
        self._later = None
        for _ in range(LINES_A_TURN):
            line = self._lines.next(ended=self._descriptor == -1)
            if line is None:
                self._delivered()
                return
            try:
                self._onLine(line)
            except Exception:
                log.failure(
                    "a line of {process} cannot be passed on",
                    event="output-lost",
                    process=self._label,
                )
            if self._done:
                return
        self._pause()
        self._later = self._reactor.callLater(0, self._deliver)

    def _delivered(self) -> None:
        if self._descriptor == -1:
            self._done = True
            self._onEnd()
        elif not self._reading:
            self._resume()

    def _resume(self) -> None:
        try:
            self.start()
        except OSError:
            log.failure(
                "the output of {process} cannot be read any more",
                event="output-lost",
                process=self._label,
            )
            self._end()
