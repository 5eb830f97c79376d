"""
Programs that a command runs.
"""

from __future__ import annotations

import os
import shutil
import signal

from portlisten.errors import CannotRun

#: The exit codes of a shell.
NOT_EXECUTABLE = 126
NOT_FOUND = 127


def find(program: str) -> str:
    """
    Find a program, as a shell does.

    @param program: its name, or its path.
    @return: its path.
    @raise CannotRun: if it does not exist, or cannot be executed.
    """
    found = shutil.which(program)
    if found is not None:
        return found
    if os.path.exists(program) and os.sep in program:
        raise CannotRun(f"{program} is not executable", NOT_EXECUTABLE)
    raise CannotRun(f"the program {program!r} does not exist", NOT_FOUND)


def restoreSignals() -> None:
    """
    Set the signals to their default that Python ignores.  A program would inherit that.
    """
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
