"""
What a command writes to standard output and to standard error.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from typing import TextIO


def show(text: str) -> None:
    """
    Write text and a line break to standard output.

    @raise SystemExit: if that fails: with the exit code of a process that was ended by
        SIGPIPE if nobody reads, and else with the reason.
    """
    try:
        print(text, flush=True)
    except OSError as error:
        _discard(sys.stdout)
        if isinstance(error, BrokenPipeError):
            raise SystemExit(128 + signal.SIGPIPE) from None
        raise SystemExit(
            f"portlisten: cannot write to standard output: {error.strerror}"
        ) from None


def _discard(stream: TextIO) -> None:
    """
    Write nothing more to a stream that fails.  Otherwise Python writes the rest again
    when it ends, fails again, and ends with another exit code.
    """
    with suppress(OSError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


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
    except ValueError:  # it is closed
        pass  # the exit code tells, or the program can do without a log
    except OSError:  # it is full
        _discard(sys.stderr)
