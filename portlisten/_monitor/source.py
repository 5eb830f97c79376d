"""
Where the monitor gets its answers from.
"""

from __future__ import annotations

from typing import Protocol

from twisted.internet.defer import Deferred

from portlisten._control.messages import StatusAnswer


class Source(Protocol):
    """
    Asks the listener, or its supervisor, for its status.
    """

    def latest(self, age: float) -> Deferred[StatusAnswer]:
        """
        Get the status.

        @param age: how old the answer may be, in seconds.
        @return: fires with the answer.  Fails with
            L{ControlError<portlisten._control.convert.ControlError>} if there is none
            within a few seconds.
        """
