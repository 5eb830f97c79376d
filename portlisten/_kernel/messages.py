"""
Sending and receiving descriptors over a Unix socket, and how many fit into it.
"""

from __future__ import annotations

import array
import errno
import os
import socket
import termios
from contextlib import suppress
from functools import cache
from socket import SOL_SOCKET

from portlisten._kernel.sockets import queuedBytes

#: linux/include/uapi/asm-generic/socket.h, since Linux 6.16; Python has no name for it.
SO_PASSRIGHTS = 83

#: SCM_MAX_FD in linux/include/net/scm.h: no message carries more.
MAXIMUM_DESCRIPTORS = 253

#: SK_WMEM_MAX in net/core/sock.c: the usual C{net.core.wmem_default}, and the least
#: that C{net.core.wmem_max} usually is.
_SEND_BUFFER = 212_992

_CONTROL = socket.CMSG_SPACE(MAXIMUM_DESCRIPTORS * array.array("i").itemsize)


def send(sock: socket.socket, data: bytes, descriptors: list[int]) -> int:
    """
    Write once to a non-blocking Unix socket, with descriptors on the first byte.
    Leaves the descriptors open.

    @param data: at least one byte: without bytes, a stream drops the descriptors.
    @return: how many bytes were sent.  All descriptors were sent.
    @raise OSError: if nothing was sent.
    """
    if not descriptors:
        return sock.send(data)
    rights = array.array("i", descriptors)
    return sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])


def sendTo(sock: socket.socket, path: str, descriptor: int) -> None:
    """
    Send a datagram with a descriptor to the socket that is bound to a path.  Leaves the
    descriptor open.

    @raise OSError: if the datagram was not sent.
    """
    rights = array.array("i", [descriptor])
    control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)]
    sock.sendmsg([b"\0"], control, 0, path)


def receive(sock: socket.socket, size: int = 65536) -> tuple[bytes, list[int]]:
    """
    Read bytes or a datagram once from a non-blocking Unix socket, with the descriptors
    that came with them.

    @param size: the most bytes to read.
    @return: the bytes, which are none at the end; and the descriptors, which the caller
        owns.  They have close-on-exec set.
    @raise BlockingIOError: if nothing can be read now.
    @raise OSError: if the read failed.
    """
    data, ancillary, _, _ = sock.recvmsg(size, _CONTROL, socket.MSG_CMSG_CLOEXEC)
    if not ancillary:
        return data, []
    descriptors = array.array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            whole = len(content) - len(content) % descriptors.itemsize
            descriptors.frombytes(content[:whole])
    return data, list(descriptors)


def receiveBytes(
    sock: socket.SocketType, size: int = 65536, refuses: bool = False
) -> tuple[bytes, bool]:
    """
    Read once from a non-blocking Unix socket whose peer has no reason to send
    descriptors.

    If the peer sends descriptors, they stay in the socket, with the bytes that they
    came with.  Closing a descriptor may take for ever, as for a file on FUSE or for a
    socket that lingers.  If the kernel drops a descriptor, that takes as long.  So the
    caller must not read the socket again, and must close it with
    L{portlisten._kernel.processes.closeElsewhere}.

    @param size: the most bytes to read.
    @param refuses: whether the kernel refuses descriptors: see L{refusesDescriptors}.
    @return: the bytes, which are none at the end; and whether descriptors came.
    @raise BlockingIOError: if nothing can be read now.
    @raise OSError: if the read failed.
    """
    if refuses:
        return sock.recv(size), False
    data, _, flags, _ = sock.recvmsg(size, 0, socket.MSG_PEEK)
    if flags & socket.MSG_CTRUNC:
        return data, True
    return (sock.recv(len(data)) if data else data), False


def refuseDescriptors(sock: socket.socket) -> bool:
    """
    Make the kernel refuse descriptors that peers send to the connections of a listening
    Unix socket.

    @return: whether this kernel can do so.
    """
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS, 0)
    except OSError:
        return False
    return True


def refusesDescriptors(sock: socket.SocketType) -> bool:
    """
    Whether the kernel refuses descriptors that are sent to a socket.
    """
    try:
        return not sock.getsockopt(SOL_SOCKET, SO_PASSRIGHTS)
    except OSError:
        return False


def enlargeSendBuffer(sock: socket.SocketType) -> None:
    """
    Let a Unix socket hold twice as much that its peer has not read as it usually does.
    If it holds more already, or the kernel refuses, nothing changes.
    """
    with suppress(OSError):
        # The kernel doubles what it is told: SO_SNDBUF in socket(7).
        if sock.getsockopt(SOL_SOCKET, socket.SO_SNDBUF) < 2 * _SEND_BUFFER:
            sock.setsockopt(SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)


def offersThatFit(sock: socket.socket) -> int:
    """
    How many offers a Unix socket takes before epoll calls it unwritable.  That is when
    a quarter of its buffer is in use (C{unix_writable} in net/unix/af_unix.c).  An
    offer is two messages, and the kernel charges each message with the memory that it
    takes.  35 offers fitted a buffer of 212,992 bytes.
    """
    return max(1, sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) // 8192)


def unread(sock: socket.socket) -> int:
    """
    The kernel's charge for all messages that were written to a Unix socket and that its
    peer has not read: C{SIOCOUTQ}, C{unix_outq_len} in net/unix/af_unix.c.  If the peer
    has read a part of a message, the whole message still counts.

    @return: in bytes.
    @raise OSError: if the kernel does not tell.
    """
    return queuedBytes(sock, termios.TIOCOUTQ)


@cache
def charge(size: int) -> int:
    """
    The kernel's charge for one message, as in L{unread}: the memory that the kernel
    takes for it.  Descriptors that go with the message add nothing.

    @param size: the size of the message, in bytes.
    @return: in bytes.
    @raise OSError: if no socket takes such a message.
    """
    one, other = socket.socketpair()
    with one, other:
        one.setblocking(False)
        if one.send(bytes(size)) < size:
            raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))
        return unread(one)
