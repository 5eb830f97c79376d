"""
Every fact about the kernel that the rest relies on, in one place.

The functions take descriptors and leave them open: none of them keeps one or
closes one, but for L{receive}, which hands its caller new ones.
"""

from __future__ import annotations

import array
import errno
import fcntl
import socket
import struct
import termios
from dataclasses import dataclass

# linux/include/uapi/asm-generic/socket.h; Python has no names for them.
SO_COOKIE = 57
SO_PEERGROUPS = 59
SO_PASSRIGHTS = 83  # since Linux 6.16

# linux/include/uapi/linux/tcp.h, struct tcp_info
_STATE = struct.Struct("=B")
_BYTES_RECEIVED = struct.Struct("=128xQ")
_NOTSENT_BYTES = struct.Struct("=144xI")
_BYTES_SENT = struct.Struct("=200xQ")  # since Linux 4.19
_TCP_INFO_SIZE = _BYTES_SENT.size

# linux/include/net/tcp_states.h
_ESTABLISHED = 1
_CLOSE_WAIT = 8

_COOKIE = struct.Struct("=Q")
_CREDENTIALS = struct.Struct("=iii")
_NO_LINGER = struct.pack("=ii", 0, 0)

#: SCM_MAX_FD in linux/include/net/scm.h: no message carries more.
MAXIMUM_DESCRIPTORS = 253

#: sizeof(sun_path) is 108, and one is for the zero at its end: unix(7).
MAXIMUM_PATH = 107


class NotAConnection(Exception):
    """
    A descriptor that is no stream connection: a listening socket, a datagram
    socket, a pipe, a file.
    """


@dataclass(frozen=True)
class Credentials:
    """
    Who is at the other end of a Unix socket: C{SO_PEERCRED} and
    C{SO_PEERGROUPS} in unix(7).  On the side that connected, this is who the
    other was when it called listen(2).

    @ivar groups: the supplementary ones; empty where the kernel does not say.
    """

    pid: int
    uid: int
    gid: int
    groups: tuple[int, ...] = ()


def cookie(sock: socket.socket) -> int:
    """
    The number that names a socket for as long as it lives, the same in each
    process that has a descriptor of it and never given out twice:
    C{SO_COOKIE}, C{sock_gen_cookie} in linux/net/core/sock_diag.c.

    @raise OSError: C{ENOTSOCK} for a descriptor of something else.
    """
    data = sock.getsockopt(socket.SOL_SOCKET, SO_COOKIE, _COOKIE.size)
    number: int = _COOKIE.unpack(data)[0]
    return number


def pristine(sock: socket.socket) -> bool | None:
    """
    Say whether a connection is as the client made it: nothing was read from it
    by anybody, nothing written to it, and the writing side not shut down.

    The client's FIN counts as a received byte (C{tcp_fin} advances C{rcv_nxt}),
    and not as one that waits to be read (C{SIOCINQ} in tcp(7) takes it off), so
    one is taken off for the state CLOSE_WAIT.

    A client that sends urgent data is never pristine: SIOCINQ stops short of it.

    @return: L{None} where the kernel cannot say: the connection is not TCP.
    """
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return None
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_SIZE)
        unread = array.array("i", [0])
        fcntl.ioctl(sock.fileno(), termios.FIONREAD, unread)
    except OSError:
        return None
    if len(info) < _TCP_INFO_SIZE:
        return None
    (state,) = _STATE.unpack_from(info)
    if state not in (_ESTABLISHED, _CLOSE_WAIT):
        return False
    received = _BYTES_RECEIVED.unpack_from(info)[0] - (state == _CLOSE_WAIT)
    return bool(
        received == unread[0]
        and not _BYTES_SENT.unpack_from(info)[0]
        and not _NOTSENT_BYTES.unpack_from(info)[0]
    )


def credentials(sock: socket.socket) -> Credentials:
    """
    Say who is at the other end of a connected Unix socket.
    """
    data = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    groups = array.array("I")
    try:
        # Python takes no longer answer; a user in more groups has none here.
        groups.frombytes(sock.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, 1024))
    except OSError:
        pass
    pid, uid, gid = _CREDENTIALS.unpack(data)
    return Credentials(pid, uid, gid, tuple(groups))


def refuseDescriptors(sock: socket.socket) -> bool:
    """
    Have the kernel refuse descriptors that peers send to a listening Unix
    socket's connections.

    @return: whether this kernel can.
    """
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS, 0)
    except OSError:
        return False
    return True


def room(sock: socket.socket) -> int:
    """
    How many offers a Unix socket takes before epoll calls it unwritable, which
    is when a quarter of its buffer is in use (C{unix_writable} in
    net/unix/af_unix.c).  An offer is two messages, and each is charged with
    what the kernel needs to keep it: 35 offers fitted the usual 212,992 bytes.
    """
    return max(1, sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) // 8192)


def forget(sock: socket.socket) -> None:
    """
    Close this process's descriptor of a connection without ending it for
    others, and without waiting: another holder may have set SO_LINGER, which
    all of them share, and close(2) would then block until the client has taken
    what is unsent.  Takes the descriptor.
    """
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    except OSError:
        pass
    sock.close()


def streamFamily(sock: socket.socket) -> socket.AddressFamily:
    """
    Check that a descriptor from another process is a stream connection.

    @return: its address family.
    @raise NotAConnection: if it is anything else; the text says what.
    """
    try:
        domain = sock.getsockopt(socket.SOL_SOCKET, socket.SO_DOMAIN)
        kind = sock.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE)
        protocol = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PROTOCOL)
        listening = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise NotAConnection(f"no socket: {error.strerror}") from error
    if kind != socket.SOCK_STREAM:
        raise NotAConnection(f"a socket of type {kind}, not SOCK_STREAM")
    if listening:
        raise NotAConnection("a listening socket")
    if domain in (socket.AF_INET, socket.AF_INET6):
        if protocol != socket.IPPROTO_TCP:
            raise NotAConnection(f"a socket of protocol {protocol}, not TCP")
    elif domain != socket.AF_UNIX:
        raise NotAConnection(f"a socket of address family {domain}")
    return socket.AddressFamily(domain)


def identify(descriptor: int) -> int:
    """
    Check that a descriptor from another process is of a stream connection.  Does
    not keep it.

    @return: its cookie.
    @raise NotAConnection: if it is of something else.
    @raise OSError: if it is no socket.
    """
    sock = socket.socket(fileno=descriptor)
    try:
        streamFamily(sock)
        return cookie(sock)
    finally:
        sock.detach()


def datagramSocket() -> socket.socket:
    """
    Make a Unix socket for datagrams, non-blocking and with no name.

    @return: the socket, which is the caller's.
    """
    return socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)


def sendTo(sock: socket.socket, path: str, descriptor: int) -> None:
    """
    Send a datagram with a descriptor to whoever is bound to a path.  Leaves the
    descriptor open.

    @raise OSError: if it was not sent.
    """
    rights = array.array("i", [descriptor])
    control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)]
    sock.sendmsg([b"\0"], control, 0, path)


def send(sock: socket.socket, data: bytes, descriptors: list[int]) -> int:
    """
    Write once to a non-blocking Unix socket, with descriptors on the first
    byte.  Leaves them open.

    @param data: at least a byte: a stream takes descriptors with none, and
        drops them.
    @return: how many bytes were taken; the descriptors all were.
    @raise OSError: if nothing was.
    """
    if not descriptors:
        return sock.send(data)
    rights = array.array("i", descriptors)
    return sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])


def receive(sock: socket.socket, size: int = 65536) -> tuple[bytes, list[int]]:
    """
    Read once from a non-blocking Unix socket, bytes or a datagram, with whatever
    descriptors come along.

    @return: the bytes, which are none at the end, and the descriptors, which
        have close-on-exec set and belong to the caller.
    @raise BlockingIOError: if there is nothing to read now.
    @raise OSError: if there never will be.
    """
    descriptors = array.array("i")
    room = socket.CMSG_SPACE(MAXIMUM_DESCRIPTORS * descriptors.itemsize)
    data, ancillary, _, _ = sock.recvmsg(size, room, socket.MSG_CMSG_CLOEXEC)
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            whole = len(content) - len(content) % descriptors.itemsize
            descriptors.frombytes(content[:whole])
    return data, list(descriptors)


#: What accept(2) says when it is the process or the machine that is out of
#: something: the connection stays in the backlog, and a later try may do.
EXHAUSTED = frozenset([errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
