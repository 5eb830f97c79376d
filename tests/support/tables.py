"""
Compares the tables of sessions with what their essays say.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from itertools import takewhile

from portlisten._wire.frames import Frame
from portlisten._wire.session import Forbidden, Row


def essay(text: str) -> dict[str, list[str]]:
    """
    Find the table of what the other end may say in a module's docstring.

    @return: the cells of each row, by the state.
    """
    lines = text.splitlines()
    (start,) = (at for at, line in enumerate(lines) if line.startswith("    theirs"))
    rows = (line.split() for line in lines[start:])
    return {row[0]: row[1:] for row in takewhile(bool, rows)}


def cellsOf(state: Enum, row: Row, kinds: Iterable[type[Frame]]) -> list[str]:
    """
    Say what the row of a state does, as an essay does.
    """
    cells = []
    for kind in kinds:
        cell = row[kind]
        if isinstance(cell, Forbidden):
            cells.append("error")
        else:
            cells.append("yes" if cell.then in (None, state) else cell.then.name)
    return cells
