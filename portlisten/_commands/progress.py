"""
How the commands of an operator write: lines that stay, and lines that change.
"""

from __future__ import annotations

import shutil
import sys


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
