"""
Makes tables, charts and a page from raw figures.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.charts import Split, bar, bars, rates, splits
from benchmarks.goals import GOALS
from benchmarks.hop import BASES
from benchmarks.ratios import (
    BASE,
    Figures,
    collect,
    cost,
    mostToFewest,
    number_,
    ratios,
    spread,
)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """
    Write a table, in Markdown.
    """
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


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


def hop(figures: Figures) -> Page:
    """
    What the hand-off costs, in each part of the question.
    """
    text = "# The hand-off\n\n"
    chart = []
    for part, cases in figures.items():
        base = BASES[part]
        text += f"## {PARTS[part]}\n\n"
        for atOnce, found in cases.items():
            costs = {name: cost(rounds) for name, rounds in found.items()}
            rows = [
                [
                    name,
                    number_(median(each["rate"] for each in rounds)),
                    spread(ratios(found, name, "rate", base)),
                    *(
                        number_(median(each[key] for each in rounds))
                        for key in ("front", "back", "clients")
                    ),
                    spread(ratios(costs, name, "cost", base)),
                ]
                for name, rounds in found.items()
            ]
            header = [
                f"{atOnce} at a time",
                "connections/s",
                f"to {base}",
                "listener µs",
                "worker µs",
                "clients µs",
                f"listener and worker, to {base}",
            ]
            text += table(header, rows) + "\n"
        if part != "hello" and "64" in cases:
            chart += [
                bar(name, ratios(cases["64"], name, "rate", base))
                for name in cases["64"]
                if name != base
            ]
    title = "Connections per second, to a server of the same kind that listens itself"
    return Page(text, {"hop.svg": bars(title, "", chart, (1.0, "listens itself"))})


#: The headings of the parts of the question about the hand-off.
PARTS = {
    "minimal": "The least that a Twisted server can do",
    "hello": "The sample worker's protocol",
    "C": "The same hand-off without Python",
    "Node": "Node and its cluster",
    "uvicorn": "uvicorn",
}


def stay(figures: Figures) -> Page:
    """
    Connections that stay.
    """
    rows, chart = [], []
    for name, rounds in figures.items():
        row = [name]
        for when in ("first", "later"):
            found = sorted(rounds, key=lambda each: mostToFewest(each[when]))
            middle = found[(len(found) - 1) // 2][when]
            values = [mostToFewest(each[when]) for each in rounds]
            row += [spread(values), ", ".join(map(str, middle))]
            title = name if when == "first" else ""
            chart.append(Split(title, middle, f"{number_(median(values))}", name))
        rows.append(row)
    header = [
        "",
        "most to fewest",
        "alive in each worker",
        "most to fewest, one replaced",
        "alive then",
    ]
    drawing = splits(
        "They stay: living connections in each of four workers, and most to fewest",
        "Above: all have arrived. Below: one worker was replaced, and more arrived.",
        chart,
    )
    return Page(f"# They stay\n\n{table(header, rows)}", {"stay.svg": drawing})


def share(figures: Figures) -> Page:
    """
    Sharing, beside the inherited socket with as many processes.
    """
    text = "# Sharing\n\n"
    for atOnce, found in figures.items():
        rows = []
        for name, rounds in found.items():
            base = f"inherited {name.split()[-1]}" if name != BASE else BASE
            rows.append(
                [
                    name,
                    number_(median(each["rate"] for each in rounds)),
                    spread(ratios(found, name, "rate")),
                    spread(ratios(found, name, "rate", base)),
                    number_(median(each["p99"] for each in rounds) / 1000),
                    spread(ratios(found, name, "p99", base)),
                    number_(median(each["back"] for each in rounds)),
                    number_(median(each["clients"] for each in rounds)),
                ]
            )
        header = [
            f"{atOnce} at a time",
            "connections/s",
            f"to {BASE}",
            "to inherited, as many",
            "p99 ms",
            "p99 to inherited, as many",
            "server µs",
            "clients µs",
        ]
        text += table(header, rows) + "\n"
    charts = {
        f"share-{atOnce}.svg": bars(
            f"Connections per second, {atOnce} at a time", "/s", rates(found)
        )
        for atOnce, found in figures.items()
    }
    return Page(text, charts)


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
    "hop": hop,
    "stay": stay,
    "share": share,
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
        f"{page.text}{images}\n{clients(figures, machine)}Measured on: {described}.\n"
    )


def clients(figures: Figures, machine: Figures) -> str:
    """
    Say what the clients took of the processors.
    """
    taken = [100 * each for each in collect(figures, "taken")]
    if not taken:
        return ""
    return (
        f"The machine has {machine['processors']} processors, for the clients as well."
        f" The clients took {median(taken):.0f} % of all processor time"
        f" ({min(taken):.0f} to {max(taken):.0f} %).\n\n"
    )
