"""
Clocks whose time passes as it does for a process.
"""

from __future__ import annotations

import select
from typing import Any

from twisted.internet.task import Clock
from twisted.python.failure import Failure

#: How much time passes at once for a process that runs, in seconds.
STEP = 0.02


class RunningClock(Clock):
    """
    A clock whose time passes in small steps, as it does for a process that runs.
    """

    def advance(self, amount: float) -> None:
        """
        See L{Clock.advance}.
        """
        end = self.rightNow + amount
        while self.rightNow + 2 * STEP < end:
            super().advance(STEP)
        super().advance(end - self.rightNow)
        self.rightNow = end


class ReadingClock(RunningClock):
    """
    A running clock that also reads and writes, when told.

    @ivar readers: what it reads from.
    @ivar writers: what it writes to.
    """

    def __init__(self) -> None:
        super().__init__()
        self.readers: list[Any] = []
        self.writers: list[Any] = []

    def addReader(self, reader: Any) -> None:
        """
        See L{IReactorFDSet}.
        """
        if reader not in self.readers:
            self.readers.append(reader)

    def removeReader(self, reader: Any) -> None:
        """
        See L{IReactorFDSet}.
        """
        if reader in self.readers:
            self.readers.remove(reader)

    def addWriter(self, writer: Any) -> None:
        """
        See L{IReactorFDSet}.
        """
        if writer not in self.writers:
            self.writers.append(writer)

    def removeWriter(self, writer: Any) -> None:
        """
        See L{IReactorFDSet}.
        """
        if writer in self.writers:
            self.writers.remove(writer)

    def read(self) -> None:
        """
        Let all readers read for which something has come, and all writers write.
        """
        for reader in list(self.readers):
            poll = select.poll()
            poll.register(reader, select.POLLIN)
            if poll.poll(0):
                self._end(reader, reader.doRead())
        for writer in list(self.writers):
            self._end(writer, writer.doWrite())

    def _end(self, connection: Any, reason: BaseException | None) -> None:
        if reason is not None:
            self.removeReader(connection)
            self.removeWriter(connection)
            connection.connectionLost(Failure(reason))


class TurningClock(Clock):
    """
    A clock whose turn makes only the calls that are due at its beginning, as a
    reactor's does.
    """

    def advance(self, amount: float) -> None:
        """
        See L{Clock.advance}.
        """
        self.rightNow += amount
        due = [call for call in self.calls if call.getTime() <= self.rightNow]
        for call in due:
            self.calls.remove(call)
            call.called = 1
            call.func(*call.args, **call.kw)
