"""
The locks of Unix ports, as Twisted makes them: a symbolic link beside the path, to the
number of the process that has it.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from twisted.python.lockfile import FilesystemLock

from portlisten import _kernel


class Locked(ValueError):
    """
    Another process has the lock of a path.

    @ivar errno: as if that process had the port.
    """

    errno = errno.EADDRINUSE


def lock(path: str) -> Callable[[], None]:
    """
    Lock a path, and remove it if its last owner died.

    @return: unlocks it.
    @raise Locked: if another process has the lock.
    """
    _dropStale(path)
    made: Any = FilesystemLock(_nameOf(path))
    if not made.lock():
        raise Locked(f"Cannot acquire lock {made.name}: a process that lives has it")
    if not made.clean:
        with suppress(OSError):  # bind(2) fails then, and its error says why
            _removeSocket(path)

    def unlock() -> None:
        try:
            made.unlock()
        except (OSError, ValueError):
            pass  # without its privileges, the process may not be allowed to

    return unlock


def _dropStale(path: str) -> None:
    """
    Remove the lock of a process that has ended and that nobody has waited for yet, such
    as a listener that was just killed.  Twisted takes it for alive.
    """
    owner = _owner(_nameOf(path))
    if owner.isdecimal() and not _kernel.lives(int(owner)):
        with suppress(OSError):
            os.remove(_nameOf(path))
            _removeSocket(path)


def _removeSocket(path: str) -> None:
    """
    @raise OSError: if that is impossible.
    """
    if stat.S_ISSOCK(os.lstat(path).st_mode):
        os.remove(path)


def take(path: str) -> tuple[Callable[[], None], Callable[[], None]]:
    """
    Take over the lock of a path from the process that has it.  At every moment, the
    lock is there.

    @return: the first unlocks it; the second gives it back to that process.
    @raise OSError: if that is impossible.
    """
    name = _nameOf(path)
    before = _owner(name)
    _assign(name, str(os.getpid()))

    def unlock() -> None:
        with suppress(OSError):  # without its privileges, the process may not
            if _owner(name) == str(os.getpid()):
                os.remove(name)

    def giveBack() -> None:
        with suppress(OSError):
            if before and _owner(name) == str(os.getpid()):
                _assign(name, before)

    return unlock, giveBack


def takeBack(path: str) -> None:
    """
    Take the lock of a path back from a process that did not give it back, and has died.
    Without privileges, this process may not be able to.
    """
    name = _nameOf(path)
    with suppress(OSError):
        if _owner(name) not in ("", str(os.getpid())):
            _assign(name, str(os.getpid()))


def _nameOf(path: str) -> str:
    return f"{path}.lock"


def _owner(name: str) -> str:
    """
    @return: the number of the process that a lock names; empty if there is no lock.
    """
    try:
        return os.readlink(name)
    except OSError:
        return ""


def _assign(name: str, owner: str) -> None:
    fresh = f"{name}.{os.getpid()}"
    with suppress(FileNotFoundError):
        os.remove(fresh)
    os.symlink(owner, fresh)
    try:
        os.rename(fresh, name)
    except OSError:
        os.remove(fresh)
        raise
