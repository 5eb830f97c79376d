"""
Clocks whose time passes as it does for a process.
"""

from __future__ import annotations

from twisted.internet.task import Clock

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
