"""
What the commands of an operator write: lines, numbers, durations and sizes.
"""

from __future__ import annotations

import math
import shutil
import sys

#: The exit code if a command cannot ask.
NOT_ASKED = 2


class Lines:
    """
    Shows the progress on standard output: in one line that changes if that is a
    terminal, and in a few lines otherwise.

    @param quiet: whether to show nothing.
    """

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet or sys.stdout is None
        self._changes = not self._quiet and sys.stdout.isatty()
        self._shown = False

    def say(self, line: str) -> None:
        """
        Write a line that stays.
        """
        self.clear()
        self._write(f"{line}\n")

    def show(self, line: str) -> None:
        """
        On a terminal, write a line that the next one replaces.
        """
        if self._changes:
            self.clear()
            self._write(line[: shutil.get_terminal_size().columns - 1])
            self._shown = True

    def clear(self) -> None:
        """
        Remove the line of L{show}.
        """
        if self._shown:
            self._write("\r\x1b[K")
            self._shown = False

    def _write(self, text: str) -> None:
        if self._quiet:
            return
        try:
            sys.stdout.write(writable(text))
            sys.stdout.flush()
        except OSError:
            self._quiet = True  # nobody reads it, and the work goes on


def writable(text: str) -> str:
    """
    Replace the characters that standard output cannot write.
    """
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return text.encode(encoding, "replace").decode(encoding)


def plural(count: int, noun: str = "connection") -> str:
    """
    Write a number of things.
    """
    return f"{count} {noun}{'' if count == 1 else 's'}"


def duration(seconds: float, exact: bool = False) -> str:
    """
    Write a duration, in one or two units.

    @param exact: whether tenths of seconds matter, up to a minute.
    """
    if not math.isfinite(seconds) or seconds < 0:
        return "?"
    if exact and seconds < 59.95:
        return f"{seconds:.1f} s"
    rest = round(seconds)
    parts = []
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, rest = divmod(rest, size)
        parts.append((count, unit))
    while len(parts) > 1 and not parts[0][0]:
        del parts[0]
    first, *others = parts[:2]
    shown = [first, *(each for each in others if each[0])]
    return " ".join(f"{count} {unit}" for count, unit in shown)


def size(count: int) -> str:
    """
    Write a number of bytes.
    """
    if count < 1024:
        return f"{count} B"
    units = ["TiB", "GiB", "MiB", "KiB"]
    number = count / 1024
    while number >= 999.5 and len(units) > 1:
        number /= 1024
        units.pop()
    unit = units[-1]
    return f"{number:.1f} {unit}" if number < 99.95 else f"{number:.0f} {unit}"


def brief(text: str, length: int = 40) -> str:
    """
    Shorten a text.
    """
    return text if len(text) <= length else text[: length - 3] + "..."
