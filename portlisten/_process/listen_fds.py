"""
Sockets that one program passes to another as systemd does: sd_listen_fds(3).

The sockets are the descriptors from 3 on.  C{LISTEN_FDS} has their number,
C{LISTEN_FDNAMES} has their names, and C{LISTEN_PID} has the process that they are for.
"""

from __future__ import annotations

import fcntl
import os
import re
import socket
from collections.abc import Sequence

from portlisten import _kernel

#: The first descriptor: C{SD_LISTEN_FDS_START} in sd_listen_fds(3).
FIRST_DESCRIPTOR = 3

#: systemd's name for a socket that has no name.
NO_NAME = "unknown"

#: Why the socket that a description names cannot be found.
NOT_PASSED = (
    "is not among the sockets that systemd passed to this process, as its LISTEN_FDS"
    " and LISTEN_FDNAMES say"
)


def unnamed(index: int) -> int | None:
    """
    Find a socket by its index if the sockets have no names, as from
    systemd-socket-activate.  Twisted finds sockets only if all have names, but
    sd_listen_fds_with_names(3) does not need names.

    @return: the socket's descriptor, or L{None} if no such socket was passed.
    """
    # Other functions are for processes that do not need Twisted.
    from twisted.python.systemd import ListenFDs

    # Twisted removes these variables from os.environ when it is imported.
    passed = _kernel.initialEnvironment()
    count = passed.get("LISTEN_FDS", "")
    if "LISTEN_FDNAMES" in passed or not re.fullmatch("[0-9]{1,4}", count):
        return None
    passed["LISTEN_FDNAMES"] = ":".join([NO_NAME] * int(count))
    descriptors = ListenFDs.fromEnvironment(passed).inheritedDescriptors()
    return descriptors[index] if index < len(descriptors) else None


def werePassed() -> bool:
    """
    Whether any sockets were passed to this process.
    """
    return "LISTEN_FDS" in _kernel.initialEnvironment()


def rightUnit(sock: socket.socket) -> str:
    """
    Say what a systemd socket unit should have, if its socket cannot be used.
    """
    if sock.family not in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):
        return "its socket unit should have a TCP port or a path in ListenStream="
    if sock.type in (socket.SOCK_STREAM, socket.SOCK_DGRAM) and sock.proto:
        return "its socket unit should have no SocketProtocol="
    return "its socket unit should have ListenStream="


def environment(names: Sequence[str]) -> dict[str, str]:
    """
    Make the variables that tell a program of its sockets.  The program must replace
    this process, as by execve(2).

    @param names: the names of the sockets, in their order.  Some may be empty.
    """
    return {
        "LISTEN_PID": str(os.getpid()),
        "LISTEN_FDS": str(len(names)),
        "LISTEN_FDNAMES": ":".join(name or NO_NAME for name in names),
    }


def arrange(descriptors: Sequence[int]) -> None:
    """
    Move descriptors to the numbers from 3 on, where they stay open in the next program.
    Descriptors that had these numbers are closed.

    @param descriptors: they are closed under their old numbers.  If this raises, they
        stay open, and the caller's.
    @raise OSError: if the process may not have so many open descriptors.
    """
    end = FIRST_DESCRIPTOR + len(descriptors)
    high: list[int] = []
    try:
        # Move them above the numbers that are about to be used.
        for each in descriptors:
            high.append(fcntl.fcntl(each, fcntl.F_DUPFD_CLOEXEC, end))
    except OSError:
        for each in high:
            os.close(each)
        raise
    for number, descriptor in enumerate(high, FIRST_DESCRIPTOR):
        os.dup2(descriptor, number)
    for descriptor in {*descriptors, *high} - set(range(FIRST_DESCRIPTOR, end)):
        os.close(descriptor)
