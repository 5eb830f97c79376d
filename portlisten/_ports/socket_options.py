"""
Sets the options of a port on its sockets, before they are bound.

Linux copies the options of a listening socket to the connections that are accepted on
it: C{tcp_create_openreq_child} in net/ipv4/tcp_minisocks.c clones the socket, and so
does C{mptcp_sk_clone_init} in net/mptcp/protocol.c.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator

from portlisten._config.port_options import PortOptions
from portlisten._kernel import IPPROTO_MPTCP

# linux/include/uapi/linux/in.h, in6.h; Python has no names for them.
_IP_FREEBIND = 15
_IPV6_FREEBIND = 78  # since Linux 4.15

#: The options that can change while a socket is bound.
_CHANGEABLE = (
    (socket.IPPROTO_TCP, socket.TCP_NODELAY),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL),
    (socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT),
)

#: What to do about an option that cannot be set: by the option and the error.
_ADVICE = {
    ("device", errno.ENODEV): "; 'ip link' shows the devices of this host",
    ("device", errno.EPERM): "; before Linux 5.7 that takes CAP_NET_RAW",
    ("mptcp", errno.ENOPROTOOPT): (
        "; 'sysctl net.mptcp.enabled=1' switches Multipath TCP on"
    ),
    ("mptcp", errno.EPROTONOSUPPORT): "; this kernel is without Multipath TCP",
}


class CannotSet(OSError):
    """
    An option cannot be set.  C{strerror} says which, and what would help.
    """

    def __init__(self, name: str, value: object, number: int) -> None:
        advice = _ADVICE.get((name, number), "")
        super().__init__(number, f"{name}={value}: {os.strerror(number)}{advice}")


def openSocket(family: int, kind: int, options: PortOptions) -> socket.socket:
    """
    Open a non-blocking socket of TCP, Multipath TCP or UDP, and set its options, except
    for C{reuseport}.

    @param kind: C{SOCK_STREAM} or C{SOCK_DGRAM}.
    @return: the socket, which the caller owns.
    @raise CannotSet: if an option cannot be set.
    @raise OSError: if the socket cannot be opened.
    """
    protocol = IPPROTO_MPTCP if options.mptcp else 0
    try:
        sock = socket.socket(family, kind | socket.SOCK_NONBLOCK, protocol)
    except OSError as error:
        number = error.errno or 0
        if protocol and ("mptcp", number) in _ADVICE:
            raise CannotSet("mptcp", "yes", number) from error
        raise
    try:
        for name, level, option, value in _settings(options, family):
            try:
                sock.setsockopt(level, option, value)
            except OSError as error:
                written = getattr(options, name)
                if isinstance(written, bool):
                    written = "yes" if written else "no"
                raise CannotSet(name, written, error.errno or 0) from error
    except BaseException:
        sock.close()
        raise
    return sock


def setAnew(sock: socket.socket, options: PortOptions) -> None:
    """
    Change the options of a TCP socket that is bound: C{nodelay}, C{keepalive} and
    C{defer}.  An option that is not given gets the value that the host gives a new
    socket.

    @param sock: stays the caller's.
    @raise OSError: if that is impossible.
    """
    with openSocket(sock.family, sock.type, options) as model:
        for level, option in _CHANGEABLE:
            sock.setsockopt(level, option, model.getsockopt(level, option))


def _settings(
    options: PortOptions, family: int
) -> Iterator[tuple[str, int, int, int | bytes]]:
    """
    Find what to set.

    @return: for each call, the option's name, and the arguments of setsockopt(2).
    """
    if options.nodelay is not None:
        yield "nodelay", socket.IPPROTO_TCP, socket.TCP_NODELAY, options.nodelay
    if options.keepalive is not None:
        on = bool(options.keepalive)
        yield "keepalive", socket.SOL_SOCKET, socket.SO_KEEPALIVE, on
        if not isinstance(options.keepalive, bool):
            for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL):
                yield "keepalive", socket.IPPROTO_TCP, option, options.keepalive
    if options.defer is not None:
        yield "defer", socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, options.defer
    if options.freebind is not None:
        level, option = socket.IPPROTO_IP, _IP_FREEBIND
        if family == socket.AF_INET6:
            level, option = socket.IPPROTO_IPV6, _IPV6_FREEBIND
        yield "freebind", level, option, options.freebind
    if options.device is not None:
        name = os.fsencode(options.device) + b"\0"
        yield "device", socket.SOL_SOCKET, socket.SO_BINDTODEVICE, name
