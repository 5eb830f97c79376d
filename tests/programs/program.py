"""
What each foreign program says of itself.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import tests.programs

#: The user that a program runs as, if root starts it.
USER = "daemon"

#: How long a client waits for anything, in seconds: also while its program restarts.
PATIENCE = 30.0

#: The modules of this package that have no programs.
_FRAME = {"__main__", "program", "python", "trying"}


class Missing(Exception):
    """
    A program cannot be installed here.  The text says what is missing.
    """


@dataclass
class Stage:
    """
    Where one program is tried.

    @ivar folder: its folder, which belongs to its user.
    @ivar path: the path of the listener's channel.
    @ivar ports: the numbers of the listener's ports, by their names.
    @ivar free: a number for the program that no process listens on.  It needs no
        privilege.
    @ivar privileged: whether the listener was started as root.
    """

    folder: Path
    path: Path
    ports: Mapping[str, int]
    free: int
    privileged: bool

    @property
    def port(self) -> int:
        """
        The number of the listener's first port.
        """
        return next(iter(self.ports.values()))

    def write(self, name: str, text: str) -> Path:
        """
        Write a file into the folder, readable for the program.
        """
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path


class Program(ABC):
    """
    A foreign program, and a client that uses it.  The client raises an exception if
    the program does not do its job.

    @cvar name: the name in the table.
    @cvar ports: the names of the listener's ports.
    @cvar share: whether the listener shares the ports, as C{portlisten exec} needs it.
    @cvar slow: whether C{--quick} leaves it out.
    @cvar patience: how many seconds the program may take to stop.
    """

    name: str
    ports: Sequence[str] = ("port",)
    share = False
    slow = False
    patience = PATIENCE

    @abstractmethod
    def install(self, cache: Path) -> None:
        """
        Install the program.

        @param cache: a folder that every user may enter.  It may have what an earlier
            call put there.
        @raise Missing: if that is impossible here.
        """

    @abstractmethod
    def version(self) -> str:
        """
        The version of the program that is installed.
        """

    def prepare(self, stage: Stage) -> None:  # noqa: B027
        """
        Write the program's configuration.  By default, nothing.  Runs as root if the
        stage is privileged; the files then are given to the program's user.
        """

    @abstractmethod
    def command(self, stage: Stage) -> Sequence[str]:
        """
        The whole command line, with C{portlisten} at its beginning.  It runs in the
        folder, without privileges.
        """

    @abstractmethod
    def job(self, stage: Stage) -> str:
        """
        Be a client once.  Called again and again, also while the program restarts, and
        not by two threads at a time.

        @return: what the client did, in a few words.
        @raise Exception: if it did not work.
        """


def programs() -> Iterator[Program]:
    """
    All programs of this package, by the names of their modules.
    """
    for module in pkgutil.iter_modules(tests.programs.__path__):
        if module.name not in _FRAME:
            found = importlib.import_module(f"tests.programs.{module.name}")
            yield from found.PROGRAMS


def give(folder: Path, uid: int, gid: int) -> None:
    """
    Give a folder and all that is in it to a user.
    """
    for path in [folder, *folder.rglob("*")]:
        os.chown(path, uid, gid, follow_symlinks=False)
