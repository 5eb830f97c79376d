"""
Draws charts, as SVG.  They are readable on a light and on a dark page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from statistics import median

from benchmarks.ratios import Figures, isOurs, number_

WIDTH = 720

#: The height of a row.
ROW = 24

#: Where the bars begin.
LEFT = 170

STYLE = """<style>
.ground { fill: #ffffff } .ink { fill: #1b1f24 } .faint { fill: #57606a }
.line { stroke: #1b1f24 } .gap { stroke: #ffffff }
.ours { fill: #54aeff } .other { fill: #c3cad2 }
@media (prefers-color-scheme: dark) {
.ground { fill: #0d1117 } .ink { fill: #e6edf3 } .faint { fill: #9da7b1 }
.line { stroke: #e6edf3 } .gap { stroke: #0d1117 }
.ours { fill: #1f5fae } .other { fill: #484f58 }
}
</style>"""


@dataclass
class Bar:
    """
    A bar of a chart.

    @ivar low: the least measured value.
    @ivar high: the greatest measured value.
    """

    label: str
    value: float
    low: float
    high: float


def bar(label: str, values: Sequence[float]) -> Bar:
    """
    Make a bar of several measured values.
    """
    return Bar(label, median(values), min(values), max(values))


def rates(found: dict[str, list[Figures]]) -> list[Bar]:
    """
    Make a bar for the rate of each contestant.
    """
    return [
        bar(name, [each["rate"] for each in rounds]) for name, rounds in found.items()
    ]


def picture(title: str, height: int, parts: Sequence[str]) -> str:
    """
    Draw a chart around its parts.
    """
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}"'
            f' font-family="sans-serif" font-size="13" role="img">',
            f"<title>{escape(title)}</title>",
            STYLE,
            f'<rect width="{WIDTH}" height="{height}" rx="6" class="ground"/>',
            f'<text x="12" y="24" font-size="15" font-weight="bold" class="ink">'
            f"{escape(title)}</text>",
            *parts,
            "</svg>\n",
        ]
    )


def label(text: str, y: float) -> str:
    """
    Write what a row is, before its bar.
    """
    return (
        f'<text x="{LEFT - 8}" y="{y:.0f}" text-anchor="end" class="ink">'
        f"{escape(text)}</text>"
    )


def colour(name: str) -> str:
    """
    The class of a bar.
    """
    return "ours" if isOurs(name) else "other"


def bars(
    title: str, unit: str, found: Sequence[Bar], line: tuple[float, str] | None = None
) -> str:
    """
    Draw a bar for each contestant, with its range.

    @param line: a value at which a line is drawn, and what it means.
    """
    most = max([bar.high for bar in found] + ([line[0]] if line else []), default=1.0)
    scale = (WIDTH - LEFT - 100) / (most or 1.0)
    top = 64 if line else 44
    height = top + ROW * len(found) + 12
    parts = []
    for number, bar in enumerate(found):
        y = top + number * ROW
        parts += [
            label(bar.label, y + 14),
            f'<rect x="{LEFT}" y="{y + 2}" width="{max(1.0, bar.value * scale):.1f}"'
            f' height="{ROW - 8}" class="{colour(bar.label)}"/>',
            f'<path d="M{LEFT + bar.low * scale:.1f} {y + 10}H'
            f'{LEFT + bar.high * scale:.1f}" class="line"/>',
            f'<text x="{LEFT + bar.high * scale + 8:.1f}" y="{y + 14}"'
            f' class="ink">{number_(bar.value)} {escape(unit)}</text>',
        ]
    if line:
        x = LEFT + line[0] * scale
        parts += [
            f'<path d="M{x:.1f} {top - 4}V{height - 12}" stroke-dasharray="4 3"'
            f' class="line"/>',
            f'<text x="{x:.1f}" y="{top - 10}" text-anchor="middle" class="faint">'
            f"{escape(line[1])}</text>",
        ]
    return picture(title, height, parts)


@dataclass
class Split:
    """
    How something is divided, for a bar of several pieces.

    @ivar label: what stands before the bar; empty for a bar that belongs to the one
        above.
    @ivar note: what stands after the bar.
    @ivar whose: the contestant.
    """

    label: str
    pieces: Sequence[int]
    note: str
    whose: str


def splits(title: str, explained: str, found: Sequence[Split]) -> str:
    """
    Draw bars that are as long as each other, divided into pieces.

    @param explained: what the bars mean.
    """
    top = 62
    length = WIDTH - LEFT - 100
    parts = [f'<text x="12" y="44" class="faint">{escape(explained)}</text>']
    y = top - ROW
    for each in found:
        y += ROW + 6 if each.label else ROW - 4
        parts.append(label(each.label, y + 14))
        x, total = float(LEFT), sum(each.pieces) or 1
        for piece in each.pieces:
            width = length * piece / total
            parts.append(
                f'<rect x="{x:.1f}" y="{y + 2}" width="{width:.1f}" height="{ROW - 8}"'
                f' stroke-width="2" class="{colour(each.whose)} gap"/>'
            )
            if width > 26:
                parts.append(
                    f'<text x="{x + width / 2:.1f}" y="{y + 14}" text-anchor="middle"'
                    f' font-size="11" class="ink">{piece}</text>'
                )
            x += width
        parts.append(
            f'<text x="{LEFT + length + 8}" y="{y + 14}" class="ink">'
            f"{escape(each.note)}</text>"
        )
    return picture(title, y + ROW + 12, parts)
