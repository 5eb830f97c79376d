"""
Whether an operator has paused the listener.

A paused listener accepts as before.  Only its health says that it does not serve, so
load balancers send new clients elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.logger import Logger

from portlisten import _kernel
from portlisten._control.messages import Pause, PauseAnswer, Resume


class Pausing:
    """
    Answers L{Pause} and L{Resume}.

    @param metrics: says where the monitor serves; it returns an empty text if no
        monitor runs.

    @ivar paused: whether the listener is paused.
    """

    log = Logger()

    def __init__(self, metrics: Callable[[], str]) -> None:
        self._metrics = metrics
        self.paused = False

    def pause(self, request: Pause, client: _kernel.Credentials) -> PauseAnswer:
        """
        Pause it.
        """
        return self._set(True, "is paused: /healthz says 503", client)

    def resume(self, request: Resume, client: _kernel.Credentials) -> PauseAnswer:
        """
        Undo that.
        """
        return self._set(False, "is not paused any more", client)

    def _set(self, paused: bool, what: str, client: _kernel.Credentials) -> PauseAnswer:
        if paused is not self.paused:
            self.paused = paused
            self.log.info(
                "the listener {what}, as pid {askerPid} of uid {askerUid} asks",
                event="paused" if paused else "resumed",
                what=what,
                askerPid=client.pid,
                askerUid=client.uid,
            )
        return PauseAnswer(self.paused, self._metrics())
