"""
Fixtures that start real processes, and end them.
"""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted

from tests.support.processes import Processes
from tests.support.programs import command
from tests.support.replacing import Make, Replaced
from tests.support.running import Run
from tests.support.spawned import Process, Start


@pytest.fixture
def processes() -> Iterator[Processes]:
    """
    Starts processes, and ends them.
    """
    with Processes() as started:
        yield started


@pytest.fixture
def folder() -> Iterator[Path]:
    """
    A folder with a short name that every user may enter.
    """
    path = Path(tempfile.mkdtemp(prefix="portlisten."))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    """
    A function that starts a program in the folder.
    """
    processes: list[Process] = []

    def run(*arguments: str, inherited: Sequence[int] = ()) -> Process:
        process = Process(arguments, folder, inherited)
        processes.append(process)
        return process

    yield run

    async def end() -> None:
        for process in processes:
            await process.kill()

    pytest_twisted.blockon(pytest_twisted.defer.ensureDeferred(end()))


@pytest.fixture
def twistd(start: Start) -> Start:
    """
    A function that starts C{twistd} in the foreground: its own options by
    keyword, then the command and its arguments.
    """
    numbers = itertools.count()

    def run(*arguments: str, **options: Any) -> Process:
        options.setdefault("pidfile", f"{next(numbers)}.pid")
        own = [f"--{name}={value}" for name, value in options.items()]
        return start(command("twistd"), "-n", *own, *arguments)

    return run


@pytest.fixture
def run(folder: Path, start: Start) -> Iterator[Run]:
    """
    A file of C{portlisten run}, and its supervisor.
    """
    made = Run(folder, start)
    yield made
    made.end()


@pytest.fixture
def replaced(folder: Path, start: Start, twistd: Start) -> Iterator[Make]:
    """
    A function that makes a L{Replaced} with arguments of its listeners.
    """
    every: list[Replaced] = []

    def make(*arguments: str) -> Replaced:
        every.append(Replaced(folder, start, twistd, *arguments))
        return every[-1]

    yield make
    for each in every:
        each.close()


@pytest.fixture
def root() -> None:
    """
    Skips a test of privileges where there are none.
    """
    if os.geteuid() != 0:
        pytest.skip("needs root, to bind a port below 1024 and to change users")
