"""
Log lines that clients, or the other side, can cause without end.

The first few lines of a kind are logged as they are.  Later lines are counted, and
the count is logged when the time of that kind is over.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

#: How many lines of a kind are logged in an interval.
MOST = 20

#: How long an interval is, in seconds.
INTERVAL = 10.0


@dataclass
class _Kind:
    """
    What became of the lines of one kind in the present interval.
    """

    began: float
    logged: int = 0
    leftOut: int = 0
    sum: Any = None
    end: Callable[[], None] = lambda: None


class Quiet:
    """
    Bounds how many lines of each kind are logged.  Lines of one format are of a kind.

    @param clock: an L{IReactorTime}.
    """

    def __init__(self, clock: Any) -> None:
        # Not the clock itself, which may be the key of this.
        self._seconds: Callable[[], float] = clock.seconds
        self._callLater: Callable[..., Any] = clock.callLater
        self._kinds: dict[str, _Kind] = {}

    def __call__(self, log: Callable[..., None], format: str, **fields: object) -> None:
        """
        Log a line, or count it.

        @param log: a method of a L{twisted.logger.Logger}.
        """
        now = self._seconds()
        kind = self._kinds.get(format)
        if kind is None or (now - kind.began >= INTERVAL and kind.sum is None):
            self._kinds[format] = kind = _Kind(now)
        if kind.logged < MOST:
            kind.logged += 1
            log(format, **fields)
            return
        kind.leftOut += 1
        if kind.sum is None:
            left = max(0.0, kind.began + INTERVAL - now)
            kind.end = partial(self._sum, log, format)
            kind.sum = self._callLater(left, kind.end)

    def flush(self) -> None:
        """
        Log all counts now, before the process ends.
        """
        for kind in list(self._kinds.values()):
            if kind.sum is not None:
                kind.sum.cancel()
                kind.end()

    def _sum(self, log: Callable[..., None], format: str) -> None:
        kind = self._kinds.pop(format)
        log(
            "{count} more lines like this one were left out in {interval:g} s:"
            " {example}",
            count=kind.leftOut,
            interval=INTERVAL,
            example=format,
        )


_all: WeakKeyDictionary[Any, Quiet] = WeakKeyDictionary()


def quiet(clock: Any) -> Quiet:
    """
    Get the one that all who share a clock share.

    @param clock: an L{IReactorTime}.
    """
    if clock not in _all:
        _all[clock] = Quiet(clock)
    return _all[clock]
