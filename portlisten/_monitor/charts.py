"""
Pictures of lines, as SVG inside a page.

A picture has no text of its own: it may be stretched, and the page writes the numbers
beside it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape

from portlisten._monitor.history import KEPT_SECONDS, Line, Point

#: The sizes of a picture, in its own units: a second, and a hundredth of the height.
WIDTH, HEIGHT = KEPT_SECONDS, 100

#: How many lines can be told apart.
STYLES = 5


def ceiling(most: float) -> float:
    """
    Choose the upper end of a scale: 1, 2 or 5, with zeros.
    """
    if not most > 1 or not math.isfinite(most):
        return 1.0
    power = 10.0 ** math.floor(math.log10(most))
    return next(power * each for each in (1, 2, 5, 10) if power * each >= most)


def number(value: float | None) -> str:
    """
    Write a value.
    """
    if value is None:
        return "-"
    if value >= 10 or value == round(value):
        return f"{value:,.0f}"
    return f"{value:.1f}"


def chart(lines: Sequence[Line], label: str, top: float) -> str:
    """
    Draw lines over the last minutes.

    @param label: what the picture shows, for those who do not see it.
    @param top: the upper end of the scale.
    @return: the element C{svg}.
    """
    grid = "".join(
        f'<line class="grid" x1="0" x2="{WIDTH:g}" y1="{y}" y2="{y}"/>'
        for y in (0, HEIGHT // 2, HEIGHT)
    )
    drawn = "".join(
        f'<path class="line s{index % STYLES}" d="{"".join(_path(each.points, top))}"/>'
        for index, each in enumerate(lines)
    )
    return (
        f'<svg role="img" aria-label="{escape(label)}" viewBox="0 -2 {WIDTH:g} 104"'
        f' preserveAspectRatio="none">{grid}{drawn}</svg>'
    )


def _path(points: Sequence[Point], top: float) -> Iterator[str]:
    """
    Draw one line, with its gaps.
    """
    command = "M"
    for ago, value in points:
        if value is None:
            command = "M"
            continue
        height = min(1.0, max(0.0, value / top))
        x, y = WIDTH - ago, HEIGHT * (1 - height)
        # A line without a length is drawn as a dot.
        yield f"{command}{x:.1f} {y:.1f}" + ("h.1" if command == "M" else "")
        command = "L"
