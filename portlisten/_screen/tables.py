"""
What a command shows, before it is known how: paragraphs and tables, and their plain
text.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

#: What is between two columns of plain text.
_GAP = "  "


class Mood(Enum):
    """
    What a text means for the operator.

    @cvar PLAIN: nothing.
    @cvar FAINT: it matters little.
    @cvar GOOD: all is well.
    @cvar BUSY: something goes on.
    @cvar BAD: something is wrong.
    """

    PLAIN = "plain"
    FAINT = "faint"
    GOOD = "good"
    BUSY = "busy"
    BAD = "bad"


@dataclass(frozen=True)
class Text:
    """
    A text, and what it means.
    """

    text: str
    mood: Mood = Mood.PLAIN


@dataclass(frozen=True)
class Column:
    """
    A column of a table.

    @ivar name: its heading.
    @ivar rank: the columns with the highest ranks are left out first if all do not fit.
        Columns with the rank 0 stay.
    @ivar right: whether its cells are aligned to the right.
    """

    name: str
    rank: int = 0
    right: bool = False


@dataclass(frozen=True)
class Table:
    """
    A table.

    @ivar title: its title.
    @ivar columns: its columns.
    @ivar rows: for each row, its cells.
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Text, ...], ...]

    def fit(self, width: int | None, gap: int = len(_GAP)) -> Table:
        """
        Leave out the columns that are empty, and those that do not fit.

        @param width: how many characters fit in a line; L{None} for no limit.
        @param gap: how many characters are between two columns.
        """
        chosen = [
            index
            for index, column in enumerate(self.columns)
            if not column.rank or any(row[index].text for row in self.rows)
        ]
        while width is not None and self._width(chosen, gap) > width:
            last = max(chosen, key=lambda index: self.columns[index].rank)
            if not self.columns[last].rank:
                break
            chosen.remove(last)
        return replace(
            self,
            columns=tuple(self.columns[index] for index in chosen),
            rows=tuple(tuple(row[index] for index in chosen) for row in self.rows),
        )

    def widths(self) -> list[int]:
        """
        Say how many characters wide each column is.
        """
        return [
            max(len(column.name), *(len(row[index].text) for row in self.rows), 0)
            for index, column in enumerate(self.columns)
        ]

    def _width(self, chosen: Sequence[int], gap: int) -> int:
        widths = self.widths()
        return sum(widths[index] + gap for index in chosen) - gap


@dataclass(frozen=True)
class Screen:
    """
    What a command shows.

    @ivar verdict: what is wrong; or that all is well.
    @ivar facts: pairs of a name and of texts, which commas separate.
    @ivar tables: the tables.
    """

    verdict: tuple[Text, ...]
    facts: tuple[tuple[str, tuple[str, ...]], ...] = ()
    tables: tuple[Table, ...] = field(default=())


def plainLines(screen: Screen, width: int | None = None) -> Iterator[str]:
    """
    Write plain text.

    @param width: how many characters fit in a line; L{None} for no limit.
    @return: the lines.
    """
    for each in screen.verdict:
        mark = "! " if each.mood is Mood.BAD else ""
        yield from _wrapped(mark, each.text, width)
    if screen.facts:
        yield ""
        indent = max(len(name) for name, _ in screen.facts) + len(_GAP)
        for name, texts in screen.facts:
            start = name.ljust(indent)
            for line in joined(texts, None if width is None else width - indent):
                yield start + line
                start = " " * indent
    for table in screen.tables:
        yield ""
        if table.title:
            yield from _wrapped("", table.title, width)
        yield from _tableLines(table.fit(width))


def joined(texts: Sequence[str], width: int | None) -> list[str]:
    """
    Put texts into lines, with commas between them.

    @param width: how many characters fit in a line; L{None} for no limit.
    """
    lines = [""]
    for index, text in enumerate(texts):
        comma = "," if index + 1 < len(texts) else ""
        start = f"{lines[-1]} " if lines[-1] else ""
        if start and width is not None and len(start + text + comma) > width:
            lines.append("")
            start = ""
        lines[-1] = start + text + comma
    return lines


def _wrapped(start: str, text: str, width: int | None) -> list[str]:
    if width is None:
        return [start + text]
    return textwrap.wrap(
        text,
        max(width, len(start) + 20),
        initial_indent=start,
        subsequent_indent=" " * len(start),
    ) or [start.rstrip()]


def _tableLines(table: Table) -> Iterator[str]:
    widths = table.widths()
    heads = [column.name for column in table.columns]
    for words in [heads, *([each.text for each in row] for row in table.rows)]:
        yield _GAP.join(
            word.rjust(width) if column.right else word.ljust(width)
            for word, width, column in zip(words, widths, table.columns, strict=True)
        ).rstrip()
