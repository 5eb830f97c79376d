"""
Makes tables, charts and a page from raw figures.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.contestants import ALL

Figures = Any

#: What the others are compared with.
BASE = "direct"

#: The listener that does what the one of 2002 did.
ORIGINAL = "C of 2002"


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


def bars(title: str, unit: str, found: Sequence[Bar]) -> str:
    """
    Draw a chart, as SVG.
    """
    width, left, row, top = 720, 150, 24, 44
    most = max((bar.high for bar in found), default=1.0) or 1.0
    scale = (width - left - 90) / most
    height = top + row * len(found) + 12
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"'
        f' font-family="sans-serif" font-size="13" role="img">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        f'<text x="12" y="24" font-size="15" font-weight="bold" fill="#222222">'
        f"{escape(title)}</text>",
    ]
    for number, bar in enumerate(found):
        y = top + number * row
        own = bar.label.split()[0] in ("listen", "share", "groups", "datagram")
        colour = "#2b6cb0" if own else "#a0aec0"
        parts += [
            f'<text x="{left - 8}" y="{y + 14}" text-anchor="end" fill="#222222">'
            f"{escape(bar.label)}</text>",
            f'<rect x="{left}" y="{y + 2}" width="{max(1.0, bar.value * scale):.1f}"'
            f' height="{row - 8}" fill="{colour}"/>',
            f'<path d="M{left + bar.low * scale:.1f} {y + 10}H'
            f'{left + bar.high * scale:.1f}" stroke="#222222"/>',
            f'<text x="{left + bar.high * scale + 8:.1f}" y="{y + 14}"'
            f' fill="#222222">{number_(bar.value)} {escape(unit)}</text>',
        ]
    return "\n".join([*parts, "</svg>"]) + "\n"


def number_(value: float) -> str:
    """
    Write a number with about three significant digits.
    """
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """
    Write a table, in Markdown.
    """
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


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


def spread(values: Sequence[float]) -> str:
    """
    The median, and the range.
    """
    return f"{median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


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


@dataclass
class Page:
    """
    The part of the page on one question.

    @ivar text: Markdown.
    @ivar charts: SVG, by the names of their files.
    """

    text: str
    charts: dict[str, str]


def rate(figures: Figures) -> Page:
    """
    Connections per second, waits, and costs.
    """
    text = "# Connections\n\n"
    charts = {}
    for atOnce, found in figures.items():
        rows = []
        for name, rounds in found.items():
            compared = ratios(found, name, "rate") if BASE in found else []
            rows.append(
                [
                    name,
                    number_(median(each["rate"] for each in rounds)),
                    spread(compared) if compared else "",
                    number_(median(each["p50"] for each in rounds) / 1000),
                    number_(median(each["p99"] for each in rounds) / 1000),
                    number_(median(each["longest"] for each in rounds) / 1000),
                    number_(median(each["front"] for each in rounds)),
                    number_(median(each["back"] for each in rounds)),
                ]
            )
        header = [
            f"{atOnce} at a time",
            "connections/s",
            f"to {BASE}",
            "p50 ms",
            "p99 ms",
            "longest ms",
            "in front µs",
            "server µs",
        ]
        text += table(header, rows) + "\n"
        charts[f"rate-{atOnce}.svg"] = bars(
            f"Connections per second, {atOnce} at a time",
            "/s",
            rates(found),
        )
    return Page(text, charts)


def even(title: str, figures: Figures) -> Page:
    """
    Evenness and tail.
    """
    rows = []
    for name, rounds in figures["found"].items():
        served = [each for each in figures["served"][name] if each]
        evenness = max(served) / min(served) if served else 0.0
        rows.append(
            [
                name,
                number_(median(each["rate"] for each in rounds)),
                number_(median(each["p50"] for each in rounds) / 1000),
                number_(median(each["p99"] for each in rounds) / 1000),
                f"{evenness:.3f}",
                ", ".join(map(str, served)),
            ]
        )
    header = ["", "answers/s", "p50 ms", "p99 ms", "max/min", "for each process"]
    name = title.split()[0].lower()
    chart = bars(
        f"{title}: 99th percentile",
        "ms",
        [
            bar(each, [one["p99"] / 1000 for one in rounds])
            for each, rounds in figures["found"].items()
        ],
    )
    return Page(f"# {title}\n\n{table(header, rows)}", {f"{name}.svg": chart})


def throughput(figures: Figures) -> Page:
    """
    Bytes.
    """
    text, charts = "# Bytes, once the connection is there\n\n", {}
    for case, found in figures.items():
        rows = [
            [
                name,
                number_(median(each["rate"] for each in rounds)),
                spread(ratios(found, name, "rate")) if BASE in found else "",
            ]
            for name, rounds in found.items()
        ]
        connections, way = case.split()
        what = f"{connections} connection{'s' if connections != '1' else ''}, {way}"
        text += table([what, "MB/s", f"to {BASE}"], rows) + "\n"
        charts[f"bytes-{connections}-{way}.svg"] = bars(
            f"Megabytes per second, {what}",
            "MB/s",
            rates(found),
        )
    return Page(text, charts)


def size(figures: Figures) -> Page:
    """
    The cost of connections that are alive.
    """
    rows = [
        [
            name if not number else "",
            f"{each['alive']:,}",
            str(each["descriptors"]),
            f"{each['resident'] / 1024:.1f}",
            f"{each['cpu'] * 100:.1f}",
        ]
        for name, found in figures.items()
        for number, each in enumerate(found)
    ]
    header = ["in front", "alive", "descriptors", "MiB", "CPU %"]
    chart = bars(
        "Descriptors of what stands in front, at the most",
        "",
        [
            bar(name, [max(each["descriptors"] for each in found)])
            for name, found in figures.items()
        ],
    )
    return Page(
        f"# Connections that are alive\n\n{table(header, rows)}", {"size.svg": chart}
    )


def burst(figures: Figures) -> Page:
    """
    The longest waits.
    """
    rows = [
        [
            name,
            number_(median(each["longest"] for each in rounds) / 1000),
            number_(
                median(each["longest"] for each in figures["restart"][name]) / 1000
            ),
            str(sum(each["lost"] for each in figures["restart"][name])),
        ]
        for name, rounds in figures["burst"].items()
    ]
    header = ["", "all at once, last answer ms", "restart, longest ms", "lost then"]
    chart = bars(
        "Longest wait while the only server is restarted",
        "ms",
        [
            bar(name, [each["longest"] / 1000 for each in rounds])
            for name, rounds in figures["restart"].items()
        ],
    )
    return Page(
        f"# A burst, and a restart\n\n{table(header, rows)}", {"burst.svg": chart}
    )


@dataclass
class Goal:
    """
    A goal, and the measured values.

    @ivar what: the comparison, in words.
    @ivar values: the measured values: one for each round, or one for all.
    @ivar aim: the goal, in words.
    @ivar least: the least value that meets the goal.
    @ivar most: the greatest value that meets the goal.
    """

    what: str
    values: Sequence[float]
    aim: str
    least: float = 0.0
    most: float = float("inf")

    @property
    def row(self) -> tuple[str, ...]:
        """
        A row of a table.
        """
        found = median(self.values)
        reached = "yes" if self.least <= found <= self.most else "no"
        measured = spread(self.values) if len(self.values) > 1 else f"{found:.2f}"
        return self.what, measured, self.aim, reached


def between(what: str, values: Sequence[float], least: float, most: float) -> Goal:
    """
    Make a goal with a least and a greatest value.
    """
    return Goal(what, values, f"{least:g} to {most:g}", least, most)


def rateGoals(figures: Figures) -> Iterable[Goal]:
    """
    The goals for the cost of a listener.
    """
    found = figures["64"]

    def goal(name: str, base: str, least: float) -> Goal:
        return Goal(
            f"{name} to {base}, connections per second, 64 at a time",
            ratios(found, name, "rate", base),
            f"at least {least:g}",
            least,
        )

    yield goal("listen x1", BASE, 0.95)
    proxies = [each.name for each in ALL if each.proxy and each.name in found]
    if proxies:
        best = max(proxies, key=lambda name: median(ratios(found, name, "rate")))
        yield goal("listen x1", best, 1.25)
    for count in (2, 4):
        yield goal(f"share x{count}", f"inherited x{count}", 0.98)
    if ORIGINAL in found:
        yield Goal(
            f"listen x1 to {ORIGINAL}, processor time in front, 64 at a time",
            ratios(found, "listen x1", "front", ORIGINAL),
            "at most 1.3",
            most=1.3,
        )


def throughputGoals(figures: Figures) -> Iterable[Goal]:
    """
    The goals for throughput: nothing is between server and client.
    """
    for case, found in figures.items():
        what = f"listen x1 to {BASE}, bytes per second, {case}"
        yield between(what, ratios(found, "listen x1", "rate"), 0.98, 1.02)


def evenGoals(what: str, figures: Figures) -> Iterable[Goal]:
    """
    The goals for evenness: workers have equal shares, and no client waits long.
    """
    found = figures["found"]
    if "listen x2" in found:
        yield Goal(
            f"listen x2 to {BASE}, answers per second, {what}",
            ratios(found, "listen x2", "rate"),
            "at least 1.6",
            1.6,
        )
    served = figures["served"]["listen x4"]
    yield Goal(
        f"listen x4, most to fewest connections of a worker, {what}",
        [max(served) / min(served)],
        "at most 1.05",
        most=1.05,
    )
    for base in ("inherited x4", "reuseport x4"):
        yield Goal(
            f"listen x4 to {base}, 99th percentile, {what}",
            ratios(found, "listen x4", "p99", base),
            "below 1",
            most=0.9999,
        )


def sizeGoals(figures: Figures) -> Iterable[Goal]:
    """
    The goals for connections in service: they cost the listener nothing.
    """
    rows = figures["listen x2"]
    for key in ("descriptors", "resident"):
        what = f"listener, {key} with {rows[-1]['alive']:,} alive to {key} with none"
        yield between(what, [rows[-1][key] / rows[0][key]], 0.95, 1.05)


GOALS: dict[str, Callable[[Figures], Iterable[Goal]]] = {
    "rate": rateGoals,
    "busy": lambda figures: evenGoals("busy servers", figures),
    "kept": lambda figures: evenGoals("keep-alive", figures),
    "throughput": throughputGoals,
    "size": sizeGoals,
}


def summarize(folder: Path) -> None:
    """
    Write what the figures in a folder say of what was aimed at.
    """
    rows: list[tuple[str, ...]] = []
    for name, goals in GOALS.items():
        file = folder / f"{name}.json"
        if file.exists():
            figures = json.loads(file.read_text())["figures"]
            rows += [goal.row for goal in goals(figures)]
    header = ["what", "measured", "goal", "reached"]
    (folder / "goals.md").write_text(f"# Goals\n\n{table(header, rows)}")


PAGES: dict[str, Callable[[Figures], Page]] = {
    "rate": rate,
    "busy": lambda figures: even("Busy servers", figures),
    "kept": lambda figures: even("Keep-alive", figures),
    "throughput": throughput,
    "size": size,
    "burst": burst,
}


def write(folder: Path, name: str, figures: Figures, machine: Figures) -> None:
    """
    Write what was found of one question: the figures, its charts, and its part of
    the page.
    """
    folder.mkdir(parents=True, exist_ok=True)
    content = {"machine": machine, "figures": figures}
    (folder / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
    page = PAGES[name](figures)
    for file, chart in page.charts.items():
        (folder / file).write_text(chart)
    described = ", ".join(f"{key} {value}" for key, value in machine.items())
    images = "".join(f"\n![{file[:-4]}]({file})\n" for file in page.charts)
    (folder / f"{name}.md").write_text(
        f"{page.text}{images}\nMeasured on: {described}.\n"
    )
