"""
Properties of sockets, accepting, and closing.

The functions leave the descriptors open that they get, except for L{closeCopy}.
"""

from __future__ import annotations

import array
import fcntl
import os
import select
import socket
import struct
from collections.abc import Callable, Collection
from contextlib import suppress
from socket import (
    IPPROTO_TCP,
    SO_ACCEPTCONN,
    SO_DOMAIN,
    SO_LINGER,
    SO_PROTOCOL,
    SO_TYPE,
    SOL_SOCKET,
)
from typing import Any, Protocol

from portlisten._kernel.errors import retry
from portlisten._model import Kind
from portlisten.errors import WrongSocket

#: linux/include/uapi/asm-generic/socket.h; Python has no name for it.
SO_COOKIE = 57

#: linux/include/uapi/linux/in.h; Python has no name for it.
IPPROTO_MPTCP = 262

#: The longest path of a Unix socket, in bytes.  sizeof(sun_path) is 108, with one byte
#: for the zero at its end: unix(7).
MAXIMUM_PATH = 107

_COOKIE = struct.Struct("=Q")
_IS_INODE = 1 << 63
_HANGUP = select.POLLHUP | select.POLLRDHUP
_NO_LINGER = struct.pack("=ii", 0, 0)
_RESET = struct.pack("=ii", 1, 0)

#: The first bytes of an IPv6 address that has an IPv4 address in it.
_MAPPED = bytes(10) + b"\xff\xff"

# linux/include/uapi/linux/tcp.h, struct tcp_info: tcpi_unacked and tcpi_sacked; and
# tcpi_state and tcpi_unacked
_ACCEPT_QUEUE = struct.Struct("=24xII")
_STATE_AND_QUEUE = struct.Struct("=B23xI")

# linux/include/net/tcp_states.h
_TCP_LISTEN = 10

#: Looking up a member is faster than making it from its number.
_FAMILIES = {int(family): family for family in socket.AddressFamily}

# Python lacks some of the constants if it was built with old headers.
_FAMILY_NAMES = {40: "a vsock socket", 16: "a netlink socket", 17: "a packet socket"}
_PROTOCOL_NAMES = {
    132: "an SCTP socket",
    136: "a UDP-Lite socket",
}
_TCP_PROTOCOLS = frozenset([IPPROTO_TCP, IPPROTO_MPTCP])
_STREAM = int(socket.SOCK_STREAM)
_TYPE_NAMES = {
    int(socket.SOCK_DGRAM): "a socket of type SOCK_DGRAM",
    int(socket.SOCK_RAW): "a socket of type SOCK_RAW",
    int(socket.SOCK_SEQPACKET): "a socket of type SOCK_SEQPACKET",
}

#: How errors call a socket of the wrong kind.
_KINDS = {
    Kind.CONNECTIONS: "a connection",
    Kind.LISTENER: "a listening socket",
    Kind.DATAGRAMS: "a UDP socket",
}


class HasOptions(Protocol):
    """
    What a socket and a L{portlisten._kernel.batch.Connection} have in common.
    """

    @property
    def family(self) -> int: ...

    @property
    def proto(self) -> int: ...

    def fileno(self) -> int: ...

    @property
    def getsockopt(self) -> Callable[..., Any]: ...


def cookie(sock: socket.SocketType) -> int:
    """
    The number that identifies a socket: C{SO_COOKIE}, C{sock_gen_cookie} in
    net/core/sock_diag.c.  It is the same in each process that has a descriptor of the
    socket, and the kernel never uses it again.

    For a socket of Multipath TCP it is C{st_ino} of fstat(2) with the highest bit set,
    and C{SO_COOKIE} is not asked for.  A connection of Multipath TCP is a clone of the
    listening socket, with its cookie, if anybody has asked for that before:
    C{mptcp_sk_clone_init} in net/mptcp/protocol.c.  C{ss -M} asks.

    @raise OSError: C{ENOTSOCK} if the descriptor leads to no socket.
    """
    return cookieOf(sock, retry(sock.getsockopt, SOL_SOCKET, SO_PROTOCOL))


def cookieOf(sock: socket.SocketType, protocol: int) -> int:
    """
    Do what L{cookie} does, if the protocol of the socket is known.
    """
    if protocol == IPPROTO_MPTCP:
        return _IS_INODE | os.fstat(sock.fileno()).st_ino
    data = retry(sock.getsockopt, SOL_SOCKET, SO_COOKIE, _COOKIE.size)
    number: int = _COOKIE.unpack(data)[0]
    return number


def hasCookie(sock: socket.SocketType, number: int) -> bool:
    """
    Whether a socket is not of Multipath TCP and has a cookie.  This takes one system
    call, where L{cookie} takes two.

    @param number: what L{cookie} returned, perhaps in another process.  The cookie of a
        socket of Multipath TCP has its highest bit set, and C{SO_COOKIE} never has.
    @return: also L{False} if the kernel does not tell.
    """
    try:
        data = sock.getsockopt(SOL_SOCKET, SO_COOKIE, _COOKIE.size)
    except OSError:
        return False
    return bool(_COOKIE.unpack(data)[0] == number)


def leadsToCookie(descriptor: int, number: int) -> bool:
    """
    Do what L{hasCookie} does.  Does not keep the descriptor.

    @return: also L{False} if the descriptor leads to no socket.
    """
    try:
        sock = peek(descriptor)
    except OSError:
        return False
    try:
        return hasCookie(sock, number)
    finally:
        sock.detach()


def kindOf(sock: socket.SocketType) -> Kind:
    """
    Find out the kind of a socket from another process.

    @raise WrongSocket: if it is neither a stream connection, nor a listening socket
        for streams, nor a UDP socket.
    """
    try:
        try:
            protocol = sock.getsockopt(SOL_SOCKET, SO_PROTOCOL)
            listening = sock.getsockopt(SOL_SOCKET, SO_ACCEPTCONN)
            kind = sock.getsockopt(SOL_SOCKET, SO_TYPE)
        except OSError:
            protocol = retry(sock.getsockopt, SOL_SOCKET, SO_PROTOCOL)
            listening = retry(sock.getsockopt, SOL_SOCKET, SO_ACCEPTCONN)
            kind = retry(sock.getsockopt, SOL_SOCKET, SO_TYPE)
        if protocol in _TCP_PROTOCOLS and kind == _STREAM:
            # Most sockets are TCP, and need no further system call.  A raw socket may
            # have TCP's number, too, and so has NETLINK_XFRM of netlink(7).
            return Kind.LISTENER if listening else Kind.CONNECTIONS
        domain = retry(sock.getsockopt, SOL_SOCKET, SO_DOMAIN)
    except OSError as error:
        raise WrongSocket(f"no socket: {error.strerror}") from error
    internet = domain in (socket.AF_INET, socket.AF_INET6)
    if not internet and domain != socket.AF_UNIX:
        what = _FAMILY_NAMES.get(domain, f"a socket of address family {domain}")
        raise WrongSocket(what)
    if internet and kind == socket.SOCK_DGRAM and protocol == socket.IPPROTO_UDP:
        return Kind.DATAGRAMS
    if internet and protocol in _PROTOCOL_NAMES:
        raise WrongSocket(f"{_PROTOCOL_NAMES[protocol]}, not TCP")
    if kind != _STREAM:
        what = _TYPE_NAMES.get(kind, f"a socket of type {kind}")
        raise WrongSocket(f"{what}, not SOCK_STREAM")
    if internet:
        raise WrongSocket(f"a socket of protocol {protocol}, not TCP")
    return Kind.LISTENER if listening else Kind.CONNECTIONS


def identify(
    descriptor: int, takes: Collection[Kind] = (Kind.CONNECTIONS,)
) -> tuple[Kind, int]:
    """
    Check that a descriptor from another process leads to a socket of a kind that can be
    taken.  Does not keep the descriptor.

    @param takes: the kinds that can be taken.
    @return: the socket's kind and its cookie.
    @raise WrongSocket: if the socket is of another kind.
    @raise OSError: if the kernel does not tell the cookie.
    """
    sock = peek(descriptor)
    try:
        return recognize(sock, takes)
    finally:
        sock.detach()


def recognize(sock: socket.SocketType, takes: Collection[Kind]) -> tuple[Kind, int]:
    """
    Do what L{identify} does, for a socket.
    """
    kind = kindOf(sock)
    if kind not in takes:
        raise WrongSocket(_KINDS[kind])
    return kind, cookie(sock)


def received(descriptor: int) -> socket.socket:
    """
    Make a socket of a descriptor from another process.  The kernel is asked for its
    family alone; its type and protocol are placeholders.

    @param descriptor: the socket owns it.  If this fails, it remains the caller's.
    @raise OSError: if the descriptor leads to no socket.
    """
    # SOCK_NONBLOCK leaves the descriptor as it is: see peek.
    return socket.socket(-1, socket.SOCK_STREAM | socket.SOCK_NONBLOCK, 0, descriptor)


def duplicate(descriptor: int) -> socket.socket:
    """
    Make a socket of a copy of a descriptor.

    @param descriptor: remains the caller's.
    @return: the caller closes it.
    @raise OSError: if the descriptor is no socket's.
    """
    copy = os.dup(descriptor)
    try:
        return socket.socket(fileno=copy)
    except OSError:
        os.close(copy)
        raise


def family(descriptor: int) -> socket.AddressFamily:
    """
    The address family of a socket.  Does not keep the descriptor.

    @raise OSError: if the descriptor leads to no socket.
    """
    sock = peek(descriptor)
    try:
        try:
            domain = sock.getsockopt(SOL_SOCKET, SO_DOMAIN)
        except OSError:
            domain = retry(sock.getsockopt, SOL_SOCKET, SO_DOMAIN)
        return _FAMILIES[domain]
    finally:
        sock.detach()


def peek(descriptor: int) -> socket.SocketType:
    """
    Make an object that reads a socket's options.  Its family, type and protocol are
    placeholders.  Without them, it would ask the kernel for the real ones.  Without
    C{SOCK_NONBLOCK}, and with a default time-out for sockets, it would make the
    descriptor non-blocking.

    @return: the object, which the caller must detach.
    @raise OSError: if the descriptor leads to no socket.
    """
    kind = socket.SOCK_STREAM | socket.SOCK_NONBLOCK
    return socket.SocketType(socket.AF_UNIX, kind, 0, descriptor)


def listens(sock: HasOptions) -> bool:
    """
    Whether a socket listens.  A former connection listens if a process disconnected it
    and then called listen(2): see connect(2) on C{AF_UNSPEC}.
    """
    try:
        return bool(sock.getsockopt(SOL_SOCKET, SO_ACCEPTCONN))
    except OSError:
        return False


def isShutDown(sock: socket.socket) -> bool:
    """
    Whether a process has shut a listening or a UDP socket down.  Each process that
    holds the socket can do that, with effect for all holders.  After listen(2), a TCP
    socket listens again on the same port.  Other sockets stay shut down.
    """
    poll = select.poll()
    poll.register(sock, select.POLLRDHUP)
    return any(events & _HANGUP for _, events in poll.poll(0))


def accept(sock: socket.socket, family: int) -> tuple[socket.SocketType, Any]:
    """
    Accept a connection.  This takes half of the time of C{socket.accept}, which spends
    the other half on enumerations.

    If clients may speak Multipath TCP, the connections of those that speak plain TCP
    are plain TCP sockets: C{mptcp_stream_accept} in net/mptcp/protocol.c.

    @param family: the address family of the listening socket.
    @return: the connection, which the caller owns; and its client's address.  The
        connection is of the class that C{socket.socket} extends, and has close-on-exec
        set.  Its C{proto} is L{IPPROTO_MPTCP} if its client speaks Multipath TCP.
    @raise OSError: as accept(2) does.
    """
    descriptor, address = sock._accept()  # type: ignore[attr-defined]
    protocol = 0
    if sock.proto == IPPROTO_MPTCP:
        protocol = _protocol(descriptor)
    return socket.SocketType(family, socket.SOCK_STREAM, protocol, descriptor), address


def _protocol(descriptor: int) -> int:
    """
    The protocol of a connection that was accepted on a socket of Multipath TCP.

    @return: L{IPPROTO_MPTCP} as well if the kernel does not tell.
    """
    sock = peek(descriptor)
    try:
        return int(retry(sock.getsockopt, SOL_SOCKET, SO_PROTOCOL))
    except OSError:
        return IPPROTO_MPTCP
    finally:
        sock.detach()


def queued(sock: socket.socket) -> tuple[int, int] | None:
    """
    How many connections wait to be accepted, and how many may wait: C{tcpi_unacked} and
    C{tcpi_sacked} of a listening socket (C{tcp_get_info} in net/ipv4/tcp.c).

    @return: L{None} if the kernel does not tell, as for a socket that is not TCP.
    """
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ACCEPT_QUEUE.size)
        count, most = _ACCEPT_QUEUE.unpack(info)
    except (OSError, struct.error):
        return None
    return count, most


def listenQueue(sock: socket.socket) -> int | None:
    """
    How many connections wait to be accepted, as L{queued} says it.

    @return: L{None} if the kernel does not tell, or the socket listens no more.
    """
    try:
        info = sock.getsockopt(
            socket.IPPROTO_TCP, socket.TCP_INFO, _STATE_AND_QUEUE.size
        )
        state, count = _STATE_AND_QUEUE.unpack(info)
    except (OSError, struct.error):
        return None
    return count if state == _TCP_LISTEN else None


def queuedBytes(sock: HasOptions, request: int) -> int:
    """
    Get the number of bytes that are queued in a socket.

    @param request: C{FIONREAD} or C{TIOCOUTQ}: ioctl_tty(2), tcp(7), unix(7).
    @raise OSError: if the kernel does not tell.
    """
    size = array.array("i", [0])
    fcntl.ioctl(sock.fileno(), request, size)
    return size[0]


def sendBytes(descriptor: int, data: bytes) -> None:
    """
    Write a few bytes to a Unix socket, in one piece and without SIGPIPE.  Does not keep
    the descriptor.

    @raise OSError: if the socket has no room now, or the other end reads no more.
    """
    sock = peek(descriptor)
    try:
        sock.send(data, socket.MSG_NOSIGNAL)
    finally:
        sock.detach()


def peekBytes(descriptor: int, size: int) -> bytes:
    """
    Read bytes that a socket has, and leave them there.  Does not keep the descriptor.

    @param size: the most bytes to read.
    @raise BlockingIOError: if there are none now.
    @raise OSError: if the read failed.
    """
    sock = peek(descriptor)
    try:
        return sock.recv(size, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    finally:
        sock.detach()


def datagramSocket() -> socket.socket:
    """
    Make a non-blocking Unix socket for datagrams, without a name.

    @return: the socket, which the caller owns.
    """
    return socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)


def packed(address: Any) -> bytes:
    """
    The bytes of the address of a client: 4 for IPv4, also if it is mapped to IPv6, and
    16 for IPv6.

    @param address: as C{accept} gives it.
    @return: empty if it is no such address.
    """
    if not isinstance(address, tuple) or len(address) < 2:
        return b""
    host = address[0].partition("%")[0]
    for family in (socket.AF_INET, socket.AF_INET6):
        with suppress(OSError):
            found = socket.inet_pton(family, host)
            return found[12:] if found.startswith(_MAPPED) else found
    return b""


def resetCopy(sock: socket.SocketType) -> None:
    """
    End a connection, and close this process's descriptor.  If no other process has the
    connection, the client sees a reset: SO_LINGER in socket(7), with 0 seconds.

    @param sock: owned and closed by this function.
    """
    with suppress(OSError):
        sock.setsockopt(SOL_SOCKET, SO_LINGER, _RESET)
    sock.close()


def closeCopy(sock: socket.SocketType) -> None:
    """
    Close this process's copy of a connection.  This does not end the connection for
    other holders, and does not wait.  All holders share SO_LINGER, and another holder
    may have set it: close(2) would then block until the client has received all unsent
    bytes.

    @param sock: owned and closed by this function.
    """
    try:
        # Reading the option is faster than setting it, which locks the socket.
        linger = sock.getsockopt(SOL_SOCKET, SO_LINGER, len(_NO_LINGER))
    except OSError:
        linger = b""
    if linger != _NO_LINGER:
        try:
            sock.setsockopt(SOL_SOCKET, SO_LINGER, _NO_LINGER)
        except OSError:
            pass
    sock.close()
