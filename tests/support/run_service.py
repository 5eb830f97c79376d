"""
C{portlisten run} as a process: the words that start it, and its files.

If root runs the tests, the listener and the workers have other users.  Those may not be
able to run this Python, and then all of it runs by the system's Python.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

SOURCE = Path(__file__).parents[2]

#: The users of the listener and of the workers, and their group, if root runs this.
LISTENER_USER, WORKERS_USER, GROUP = "daemon", "nobody", "nogroup"


class NoPython(Exception):
    """
    No Python has what is needed for another user.
    """


def isRoot() -> bool:
    """
    Whether root runs this.
    """
    return os.geteuid() == 0


@cache
def pythonFor(*modules: str) -> tuple[str, ...]:
    """
    The words that run a Python that the users of the listener and of the workers can
    run as well, and that has some modules.

    @raise NoPython: if none is found.
    """
    if not isRoot():
        return (sys.executable,)
    spec = importlib.util.find_spec("twisted")
    assert spec is not None
    assert spec.origin is not None
    packages = str(Path(spec.origin).parents[1])
    path = f"PYTHONPATH={SOURCE}:{packages}"
    code = "import portlisten._commands.portlisten, cattrs"
    code += "".join(f", {each}" for each in modules)
    for words in ((sys.executable,), ("env", path, "/usr/bin/python3")):
        try:
            subprocess.run(
                [*words, "-c", code],
                check=True,
                capture_output=True,
                cwd="/",
                user=WORKERS_USER,
                group=GROUP,
                extra_groups=[],
            )
        except (OSError, subprocess.CalledProcessError):
            continue
        return words
    raise NoPython(f"{WORKERS_USER} can run no Python that has portlisten and {code}")


@dataclass(frozen=True)
class Workers:
    """
    A table of workers.

    @ivar command: the command; the first word may be C{python}.
    @ivar also: more lines of the table.
    """

    name: str
    command: Sequence[str]
    count: int = 1
    also: str = ""


def quoted(text: str) -> str:
    """
    Write a string of TOML.
    """
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def write(folder: Path, ports: str, workers: Sequence[Workers], top: str = "") -> Path:
    """
    Write a file of C{portlisten run} into a folder, with the channel's path beside it.

    @param ports: the tables of the ports.
    @param top: more lines above all tables.
    """
    program = pythonFor()[-1]
    lines = [f'path = "{folder}/socket"', top]
    if isRoot():
        lines += [f'user = "{LISTENER_USER}"', f'group = "{GROUP}"']
    lines.append(ports)
    for each in workers:
        words = [program if word == "python" else word for word in each.command]
        lines += [
            f"[workers.{each.name}]",
            f"command = [{', '.join(map(quoted, words))}]",
            f"count = {each.count}",
            each.also,
        ]
        if isRoot():
            lines.append(f'user = "{WORKERS_USER}"')
    file = folder / "run.toml"
    file.write_text("\n".join([*lines, ""]))
    file.chmod(0o644)
    return file


def portlisten(*arguments: str, modules: Sequence[str] = ()) -> list[str]:
    """
    The words that run C{portlisten}.

    @param modules: what the Python must have, for the workers.
    @raise NoPython: if none has.
    """
    return [*pythonFor(*modules), "-m", "portlisten", *arguments]
