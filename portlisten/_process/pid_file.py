"""
C{twistd}'s pid file, if a process takes over from another one that has the same file.

C{twistd} would refuse to start, since the process in the file lives.  So the file is
set aside first, and has the number of the new process as soon as that serves.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from typing import Any

from portlisten import _kernel


class PidFile:
    """
    The pid file of a process that may take over.

    @param twistd: the options of C{twistd}.  They name no pid file from now on.
    """

    def __init__(self, twistd: MutableMapping[str, Any]) -> None:
        self._twistd = twistd
        self._path: str = twistd.get("pidfile") or ""
        self._descriptor: int | None = None
        if self._path:
            # Before twistd changes to its folder, as twistd itself does.
            self._path = os.path.abspath(self._path)
            twistd["pidfile"] = ""

    def open(self, takesOver: bool) -> None:
        """
        Open the file, before privileges are dropped.  What is in it stays.

        @param takesOver: whether the process in the file may live.
        @raise OSError: if it lives and may not, or the file cannot be opened.
        """
        if not self._path:
            return
        pid = _read(self._path)
        if pid is not None and not takesOver and _kernel.lives(pid):
            raise OSError(
                f"process {pid} has the pid file {self._path}: end it, or name another"
                " file with --pidfile"
            )
        self._descriptor = os.open(
            self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666
        )

    def write(self) -> None:
        """
        Write the number of this process, and let C{twistd} remove the file at its end.
        """
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            return
        try:
            os.ftruncate(descriptor, 0)
            os.write(descriptor, str(os.getpid()).encode())
        finally:
            os.close(descriptor)
        self._twistd["pidfile"] = self._path

    def close(self) -> None:
        """
        Leave the file as it is.  May be called again.
        """
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def leave(twistd: MutableMapping[str, Any]) -> None:
    """
    Do not let C{twistd} remove the file of a process that has taken over.
    """
    path = twistd.get("pidfile")
    if path and _read(path) != os.getpid():
        twistd["pidfile"] = ""


def _read(path: str) -> int | None:
    try:
        with open(path, encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return None
