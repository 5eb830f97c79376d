"""
Programs and packages that tests need, and that may not be installed.
"""

from __future__ import annotations

import functools
import importlib.util
import pwd
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import twisted.python

from tests.support.processes import SOURCE


def command(name: str) -> str:
    """
    The path of a program that is installed beside this Python.
    """
    return str(Path(sys.executable).with_name(name))


def needs(module: str, name: str) -> None:
    """
    Skip a test if something is not installed.
    """
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{name} is not installed: pip install {name}")


def moduleFor(user: str, module: str) -> list[str]:
    """
    The words that run a module as another user.  That user may not be able to read
    this Python, and then the system's is used with the packages of this one.
    """
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        pytest.skip(f"{module} is not installed: pip install {module}")
    packages = str(Path(spec.origin).parents[1])
    entry = pwd.getpwnam(user)
    for words in (
        [sys.executable],
        ["env", f"PYTHONPATH={packages}", "/usr/bin/python3"],
    ):
        try:
            subprocess.run(
                [*words, "-c", f"import {module}"],
                check=True,
                capture_output=True,
                cwd="/",
                user=entry.pw_uid,
                group=entry.pw_gid,
                extra_groups=[],
            )
        except (OSError, subprocess.CalledProcessError):
            continue
        return [*words, "-m", module]
    pytest.skip(f"{user} can run no Python that has {module}")


@functools.cache
def pythonFor(user: str) -> Sequence[str]:
    """
    The words that run a Python that has this package as another user.
    """
    packages = str(Path(str(twisted.python.__file__)).parents[2])
    for words in (
        [sys.executable],
        ["env", f"PYTHONPATH={SOURCE}:{packages}", "/usr/bin/python3"],
    ):
        try:
            subprocess.run(
                [*words, "-c", "import portlisten._commands.portlisten, cattrs"],
                check=True,
                capture_output=True,
                cwd="/",
                user=user,
                extra_groups=[],
            )
        except (OSError, subprocess.CalledProcessError):
            continue
        return words
    pytest.skip(f"{user} can run no Python that has portlisten")
