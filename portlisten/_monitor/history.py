"""
What was going on in the last minutes.
"""

from __future__ import annotations

from portlisten._control.messages import StatusAnswer


class History:
    """
    Keeps a sample a second of the last five minutes.
    """

    def add(self, at: float, answer: StatusAnswer | None) -> None:
        """
        Add a sample.

        @param at: when it was taken, in monotonic seconds.
        @param answer: the status; L{None} if nobody answered.
        """
