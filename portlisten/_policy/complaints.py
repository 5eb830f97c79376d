"""
Complaints are said once.
"""

from __future__ import annotations


class Complaint:
    """
    What a part of the process complains of while it tries again and again.  A reason
    is said once, and said again only if another reason, or success, came between.
    """

    def __init__(self) -> None:
        self._reason: str | None = None

    def isNew(self, reason: str) -> bool:
        """
        Note the reason of a failure.

        @return: whether to say it.
        """
        last, self._reason = self._reason, reason
        return reason != last

    def clear(self) -> bool:
        """
        Note a success.

        @return: whether a complaint ends by it.
        """
        last, self._reason = self._reason, None
        return last is not None
