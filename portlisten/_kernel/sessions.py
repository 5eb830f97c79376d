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
from contextlib import suppress

#: How often L{signalSession} looks for members that are new.
_ROUNDS = 10

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

# The place of the session, from the third field on.
_SESSION = 3


def runs(pid: int) -> bool:
    """
    Whether a process runs: it exists, and has not ended.  False if its number is not
    known.

    @param pid: its number, or 0 if that is not known.
    """
    return _stat(pid) is not None


def sessionMembers(session: int) -> list[int]:
    """
    Find the processes of a session that have not ended.

    @param session: the number of the session.
    @return: their numbers; none if the kernel does not tell.
    """
    return [pid for pid in _processes() if _isMember(pid, session)]


def sessionSizes() -> dict[int, int]:
    """
    Find out how much memory all sessions have: that of their processes that have not
    ended.  Memory that processes share counts for each of them.

    @return: the resident memory in bytes, by the numbers of the sessions; nothing if
        the kernel does not tell.
    """
    sizes: dict[int, int] = {}
    for pid in _processes():
        fields = _stat(pid)
        if fields is not None:
            session = int(fields[_SESSION])
            sizes[session] = sizes.get(session, 0) + _residentBytes(pid)
    return sizes


def _residentBytes(pid: int) -> int:
    """
    Read how much memory a process has.  C{/proc/pid/stat} is less exact.

    @return: 0 if the process has ended.
    """
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * _PAGE_BYTES
    except (OSError, IndexError):
        return 0


def _processes() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return []


def _isMember(pid: int, session: int) -> bool:
    """
    Whether a process has not ended, and belongs to a session.
    """
    fields = _stat(pid)
    return fields is not None and int(fields[_SESSION]) == session


def _stat(pid: int) -> list[bytes] | None:
    """
    Read what the kernel tells of a process.

    @return: the fields of C{/proc/pid/stat} from the third on; L{None} if the process
        has ended.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The second field is the name, which may have spaces and parentheses.
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    hasEnded = len(fields) <= _SESSION or fields[0] in (b"Z", b"X")
    return None if hasEnded else fields


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
        found = {each for each in sessionMembers(session) if _group(each) != session}
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
