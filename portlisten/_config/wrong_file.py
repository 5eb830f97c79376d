"""
The error that names all mistakes in a file of C{portlisten run}.
"""

from __future__ import annotations

from collections.abc import Sequence

from portlisten._config.file import WorkersSettings
from portlisten._config.wrong import Problem
from portlisten._model import printable


class WrongFile(Exception):
    """
    A file has mistakes.  The text has a line for each.

    @ivar problems: all mistakes.
    @ivar file: the name of the file, or nothing.
    @ivar path: the path of the channel, if the file has a good one.
    @ivar workers: the groups of workers without a mistake.
    """

    def __init__(
        self,
        problems: Sequence[Problem],
        file: str = "",
        path: str | None = None,
        workers: Sequence[WorkersSettings] = (),
    ) -> None:
        super().__init__(problems)
        self.problems = list(problems)
        self.file = file
        self.path = path
        self.workers = tuple(workers)

    @property
    def lines(self) -> list[str]:
        """
        Each mistake in a line, with the name of the file.
        """
        name = f"{self.file}: " if self.file else ""
        return [printable(f"{name}{each}") for each in self.problems]

    def __str__(self) -> str:
        return "\n".join(self.lines)
