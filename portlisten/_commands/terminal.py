"""
What a command shows, in a terminal: with rich, which is the extra C{terminal}.

Import this module only where it is needed: rich may be missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.table import Table as Grid
from rich.text import Text as Words

from portlisten._commands.progress import writable
from portlisten._commands.restart_steps import replaced, stepWords
from portlisten._control.status import Progress, Step, StepState
from portlisten._screen.tables import Mood, Screen, Table, Text, joined

#: How each mood looks.
STYLES = {
    Mood.PLAIN: "",
    Mood.FAINT: "dim",
    Mood.GOOD: "green",
    Mood.BUSY: "yellow",
    Mood.BAD: "bold red",
}

_MARKS = {StepState.DONE: "✓", StepState.FAILED: "✗", StepState.WAITING: "·"}
_PLAIN_MARKS = {
    StepState.DONE: "*",
    StepState.FAILED: "!",
    StepState.STARTING: ">",
    StepState.DRAINING: ">",
    StepState.STOPPING: ">",
}
_RUNNING = (StepState.STARTING, StepState.DRAINING, StepState.STOPPING)
_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"

#: How many characters are between two columns, and before the first.
_GAP = 2
_INDENT = 1


def words(text: Text) -> Words:
    """
    Make rich's text of a text.
    """
    return Words(writable(text.text), STYLES[text.mood])


class ScreenView:
    """
    Shows a screen, in the width that the terminal has.
    """

    def __init__(self, screen: Screen) -> None:
        self._screen = screen

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        isUnicode = options.encoding.startswith("utf")
        yield _verdict(self._screen, isUnicode)
        if self._screen.facts:
            yield ""
            yield _facts(self._screen, options.max_width)
        for table in self._screen.tables:
            yield ""
            yield _table(table, options.max_width)


def _verdict(screen: Screen, isUnicode: bool) -> RenderableType:
    grid = Grid.grid(padding=(0, 1))
    for each in screen.verdict:
        marks = ("✗", "✓") if isUnicode else ("!", "*")
        mark = marks[each.mood is Mood.GOOD]
        grid.add_row(Words(mark, STYLES[each.mood]), words(each))
    return _indented(grid)


def _facts(screen: Screen, width: int) -> RenderableType:
    grid = Grid.grid(padding=(0, _GAP, 0, 0))
    room = width - _INDENT - _GAP - max(len(name) for name, _ in screen.facts)
    for name, texts in screen.facts:
        lines = "\n".join(joined(texts, room))
        grid.add_row(Words(name, "bold"), Words(writable(lines)))
    return _indented(grid)


def _indented(inner: RenderableType) -> RenderableType:
    return Padding(inner, (0, 0, 0, _INDENT), expand=False)


def _table(table: Table, width: int) -> RenderableType:
    fit = table.fit(width - _INDENT, _GAP)
    grid = Grid(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        # The box adds one more character between two columns.
        padding=(0, _GAP - 1, 0, 0),
        header_style="dim",
        border_style="dim",
    )
    for column in fit.columns:
        grid.add_column(
            column.name,
            justify="right" if column.right else "left",
            no_wrap=True,
            overflow="ellipsis",
        )
    for row in fit.rows:
        grid.add_row(*map(words, row))
    parts: list[RenderableType] = [grid]
    if table.title:
        parts.insert(0, Words(writable(table.title), "bold"))
    return _indented(Group(*parts))


def live(console: Console) -> Live:
    """
    Show things in place, on a screen of their own.

    @return: a context manager, whose C{update} shows something.
    """
    return Live(console=console, screen=True, auto_refresh=False)


class StepsView:
    """
    Shows the progress of a restart: a line for each worker.  If they do not fit, those
    that are replaced already, or wait, are counted.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        isUnicode = options.encoding.startswith("utf")
        steps, done, waiting = _fitting(self._progress.steps, console.size.height - 3)
        what = writable(self._progress.what or "restart")
        count = len(self._progress.steps)
        yield Words.assemble(
            (what, "bold"), (f"  {replaced(self._progress)} of {count}", "dim")
        )
        if done:
            yield Words(f"   and {done} more replaced", "dim")
        grid = Grid.grid(padding=(0, 1), pad_edge=True)
        grid.add_column()
        grid.add_column(no_wrap=True)
        grid.add_column(no_wrap=True, overflow="ellipsis")
        grid.add_column(no_wrap=True, justify="right")
        for step in steps:
            workers, state, seconds = stepWords(step)
            mark = (_MARKS if isUnicode else _PLAIN_MARKS).get(step.state, " ")
            if step.state in _RUNNING and isUnicode:
                mark = _SPINNER[int(console.get_time() * 10) % len(_SPINNER)]
            grid.add_row(
                Words(mark, STYLES[state.mood]),
                words(Text(workers if isUnicode else workers.replace("→", "->"))),
                words(state),
                Words(seconds, "dim"),
            )
        yield grid
        if waiting:
            yield Words(f"   and {waiting} more", "dim")


def _fitting(steps: Sequence[Step], height: int) -> tuple[Sequence[Step], int, int]:
    """
    Choose the steps that fit.

    @return: the steps, how many before them are left out, and how many after them.
    """
    room = max(3, height - 2)
    if len(steps) <= room:
        return steps, 0, 0
    first = next(
        (n for n, each in enumerate(steps) if each.state is not StepState.DONE),
        len(steps),
    )
    start = min(max(0, first - 1), len(steps) - room)
    return steps[start : start + room], start, len(steps) - start - room


def liveSteps() -> Live:
    """
    Show steps in place.  The last ones stay.

    @return: its C{update} shows them.
    """
    console = Console(highlight=False)
    return Live(console=console, auto_refresh=False, vertical_overflow="crop")
