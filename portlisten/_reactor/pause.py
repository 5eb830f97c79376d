"""
A pause with a callback at its end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall


class Pause:
    """
    Calls back when a pause is over.  The pause may begin again any number of times.

    @param clock: an L{IReactorTime}.
    @param then: called when the pause is over and no longer active.
    """

    def __init__(self, clock: Any, then: Callable[[], object]) -> None:
        self._clock = clock
        self._then = then
        self._call: IDelayedCall | None = None

    @property
    def active(self) -> bool:
        """
        Whether the pause has begun, and is neither over nor cancelled.
        """
        return self._call is not None

    def begin(self, seconds: float) -> None:
        """
        Begin the pause.  If it is active already, it begins anew.
        """
        self.cancel()
        self._call = self._clock.callLater(seconds, self._over)

    def cancel(self) -> None:
        """
        End the pause, and do not call back.  May be called at any time.
        """
        call, self._call = self._call, None
        if call is not None:
            call.cancel()

    def _over(self) -> None:
        self._call = None
        self._then()
