"""
Log each complaint once.
"""

from __future__ import annotations


class Complaint:
    """
    The complaint of a part of the process that tries something again and again.  A
    reason is logged once.  It is logged again only after another reason, or after a
    success.
    """

    def __init__(self) -> None:
        self._reason: str | None = None

    def isNew(self, reason: str) -> bool:
        """
        Note the reason of a failure.

        @return: whether to log it.
        """
        last, self._reason = self._reason, reason
        return reason != last

    def clear(self) -> bool:
        """
        Note a success.

        @return: whether this ends a complaint.
        """
        last, self._reason = self._reason, None
        return last is not None
