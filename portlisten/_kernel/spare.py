"""
A descriptor in reserve, for what needs one more for a moment.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class SpareDescriptor:
    """
    Keeps a descriptor, so that its place is free when all others are taken.  It begins
    without one.
    """

    def __init__(self) -> None:
        self._descriptor: int | None = None

    def reserve(self) -> bool:
        """
        Keep a descriptor, if none is kept yet.

        @return: whether one is kept now.  If not, try again when the process has
            closed another one.
        """
        if self._descriptor is None:
            try:
                # A chroot may lack /dev/null.
                self._descriptor = os.eventfd(0, os.EFD_CLOEXEC)
            except OSError:
                return False
        return True

    def release(self) -> None:
        """
        Close the descriptor that is kept, if any.
        """
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def use(self, call: Callable[[], T]) -> T:
        """
        Make a call that may need one more descriptor.  If it fails, free the kept one
        and make the call again.  Reserve another one afterwards, once there may be
        room for it.

        @return: what the call returns.
        @raise OSError: what the second call raises.
        """
        try:
            return call()
        except OSError:
            self.release()
            return call()
