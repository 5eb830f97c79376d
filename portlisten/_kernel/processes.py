"""
This process: its privileges, its initial environment, its parent, and child processes
that close sockets for it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket

from portlisten._kernel.errors import lastError

# linux/include/uapi/linux/capability.h: CAP_SETGID and CAP_SETUID
_CHANGE_USERS = 1 << 6 | 1 << 7

# linux/include/uapi/linux/capability.h: CAP_KILL
_KILL = 1 << 5

# linux/include/uapi/linux/prctl.h
_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = ctypes.c_ulong(4)

_libc = ctypes.CDLL(None, use_errno=True)

#: How many child processes may hang at a time.
_MAXIMUM_CHILDREN = 16

_children: list[int] = []


def initialEnvironment() -> dict[str, str]:
    """
    The environment that this process was executed with, without later changes:
    C{/proc/pid/environ} in proc(5).

    @return: empty if the kernel does not tell.
    """
    try:
        with open("/proc/self/environ", "rb") as file:
            entries = file.read().split(b"\0")
    except OSError:
        return {}
    pairs = (os.fsdecode(entry).partition("=") for entry in entries if entry)
    return {name: value for name, _, value in pairs}


def mayChangeUsers() -> bool:
    """
    Whether this process may change to any user: whether C{CapEff} in proc(5) has
    C{CAP_SETUID} and C{CAP_SETGID} of capabilities(7).

    @return: L{True} as well if the kernel does not tell.
    """
    effective = _capabilities("CapEff")
    return effective is None or effective & _CHANGE_USERS == _CHANGE_USERS


def maySignalUsers() -> bool:
    """
    Whether this process may send signals to processes of any user: whether C{CapEff} in
    proc(5) has C{CAP_KILL} of capabilities(7).  The signal of L{endWithParent} needs it
    as well: C{reparent_leader} in kernel/exit.c sends it as the parent, and
    C{si_fromuser} in kernel/signal.c has the parent's rights checked.

    @return: L{True} as well if the kernel does not tell.
    """
    effective = _capabilities("CapEff")
    return effective is None or effective & _KILL == _KILL


def endWithParent(number: int) -> None:
    """
    Get a signal when the thread ends that started this process: C{PR_SET_PDEATHSIG} in
    prctl(2).  It stays over execve(2), unless the program is set-user-ID or has
    capabilities.  A change of the user or the group clears it (C{commit_creds} in
    kernel/cred.c), and children do not inherit it.

    If the parent has ended before, no signal comes: look at C{os.getppid} afterwards.

    @param number: the signal.
    @raise OSError: if the kernel refuses.
    """
    zero = ctypes.c_ulong(0)
    if _libc.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(number), zero, zero, zero):
        raise lastError()


def dropAmbientCapabilities() -> None:
    """
    Let the next program have no capability that this process was given for its
    children: C{PR_CAP_AMBIENT_CLEAR_ALL} in prctl(2).  Otherwise a program would get
    those of C{AmbientCapabilities=} in systemd.exec(5) from a process that is not root.
    Kernels before 4.3 have none.
    """
    zero = ctypes.c_ulong(0)
    _libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, zero, zero, zero)


def gainNoPrivileges() -> None:
    """
    Let no program that this process or a child becomes have more privileges, even if it
    is set-user-ID or has capabilities: C{PR_SET_NO_NEW_PRIVS} in prctl(2).  That cannot
    be undone.

    @raise OSError: if the kernel refuses, as those before 3.5 do.
    """
    one, zero = ctypes.c_ulong(1), ctypes.c_ulong(0)
    if _libc.prctl(_PR_SET_NO_NEW_PRIVS, one, zero, zero, zero):
        raise lastError()


def hasCapabilities() -> bool:
    """
    Whether this process has a capability, or may take one: whether C{CapPrm} in proc(5)
    has one.

    @return: L{False} as well if the kernel does not tell.
    """
    return bool(_capabilities("CapPrm"))


def _capabilities(kind: str) -> int | None:
    """
    A set of capabilities of this process.

    @param kind: its name in C{/proc/pid/status}, see proc(5).
    @return: L{None} if the kernel does not tell.
    """
    try:
        with open("/proc/self/status") as file:
            fields = dict(line.split(":", 1) for line in file if ":" in line)
        return int(fields[kind], 16)
    except (OSError, KeyError, ValueError):
        return None


def closeElsewhere(sock: socket.socket) -> None:
    """
    Close a socket in which descriptors are queued.  A child process closes these
    descriptors, and may hang.

    @param sock: owned and closed by this function, unless it raises.
    @raise OSError: if no process can be started, or too many child processes hang.
        Then the socket stays open, and the caller owns it.
    """
    reap()
    if len(_children) >= _MAXIMUM_CHILDREN:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    descriptor = sock.fileno()
    reader, writer = os.pipe()
    try:
        child = os.fork()
        if not child:
            try:
                low, high = sorted((descriptor, reader))
                os.closerange(0, low)
                os.closerange(low + 1, high)
                os.closerange(high + 1, 2**31 - 1)
                os.read(reader, 1)  # wait until the parent has closed the socket
            finally:
                os._exit(0)
        sock.close()
    finally:
        os.close(reader)
        os.close(writer)
    _children.append(child)


def reap() -> None:
    """
    Wait for the child processes of L{closeElsewhere} that have ended.  Does not block.
    """
    for child in list(_children):
        try:
            ended = os.waitpid(child, os.WNOHANG) != (0, 0)
        except ChildProcessError:
            ended = True  # SIGCHLD is ignored, or other code waited for the child
        if ended:
            _children.remove(child)


def openDescriptors() -> int:
    """
    Count the open descriptors.  Without /proc, this counts only the descriptors below
    the lowest free number.
    """
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:
        lowest, second = os.pipe()
        os.close(lowest)
        os.close(second)
        return lowest
