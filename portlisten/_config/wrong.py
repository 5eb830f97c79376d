"""
Mistakes in a file: each has the key where it is, and a sentence.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

_BARE = re.compile("[A-Za-z0-9_-]+", re.ASCII)


def key(*parts: str) -> str:
    """
    Write a key as in TOML.

    @param parts: the names of the tables, and of the key.  Empty names are left out.
    """
    return ".".join(
        each if _BARE.fullmatch(each) else json.dumps(each) for each in parts if each
    )


@dataclass(frozen=True)
class Problem:
    """
    A mistake in a file.

    @ivar key: the key, as in the file; empty for the file as a whole.
    @ivar text: what is wrong, and what would be right.
    """

    key: str
    text: str

    def __str__(self) -> str:
        return f"{self.key}: {self.text}" if self.key else self.text


class WrongValues(ValueError):
    """
    Several parts of a value are wrong.

    @ivar problems: for each, its name in the value or nothing, and a sentence.
    """

    def __init__(self, problems: Sequence[tuple[str, str]]) -> None:
        super().__init__("; ".join(text for _, text in problems))
        self.problems = list(problems)


class Problems:
    """
    Collects what is wrong with the parts of a value.

    @ivar found: for each problem, the name of the part, and a sentence.
    """

    def __init__(self) -> None:
        self.found: list[tuple[str, str]] = []

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """
        Catch a L{ValueError} about a part.

        @param name: the name of the part, or nothing.
        """
        try:
            yield
        except ValueError as error:
            self.found.append((name, str(error)))


@contextmanager
def collected() -> Iterator[Problems]:
    """
    Collect all problems with the parts of a value.

    @raise WrongValues: at the end, if problems were found.
    """
    problems = Problems()
    yield problems
    if problems.found:
        raise WrongValues(problems.found)
