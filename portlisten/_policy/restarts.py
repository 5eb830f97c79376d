"""
When a process that has ended is started again.

The pause before the next start is short after the first failure, and doubles with
each further one.  A process that has been ready for a while is forgiven its failures.
After too many failures in a row, it is given up.

This module keeps no time: the caller waits.
"""

from __future__ import annotations

#: The pause after the first failure, and the longest pause, in seconds.
FIRST_PAUSE_SECONDS = 0.25
LONGEST_PAUSE_SECONDS = 30.0

#: After a process has been ready for so long, its failures are forgiven, in seconds.
FORGIVEN_SECONDS = 60.0

#: The pause after a process that was ready has ended with 0, in seconds.
CLEAN_PAUSE_SECONDS = 0.1


class Restarts:
    """
    Counts the failures of one process.

    @ivar most: how many failures in a row are too many; 0 if never.
    @ivar failures: how many failures in a row the process has.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.failures = 0

    def ended(self, readySeconds: float, clean: bool) -> float | None:
        """
        Note that the process has ended, though nobody told it to.

        @param readySeconds: for how long it was ready, in seconds; 0 if it never was.
        @param clean: whether it exited with 0.  A server may do so to be started anew,
            as after many requests.
        @return: the pause before the next start, in seconds; or L{None} if the process
            is given up.
        """
        if readySeconds >= FORGIVEN_SECONDS:
            self.failures = 0
        if clean and readySeconds > 0:
            return CLEAN_PAUSE_SECONDS
        self.failures += 1
        if self.most and self.failures >= self.most:
            return None
        # At 2**30 times the first pause, the limit is reached anyway.
        doubled = FIRST_PAUSE_SECONDS * 2.0 ** min(self.failures - 1, 30)
        return min(LONGEST_PAUSE_SECONDS, doubled)

    def forgive(self) -> None:
        """
        Forget all failures.
        """
        self.failures = 0
