"""
What a command writes to standard output and to standard error.
"""

from __future__ import annotations

import os
import signal
import sys


def show(text: str) -> None:
    """
    Write text and a line break to standard output.

    @raise SystemExit: if that fails: with the exit code of a process that was ended by
        SIGPIPE if nobody reads, and else with the reason.
    """
    try:
        print(text, flush=True)
    except OSError as error:
        # Otherwise Python writes the rest again when it ends, and fails again.
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
        if isinstance(error, BrokenPipeError):
            raise SystemExit(128 + signal.SIGPIPE) from None
        raise SystemExit(
            f"portlisten: cannot write to standard output: {error.strerror}"
        ) from None


def complain(command: str, message: str) -> None:
    """
    Write a line to standard error, if that is possible.
    """
    write(f"{command}: {message}")


def write(line: str) -> None:
    """
    Write a line to standard error, if that is possible.
    """
    if sys.stderr is None:
        return  # print() would write to standard output
    try:
        print(line, file=sys.stderr, flush=True)
    except (OSError, ValueError):  # it is full, or closed
        pass  # the exit code tells, or the program can do without a log
