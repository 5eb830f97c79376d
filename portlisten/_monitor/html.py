"""
The status page, as HTML: what C{portlisten status} says, and pictures of the last
minutes.

The page has I{parts}, each an element with an id.  C{static/live.js} exchanges the
content of a part when it changes.  Without a script, a browser loads the page again.
Whatever a worker or a client may have chosen is escaped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from portlisten._control.messages import StatusAnswer
from portlisten._monitor.charts import STYLES, ceiling, chart, number
from portlisten._monitor.history import History, Line
from portlisten._screen.status_screen import isWell, screenOf
from portlisten._screen.tables import Mood, Screen, Table, Text

#: How often the page is loaded again without a script, in seconds.
RELOAD_SECONDS = 5

#: How many lines a picture has at the most.
MAXIMUM_LINES = 5

#: How many workers have a picture of their own.
MAXIMUM_WORKERS = 48

#: For how long a row of the figures stands, in seconds.
FIGURE_SECONDS = 30

#: What browsers may load and do: nothing but what the monitor itself has.
POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self';"
    " img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_SILENT = StatusAnswer(None)


def title(answer: StatusAnswer | None) -> str:
    """
    Say in a few words how it is, for the title of the page.
    """
    answer = answer or _SILENT
    name = answer.listener.path if answer.listener else ""
    if not name and answer.supervisor:
        name = answer.supervisor.file
    said = "well" if isWell(answer) else f"{_count(answer)} wrong"
    return f"{said}: {name or 'portlisten'}"


def _count(answer: StatusAnswer) -> int:
    return max(1, len(answer.problems))


def parts(answer: StatusAnswer | None, history: History, now: str) -> dict[str, str]:
    """
    Make the parts of the page.

    @param answer: the status; L{None} if nobody answers.
    @param now: the time of day.
    @return: HTML, by the ids of its elements.
    """
    screen = screenOf(answer or _SILENT, history.rates())
    connections, waiting = history.connections(), history.waiting()
    return {
        "state": _state(screen),
        "facts": _facts(screen),
        "rates": _picture("Connections a second", connections),
        "queue": _picture("Connections that wait", _busiest(waiting)),
        "workers": _workers(history.serving()),
        "tables": "".join(map(_table, screen.tables)),
        "figures": _figures([*connections, *_busiest(waiting)]),
        "time": f"<time>{escape(now)}</time>",
    }


def document(answer: StatusAnswer | None, made: dict[str, str]) -> str:
    """
    Make the page.

    @param made: its parts.
    """
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{escape(title(answer))}</title>
<meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="icon.svg">
<link rel="stylesheet" href="style.css">
<noscript><meta http-equiv="refresh" content="{RELOAD_SECONDS}"></noscript>
<script src="live.js" defer></script>
</head>
<body>
<header>
<h1>portlisten</h1>
<p>Last news at <span id="time">{made["time"]}</span>.
<span id="stale" role="status"></span></p>
</header>
<main>
<div id="state" role="status">{made["state"]}</div>
<dl id="facts">{made["facts"]}</dl>
<h2>The last five minutes</h2>
<div class="charts">
<figure id="rates">{made["rates"]}</figure>
<figure id="queue">{made["queue"]}</figure>
</div>
<details>
<summary>The same as figures</summary>
<div class="box" role="region" aria-label="Figures" tabindex="0" id="figures">
{made["figures"]}</div>
</details>
<h2>Connections of each worker</h2>
<ul id="workers">{made["workers"]}</ul>
<h2>Now</h2>
<div id="tables">{made["tables"]}</div>
</main>
<footer>
<p>Nothing can be changed here.
For programs: <a href="metrics">metrics</a>, <a href="healthz">health</a>.</p>
</footer>
</body>
</html>
"""


# What is so now


def _state(screen: Screen) -> str:
    good = all(each.mood is Mood.GOOD for each in screen.verdict)
    said = "".join(f"<p>{escape(each.text)}</p>" for each in screen.verdict)
    mark = "&#10003;" if good else "!"
    kind = "good" if good else "bad"
    return (
        f'<div class="state {kind}"><span class="mark" aria-hidden="true">{mark}</span>'
        f"<div>{said}</div></div>"
    )


def _facts(screen: Screen) -> str:
    return "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(', '.join(texts))}</dd></div>"
        for name, texts in screen.facts
    )


def _table(table: Table) -> str:
    fitted = table.fit(None)
    kinds = [' class="right"' if each.right else "" for each in fitted.columns]
    heads = "".join(
        f'<th scope="col"{kind}>{escape(each.name)}</th>'
        for each, kind in zip(fitted.columns, kinds, strict=True)
    )
    rows = "".join(f"<tr>{''.join(_cells(each, kinds))}</tr>" for each in fitted.rows)
    caption = escape(fitted.title or fitted.columns[0].name)
    hidden = "" if fitted.title else ' class="hidden"'
    return (
        f'<div class="box" role="region" tabindex="0" aria-label="{caption}"><table>'
        f"<caption{hidden}>{caption}</caption><thead><tr>{heads}</tr></thead>"
        f"<tbody>{rows}</tbody></table></div>"
    )


def _cells(row: Sequence[Text], kinds: Sequence[str]) -> Iterator[str]:
    for index, (cell, kind) in enumerate(zip(row, kinds, strict=True)):
        text = escape(cell.text)
        if cell.mood is not Mood.PLAIN:
            text = f'<span class="{cell.mood.value}">{text}</span>'
        if index:
            yield f"<td{kind}>{text}</td>"
        else:
            yield f'<th scope="row"{kind}>{text}</th>'


# What went on


def _busiest(lines: Sequence[Line]) -> list[Line]:
    """
    Choose the lines with the largest values.
    """
    found = sorted(lines, key=lambda each: -each.most)[:MAXIMUM_LINES]
    return sorted(found, key=lambda each: each.name)


def _picture(name: str, lines: Sequence[Line]) -> str:
    top = ceiling(max((each.most for each in lines), default=0))
    said = "; ".join(
        f"{each.name}: {number(each.last)} now, {number(each.most)} at most"
        for each in lines
    )
    legend = "".join(
        f'<li><span class="key s{index % STYLES}" aria-hidden="true"></span>'
        f"{escape(each.name)} <b>{number(each.last)}</b></li>"
        for index, each in enumerate(lines)
    )
    label = f"{name} over the last five minutes. {said or 'Nothing is known yet'}."
    return (
        f"<figcaption>{escape(name)}</figcaption>"
        f'<ul class="legend">{legend}</ul>'
        f'<div class="plot"><span class="top" aria-hidden="true">{number(top)}</span>'
        f"{chart(lines, label, top)}"
        '<span class="from" aria-hidden="true">5 minutes ago</span>'
        '<span class="to" aria-hidden="true">now</span></div>'
    )


def _workers(lines: Sequence[Line]) -> str:
    """
    Draw a small picture for each worker.
    """
    top = ceiling(max((each.most for each in lines), default=0))
    items = [
        f"<li><span>{escape(each.name)}</span>"
        f"{chart([each], f'{each.name}: {number(each.most)} at most', top)}"
        f"<b>{number(each.last)}</b></li>"
        for each in lines[:MAXIMUM_WORKERS]
    ]
    if not lines:
        items.append("<li>No worker has joined.</li>")
    elif len(lines) > MAXIMUM_WORKERS:
        items.append(f"<li>{len(lines) - MAXIMUM_WORKERS} more</li>")
    return "".join(items)


def _figures(lines: Sequence[Line]) -> str:
    heads = "".join(
        f'<th scope="col" class="right">{escape(each.name)}</th>' for each in lines
    )
    rows = "".join(
        f'<tr><th scope="row">{ago} s ago</th>{"".join(_averages(lines, ago))}</tr>'
        for ago in range(0, 300, FIGURE_SECONDS)
    )
    return (
        f"<table><caption>Averages of {FIGURE_SECONDS} seconds</caption>"
        f'<thead><tr><th scope="col">until</th>{heads}</tr></thead>'
        f"<tbody>{rows}</tbody></table>"
    )


def _averages(lines: Sequence[Line], ago: int) -> Iterator[str]:
    for each in lines:
        values = [
            value
            for at, value in each.points
            if value is not None and ago <= at < ago + FIGURE_SECONDS
        ]
        mean = sum(values) / len(values) if values else None
        yield f'<td class="right">{number(mean)}</td>'
