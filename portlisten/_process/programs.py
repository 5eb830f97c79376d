"""
Programs that a command runs.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sys
from collections.abc import Mapping

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


def explain(path: str, error: OSError) -> str:
    """
    Say why this process cannot execute a program that exists.

    @param path: the path of the program.
    @param error: the error of execve(2).
    @return: one sentence, without the path at its beginning.
    """
    if error.errno == errno.ENOENT:
        return "the interpreter that its first line names is missing"
    return (obstacle(path) if error.errno == errno.EACCES else "") or str(
        error.strerror
    )


def obstacle(path: str) -> str:
    """
    Find what keeps this process from executing a program.

    @param path: the path of the program.
    @return: one sentence, without the path at its beginning; empty if nothing is found.
    """
    for role, file in (("it", path), ("its interpreter", _interpreter(path))):
        found = _obstacle(file)
        if found:
            return f"this user may not execute {role}: {found}"
    return ""


def searchPath(environment: Mapping[str, str]) -> str:
    """
    Make the variable PATH of a process of the supervisor's.  The folder of this Python
    comes first: the programs that are installed beside portlisten are there.

    @param environment: the environment that the process inherits.
    """
    folder = os.path.dirname(sys.executable)
    path = environment.get("PATH") or os.defpath
    if folder in ("", path.split(os.pathsep)[0]):
        return path
    return os.pathsep.join([folder, path])


def _interpreter(path: str) -> str:
    """
    Read the name of the interpreter of a script; empty if there is none.
    """
    try:
        with open(path, "rb") as file:
            line = file.readline(256)
    except OSError:
        return ""
    words = line[2:].split(maxsplit=1) if line.startswith(b"#!") else []
    return os.fsdecode(words[0]) if words else ""


def _obstacle(path: str) -> str:
    """
    Find what keeps this process from executing a file; empty if nothing is found.
    """
    if not path:
        return ""
    found = os.path.realpath(path)
    parts = found.split(os.sep)
    for count in range(2, len(parts)):
        folder = os.sep.join(parts[:count])
        if not os.access(folder, os.X_OK, effective_ids=True):
            return (
                f"{found} is in {folder}, which is closed to it; use a program that all"
                " users may execute"
            )
    if not os.path.exists(found):
        return f"{found} does not exist"
    if not os.access(found, os.X_OK, effective_ids=True):
        return f"{found} is not executable for it"
    return ""


def restoreSignals() -> None:
    """
    Set the signals to their default that Python ignores.  A program would inherit that.
    """
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
