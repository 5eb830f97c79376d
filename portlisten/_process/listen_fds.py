"""
Sockets that one program passes to another as systemd does: sd_listen_fds(3).

The sockets are the descriptors from 3 on.  C{LISTEN_FDS} says how many they are,
C{LISTEN_FDNAMES} what they are called, and C{LISTEN_PID} which process they are for.
"""

from __future__ import annotations

import fcntl
import os
import re
import socket
from collections.abc import Sequence

from twisted.python.systemd import ListenFDs

from portlisten import _kernel

#: The first descriptor: C{SD_LISTEN_FDS_START} in sd_listen_fds(3).
FIRST_DESCRIPTOR = 3

#: systemd's word for a socket that has no name.
NO_NAME = "unknown"

#: The reason why a socket that a description names cannot be found.
NOT_PASSED = (
    "is not among the sockets that systemd passed to this process, as its LISTEN_FDS"
    " and LISTEN_FDNAMES say"
)


def unnamed(index: int) -> int | None:
    """
    Find a socket that has an index and no name, as from systemd-socket-activate:
    Twisted finds none unless all have names, which sd_listen_fds_with_names(3) does
    not ask for.

    @return: its descriptor, or L{None} if there is no such socket.
    """
    # Twisted takes them out of os.environ when it is imported.
    passed = _kernel.initialEnvironment()
    count = passed.get("LISTEN_FDS", "")
    if "LISTEN_FDNAMES" in passed or not re.fullmatch("[0-9]{1,4}", count):
        return None
    passed["LISTEN_FDNAMES"] = ":".join([NO_NAME] * int(count))
    descriptors = ListenFDs.fromEnvironment(passed).inheritedDescriptors()
    return descriptors[index] if index < len(descriptors) else None


def rightUnit(sock: socket.socket) -> str:
    """
    Say what a systemd socket unit should have, if the socket that it made is of no
    use.
    """
    if sock.family not in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):
        return "its socket unit should have a TCP port or a path in ListenStream="
    if sock.type in (socket.SOCK_STREAM, socket.SOCK_DGRAM) and sock.proto:
        return "its socket unit should have no SocketProtocol="
    return "its socket unit should have ListenStream="


def environment(names: Sequence[str]) -> dict[str, str]:
    """
    Make the variables that tell a program of its sockets.  The program has to take
    the place of this process.

    @param names: what the sockets are called, in their order; some may have no name.
    """
    return {
        "LISTEN_PID": str(os.getpid()),
        "LISTEN_FDS": str(len(names)),
        "LISTEN_FDNAMES": ":".join(name or NO_NAME for name in names),
    }


def arrange(descriptors: Sequence[int]) -> None:
    """
    Move descriptors to 3 and on, where they stay open in the next program.  What was
    open there before is closed.

    @param descriptors: closed under their old numbers.  If this raises, they stay open
        and the caller's.
    @raise OSError: if so many descriptors do not fit the limit of this process.
    """
    end = FIRST_DESCRIPTOR + len(descriptors)
    high: list[int] = []
    try:
        # First out of the way of each other.
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
