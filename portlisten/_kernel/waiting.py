"""
The clients that wait to be accepted: connections in the queue of a listening socket.

The queue's length alone does not say whether any process accepts: it may be refilled as
fast as it is emptied.  So this asks the kernel which connections wait, by sock_diag(7).
"""

from __future__ import annotations

import errno
import os
import select
import socket
import stat
import struct
from contextlib import closing

from portlisten._kernel.sock_diag import ask, askForTcp
from portlisten._kernel.sockets import queued

# linux/include/uapi/linux/unix_diag.h
_UDIAG_SHOW_VFS, _UDIAG_SHOW_ICONS = 2, 8
_UNIX_DIAG_VFS, _UNIX_DIAG_ICONS = 1, 3

_ATTRIBUTE = struct.Struct("=HH")
# struct unix_diag_req
_UNIX_REQUEST = struct.Struct("=BBHIIIQ")
_UNIX_MESSAGE_BYTES = 16
# struct unix_diag_vfs: the inode and the device
_UNIX_PLACE = struct.Struct("=II")

# linux/include/net/tcp_states.h: TCP_ESTABLISHED, and TCP_CLOSE_WAIT, for clients that
# have sent all they have to say.
_STATES = 1 << 1 | 1 << 8

#: The most connections of a port that are looked through.
MAXIMUM_CONNECTIONS = 20_000


def queueLength(sock: socket.socket) -> int:
    """
    How many clients wait to be accepted from a listening socket.  For a Unix socket,
    the kernel only says whether there are any: 1 or 0.
    """
    if sock.family != socket.AF_UNIX:
        count, _ = queued(sock) or (0, 0)
        return count
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return int(any(events & select.POLLIN for _, events in poll.poll(0)))


def clientsWaiting(sock: socket.socket) -> frozenset[int]:
    """
    Find the clients that wait to be accepted from a listening socket.  This takes some
    milliseconds, since the kernel looks through all of its TCP sockets.

    If another socket listens on the same port, at the same address, its clients are
    found as well.

    @return: a number for each client, which stays the same while the client waits.
        Empty if the port has more than L{MAXIMUM_CONNECTIONS}.
    @raise OSError: if the kernel does not tell, or gives an answer that cannot be read.
    """
    try:
        if sock.family == socket.AF_UNIX:
            return _waitingAtPath(sock)
        return _waitingAtPort(sock)
    except struct.error:
        raise OSError(errno.EBADMSG, os.strerror(errno.EBADMSG)) from None


def _waitingAtPort(sock: socket.socket) -> frozenset[int]:
    """
    Of the connections of a port, those that no process has accepted have no inode.
    """
    address, port = sock.getsockname()[:2]
    local = socket.inet_pton(sock.family, address.partition("%")[0])
    bound = local.ljust(16, b"\0") if any(local) else None
    found = set()
    count = 0
    with closing(askForTcp(sock.family, _STATES, port)) as sockets:
        for each in sockets:
            count += 1
            if count > MAXIMUM_CONNECTIONS:
                return frozenset()
            if not each.inode and bound in (None, each.host):
                found.add(each.cookie)
    return frozenset(found)


def _waitingAtPath(sock: socket.socket) -> frozenset[int]:
    """
    The kernel tells the inodes of the clients' own sockets.
    """
    data = _ofUnixSocket(sock, _UDIAG_SHOW_ICONS, _UNIX_DIAG_ICONS)
    return frozenset(struct.unpack(f"={len(data) // 4}I", data)) - {0}


def isAtPath(sock: socket.socket, path: str) -> bool:
    """
    Say whether a path still leads to the Unix socket that was bound to it.  The kernel
    gives the lower 32 bits of the inode: C{sk_diag_dump_vfs} in net/unix/diag.c.

    If the kernel does not tell, the names are compared.
    """
    try:
        status = os.lstat(path)
    except OSError:
        return False
    if not stat.S_ISSOCK(status.st_mode):
        return False
    try:
        data = _ofUnixSocket(sock, _UDIAG_SHOW_VFS, _UNIX_DIAG_VFS)
        inode, device = _UNIX_PLACE.unpack(data)
    except (OSError, struct.error):
        return bool(sock.getsockname() == path)
    own = os.major(status.st_dev) << 20 | os.minor(status.st_dev)
    return (inode, device) == (status.st_ino & 0xFFFFFFFF, own)


def _ofUnixSocket(sock: socket.socket, show: int, wanted: int) -> bytes:
    """
    Ask the kernel about a Unix socket.

    @param show: what it must tell.
    @param wanted: the attribute that has this.
    @return: the attribute; empty if the answer has none.
    @raise OSError: if the kernel does not tell.
    """
    inode = os.fstat(sock.fileno()).st_ino
    request = _UNIX_REQUEST.pack(
        socket.AF_UNIX, 0, 0, 0xFFFFFFFF, inode, show, (1 << 64) - 1
    )
    for message in ask(request, _UNIX_MESSAGE_BYTES, dump=False):
        at = _UNIX_MESSAGE_BYTES
        while at + _ATTRIBUTE.size <= len(message):
            size, kind = _ATTRIBUTE.unpack_from(message, at)
            if kind == wanted:
                return message[at + _ATTRIBUTE.size : at + size]
            at += max(_ATTRIBUTE.size, size + 3 & ~3)
    return b""
