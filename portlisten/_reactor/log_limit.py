"""
A limit for log lines that clients, or the other side of a channel, can cause without
end.

The first L{MAXIMUM_LINES} lines of a kind are logged.  Later lines are only counted,
and the count is logged when the interval of that kind is over.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

#: How many lines of a kind are logged in an interval.
MAXIMUM_LINES = 20

#: Names of events that are not limited.
neverLimited: frozenset[str] = frozenset()

#: How long an interval is, in seconds.
INTERVAL_SECONDS = 10.0


@dataclass
class _Kind:
    """
    The lines of one kind in the present interval.

    @ivar began: when the interval began, in seconds.
    @ivar logged: how many lines were logged.
    @ivar leftOut: how many lines were only counted.
    @ivar summary: the pending call that logs the count, or L{None}.
    @ivar summarize: logs the count.
    """

    began: float
    logged: int = 0
    leftOut: int = 0
    summary: Any = None
    summarize: Callable[[], None] = lambda: None


class LogLimit:
    """
    Limits how many lines of each kind are logged.  Lines with the same format are of
    the same kind.

    @param clock: an L{IReactorTime}.
    """

    def __init__(self, clock: Any) -> None:
        # No reference to the clock itself: it may be this object's key in _limits.
        self._seconds: Callable[[], float] = clock.seconds
        self._callLater: Callable[..., Any] = clock.callLater
        self._kinds: dict[str, _Kind] = {}

    def __call__(self, log: Callable[..., None], format: str, **fields: object) -> None:
        """
        Log a line, or count it.

        @param log: a method of a L{twisted.logger.Logger}.
        """
        event = fields.get("event")
        if event in neverLimited:
            log(format, **fields)
            return
        now = self._seconds()
        kind = self._kinds.get(format)
        if kind is None or (
            now - kind.began >= INTERVAL_SECONDS and kind.summary is None
        ):
            self._kinds[format] = kind = _Kind(now)
        if kind.logged < MAXIMUM_LINES:
            kind.logged += 1
            log(format, **fields)
            return
        kind.leftOut += 1
        if kind.summary is None:
            left = max(0.0, kind.began + INTERVAL_SECONDS - now)
            kind.summarize = partial(self._summarize, log, format, event)
            kind.summary = self._callLater(left, kind.summarize)

    def flush(self) -> None:
        """
        Log all counts now, before the process ends.
        """
        for kind in list(self._kinds.values()):
            if kind.summary is not None:
                kind.summary.cancel()
                kind.summarize()

    def _summarize(self, log: Callable[..., None], format: str, event: object) -> None:
        kind = self._kinds.pop(format)
        log(
            "{count} more lines like this one were left out in {interval:g} s:"
            " {example}",
            event="lines-left-out",
            of=event,
            count=kind.leftOut,
            interval=INTERVAL_SECONDS,
            example=format,
        )


_limits: WeakKeyDictionary[Any, LogLimit] = WeakKeyDictionary()


def logLimit(clock: Any) -> LogLimit:
    """
    Get the limit that all users of a clock share.

    @param clock: an L{IReactorTime}.
    """
    if clock not in _limits:
        _limits[clock] = LogLimit(clock)
    return _limits[clock]
