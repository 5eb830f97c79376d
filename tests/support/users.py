"""
Users for tests.
"""

from __future__ import annotations

import pwd


def unusedUID() -> int:
    """
    A number that is no user's.
    """
    return next(
        number
        for number in range(54321, 65000)
        if number not in {entry.pw_uid for entry in pwd.getpwall()}
    )
