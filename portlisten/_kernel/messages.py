"""
Descriptors that travel over a Unix socket, and how many of them fit it.
"""

from __future__ import annotations

import array
import errno
import os
import socket
import termios
from functools import cache
from socket import SOL_SOCKET

from portlisten._kernel.sockets import queuedBytes

#: linux/include/uapi/asm-generic/socket.h, since Linux 6.16; Python has no name for it.
SO_PASSRIGHTS = 83

#: SCM_MAX_FD in linux/include/net/scm.h: no message carries more.
MAXIMUM_DESCRIPTORS = 253

_CONTROL = socket.CMSG_SPACE(MAXIMUM_DESCRIPTORS * array.array("i").itemsize)


def send(sock: socket.socket, data: bytes, descriptors: list[int]) -> int:
    """
    Write once to a non-blocking Unix socket, with descriptors on the first byte.
    Leaves the descriptors open.

    @param data: at least one byte: a stream that is sent descriptors with no byte
        drops them.
    @return: how many bytes were sent.  All descriptors were.
    @raise OSError: if nothing was sent.
    """
    if not descriptors:
        return sock.send(data)
    rights = array.array("i", descriptors)
    return sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])


def sendTo(sock: socket.socket, path: str, descriptor: int) -> None:
    """
    Send a datagram with a descriptor to the socket that is bound to a path.  Leaves
    the descriptor open.

    @raise OSError: if the datagram was not sent.
    """
    rights = array.array("i", [descriptor])
    control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)]
    sock.sendmsg([b"\0"], control, 0, path)


def receive(sock: socket.socket, size: int = 65536) -> tuple[bytes, list[int]]:
    """
    Read once from a non-blocking Unix socket, bytes or a datagram, with the
    descriptors that came with them.

    @return: the bytes, which are none at the end, and the descriptors, which are the
        caller's and have close-on-exec set.
    @raise BlockingIOError: if nothing can be read now.
    @raise OSError: if the socket can never be read again.
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

    If the peer sends some, they stay in the socket, with the bytes that they came
    with.  To close a descriptor may take for ever, as that of a file on FUSE, or of a
    socket that lingers, and the kernel takes as long if it drops one.  The caller must
    not read the socket again, and must close it with
    L{portlisten._kernel.processes.closeElsewhere}.

    @param refuses: whether the kernel refuses descriptors: L{refusesDescriptors}.
    @return: the bytes, which are none at the end, and whether descriptors came.
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
    Tell the kernel to refuse descriptors that peers send to a listening Unix socket's
    connections.

    @return: whether this kernel can.
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


def offersThatFit(sock: socket.socket) -> int:
    """
    How many offers a Unix socket takes before epoll calls it unwritable, which is when
    a quarter of its buffer is in use (C{unix_writable} in net/unix/af_unix.c).  An
    offer is two messages, and the kernel charges each with the memory that it needs to
    keep it: 35 offers fitted the usual 212,992 bytes.
    """
    return max(1, sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) // 8192)


def unread(sock: socket.socket) -> int:
    """
    How much of what was written to a Unix socket its peer has not read, as the kernel
    charges for it: C{SIOCOUTQ}, C{unix_outq_len} in net/unix/af_unix.c.  If the peer
    read a part of a message, the whole message still counts.

    @raise OSError: if the kernel does not say.
    """
    return queuedBytes(sock, termios.TIOCOUTQ)


@cache
def charge(size: int) -> int:
    """
    What L{unread} says of a message of so many bytes: the memory that the kernel takes
    for it.  Descriptors that go with the message add nothing.

    @param size: in bytes.
    @raise OSError: if no socket takes such a message.
    """
    one, other = socket.socketpair()
    with one, other:
        one.setblocking(False)
        if one.send(bytes(size)) < size:
            raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))
        return unread(one)
