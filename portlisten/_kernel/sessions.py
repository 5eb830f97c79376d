"""
The processes of a session, and what they wrote to a pipe: setsid(2) and
C{/proc/pid/stat} in proc(5).

The number of a session is that of the process that began it.  The kernel gives a number
to no other process while one has it, or has it as its session (C{free_pid} in
kernel/pid.c).  So the number is safe while the process that began the session has not
been waited for.
"""

from __future__ import annotations

import array
import fcntl
import os
import signal
import termios
from collections.abc import Iterator
from contextlib import suppress

#: How often L{signalSession} looks for members that are new.
_ROUNDS = 10

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def sessionMembers(session: int) -> list[int]:
    """
    Find the processes of a session that have not ended.

    @param session: the number of the session.
    @return: their numbers; none if the kernel does not tell.
    """
    return list(_members(session))


def _members(session: int) -> Iterator[int]:
    try:
        names = os.listdir("/proc")
    except OSError:
        return
    for name in names:
        if name.isdigit() and _isMember(int(name), session):
            yield int(name)


def _isMember(pid: int, session: int) -> bool:
    """
    Whether a process has not ended, and belongs to a session.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The second field is the name, which may have spaces and parentheses.
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return False
    return (
        len(fields) > 3 and fields[0] not in (b"Z", b"X") and int(fields[3]) == session
    )


def residentBytes(pid: int) -> int:
    """
    Find out how much memory a process has: C{/proc/pid/statm} in proc(5).  Memory that
    processes share counts for each of them.

    @return: 0 if the process has ended.
    """
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * _PAGE_BYTES
    except (OSError, IndexError):
        return 0


def unreadBytes(pipe: int) -> int:
    """
    Find out how many bytes wait in a pipe: C{FIONREAD} in pipe(7).  Does not keep the
    descriptor.

    @raise OSError: if the kernel does not tell.
    """
    size = array.array("i", [0])
    fcntl.ioctl(pipe, termios.FIONREAD, size)
    return size[0]


def signalSession(session: int, number: int) -> None:
    """
    Send a signal to the process group that began a session, and to all processes of the
    session in other groups.  The process that began the session must not have been
    waited for.

    @param session: the number of the session.
    @param number: the signal.
    @raise PermissionError: if a process may not be signalled.
    """
    refused: PermissionError | None = None
    try:
        # All members at once: none can start another one meanwhile.
        os.killpg(session, number)
    except ProcessLookupError:
        pass
    except PermissionError as error:
        refused = error
    signalled: set[int] = set()
    for _ in range(_ROUNDS):
        found = {each for each in _members(session) if _group(each) != session}
        if found <= signalled:
            break
        for pid in found - signalled:
            try:
                _signalMember(pid, session, number)
            except PermissionError as error:
                refused = error
        signalled |= found
    if refused is not None:
        raise refused


def _group(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except OSError:
        return 0


def _signalMember(pid: int, session: int, number: int) -> None:
    """
    Send a signal to a process, if it still belongs to a session.  Its number may be
    another process's by now.

    @raise PermissionError: if it may not be signalled.
    """
    with suppress(ProcessLookupError):
        pidfd = os.pidfd_open(pid)
        try:
            if _isMember(pid, session):
                signal.pidfd_send_signal(pidfd, number)
        finally:
            os.close(pidfd)
