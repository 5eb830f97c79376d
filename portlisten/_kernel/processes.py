"""
This process: what it may do, its first environment, and children that close for it.
"""

from __future__ import annotations

import errno
import os
import socket

# linux/include/uapi/linux/capability.h: CAP_SETGID and CAP_SETUID
_CHANGE_USERS = 1 << 6 | 1 << 7

#: How many children may hang at a time.
_MAXIMUM_CHILDREN = 16

_children: list[int] = []


def initialEnvironment() -> dict[str, str]:
    """
    The environment that this process was executed with, without later changes:
    C{/proc/pid/environ} in proc(5).

    @return: nothing if the kernel does not say.
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
    Whether this process may become any user: it has C{CAP_SETUID} and C{CAP_SETGID}
    of capabilities(7), as C{CapEff} in proc(5) says.

    @return: L{True} as well if the kernel does not say.
    """
    try:
        with open("/proc/self/status") as file:
            fields = dict(line.split(":", 1) for line in file if ":" in line)
        return int(fields["CapEff"], 16) & _CHANGE_USERS == _CHANGE_USERS
    except (OSError, KeyError, ValueError):
        return True


def closeElsewhere(sock: socket.socket) -> None:
    """
    Close a socket without closing the descriptors that are queued in it: a child
    process does that, and may hang.  Takes the socket.

    @raise OSError: if no process can be started, or too many children hang.  The
        socket stays open, and the caller's.
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
                os.read(reader, 1)  # until no other process has the socket open
            finally:
                os._exit(0)
        sock.close()
    finally:
        os.close(reader)
        os.close(writer)
    _children.append(child)


def reap() -> None:
    """
    Wait for the children of L{closeElsewhere} that have ended.  Does not block.
    """
    for child in list(_children):
        try:
            ended = os.waitpid(child, os.WNOHANG) != (0, 0)
        except ChildProcessError:
            ended = True  # SIGCHLD is ignored, or other code waited for it
        if ended:
            _children.remove(child)
