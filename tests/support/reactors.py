"""
Helpers for tests of the reactor's room.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

from twisted.internet.base import ReactorBase


class BareReactor(ReactorBase):
    """
    A reactor of Twisted's kind, whose registrations fail as told.

    @ivar errors: the numbers of the errors of the next registrations.
    @ivar removalErrors: likewise, of what takes one back.
    """

    def __init__(self) -> None:
        self.readers: list[object] = []
        self.writers: list[object] = []
        self.errors: list[int] = []
        self.removalErrors: list[int] = []
        super().__init__()

    def installWaker(self) -> None:
        """
        It needs none.
        """

    def _may(self, errors: list[int]) -> None:
        if errors:
            number = errors.pop(0)
            raise OSError(number, os.strerror(number))

    def addReader(self, reader: object) -> None:
        self._may(self.errors)
        if reader not in self.readers:
            self.readers.append(reader)

    def addWriter(self, writer: object) -> None:
        self._may(self.errors)
        self.writers.append(writer)

    def removeReader(self, reader: object) -> None:
        self._may(self.removalErrors)
        if reader in self.readers:
            self.readers.remove(reader)

    def removeWriter(self, writer: object) -> None:
        self._may(self.removalErrors)
        if writer in self.writers:
            self.writers.remove(writer)


class Reader:
    """
    Something with a descriptor, as far as it matters.
    """

    def __init__(self, descriptor: int = 12345) -> None:
        self.descriptor = descriptor

    def fileno(self) -> int:
        return self.descriptor


def run(code: str) -> str:
    """
    Run a program in a process of its own.

    @return: its output.
    """
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        check=True,
        timeout=30,
        capture_output=True,
        text=True,
    ).stdout
