"""
The backlogs of listening sockets.
"""

from __future__ import annotations

import socket
import struct

from twisted.trial.unittest import SynchronousTestCase

# linux/include/uapi/linux/tcp.h: of a listening socket, tcpi_sacked is the
# length that its backlog may have.
BACKLOG = struct.Struct("=28xI")


def backlogOf(sock: socket.socket) -> int:
    """
    The backlog of a listening TCP socket.
    """
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, BACKLOG.size)
    length: int = BACKLOG.unpack(info)[0]
    return length


def backlogOfUNIX(test: SynchronousTestCase, path: str) -> int:
    """
    The backlog of a listening Unix socket, which is full afterwards.
    """
    for length in range(100):
        client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        test.addCleanup(client.close)
        client.setblocking(False)
        try:
            client.connect(path)
        except BlockingIOError:
            return length - 1
    raise AssertionError("the backlog is long")
