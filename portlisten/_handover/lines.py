"""
Reading lines, and the descriptors that come with them, before the reactor runs.
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Callable

from portlisten import _kernel
from portlisten._control.convert import ControlError
from portlisten.errors import ToldToStop

#: How often to check whether to stop waiting, in seconds.
CHECK_SECONDS = 0.1


class LineReader:
    """
    Reads from a connected Unix socket.

    @param sock: the socket, which stays the caller's.
    @param maximumBytes: how many bytes a line may have.
    @param maximumDescriptors: how many descriptors may come in all.
    @param interrupted: says whether to stop waiting.

    @ivar descriptors: the descriptors that came, which this object owns until the
        caller takes them out of the list, or calls L{close}.
    """

    def __init__(
        self,
        sock: socket.socket,
        maximumBytes: int,
        maximumDescriptors: int = 0,
        interrupted: Callable[[], bool] = lambda: False,
    ) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._maximumBytes = maximumBytes
        self._maximumDescriptors = maximumDescriptors
        self._interrupted = interrupted
        self._received = b""
        self.descriptors: list[int] = []

    def read(self, end: float) -> bytes | None:
        """
        Read a line.

        @param end: until when to wait, as a time of C{time.monotonic}.
        @return: the line, without its end.  L{None} if the other end has closed the
            connection.
        @raise TimeoutError: if no line comes in time.
        @raise ToldToStop: if the process is told to stop meanwhile.
        @raise ControlError: if the line is too long, or too many descriptors come.
        """
        while b"\n" not in self._received:
            if len(self._received) > self._maximumBytes:
                raise ControlError(f"a line of more than {self._maximumBytes} bytes")
            if not self._readOnce(end):
                return None
        line, _, self._received = self._received.partition(b"\n")
        if len(line) > self._maximumBytes:
            raise ControlError(f"a line of more than {self._maximumBytes} bytes")
        return line

    def _readOnce(self, end: float) -> bool:
        """
        @return: whether bytes came.
        """
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        while True:
            left = end - time.monotonic()
            if self._interrupted():
                raise ToldToStop("told to stop while it took over")
            if left <= 0:
                raise TimeoutError
            if poll.poll(min(left, CHECK_SECONDS) * 1000):
                break
        try:
            data, descriptors = _kernel.receive(self._socket)
        except BlockingIOError:
            return True
        except OSError:
            return False
        self.descriptors += descriptors
        if len(self.descriptors) > self._maximumDescriptors:
            raise ControlError("too many descriptors came")
        self._received += data
        return bool(data)

    def close(self) -> None:
        """
        Close the descriptors that came.  May be called again.
        """
        descriptors, self.descriptors = self.descriptors, []
        for each in descriptors:
            os.close(each)
