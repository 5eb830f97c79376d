"""
How far a connection has come: whether a worker has touched it, and whether its client
has left.

A connection is I{untouched} if it is as its client made it: no process has read from
it, written to it, or shut its writing side down.  Such a connection can be handed to
another worker, and its client notices nothing.

The kernel counts what was sent: C{tcpi_bytes_sent}, and C{tcpi_notsent_bytes} of what
waits to be sent.  It does not count what was read.  That is the difference of two
numbers: how many bytes were received in all (C{tcpi_bytes_received}), and how many of
them wait to be read (C{SIOCINQ} in tcp(7)).  Two system calls ask for them, and between
the two the client may send bytes, or a worker read some.  So the order matters.  The
bytes that wait are asked for first:

  - If as many bytes were received in all, a moment later, then none had been read.
  - If more were received, and no more than in the round before, then no bytes came in
    meanwhile, and the difference was read.
  - Otherwise bytes came in between the two questions, and both are asked again.

The client's end of its side counts as a received byte (C{tcp_fin} in
net/ipv4/tcp_input.c advances C{rcv_nxt}), and so one byte is taken off in the state
CLOSE_WAIT.  Before the handshake is over the kernel does not say how many bytes wait
(C{tcp_inq} in include/net/tcp.h), so they are peeked at and counted.  A connection with
urgent data counts as touched, since C{SIOCINQ} stops short of it.
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

#: The states of a connection that is as its client made it.  It is accepted in SYN_RECV
#: if its client sent data in the SYN (TCP Fast Open, RFC 7413) and the last step of the
#: handshake has not arrived yet.
_UNTOUCHED_STATES = frozenset([_ESTABLISHED, _SYN_RECV, _CLOSE_WAIT])

#: How often L{untouched} asks again while bytes come in.
_ROUNDS = 8


class _Progress(NamedTuple):
    """
    How far a TCP connection has come.

    @ivar received: how many bytes its client sent, without its FIN.
    @ivar touched: whether a process wrote to it, or shut its writing side down.
    @ivar handshaking: whether the handshake is not over.
    """

    received: int
    touched: bool
    handshaking: bool


def _progress(sock: socket.SocketType) -> _Progress | None:
    """
    Ask for C{TCP_INFO}.  All of it but the state is of one moment: the kernel reads the
    state before it locks the socket (C{tcp_get_info} in net/ipv4/tcp.c).

    @return: L{None} if the kernel is too old to count all of it.
    @raise OSError: if the question fails.
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
    Whether a connection is as its client made it: no process read from it, wrote to it,
    or shut its writing side down.  The module says how that is judged.

    @return: L{None} if the kernel cannot say: the connection is not TCP, or bytes come
        in all the time, or the question fails.
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
    How many bytes wait to be read of a connection whose handshake is not over: no more
    than fit the SYN and what may follow it.
    """
    try:
        return len(sock.recv(65536, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    except BlockingIOError:
        return 0


def departed(
    socks: Iterable[socket.SocketType],
) -> tuple[list[socket.SocketType], list[socket.SocketType]]:
    """
    Find the connections whose clients have left, or may have.

    @return: the connections that are closed, as by a reset; and those whose clients
        ended their side before they had sent anything.  The latter look the same
        whether the client waits for an answer or not.  If a client had sent something,
        it may still want an answer, and its connection is in neither list.
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
