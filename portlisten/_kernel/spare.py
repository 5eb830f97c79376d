"""
A spare descriptor, for calls that need one more descriptor for a moment; and whether
descriptors get scarce.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def descriptorsShort(limit: int) -> bool:
    """
    Whether the process has no free descriptor whose number is below a limit.  The
    kernel uses the lowest free number, so the number tells how many are in use.
    """
    try:
        descriptor = os.eventfd(0, os.EFD_CLOEXEC)
    except OSError:
        return True
    os.close(descriptor)
    return descriptor >= limit


class SpareDescriptor:
    """
    Keeps a descriptor.  When the process has no free descriptor, this one can be closed
    to make a call that needs one.  At first, no descriptor is kept.
    """

    def __init__(self) -> None:
        self._descriptor: int | None = None

    def reserve(self) -> bool:
        """
        Keep a descriptor, if none is kept yet.

        @return: whether a descriptor is kept now.  If not, try again when the process
            has closed another descriptor.
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
        Make a call that may need one more descriptor.  If the call fails, close the
        kept descriptor and make the call again.  Call L{reserve} afterwards, once the
        process may have a free descriptor.

        @return: the result of the call.
        @raise OSError: if the second call raises it.
        """
        try:
            return call()
        except OSError:
            self.release()
            return call()
