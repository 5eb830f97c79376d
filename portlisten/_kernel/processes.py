"""
This process: its privileges, its initial environment, and child processes that close
sockets for it.
"""

from __future__ import annotations

import errno
import os
import socket

# linux/include/uapi/linux/capability.h: CAP_SETGID and CAP_SETUID
_CHANGE_USERS = 1 << 6 | 1 << 7

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
