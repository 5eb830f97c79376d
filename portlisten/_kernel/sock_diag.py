"""
Questions to the kernel about the sockets of this machine: sock_diag(7).

No privilege is needed.  The kernel tells of the sockets of all processes, but only of
those in the network namespace of this process.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Generator, Iterator
from contextlib import closing
from typing import NamedTuple

# linux/include/uapi/linux/netlink.h, sock_diag.h
_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST, _NLM_F_DUMP = 1, 0x300
_NLM_F_DUMP_INTR = 0x10
_NLMSG_ERROR, _NLMSG_DONE = 2, 3

_HEADER = struct.Struct("=IHHII")
_CODE = struct.Struct("=i")

# linux/include/uapi/linux/inet_diag.h: struct inet_diag_req_v2, up to the local port,
# and the rest of it
_INET_REQUEST = struct.Struct("=BBBxI2s46x")

# struct inet_diag_msg: the local address and the client's, both halves of the cookie
# (the lower one first: sock_diag_save_cookie in net/core/sock_diag.c), and the inode
_INET_MESSAGE = struct.Struct("=8x16s16s4xII16xI")

_BUFFER_BYTES = 1 << 18


class TcpSocket(NamedTuple):
    """
    What the kernel tells of a TCP socket.

    @ivar host: the local address, in 16 bytes.  One of IPv4 has zeros behind it.
    @ivar peer: the client's, likewise.
    @ivar cookie: C{SO_COOKIE}.
    @ivar inode: 0 if no process holds the socket.
    """

    host: bytes
    peer: bytes
    cookie: int
    inode: int


def askForTcp(family: int, states: int, port: int) -> Generator[TcpSocket, None, None]:
    """
    Ask which TCP sockets there are.  The kernel looks through all of them, and tells of
    those that fit: C{inet_diag_dump_icsk} in net/ipv4/inet_diag.c.

    @param states: a bit for each state of linux/include/net/tcp_states.h.
    @param port: the local port.
    @return: the sockets.  The generator is like that of L{ask}.
    @raise OSError: as L{ask} does.
    """
    request = _INET_REQUEST.pack(
        family, socket.IPPROTO_TCP, 0, states, port.to_bytes(2, "big")
    )
    with closing(ask(request, _INET_MESSAGE.size, dump=True)) as messages:
        for message in messages:
            host, peer, low, high, inode = _INET_MESSAGE.unpack_from(message)
            yield TcpSocket(host, peer, high << 32 | low, inode)


def ask(request: bytes, least: int, dump: bool) -> Generator[bytes, None, None]:
    """
    Ask the kernel about sockets.

    @param request: the question, without a header.
    @param least: how many bytes each message of the answer has at the least.
    @param dump: whether many sockets may fit the question, and not just one.
    @return: the messages of the answer, without their headers.  The generator has a
        descriptor until it is closed or has come to its end.
    @raise InterruptedError: at the end, if sockets changed in the meantime so that the
        answer is of no use.
    @raise OSError: if the kernel does not answer, or its answer is malformed.
    """
    try:
        for message in _ask(request, dump):
            if len(message) < least:
                raise struct.error
            yield message
    except struct.error:
        raise OSError(errno.EBADMSG, os.strerror(errno.EBADMSG)) from None


def _ask(request: bytes, dump: bool) -> Iterator[bytes]:
    size = _HEADER.size + len(request)
    flags = _NLM_F_REQUEST | dump * _NLM_F_DUMP
    interrupted = 0
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as sock:
        sock.setblocking(False)
        header = _HEADER.pack(size, _SOCK_DIAG_BY_FAMILY, flags, 1, 0)
        sock.send(header + request)
        while True:
            for kind, flags, message in _split(sock.recv(_BUFFER_BYTES)):
                interrupted |= flags & _NLM_F_DUMP_INTR
                if kind == _SOCK_DIAG_BY_FAMILY:
                    yield message
                elif kind in (_NLMSG_ERROR, _NLMSG_DONE):
                    # A dump that fails ends with its error: netlink_dump in
                    # net/netlink/af_netlink.c.
                    (code,) = _CODE.unpack_from(message)
                    if code < 0:
                        raise OSError(-code, os.strerror(-code))
                    if interrupted:
                        raise InterruptedError(errno.EINTR, os.strerror(errno.EINTR))
                    return
            if not dump:
                return


def _split(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """
    Split an answer of the kernel: netlink(7).

    @return: for each message its type, its flags, and the message without its header.
    @raise struct.error: if a message is not whole.
    """
    at = 0
    while at < len(data):
        length, kind, flags, _, _ = _HEADER.unpack_from(data, at)
        if not _HEADER.size <= length <= len(data) - at:
            raise struct.error
        yield kind, flags, data[at + _HEADER.size : at + length]
        at += length + 3 & ~3
