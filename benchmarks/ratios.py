"""
What is computed of raw figures.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any

Figures = Any

#: What most others are compared with.
BASE = "direct"

#: The words that begin the names of what is ours.
OURS = frozenset(["listen", "share", "unbalanced", "groups", "datagram"])


def isOurs(name: str) -> bool:
    """
    Whether a contestant is portlisten.  uvicorn is, as portlisten's worker.
    """
    first, *more = name.split()
    return first in OURS or (first == "uvicorn" and not OURS.isdisjoint(more))


def ratios(
    found: dict[str, list[Figures]], name: str, key: str, base: str = BASE
) -> list[float]:
    """
    Compare two contestants, round by round.
    """
    return [
        mine[key] / other[key]
        for mine, other in zip(found[name], found[base], strict=True)
        if other[key]
    ]


def cost(rounds: list[Figures]) -> list[Figures]:
    """
    Return the processor time of a connection, in front and in the server together, for
    each round.
    """
    return [{"cost": each["front"] + each["back"]} for each in rounds]


def mostToFewest(counts: Sequence[int]) -> float:
    """
    Compare the worker that has the most connections with the one that has the fewest.
    To be compared at all, a worker that has none counts as if it had one.
    """
    return max(counts) / max(1, min(counts))


def collect(figures: Figures, key: str) -> Iterator[float]:
    """
    Find all values of a key, however deep.
    """
    if isinstance(figures, dict):
        if key in figures:
            yield figures[key]
        else:
            for each in figures.values():
                yield from collect(each, key)
    elif isinstance(figures, list):
        for each in figures:
            yield from collect(each, key)


def spread(values: Sequence[float]) -> str:
    """
    The median, and the range if there are several values.
    """
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def number_(value: float) -> str:
    """
    Write a number with about three significant digits.
    """
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"
