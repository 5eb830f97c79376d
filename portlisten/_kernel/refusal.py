"""
Let a listening TCP socket take no new clients, while the clients that wait on it can
still be accepted.

A socket filter drops their first segments (SYN).  close(2) or shutdown(2) would reset
the clients that wait as well.  C{tcp_filter} in net/ipv4/tcp_ipv4.c runs the filter,
with the data at the header of TCP.
"""

from __future__ import annotations

import ctypes
import errno
import socket
import struct

# linux/include/uapi/asm-generic/socket.h; Python has no names for them.
_SO_ATTACH_FILTER = 26
_SO_DETACH_FILTER = 27

# linux/include/uapi/linux/filter.h, struct sock_filter and struct sock_fprog
_INSTRUCTION = struct.Struct("=HBBI")
_PROGRAM = struct.Struct("@HP")

#: Drops each segment that has SYN and not ACK.
_INSTRUCTIONS = (
    (0x30, 0, 0, 13),  # load the byte of flags
    (0x54, 0, 0, 0x12),  # keep SYN and ACK
    (0x15, 0, 1, 0x02),  # if it is SYN alone,
    (0x06, 0, 0, 0),  # drop the segment,
    (0x06, 0, 0, 0xFFFFFFFF),  # and otherwise take it
)


def refuseClients(sock: socket.socket) -> bool:
    """
    Let no new client connect.  A client that tries gets no answer, and tries again
    after a second, for as long as the socket is open.

    @param sock: listens.  It stays the caller's.
    @return: whether that is possible.  Some kernels let only root do it, and then
        C{listen(0)} is the next best: it takes one client at a time.
    """
    if sock.type != socket.SOCK_STREAM or sock.family == socket.AF_UNIX:
        return False
    code = ctypes.create_string_buffer(
        b"".join(_INSTRUCTION.pack(*each) for each in _INSTRUCTIONS)
    )
    program = _PROGRAM.pack(len(_INSTRUCTIONS), ctypes.addressof(code))
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
    except OSError:
        return False
    return True


def admitClients(sock: socket.socket) -> bool:
    """
    Undo L{refuseClients}.

    @param sock: stays the caller's.
    @return: whether no filter is left.  Each process that holds the socket
        can lock a filter: C{SO_LOCK_FILTER} in socket(7).
    """
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)
    except OSError as error:
        # It has none, or can have none, unless it is locked.
        return error.errno != errno.EPERM
    return True
