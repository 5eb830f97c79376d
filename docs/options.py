"""
Writes the documents on options: the tables of the guides, and the manual pages.  Both
are made from the settings.  The table of the metrics is made likewise::

    python -m docs.options           writes them
    python -m docs.options --check   exits with 1, and names stale documents, if any

In a guide, a table stands between two comments, C{<!-- options: NAME -->} and
C{<!-- end of options -->}, with a name out of L{TABLES}.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from docs import manual
from portlisten._config.file import PortsSettings, WorkersSettings
from portlisten._config.options import Option, Settings, optionsOf
from portlisten._config.settings import (
    AsPortSettings,
    CheckSettings,
    DenySettings,
    DrainSettings,
    EachSettings,
    ExecSettings,
    ListenerSettings,
    PauseSettings,
    ReloadSettings,
    RestartSettings,
    RunCommandSettings,
    StatusSettings,
    StopSettings,
    UndrainSettings,
    UpgradeSettings,
    WorkerSettings,
)
from portlisten._config.toml import fileOptions
from portlisten._config.values import Flag
from portlisten._events import EVENTS
from portlisten._monitor.metric_names import METRICS

ROOT = Path(__file__).parents[1]
GUIDES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
PAGES = ROOT / "docs" / "man"

HEAD = "| option | default | what it does |\n| --- | --- | --- |\n"
METRICS_HEAD = "| metric | type | labels | meaning |\n| --- | --- | --- | --- |\n"
KEYS = "| key | value | default | what it does |\n| --- | --- | --- | --- |\n"


def commandTable(settings: type[Settings]) -> str:
    """
    The table of a command's options.
    """
    options = [each for each in optionsOf(settings) if each.onCommandLine]

    def written(option: Option) -> str:
        value = "" if isinstance(option.type, Flag) else f"={option.type.metavar}"
        return f"--{option.name}{value}"

    return HEAD + "".join(
        _row(
            written(each),
            each.defaultText(),
            _marked(each.explain("--wire=", "; may be given several times")),
            each.more,
            manual.meaningless(each, options, lambda other: f"`--{other.name}`"),
        )
        for each in options
    )


def endpointTable(settings: type[Settings]) -> str:
    """
    The table of the options of an endpoint description.
    """
    options = [each for each in optionsOf(settings) if each.inDescription]

    def written(option: Option) -> str:
        comma = ",…" if option.several else ""
        return f"{option.describedName}={option.type.metavar}{comma}"

    return HEAD + "".join(
        _row(
            written(each),
            each.defaultText(),
            re.sub(r"(wire=\w+)", r"`\1`", each.explain("wire=")),
            manual.meaningless(each, options, lambda other: f"`{other.describedName}`"),
        )
        for each in options
    )


def keyTable(options: list[Option]) -> str:
    """
    The table of the keys of a file.
    """

    def row(option: Option) -> str:
        value = option.type.metavar.replace("|", r"\|")
        several = " or a list" if option.several else ""
        sentences = f"{option.help} {option.more}".strip()
        effect = re.sub("`?--([a-z][a-z-]*)`?", r"`\1`", sentences)
        default = option.defaultText()
        return f"| `{option.name}` | `{value}`{several} | {default} | {effect} |\n"

    return KEYS + "".join(map(row, options))


def metricsTable() -> str:
    """
    The table of the metrics.
    """

    def row(name: str, kind: str, labels: tuple[str, ...], meaning: str) -> str:
        shown = ", ".join(f"`{each}`" for each in labels)
        meaning = re.sub(r"'(portlisten [a-z]+)'", r"`\1`", meaning)
        meaning = re.sub(r"(/healthz)\b", r"`\1`", meaning)
        return f"| `{name}` | {kind} | {shown} | {meaning}. |\n".replace("|  |", "| |")

    return METRICS_HEAD + "".join(
        row(each.name, each.type.value, each.labels, each.meaning)
        for supervised in (False, True)
        for each in METRICS
        if each.supervised is supervised
    )


def eventTable() -> str:
    """
    The table of all events of the log.
    """
    rows = [f"| `{name}` | {meaning} |\n" for name, meaning in EVENTS.items()]
    return "| event | what happened |\n| --- | --- |\n" + "".join(rows)


#: The tables, by the names that guides give them.
TABLES: dict[str, Callable[[], str]] = {
    "portlisten": lambda: commandTable(ListenerSettings),
    "hellofdpass": lambda: commandTable(WorkerSettings),
    "exec": lambda: commandTable(ExecSettings),
    "each": lambda: commandTable(EachSettings),
    "asport": lambda: commandTable(AsPortSettings),
    "file": lambda: keyTable(fileOptions()),
    "ports": lambda: keyTable(optionsOf(PortsSettings)),
    "workers": lambda: keyTable(optionsOf(WorkersSettings)),
    "check": lambda: commandTable(CheckSettings),
    "status": lambda: commandTable(StatusSettings),
    "restart": lambda: commandTable(RestartSettings),
    "reload": lambda: commandTable(ReloadSettings),
    "upgrade": lambda: commandTable(UpgradeSettings),
    "stop": lambda: commandTable(StopSettings),
    "drain": lambda: commandTable(DrainSettings),
    "deny": lambda: commandTable(DenySettings),
    "pause": lambda: commandTable(PauseSettings),
    "undrain": lambda: commandTable(UndrainSettings),
    "run": lambda: commandTable(RunCommandSettings),
    "events": eventTable,
    "endpoint": lambda: endpointTable(WorkerSettings),
    "metrics": metricsTable,
}


def _row(option: str, default: str, *sentences: str) -> str:
    escaped = option.replace("|", r"\|")
    cells = [f"`{escaped}`", default, " ".join(filter(None, sentences))]
    return f"| {' | '.join(cells)} |\n".replace("|  |", "| |")


def _marked(text: str) -> str:
    """
    Mark options in a sentence as code.
    """
    return re.sub(r"(--[a-z][a-z=-]*)", r"`\1`", text)


def fill(text: str) -> str:
    """
    Put the tables into a guide.
    """
    return re.sub(
        r"(<!-- options: (\w+) -->\n\n).*?(?=\n<!-- end of options -->)",
        lambda found: found[1] + TABLES[found[2]](),
        text,
        flags=re.DOTALL,
    )


def documents() -> Iterator[tuple[Path, str]]:
    """
    Make all documents on options.

    @return: for each, its path and its text.
    """
    for guide in GUIDES:
        yield guide, fill(guide.read_text("utf-8"))
    for page in manual.PAGES:
        yield PAGES / f"{page.name}.{page.section}", manual.write(page)


def stale() -> dict[Path, str]:
    """
    Find the documents that are out of date.

    @return: the right text of each, by its path.
    """
    return {
        path: text
        for path, text in documents()
        if not path.exists() or path.read_text("utf-8") != text
    }


def main() -> None:
    """
    Write the documents, or name the stale documents.
    """
    changes = stale()
    for path, text in changes.items():
        print(path.relative_to(ROOT))
        if sys.argv[1:] != ["--check"]:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, "utf-8")
    sys.exit(bool(changes) and sys.argv[1:] == ["--check"])


if __name__ == "__main__":
    main()
