"""
The memory of the supervisor's processes.

To find the processes of a session, all processes of the host must be looked at.  So
this looks once for all sessions, and not too often.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from portlisten import _kernel

#: For how long what was read counts, in seconds.
FRESH_SECONDS = 0.5


class Memory:
    """
    Finds out how much memory sessions have.

    @param read: reads the resident memory of all sessions, by their numbers.
    @param seconds: reads a monotonic clock.
    """

    def __init__(
        self,
        read: Callable[[], Mapping[int, int]] = _kernel.sessionSizes,
        seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read = read
        self._seconds = seconds
        self._sizes: Mapping[int, int] = {}
        self._when: float | None = None

    def of(self, session: int) -> int:
        """
        Say how much memory a session has, in bytes.  What is known of a session may be
        L{FRESH_SECONDS} old.

        @param session: the number of a session whose first process was not waited for.
        """
        now = self._seconds()
        isOld = self._when is None or now - self._when >= FRESH_SECONDS
        if isOld or session not in self._sizes:
            self._sizes = self._read()
            self._when = now
        return self._sizes.get(session, 0)


#: That of this host.
MEMORY = Memory()
