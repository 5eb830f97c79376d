"""
Trials: steps that are taken one after the other, with a row of a table for each.

The programs C{tests.systemd}, C{tests.machines} and C{tests.containers} are made of
them.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

_T = TypeVar("_T")

#: What a step works with: a machine, or several.
_Subject = TypeVar("_Subject")

#: The most characters of an error in the table: of its beginning, and of its end.
_BEGINNING, _END = 300, 900


@dataclass(frozen=True)
class Step(Generic[_Subject]):
    """
    A step.

    @ivar about: what it is about, for the table.
    @ivar name: what is done.
    @ivar do: does it, and returns what was seen.  It raises L{AssertionError} if that
        is not as it must be.
    """

    about: str
    name: str
    do: Callable[[_Subject], str]


def until(
    condition: Callable[[], _T], what: str, patience: float, pause: float = 0.05
) -> _T:
    """
    Wait until a condition holds.

    @param patience: how long at the most, in seconds.
    @param pause: how long before it is asked again, in seconds.
    @return: what it returns.
    @raise AssertionError: if it does not hold in time.
    """
    end = time.monotonic() + patience
    while not (value := condition()):
        assert time.monotonic() < end, f"not within {patience:g} s: {what}"
        time.sleep(pause)
    return value


def addWords(parser: argparse.ArgumentParser) -> None:
    """
    Let the command line choose steps.
    """
    parser.add_argument(
        "words",
        nargs="*",
        metavar="WORD",
        help="take only the steps whose subject or name contains one of these",
    )


def chosen(
    steps: Iterable[Step[_Subject]], words: Sequence[str]
) -> list[Step[_Subject]]:
    """
    Choose steps.
    """
    return [
        each
        for each in steps
        if not words or any(word in f"{each.about} {each.name}" for word in words)
    ]


def exitWhenStopped() -> None:
    """
    Let SIGTERM and SIGHUP exit by L{SystemExit}, so that what was made is removed.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))


def takeAll(
    steps: Iterable[Step[_Subject]],
    take: Callable[[Step[_Subject]], str],
    failed: Callable[[], None] = lambda: None,
) -> bool:
    """
    Take steps, one after the other, and print a row for each.

    @param take: takes one, and returns what was seen.
    @param failed: called after each that has failed.
    @return: whether one has failed.
    """
    wrong = False
    print("| about | step | what was seen | ok |")
    print("| --- | --- | --- | --- |", flush=True)
    for step in steps:
        began = time.monotonic()
        try:
            seen, ok = take(step), "yes"
        except (
            AssertionError,
            OSError,
            ValueError,
            subprocess.SubprocessError,
        ) as error:
            wrong = True
            seen, ok = _short(" ".join(str(error).split()).replace("|", "/")), "NO"
            failed()
        print(f"| {step.about} | {step.name} | {seen} | {ok} |", flush=True)
        took = time.monotonic() - began
        print(f"  {took:.1f} s", file=sys.stderr, flush=True)
    return wrong


def _short(text: str) -> str:
    if len(text) <= _BEGINNING + _END:
        return text
    return f"{text[:_BEGINNING]} … {text[-_END:]}"
