"""
Processes of a supervisor in tests.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any
from unittest import TestCase, skipIf

from portlisten._children import launch as _launch
from portlisten._children.launch import Launch

SH = "/bin/sh"

#: The environment of the processes.
ENVIRONMENT = {"PATH": "/usr/bin:/bin"}

needsRoot = skipIf(os.getuid() != 0, "becoming another user needs root")


def shell(text: str, **options: Any) -> Launch:
    """
    Make a process that runs a text of the shell.
    """
    options.setdefault("environment", ENVIRONMENT)
    return Launch("web-1", (SH, "-c", text), **options)


def openFolder(test: TestCase) -> Path:
    """
    Make a folder that every user may enter.
    """
    path = Path(tempfile.mkdtemp(prefix="portlisten."))
    path.chmod(0o755)
    test.addCleanup(shutil.rmtree, path)
    return path


def script(path: Path, text: str, mode: int = 0o755) -> str:
    """
    Write a program.

    @return: its path.
    """
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def answer(launch: Launch) -> tuple[str, int]:
    """
    Start a process, and wait for its end.

    @return: what it wrote, and its exit code.
    """
    reader, writer = os.pipe()
    try:
        pid = _launch.start(launch, writer)
    except BaseException:
        os.close(reader)
        raise
    finally:
        os.close(writer)
    with open(reader) as file:
        text = file.read()
    _, status = os.waitpid(pid, 0)
    return text, os.waitstatus_to_exitcode(status)
