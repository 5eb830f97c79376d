"""
Sockets that tests make, and that are closed when the test ends.
"""

from __future__ import annotations

import ctypes
import os
import select
import socket
import struct
from collections.abc import Callable
from typing import Any

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from portlisten._kernel import IPPROTO_MPTCP
from portlisten._kernel.first_bytes import HasDescriptor

LOOPBACK = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}

LINGER = struct.Struct("=ii")


def pipe(test: SynchronousTestCase) -> socket.socket:
    """
    Make a pipe, one of whose ends passes itself off as a socket.
    """
    sock = pair(test)[0]
    for end in os.pipe():
        os.dup2(end, sock.fileno(), inheritable=False)
        os.close(end)
    return sock


def speaksMultipath() -> bool:
    """
    Whether this host has Multipath TCP.
    """
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, IPPROTO_MPTCP).close()
    except OSError:
        return False
    return True


def stream(
    test: SynchronousTestCase, family: socket.AddressFamily, protocol: int
) -> socket.socket:
    """
    Make a socket of a protocol.  Skip the test if this host does not have it.
    """
    if protocol == IPPROTO_MPTCP and not speaksMultipath():
        raise SkipTest("this host has no Multipath TCP")
    sock = socket.socket(family, socket.SOCK_STREAM, protocol)
    test.addCleanup(sock.close)
    return sock


def listening(
    test: SynchronousTestCase,
    family: socket.AddressFamily = socket.AF_INET,
    protocol: int = 0,
) -> socket.socket:
    """
    Make a listening socket of TCP or Multipath TCP.
    """
    sock = stream(test, family, protocol)
    sock.bind((LOOPBACK[family], 0))
    sock.listen()
    return sock


def connection(
    test: SynchronousTestCase,
    family: socket.AddressFamily = socket.AF_INET,
    protocol: int = 0,
) -> tuple[socket.socket, socket.socket]:
    """
    Make a connection of TCP or Multipath TCP.

    @return: the client's end, and the accepted end.
    """
    server = listening(test, family, protocol)
    client = stream(test, family, protocol)
    client.connect(server.getsockname())
    accepted, _ = server.accept()
    test.addCleanup(accepted.close)
    return client, accepted


def reset(sock: socket.socket) -> None:
    """
    Close a socket so that the other end sees a reset.
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("=ii", 1, 0))
    sock.close()


def pair(
    test: SynchronousTestCase, kind: int = socket.SOCK_STREAM
) -> tuple[socket.socket, socket.socket]:
    """
    Make two connected Unix sockets.
    """
    pair = socket.socketpair(socket.AF_UNIX, kind)
    for end in pair:
        end.setblocking(False)
        test.addCleanup(end.close)
    return pair


def duplicate(test: SynchronousTestCase, sock: socket.socket) -> socket.socket:
    """
    Make another holder of a socket, such as a worker.
    """
    copy = sock.dup()
    test.addCleanup(copy.close)
    return copy


def arrived(sock: HasDescriptor, event: int = select.POLLIN) -> None:
    """
    Wait for the bytes that the other end has sent.
    """
    poll = select.poll()
    poll.register(sock, event)
    assert poll.poll(10_000)


class Scripted:
    """
    A socket that answers C{getsockopt} as told, for what this machine's kernel
    cannot be brought to say.
    """

    family = socket.AF_INET
    proto = 0

    def __init__(self, sock: socket.socket, answers: dict[int, Any]) -> None:
        self.fileno = sock.fileno
        self._answers = answers

    def getsockopt(self, level: int, name: int, size: int = 0) -> Any:
        """
        Give the answer, or raise it.
        """
        answer = self._answers[name]
        if isinstance(answer, OSError):
            raise answer
        return answer


def spoil(descriptor: int) -> None:
    """
    Make a listening socket of a TCP connection, as every holder of a descriptor can.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    unspecified = struct.pack("=H14x", socket.AF_UNSPEC)
    assert libc.connect(descriptor, unspecified, len(unspecified)) == 0
    assert libc.listen(descriptor, 1) == 0


def failing(number: int) -> Callable[..., Any]:
    """
    Make a function that fails with an error of the system.
    """

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail
