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

A connection of Multipath TCP (RFC 8684) consists of TCP connections, and has numbers of
its own in C{MPTCP_INFO}.  The same comparison holds for them, with these differences:

  - C{mptcpi_bytes_received} does not count the end of the client's side, but C{SIOCINQ}
    does (C{mptcp_inq_hint} in net/mptcp/protocol.c).  So one byte is subtracted there
    if poll(2) says that the client's side has ended.  It is asked after C{SIOCINQ}.  If
    the end comes between the two, the numbers differ, and all calls are made again.
  - The end of the writing side counts as a byte that was written (C{write_seq}), and
    that the client acknowledges (C{mptcpi_bytes_acked}).
  - C{MPTCP_INFO} has no state.  poll(2) tells of a connection that is closed or reset.
  - If a client sent data in the SYN, C{SIOCINQ} may be far too large (Linux 6.18).  So
    such a connection counts as touched.

Before Linux 6.5, the kernel does not count the bytes.  Whether a connection of
Multipath TCP is untouched is then unknown.
"""

from __future__ import annotations

import select
import socket
import struct
import termios
from collections.abc import Iterable
from typing import NamedTuple, TypeVar

from portlisten._kernel.sockets import (
    IPPROTO_MPTCP,
    HasOptions,
    peekBytes,
    queuedBytes,
)

T = TypeVar("T", bound=HasOptions)

# linux/include/uapi/linux/tcp.h, struct tcp_info
_STATE = struct.Struct("=B")
_BYTES_RECEIVED = struct.Struct("=128xQ")
_NOTSENT_BYTES = struct.Struct("=144xI")
_BYTES_SENT = struct.Struct("=200xQ")  # since Linux 4.19
_TCP_INFO_SIZE = _BYTES_SENT.size

# linux/include/linux/socket.h and linux/include/uapi/linux/mptcp.h, since Linux 5.16
_SOL_MPTCP = 284
_MPTCP_INFO = 1

# struct mptcp_info: mptcpi_write_seq, mptcpi_snd_una; and mptcpi_bytes_sent,
# mptcpi_bytes_received and mptcpi_bytes_acked, since Linux 6.5
_MPTCP_COUNTERS = struct.Struct("=16xQQ24xQQQ")

_CLOSED = select.POLLHUP | select.POLLERR

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


def _progress(sock: HasOptions) -> _Progress | None:
    """
    Read C{TCP_INFO}.  All its fields are of the same moment, except for the state: the
    kernel reads the state before it locks the socket (C{tcp_get_info} in
    net/ipv4/tcp.c).

    @return: L{None} if the kernel is too old to have all fields.
    @raise OSError: if the system call fails.
    """
    if sock.proto == IPPROTO_MPTCP:
        return _multipathProgress(sock)
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


def _multipathProgress(sock: HasOptions) -> _Progress | None:
    """
    Read C{MPTCP_INFO}: C{mptcp_diag_fill_info} in net/mptcp/sockopt.c.

    @return: L{None} if the kernel is too old to have all fields.
    @raise OSError: if the system call fails.
    """
    info = sock.getsockopt(_SOL_MPTCP, _MPTCP_INFO, _MPTCP_COUNTERS.size)
    if len(info) < _MPTCP_COUNTERS.size:
        return None
    written, acknowledged, *counts = _MPTCP_COUNTERS.unpack(info)
    sent, received, acked = counts
    touched = written != acknowledged or sent > 0 or acked > 0
    return _Progress(received, touched or bool(_events(sock) & _CLOSED), False)


def _events(sock: HasOptions) -> int:
    """
    Ask poll(2) for the ends of a connection, and for its error.
    """
    poll = select.poll()
    poll.register(sock, select.POLLRDHUP)
    return sum(events for _, events in poll.poll(0))


def untouched(sock: HasOptions) -> bool | None:
    """
    Whether a connection is untouched: no process read from it, wrote to it, or shut its
    writing side down.  The docstring of this module explains how this is found out.

    @param sock: C{proto} says whether it is Multipath TCP.
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


def _readable(sock: HasOptions) -> int:
    """
    How many bytes wait to be read: C{SIOCINQ}, which is C{FIONREAD}.
    """
    waiting = queuedBytes(sock, termios.FIONREAD)
    if sock.proto == IPPROTO_MPTCP and _events(sock) & select.POLLRDHUP:
        return waiting - 1
    return waiting


def _peekable(sock: HasOptions) -> int:
    """
    How many bytes wait to be read from a connection whose handshake is not over yet.
    These are only the bytes that fit the SYN and the segments that may follow it.
    """
    try:
        return len(peekBytes(sock.fileno(), 65536))
    except BlockingIOError:
        return 0


def departed(socks: Iterable[T]) -> tuple[list[T], list[T]]:
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
