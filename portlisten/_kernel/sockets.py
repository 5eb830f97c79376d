"""
Every fact about the kernel that the rest relies on, in one place.

The functions take descriptors and leave them open: none of them keeps one or
closes one, but for L{receive}, which hands its caller new ones.
"""

from __future__ import annotations

import array
import ctypes
import errno
import fcntl
import os
import select
import socket
import struct
import termios
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import cache
from socket import (
    IPPROTO_TCP,
    SO_ACCEPTCONN,
    SO_DOMAIN,
    SO_LINGER,
    SO_PROTOCOL,
    SO_TYPE,
    SOL_SOCKET,
)
from typing import Any, NamedTuple

from portlisten._model import Kind
from portlisten.errors import WrongSocket

# linux/include/uapi/asm-generic/socket.h; Python has no names for them.
SO_COOKIE = 57
SO_PEERGROUPS = 59
SO_PEERPIDFD = 77  # since Linux 6.5
SO_PASSRIGHTS = 83  # since Linux 6.16

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

#: The states in which a connection may be as its client made it.  It is accepted in
#: SYN_RECV if its client sent data in the SYN (TCP Fast Open, RFC 7413) and the last
#: step of the handshake is not there yet.
_UNTOUCHED_STATES = frozenset([_ESTABLISHED, _SYN_RECV, _CLOSE_WAIT])

#: How often L{insist} tries.
_INSISTENCE = 10

#: How often L{pristine} asks again while bytes come in.
_ROUNDS = 8

_COOKIE = struct.Struct("=Q")
_CREDENTIALS = struct.Struct("=iII")

# linux/include/uapi/linux/capability.h: CAP_SETGID and CAP_SETUID
_CHANGE_USERS = 1 << 6 | 1 << 7

# sock_getsockopt in CPython's Modules/socketmodule.c
_PYTHONS_LIMIT = 1024
# linux/include/uapi/linux/limits.h
_NGROUPS_MAX = 65536
_HANGUP = select.POLLHUP | select.POLLRDHUP
_NO_LINGER = struct.pack("=ii", 0, 0)
_ACCEPT_QUEUE = struct.Struct("=24xII")

#: SCM_MAX_FD in linux/include/net/scm.h: no message carries more.
MAXIMUM_DESCRIPTORS = 253

_libc = ctypes.CDLL(None, use_errno=True)

_CONTROL = socket.CMSG_SPACE(MAXIMUM_DESCRIPTORS * array.array("i").itemsize)

#: sizeof(sun_path) is 108, and one is for the zero at its end: unix(7).
MAXIMUM_PATH = 107


@dataclass(frozen=True)
class Credentials:
    """
    Who is at the other end of a Unix socket: C{SO_PEERCRED} and
    C{SO_PEERGROUPS} in unix(7).  On the side that connected, this is who the
    other was when it called listen(2).

    @ivar groups: the supplementary ones.
    @ivar groupsKnown: whether the kernel said which they are.
    """

    pid: int
    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    groupsKnown: bool = True


def cookie(sock: socket.SocketType) -> int:
    """
    The number that names a socket for as long as it lives, the same in each
    process that has a descriptor of it and never given out twice:
    C{SO_COOKIE}, C{sock_gen_cookie} in linux/net/core/sock_diag.c.

    @raise OSError: C{ENOTSOCK} for a descriptor of something else.
    """
    try:
        data = sock.getsockopt(SOL_SOCKET, SO_COOKIE, _COOKIE.size)
    except OSError:
        data = insist(sock.getsockopt, SOL_SOCKET, SO_COOKIE, _COOKIE.size)
    number: int = _COOKIE.unpack(data)[0]
    return number


def insist(call: Callable[..., Any], *arguments: object) -> Any:
    """
    Make a call to the kernel that has no reason to fail, again if it does: for want
    of memory, say.

    @raise OSError: if it goes on failing, or for another reason.
    """
    for _ in range(_INSISTENCE):
        try:
            return call(*arguments)
        except OSError as error:
            if error.errno not in PASSING:
                raise
    return call(*arguments)


class _Progress(NamedTuple):
    """
    How far a TCP connection has come.

    @ivar received: how many bytes its client sent, without its FIN.
    @ivar served: whether something was written to it, or its writing side shut.
    @ivar greeting: whether the handshake is not over.
    """

    received: int
    served: bool
    greeting: bool


def _progress(sock: socket.SocketType) -> _Progress | None:
    """
    Ask for C{TCP_INFO}, all of which but the state is of one moment: the state is
    read before the socket is locked (C{tcp_get_info} in net/ipv4/tcp.c).

    The client's FIN counts as a received byte (C{tcp_fin} advances C{rcv_nxt}), so
    one is taken off for the state CLOSE_WAIT.

    @return: L{None} where the kernel does not know all of it.
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


def pristine(sock: socket.SocketType) -> bool | None:
    """
    Say whether a connection is as the client made it: nothing was read from it
    by anybody, nothing written to it, and the writing side not shut down.

    Two questions are asked, and bytes may come or be read between them.  What waits
    to be read is asked first.  If as much as that was received in all, a moment
    later, then nothing had been read.  If more was received, and no more than at
    the question before, then something was read.  In every other case bytes came in
    meanwhile, and both are asked again.

    A connection with urgent data counts as touched: C{SIOCINQ} in tcp(7) stops
    short of it.

    @return: L{None} if the kernel cannot say: the connection is not TCP, or bytes
        come in all the time, or the question failed.
    """
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return None
    before: _Progress | None = None
    greeting = False
    for _ in range(_ROUNDS):
        try:
            waiting = _available(sock) if greeting else _queued(sock, termios.FIONREAD)
            now = _progress(sock)
        except (OSError, ValueError):
            continue
        if now is None:
            return None
        if now.served:
            return False
        if now.greeting != greeting:
            greeting = now.greeting
            continue
        if now.received == waiting:
            return True
        if now == before:
            return False
        before = now
    return None


def _available(sock: socket.SocketType) -> int:
    """
    How much waits to be read of a connection whose handshake is not over, of which
    C{SIOCINQ} says nothing (C{tcp_inq} in include/net/tcp.h): no more than fits the
    SYN and what may follow it.
    """
    try:
        return len(sock.recv(65536, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    except BlockingIOError:
        return 0


def _queued(sock: socket.SocketType, request: int) -> int:
    size = array.array("i", [0])
    fcntl.ioctl(sock.fileno(), request, size)
    return size[0]


def listens(sock: socket.SocketType) -> bool:
    """
    Whether a socket listens.  A connection does if a process disconnected it and then
    called listen(2): see connect(2) on C{AF_UNSPEC}.
    """
    try:
        return bool(sock.getsockopt(SOL_SOCKET, SO_ACCEPTCONN))
    except OSError:
        return False


def departed(
    socks: Iterable[socket.SocketType],
) -> tuple[list[socket.SocketType], list[socket.SocketType]]:
    """
    Find the connections whose clients have left, or may have.

    @return: those that are closed, as by a reset; and those whose clients ended their
        side before they had sent anything, which looks the same whether they wait
        for an answer or not.  If a client had sent something, that may still be
        wanted, so its connection is in neither.
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
                silent = not _queued(sock, termios.FIONREAD)
                closed = bool(events & select.POLLHUP)
            else:
                progress = _progress(sock)
                silent = progress is not None and not progress.received
                closed = progress is not None and progress.served
        except OSError:
            continue
        if closed and (silent or sock.family != socket.AF_UNIX):
            gone.append(sock)
        elif silent:
            ended.append(sock)
    return gone, ended


def peerProcess(sock: socket.SocketType, pid: int) -> int | None:
    """
    Find the process at the other end of a connected Unix socket: pidfd_open(2).

    @param pid: its number, for kernels without C{SO_PEERPIDFD}.
    @return: a pidfd, which is the caller's, or L{None} if there is none to be had.
    @raise ProcessLookupError: if the process has ended.
    """
    try:
        data = sock.getsockopt(SOL_SOCKET, SO_PEERPIDFD, 4)
        return int(array.array("i", data)[0])
    except ProcessLookupError:
        raise
    except OSError as error:
        # Kernels before 6.15 say so of a process that was waited for, and whose
        # number may be another's by now.
        if error.errno == errno.EINVAL:
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH)) from None
    try:
        return os.pidfd_open(pid) if pid > 0 else None
    except ProcessLookupError:
        raise
    except OSError:
        return None


def hasEnded(pidfd: int) -> bool:
    """
    Whether a process has ended, and with it all its descriptors are closed.
    """
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def hungUp(sock: socket.SocketType) -> bool:
    """
    Whether the other end of a connected Unix socket is closed, and not only shut
    down for one direction: C{unix_poll} in net/unix/af_unix.c.
    """
    poll = select.poll()
    poll.register(sock, 0)
    return any(events & select.POLLHUP for _, events in poll.poll(0))


def credentials(sock: socket.SocketType) -> Credentials:
    """
    Say who is at the other end of a connected Unix socket.

    @raise OSError: if the kernel does not say.
    """
    data = insist(sock.getsockopt, SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, gid = _CREDENTIALS.unpack(data)
    groups = _groups(sock)
    return Credentials(pid, uid, gid, groups or (), groups is not None)


def _groups(sock: socket.SocketType) -> tuple[int, ...] | None:
    """
    The supplementary groups of the process at the other end.

    @return: L{None} if the kernel does not say.
    """
    groups = array.array("I")
    try:
        groups.frombytes(
            insist(sock.getsockopt, SOL_SOCKET, SO_PEERGROUPS, _PYTHONS_LIMIT)
        )
    except OSError as error:
        if error.errno != errno.ERANGE:
            return None
        return _manyGroups(sock)
    return tuple(groups)


def _manyGroups(sock: socket.SocketType) -> tuple[int, ...] | None:
    """
    Do what L{_groups} does, for more groups than Python's own function has room for.
    """
    groups = (ctypes.c_uint32 * _NGROUPS_MAX)()
    size = ctypes.c_uint32(ctypes.sizeof(groups))
    level, name = SOL_SOCKET, SO_PEERGROUPS
    if _libc.getsockopt(sock.fileno(), level, name, groups, ctypes.byref(size)):
        return None
    return tuple(groups[: size.value // ctypes.sizeof(ctypes.c_uint32)])


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


def accept(sock: socket.socket, family: int) -> tuple[socket.SocketType, Any]:
    """
    Accept a connection, at half the price of C{socket.accept}, which spends the
    other half on enumerations.

    @param family: the socket's.
    @return: the connection, of the class that C{socket.socket} extends, with
        close-on-exec set; and its client's address.
    @raise OSError: as accept(2) does.
    """
    descriptor, address = sock._accept()  # type: ignore[attr-defined]
    return socket.SocketType(family, socket.SOCK_STREAM, 0, descriptor), address


def queued(sock: socket.socket) -> tuple[int, int] | None:
    """
    How many connections wait to be accepted, and how many may: C{tcpi_unacked} and
    C{tcpi_sacked} of a listening socket (C{tcp_get_info} in net/ipv4/tcp.c).

    @return: L{None} where the kernel does not say: it is not TCP.
    """
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ACCEPT_QUEUE.size)
        count, most = _ACCEPT_QUEUE.unpack(info)
    except (OSError, struct.error):
        return None
    return count, most


def forget(sock: socket.SocketType) -> None:
    """
    Close this process's descriptor of a connection without ending it for
    others, and without waiting: another holder may have set SO_LINGER, which
    all of them share, and close(2) would then block until the client has taken
    what is unsent.  Takes the descriptor.
    """
    try:
        # To look is cheaper than to set, which takes the socket's lock.
        linger = sock.getsockopt(SOL_SOCKET, SO_LINGER, len(_NO_LINGER))
    except OSError:
        linger = b""
    if linger != _NO_LINGER:
        try:
            sock.setsockopt(SOL_SOCKET, SO_LINGER, _NO_LINGER)
        except OSError:
            pass
    sock.close()


def kindOf(sock: socket.SocketType) -> Kind:
    """
    Say what a descriptor from another process is.

    @raise WrongSocket: if it is neither a stream connection, nor a listening
        socket for some, nor a UDP socket.
    """
    try:
        try:
            protocol = sock.getsockopt(SOL_SOCKET, SO_PROTOCOL)
            listening = sock.getsockopt(SOL_SOCKET, SO_ACCEPTCONN)
        except OSError:
            protocol = insist(sock.getsockopt, SOL_SOCKET, SO_PROTOCOL)
            listening = insist(sock.getsockopt, SOL_SOCKET, SO_ACCEPTCONN)
        if protocol == IPPROTO_TCP:
            # That says it all, and is what there is most of.
            return Kind.LISTENER if listening else Kind.CONNECTIONS
        domain = insist(sock.getsockopt, SOL_SOCKET, SO_DOMAIN)
        kind = insist(sock.getsockopt, SOL_SOCKET, SO_TYPE)
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
    if kind != socket.SOCK_STREAM:
        what = _TYPE_NAMES.get(kind, f"a socket of type {kind}")
        raise WrongSocket(f"{what}, not SOCK_STREAM")
    if internet:
        raise WrongSocket(f"a socket of protocol {protocol}, not TCP")
    return Kind.LISTENER if listening else Kind.CONNECTIONS


# Some of the constants are missing where Python was built with old headers.
_FAMILY_NAMES = {40: "a vsock socket", 16: "a netlink socket", 17: "a packet socket"}
_PROTOCOL_NAMES = {
    132: "an SCTP socket",
    136: "a UDP-Lite socket",
    262: "a Multipath TCP socket",
}
_TYPE_NAMES = {
    int(socket.SOCK_DGRAM): "a socket of type SOCK_DGRAM",
    int(socket.SOCK_RAW): "a socket of type SOCK_RAW",
    int(socket.SOCK_SEQPACKET): "a socket of type SOCK_SEQPACKET",
}


#: What a descriptor may be called in a message.
_KINDS = {
    Kind.CONNECTIONS: "a connection",
    Kind.LISTENER: "a listening socket",
    Kind.DATAGRAMS: "a UDP socket",
}


def identify(
    descriptor: int, takes: Collection[Kind] = (Kind.CONNECTIONS,)
) -> tuple[Kind, int]:
    """
    Check that a descriptor from another process is of a kind that can be taken.
    Does not keep it.

    @return: its kind and its cookie.
    @raise WrongSocket: if it is of something else.
    @raise OSError: if it is no socket.
    """
    sock = _peek(descriptor)
    try:
        kind = kindOf(sock)
        if kind not in takes:
            raise WrongSocket(_KINDS[kind])
        return kind, cookie(sock)
    finally:
        sock.detach()


def family(descriptor: int) -> socket.AddressFamily:
    """
    The address family of a socket.  Does not keep the descriptor.

    @raise OSError: if it is no socket.
    """
    sock = _peek(descriptor)
    try:
        try:
            domain = sock.getsockopt(SOL_SOCKET, SO_DOMAIN)
        except OSError:
            domain = insist(sock.getsockopt, SOL_SOCKET, SO_DOMAIN)
        return _FAMILIES[domain]
    finally:
        sock.detach()


def _peek(descriptor: int) -> socket.SocketType:
    """
    Make an object that options can be read with.  It is to be detached, and knows
    nothing of the socket, for which it would ask the kernel four times.

    @raise OSError: if it is no socket.
    """
    return socket.SocketType(socket.AF_UNIX, socket.SOCK_STREAM, 0, descriptor)


#: As numbers, they become members at a price.
_FAMILIES = {int(family): family for family in socket.AddressFamily}


def shutDown(sock: socket.socket) -> bool:
    """
    Whether somebody shut a listening or a UDP socket down, which whoever holds it
    can do to everybody.  One for TCP listens again, on the same port, after
    listen(2); for the others there is no way back.
    """
    poll = select.poll()
    poll.register(sock, select.POLLRDHUP)
    return any(events & _HANGUP for _, events in poll.poll(0))


def unread(sock: socket.socket) -> int:
    """
    How much of what was written to a Unix socket its peer has not read, as the
    kernel charges for it: C{SIOCOUTQ}, C{unix_outq_len} in net/unix/af_unix.c.  A
    message of which a part was read counts as a whole.
    """
    return _queued(sock, termios.TIOCOUTQ)


@cache
def charge(size: int) -> int:
    """
    What L{unread} says of a message of so many bytes, whatever descriptors go with
    it: the memory that the kernel takes for it.

    @raise OSError: if there is no room to find out.
    """
    one, other = socket.socketpair()
    with one, other:
        one.setblocking(False)
        if one.send(bytes(size)) < size:
            raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))
        return unread(one)


def initialEnvironment() -> dict[str, str]:
    """
    The environment that this process was executed with, whatever became of it:
    C{/proc/pid/environ} in proc(5).
    """
    try:
        with open("/proc/self/environ", "rb") as file:
            entries = file.read().split(b"\0")
    except OSError:
        return {}
    pairs = (os.fsdecode(entry).partition("=") for entry in entries if entry)
    return {name: value for name, _, value in pairs}


def mayChangeUsers() -> bool:
    """
    Whether this process may become any user: it has C{CAP_SETUID} and C{CAP_SETGID}
    of capabilities(7), as C{CapEff} in proc(5) says.

    @return: L{True} as well if the kernel does not say.
    """
    try:
        with open("/proc/self/status") as file:
            fields = dict(line.split(":", 1) for line in file if ":" in line)
        return int(fields["CapEff"], 16) & _CHANGE_USERS == _CHANGE_USERS
    except (OSError, KeyError, ValueError):
        return True


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
    Read once from a non-blocking Unix socket to which nobody has to send descriptors.
    If some come, what they came with stays in the socket, and they with it: to close
    one may take for ever, as with a file of FUSE's, and so may to have the kernel
    drop one, as with a socket that lingers.  The socket is not to be read again, and
    L{closeElsewhere} closes it.

    @param refuses: whether the kernel refuses them, after L{refuseDescriptors}.
    @return: the bytes, which are none at the end, and whether descriptors came.
    @raise BlockingIOError: if there is nothing to read now.
    @raise OSError: if the read failed.
    """
    if refuses:
        return sock.recv(size), False
    data, _, flags, _ = sock.recvmsg(size, 0, socket.MSG_PEEK)
    if flags & socket.MSG_CTRUNC:
        return data, True
    return (sock.recv(len(data)) if data else data), False


def refusesDescriptors(sock: socket.SocketType) -> bool:
    """
    Whether the kernel refuses descriptors that are sent to a socket.
    """
    try:
        return not sock.getsockopt(SOL_SOCKET, SO_PASSRIGHTS)
    except OSError:
        return False


_children: list[int] = []

#: How many processes may hang for us at a time.
_MAXIMUM_CHILDREN = 16


def reap() -> None:
    """
    See which of the processes have ended that L{closeElsewhere} began.
    """
    for child in list(_children):
        try:
            ended = os.waitpid(child, os.WNOHANG) != (0, 0)
        except ChildProcessError:
            ended = True  # SIGCHLD is ignored, or somebody else waited for it
        if ended:
            _children.remove(child)


def closeElsewhere(sock: socket.socket) -> None:
    """
    Close a socket without closing what is queued in it: a child process does that, and
    may hang.  Takes the socket.

    @raise OSError: if no process can be started, or too many hang.  The socket stays
        open.
    """
    reap()
    if len(_children) >= _MAXIMUM_CHILDREN:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    descriptor = sock.fileno()
    gone, goes = os.pipe()
    try:
        child = os.fork()
        if not child:
            try:
                low, high = sorted((descriptor, gone))
                os.closerange(0, low)
                os.closerange(low + 1, high)
                os.closerange(high + 1, 2**31 - 1)
                os.read(gone, 1)  # until it is the last one that has it open
            finally:
                os._exit(0)
        sock.close()
    finally:
        os.close(gone)
        os.close(goes)
    _children.append(child)


class _Timespec(ctypes.Structure):
    _fields_ = [("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long)]


class _TimerSpec(ctypes.Structure):
    _fields_ = [("interval", _Timespec), ("value", _Timespec)]


def timer() -> int:
    """
    Make a descriptor that is readable when a time is over on C{CLOCK_MONOTONIC}:
    timerfd_create(2), for which Python has a name since 3.13.

    @return: the descriptor, non-blocking, which is the caller's.
    @raise OSError: if there is none to be had.
    """
    # TFD_CLOEXEC and TFD_NONBLOCK are O_CLOEXEC and O_NONBLOCK.
    descriptor = _libc.timerfd_create(
        time.CLOCK_MONOTONIC, os.O_CLOEXEC | os.O_NONBLOCK
    )
    if descriptor < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return int(descriptor)


def setTimer(descriptor: int, delay: float) -> None:
    """
    Make the descriptor that L{timer} made readable after a time, in seconds.

    @raise OSError: if that is impossible.
    """
    nanoseconds = max(1, round(delay * 1e9))
    value = _TimerSpec(_Timespec(0, 0), _Timespec(*divmod(nanoseconds, 1000000000)))
    if _libc.timerfd_settime(descriptor, 0, ctypes.byref(value), None) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


#: What accept(2) says when it is the process or the machine that is out of
#: something: the connection stays in the backlog, and a later try may do.
EXHAUSTED = frozenset([errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])

#: What any call may fail with, and a later try may do: ENOSPC is what epoll_ctl(2)
#: says when the user has too many watches.
PASSING = EXHAUSTED | {errno.EINTR, errno.ENOSPC, errno.EAGAIN}
