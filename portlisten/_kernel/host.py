"""
The limits that this host sets for all processes: the files below /proc/sys in proc(5).
"""

from __future__ import annotations

#: The longest backlog since Linux 5.4, unless the administrator sets another one.
_USUAL_BACKLOG = 4096


def longestBacklog() -> int:
    """
    Read the longest backlog that this host allows.  listen(2) shortens a longer one.

    @return: a usual one if the kernel does not tell.
    """
    return _number("/proc/sys/net/core/somaxconn") or _USUAL_BACKLOG


def mostOpenFiles() -> int | None:
    """
    Read the highest limit of open files that root may set: C{fs.nr_open}.

    @return: L{None} if the kernel does not tell.
    """
    return _number("/proc/sys/fs/nr_open")


def _number(path: str) -> int | None:
    try:
        with open(path) as file:
            return int(file.read())
    except (OSError, ValueError):
        return None
