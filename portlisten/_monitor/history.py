"""
What was going on in the last minutes.

This decides nothing and never acts: samples come in, and lines for pictures come out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from portlisten._control.messages import StatusAnswer
from portlisten._control.status import ListenerStatus

#: How long a sample is kept, in seconds.
KEPT_SECONDS = 300.0

#: How many samples are kept at the most.
MAXIMUM_SAMPLES = 301

#: How many names a sample has of its own; what others have is added up.
MAXIMUM_NAMES = 64

#: The least time between two samples, in seconds.  Another replaces the last.
LEAST_SECONDS = 0.9

#: How long a gap between samples may be that is no gap in the line, in seconds.
GAP_SECONDS = 5.0

#: Over how long a rate is measured, in seconds.
RATE_SECONDS = 5.0

#: The name of what has no name of its own in a sample.
OTHERS = "others"

#: The counters of connections that were not served to their end.
TROUBLE = (
    "lostInService",
    "unusable",
    "timedOut",
    "silentTooLong",
    "stopped",
)

#: A value at a time: how many seconds ago, and the value; L{None} if it is not known.
Point: TypeAlias = "tuple[float, float | None]"


@dataclass(frozen=True)
class Line:
    """
    How one value went.

    @ivar name: what it is the value of.
    @ivar points: the oldest first.
    """

    name: str
    points: tuple[Point, ...]

    @property
    def last(self) -> float | None:
        """
        The newest value; L{None} if it is not known.
        """
        return self.points[-1][1] if self.points else None

    @property
    def most(self) -> float:
        """
        The largest value.
        """
        return max((value for _, value in self.points if value is not None), default=0)


@dataclass(frozen=True)
class _Sample:
    """
    @ivar at: when it was taken.
    @ivar process: which listener gave it: the number of its process, and when it began.
    @ivar counters: its counters.
    @ivar waiting: how many connections wait, by names of ports.
    @ivar serving: how many connections each worker has, by labels.
    """

    at: float
    process: tuple[int, float] | None
    counters: dict[str, int]
    waiting: dict[str, int]
    serving: dict[str, int]


class History:
    """
    Keeps a sample a second of the last five minutes.  With ten workers, that takes less
    than half a mebibyte; with any number, less than five.
    """

    def __init__(self) -> None:
        self._samples: deque[_Sample] = deque(maxlen=MAXIMUM_SAMPLES)

    def add(self, at: float, answer: StatusAnswer | None) -> None:
        """
        Add a sample.

        @param at: when it was taken, in monotonic seconds.
        @param answer: the status; L{None} if nobody answered.
        """
        if self._samples and at - self._samples[-1].at < LEAST_SECONDS:
            self._samples.pop()
        self._samples.append(_sampled(at, answer.listener if answer else None))
        while self._samples[-1].at - self._samples[0].at > KEPT_SECONDS:
            self._samples.popleft()

    def rates(self) -> dict[str, float]:
        """
        Say how fast the counters grow now.

        @return: for each counter, how much it grows in a second.  Empty if that is not
            known yet.
        """
        if not self._samples:
            return {}
        last = self._samples[-1]
        first = self._earlier(len(self._samples) - 1)
        if first is None:
            return {}
        return {name: _rate(first, last, (name,)) for name in last.counters}

    def connections(self) -> list[Line]:
        """
        How many connections a second were accepted, were claimed, and ended badly.
        """
        return [
            self._rateOf("accepted", ("accepted",)),
            self._rateOf("claimed", ("claimed",)),
            self._rateOf("not served", TROUBLE),
        ]

    def waiting(self) -> list[Line]:
        """
        How many connections waited, by names of ports.
        """
        return self._lines(lambda each: each.waiting)

    def serving(self) -> list[Line]:
        """
        How many connections each worker had, by labels.
        """
        return self._lines(lambda each: each.serving)

    def _earlier(self, index: int) -> _Sample | None:
        """
        Find the sample with which a sample is compared, for a rate.
        """
        sample, found = self._samples[index], None
        for number in range(index - 1, -1, -1):
            each = self._samples[number]
            age = sample.at - each.at
            if age > GAP_SECONDS + RATE_SECONDS or not _isSame(each, sample):
                break
            found = each
            if age >= RATE_SECONDS:
                break
        return found

    def _rateOf(self, name: str, counters: Sequence[str]) -> Line:
        def value(index: int) -> float | None:
            first = self._earlier(index)
            if first is None:
                return None
            return _rate(first, self._samples[index], counters)

        return Line(name, self._points(value))

    def _lines(self, values: Callable[[_Sample], dict[str, int]]) -> list[Line]:
        names = dict.fromkeys(
            name for sample in reversed(self._samples) for name in values(sample)
        )
        chosen = sorted(list(names)[:MAXIMUM_NAMES])

        def line(name: str) -> Line:
            return Line(
                name,
                self._points(lambda index: values(self._samples[index]).get(name)),
            )

        return [line(each) for each in chosen]

    def _points(self, value: Callable[[int], float | None]) -> tuple[Point, ...]:
        """
        Make points of values by the numbers of their samples.
        """
        points: list[Point] = []
        if not self._samples:
            return ()
        now = self._samples[-1].at
        before = None
        for index, sample in enumerate(self._samples):
            if before is not None and sample.at - before > GAP_SECONDS:
                points.append((now - before, None))
            points.append((now - sample.at, value(index)))
            before = sample.at
        return tuple(points)


def _sampled(at: float, listener: ListenerStatus | None) -> _Sample:
    if listener is None:
        return _Sample(at, None, {}, {}, {})
    waiting: list[tuple[str, int]] = [
        (each.name or "(no name)", each.waiting) for each in listener.queues
    ]
    waiting += [
        (each.name or "(no name)", each.waiting or 0)
        for each in listener.ports
        if each.waiting is not None
    ]
    serving = [
        (each.label or "(no label)", each.offered + each.claimed + (each.serving or 0))
        for each in listener.workers
    ]
    return _Sample(
        at,
        (listener.pid, round(at - listener.uptime, 1)),
        dict(listener.counters),
        _summed(waiting),
        _summed(serving),
    )


def _summed(values: Iterable[tuple[str, int]]) -> dict[str, int]:
    """
    Add up the values of each name, and those of names that are too many.
    """
    found: dict[str, int] = {}
    for own, value in values:
        full = own not in found and len(found) >= MAXIMUM_NAMES - 1
        name = OTHERS if full else own
        found[name] = found.get(name, 0) + value
    return found


def _isSame(first: _Sample, second: _Sample) -> bool:
    """
    Say whether the same listener gave two samples.
    """
    if first.process is None or second.process is None:
        return False
    (one, began), (other, alsoBegan) = first.process, second.process
    return one == other and abs(began - alsoBegan) < LEAST_SECONDS


def _rate(first: _Sample, second: _Sample, names: Sequence[str]) -> float:
    grown = sum(
        second.counters.get(each, 0) - first.counters.get(each, 0) for each in names
    )
    return max(0.0, grown / (second.at - first.at))
