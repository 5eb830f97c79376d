"""
How far a connection has come: whether a worker has touched it, and whether its client
has left.

A connection is I{untouched} if no process has read from it, written to it, or shut its
writing side down.  Such a connection can be handed to another worker, and its client
notices nothing.

The kernel counts the bytes that were sent (C{tcpi_bytes_sent}) and that wait to be sent
(C{tcpi_notsent_bytes}).  It does not count the bytes that were read.  Their number is a
difference: all bytes that were received (C{tcpi_bytes_received}), less the bytes that
wait to be read (C{SIOCINQ} in tcp(7)).  Two system calls ask for these numbers.
Between the two calls, the client may send bytes, or a worker may read some.  So the
order matters.  The first call asks for the bytes that wait, and the second for all
bytes:

  - If the two numbers are equal, no bytes had been read.
  - If more bytes were received than wait, and the second number is the same as in the
    round before, no bytes came in meanwhile.  So the difference was read.
  - Otherwise, bytes came in between the two calls, and both are made again.

When the client ends its side, that counts as a received byte (C{tcp_fin} in
net/ipv4/tcp_input.c advances C{rcv_nxt}).  So one byte is subtracted in the state
CLOSE_WAIT.  Before the handshake is over, the kernel does not tell how many bytes wait
(C{tcp_inq} in include/net/tcp.h).  Then the bytes are peeked at and counted.  A
connection with urgent data counts as touched, since C{SIOCINQ} stops before such data.
"""

from __future__ import annotations

import select
import socket
import struct
import termios
from collections.abc import Iterable
from typing import NamedTuple

from portlisten._kernel.sockets import queuedBytes

# linux/include/uapi/linux/tcp.h, struct tcp_info
_STATE = struct.Struct("=B")
_BYTES_RECEIVED = struct.Struct("=128xQ")
_NOTSENT_BYTES = struct.Struct("=144xI")
_BYTES_SENT = struct.Struct("=200xQ")  # since Linux 4.19
_TCP_INFO_SIZE = _BYTES_SENT.size

# linux/include/net/tcp_states.h
_ESTABLISHED = 1
_SYN_RECV = 3
_CLOSE_WAIT = 8

#: The states of an untouched connection.  A connection is accepted in SYN_RECV if its
#: client sent data in the SYN (TCP Fast Open, RFC 7413) and the last step of the
#: handshake has not arrived yet.
_UNTOUCHED_STATES = frozenset([_ESTABLISHED, _SYN_RECV, _CLOSE_WAIT])

#: How often L{untouched} asks while bytes come in.
_ROUNDS = 8


class _Progress(NamedTuple):
    """
    How far a TCP connection has come.

    @ivar received: how many bytes of the client were received, without its FIN.
    @ivar touched: whether a process wrote to it, or shut its writing side down.
    @ivar handshaking: whether the handshake is not over yet.
    """

    received: int
    touched: bool
    handshaking: bool


def _progress(sock: socket.SocketType) -> _Progress | None:
    """
    Read C{TCP_INFO}.  All its fields are of the same moment, except for the state: the
    kernel reads the state before it locks the socket (C{tcp_get_info} in
    net/ipv4/tcp.c).

    @return: L{None} if the kernel is too old to have all fields.
    @raise OSError: if the system call fails.
    """
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_SIZE)
    if len(info) < _TCP_INFO_SIZE:
        return None
    (state,) = _STATE.unpack_from(info)
    return _Progress(
        _BYTES_RECEIVED.unpack_from(info)[0] - (state == _CLOSE_WAIT),
        state not in _UNTOUCHED_STATES
        or _BYTES_SENT.unpack_from(info)[0] > 0
        or _NOTSENT_BYTES.unpack_from(info)[0] > 0,
        state == _SYN_RECV,
    )


def untouched(sock: socket.SocketType) -> bool | None:
    """
    Whether a connection is untouched: no process read from it, wrote to it, or shut its
    writing side down.  The docstring of this module explains how this is found out.

    @return: L{None} if that is unknown: the connection is not TCP, bytes come in all
        the time, or the system calls fail.
    """
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return None
    before: _Progress | None = None
    handshaking = False
    for _ in range(_ROUNDS):
        try:
            waiting = _peekable(sock) if handshaking else _readable(sock)
            now = _progress(sock)
        except (OSError, ValueError):
            continue
        if now is None:
            return None
        if now.touched:
            return False
        if now.handshaking != handshaking:
            handshaking = now.handshaking
            continue
        if now.received == waiting:
            return True
        if now == before:
            return False
        before = now
    return None


def _readable(sock: socket.SocketType) -> int:
    """
    How many bytes wait to be read: C{SIOCINQ}, which is C{FIONREAD}.
    """
    return queuedBytes(sock, termios.FIONREAD)


def _peekable(sock: socket.SocketType) -> int:
    """
    How many bytes wait to be read from a connection whose handshake is not over yet.
    These are only the bytes that fit the SYN and the segments that may follow it.
    """
    try:
        return len(sock.recv(65536, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    except BlockingIOError:
        return 0


def departed(
    socks: Iterable[socket.SocketType],
) -> tuple[list[socket.SocketType], list[socket.SocketType]]:
    """
    Find the connections whose clients have left, or may have left.

    If a client sent bytes and then ended its side, it may still want an answer.  Its
    connection is in neither list.

    @return: the connections that are closed, as by a reset; and the connections whose
        clients ended their side before they had sent any bytes.  The latter look the
        same whether the client waits for an answer or not.
    """
    by = {sock.fileno(): sock for sock in socks}
    poll = select.poll()
    for descriptor in by:
        poll.register(descriptor, select.POLLRDHUP)
    gone, ended = [], []
    for number, events in poll.poll(0):
        sock = by[number]
        try:
            if sock.family == socket.AF_UNIX:
                silent = not _readable(sock)
                closed = bool(events & select.POLLHUP)
            else:
                progress = _progress(sock)
                silent = progress is not None and not progress.received
                closed = progress is not None and progress.touched
        except OSError:
            continue
        if closed and (silent or sock.family != socket.AF_UNIX):
            gone.append(sock)
        elif silent:
            ended.append(sock)
    return gone, ended
