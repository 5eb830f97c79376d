"""
The process at the other end of a Unix socket.
"""

from __future__ import annotations

import array
import ctypes
import errno
import os
import select
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from socket import SOL_SOCKET

from portlisten._kernel.errors import retry

# linux/include/uapi/asm-generic/socket.h; Python has no names for them.
SO_PEERGROUPS = 59
SO_PEERPIDFD = 77  # since Linux 6.5

_CREDENTIALS = struct.Struct("=iII")

# sock_getsockopt in CPython's Modules/socketmodule.c
_MAXIMUM_OPTION_BYTES = 1024
# linux/include/uapi/linux/limits.h
_NGROUPS_MAX = 65536

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Credentials:
    """
    The process at the other end of a Unix socket, and its user: C{SO_PEERCRED} and
    C{SO_PEERGROUPS} in unix(7).  On the side that connected, these are the other
    process's values when it called listen(2).

    @ivar groups: the supplementary groups.
    @ivar groupsKnown: whether the kernel told the supplementary groups.
    """

    pid: int
    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    groupsKnown: bool = True


def credentials(sock: socket.SocketType) -> Credentials:
    """
    Get the process at the other end of a connected Unix socket, and its user.

    @raise OSError: if the kernel does not tell.
    """
    data = retry(sock.getsockopt, SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, gid = _CREDENTIALS.unpack(data)
    groups = _groups(sock)
    return Credentials(pid, uid, gid, groups or (), groups is not None)


def _groups(sock: socket.SocketType) -> tuple[int, ...] | None:
    """
    The supplementary groups of the process at the other end.

    @return: L{None} if the kernel does not tell.
    """
    groups = array.array("I")
    try:
        groups.frombytes(
            retry(sock.getsockopt, SOL_SOCKET, SO_PEERGROUPS, _MAXIMUM_OPTION_BYTES)
        )
    except OSError as error:
        if error.errno != errno.ERANGE:
            return None
        return _manyGroups(sock)
    return tuple(groups)


def _manyGroups(sock: socket.SocketType) -> tuple[int, ...] | None:
    """
    Do what L{_groups} does, for more groups than Python's own function can return.

    @return: L{None} if the kernel does not tell.
    """
    groups = (ctypes.c_uint32 * _NGROUPS_MAX)()
    size = ctypes.c_uint32(ctypes.sizeof(groups))
    level, name = SOL_SOCKET, SO_PEERGROUPS
    if _libc.getsockopt(sock.fileno(), level, name, groups, ctypes.byref(size)):
        return None
    return tuple(groups[: size.value // ctypes.sizeof(ctypes.c_uint32)])


def peerProcess(sock: socket.SocketType, pid: int) -> int | None:
    """
    Get a pidfd of the process at the other end of a connected Unix socket:
    C{SO_PEERPIDFD}, or pidfd_open(2).

    @param pid: the number of the process, for kernels without C{SO_PEERPIDFD}.
    @return: the pidfd, which the caller owns; or L{None} if the kernel gives none.
    @raise ProcessLookupError: if the process has ended.
    """
    try:
        data = sock.getsockopt(SOL_SOCKET, SO_PEERPIDFD, 4)
        return int(array.array("i", data)[0])
    except ProcessLookupError:
        raise
    except OSError as error:
        # Kernels before 6.15 fail with EINVAL if another process has waited for this
        # one.  Its number may be another process's by now.
        if error.errno == errno.EINVAL:
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH)) from None
    try:
        return os.pidfd_open(pid) if pid > 0 else None
    except ProcessLookupError:
        raise
    except OSError:
        return None


def lives(pid: int) -> bool:
    """
    Whether a process runs.  One that has ended does not, even if nobody has waited for
    it yet.  L{os.kill} takes such a process for alive.
    """
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    except OSError:
        return os.path.exists(f"/proc/{pid}")  # before Linux 5.3
    try:
        return not hasEnded(process)
    finally:
        os.close(process)


def hasEnded(pidfd: int) -> bool:
    """
    Whether a process has ended.  If so, all its descriptors are closed.
    """
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def processEnded(find: Callable[[], int | None]) -> bool:
    """
    Whether a process has ended, as far as the kernel tells.

    @param find: gets a pidfd of it, as L{peerProcess} does.  The pidfd is closed.
    """
    try:
        process = find()
    except ProcessLookupError:
        return True
    if process is None:
        return False
    try:
        return hasEnded(process)
    finally:
        os.close(process)


def hungUp(sock: socket.SocketType) -> bool:
    """
    Whether the other end of a connected Unix socket is closed.  It does not count as
    closed if it is only shut down for one direction: C{unix_poll} in
    net/unix/af_unix.c.
    """
    poll = select.poll()
    poll.register(sock, 0)
    return any(events & select.POLLHUP for _, events in poll.poll(0))
