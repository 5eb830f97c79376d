"""
Binds ports: makes sockets from settings.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from portlisten import _kernel
from portlisten._channel.paths import BoundPath
from portlisten._config.port_options import countedNames
from portlisten._config.ports import PortKind, PortSettings
from portlisten._model import (
    Address,
    InternetAddress,
    Kind,
    UnixAddress,
    describe,
)
from portlisten._policy.source_limits import Limits
from portlisten._ports import locks
from portlisten._ports.kept import KeptSockets
from portlisten._ports.socket_options import CannotSet, openSocket, setAnew
from portlisten._process import listen_fds
from portlisten.errors import CannotBind, WrongSocket, firstLine

#: How often the kernel may choose a number that is free for IPv4 alone.
_CHOICES = 50


@dataclass(frozen=True)
class BoundPort:
    """
    A bound port.

    @ivar sockets: non-blocking.  They listen, unless they are for datagrams.  Only
        L{Kind.GROUP} has more than one.  The owner of the port closes them.
    @ivar address: the address of the port.
    @ivar cleanUp: removes the path and its lock.  Call it once, before the sockets are
        closed.
    @ivar name: the operator's name for the port, or nothing.
    @ivar kind: what workers get of the port.
    @ivar inherited: whether another process holds the sockets as well, and keeps them.
    @ivar stored: whether that process is the service manager, which has them in its
        descriptor store.
    @ivar limits: the limits of its clients; L{None} if there are none.
    @ivar description: the text that it was bound by, without the name; empty if another
        process has bound it.
    @ivar giveBack: if this process has taken the path over from another one, and fails:
        gives the lock back to that process.
    @ivar takeBack: if another process was to take the path over, and has failed: takes
        the lock back from it.
    """

    sockets: list[socket.socket]
    address: Address
    cleanUp: Callable[[], None] = lambda: None
    name: str = ""
    kind: Kind = Kind.CONNECTIONS
    inherited: bool = False
    stored: bool = False
    balanced: bool = True
    limits: Limits | None = None
    description: str = ""
    giveBack: Callable[[], None] = lambda: None
    takeBack: Callable[[], None] = lambda: None

    @property
    def socket(self) -> socket.socket:
        """
        The first socket.
        """
        return self.sockets[0]

    @property
    def path(self) -> str | None:
        """
        The path of a Unix socket; L{None} if it has none.
        """
        name = self.address.name if isinstance(self.address, UnixAddress) else None
        return None if not name or name.startswith(b"\0") else os.fsdecode(name)

    @property
    def label(self) -> str:
        """
        The address as an endpoint description, for the log.
        """
        count = f", {len(self.sockets)} sockets" if len(self.sockets) > 1 else ""
        shared = f" (shared{count})" if self.kind is not Kind.CONNECTIONS else ""
        return describe(self.address, self.name) + shared

    def close(self) -> None:
        """
        Clean up, unless the sockets are stored, and close the sockets.
        """
        if not self.stored:
            self.cleanUp()
        for sock in self.sockets:
            sock.close()


def bind(settings: PortSettings, kept: KeptSockets | None = None) -> list[BoundPort]:
    """
    Bind a port.

    @param kept: sockets that are bound already.  The port takes those that fit.  If it
        cannot be bound, it gives them back.
    @return: the port, or two for a number: IPv4 and IPv6.  The caller owns their
        sockets.  An inherited descriptor belongs to its L{BoundPort} from now on.
    @raise CannotBind: if that fails.  Nothing stays bound then, and an inherited
        descriptor stays open.
    """
    if kept is None:
        kept = KeptSockets()
    try:
        with ExitStack() as undo:
            bound = _BINDERS[settings.kind](settings, undo, kept)
            undo.pop_all()
    except (OSError, OverflowError, ValueError) as error:
        number = getattr(error, "errno", None) or 0
        raise CannotBind(_explain(settings, error), number) from error
    return bound


def changed(port: BoundPort, settings: PortSettings) -> BoundPort:
    """
    Describe a bound port anew, with another name, or another way to serve it.

    @param port: its sockets belong to the result from now on, unless this raises.
    @raise CannotBind: if its clients cannot have the limits.
    """
    try:
        _checkLimits(settings, port.socket)
    except ValueError as error:
        raise CannotBind(_explain(settings, error)) from None
    return replace(
        port,
        name=settings.name,
        kind=_kindOf(settings, port.sockets),
        balanced=settings.options.balanced,
        limits=settings.limits,
        description=settings.description,
    )


def boundElsewhere(sockets: list[socket.socket], name: str, kind: Kind) -> BoundPort:
    """
    Describe a port that another process has bound, and keeps.

    @param sockets: at least one.  They belong to the port from now on, unless this
        raises.
    @param name: the operator's name for the port, or nothing.
    @param kind: what workers get of the port.
    @raise WrongSocket: if the sockets do not fit the kind.
    """
    wanted = Kind.DATAGRAMS if kind is Kind.DATAGRAMS else Kind.LISTENER
    for sock in sockets:
        if _kernel.kindOf(sock) is not wanted:
            what = "UDP socket" if wanted is Kind.DATAGRAMS else "listening socket"
            raise WrongSocket(f"no {what}, and {kind.name} needs one")
        sock.setblocking(False)
    return BoundPort(
        sockets, addressOf(sockets[0]), name=name, kind=kind, inherited=True
    )


def takeFitting(settings: PortSettings, kept: KeptSockets) -> list[socket.socket]:
    """
    Take the sockets that L{bind} would take.

    @return: the sockets, which are the caller's.
    """
    if settings.kind is PortKind.UNIX:
        assert settings.path is not None
        sock = kept.takePath(settings.path)
        return [] if sock is None else [sock]
    if settings.kind is PortKind.INHERITED:
        return []
    hosts = ("0.0.0.0", "::") if settings.kind is PortKind.NUMBER else (settings.host,)  # noqa: S104
    return [
        sock
        for host in hosts
        for sock in _takeInternet(settings, host, settings.number, kept)
    ]


# Each of these functions binds one kind of port, or raises an OSError, OverflowError or
# ValueError.  For each socket, path and lock that it makes, and for the sockets that it
# takes from `kept`, it adds a call to `undo`.


def _bindNumber(
    settings: PortSettings, undo: ExitStack, kept: KeptSockets
) -> list[BoundPort]:
    """
    Bind a TCP port for IPv4 and IPv6.  With port 0 the kernel chooses the number for
    IPv4, and somebody may have it for IPv6: then let it choose another one.
    """
    for _ in range(1 if settings.number else _CHOICES):
        try:
            with ExitStack() as attempt:
                bound = _bindBoth(settings, attempt, kept)
                undo.push(attempt.pop_all())
                return bound
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            inUse = error
    raise inUse


def _bindBoth(
    settings: PortSettings, undo: ExitStack, kept: KeptSockets
) -> list[BoundPort]:
    """
    Bind a TCP port for IPv4, then for IPv6 if the host has it.
    """
    first = _listen(settings, "0.0.0.0", settings.number, undo, kept)  # noqa: S104
    bound = [_describe(settings, first)]
    # With port 0 the kernel has chosen one by now.
    number = first[0].getsockname()[1]
    try:
        with ExitStack() as half:
            second = _listen(settings, "::", number, half, kept)
            undo.push(half.pop_all())
    except OSError as error:
        if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
            raise
    else:
        bound.append(_describe(settings, second))
    return bound


def _bindTCP(
    settings: PortSettings, undo: ExitStack, kept: KeptSockets
) -> list[BoundPort]:
    """
    Bind a TCP port on one address.
    """
    sockets = _listen(settings, settings.host, settings.number, undo, kept)
    return [_describe(settings, sockets)]


def _bindUDP(
    settings: PortSettings, undo: ExitStack, kept: KeptSockets
) -> list[BoundPort]:
    """
    Bind a UDP port.
    """
    taken = _takeInternet(settings, settings.host, settings.number, kept)
    if taken:
        undo.callback(kept.giveBack, taken)
        return [_describe(settings, taken)]
    sock = _open(settings, settings.host, socket.SOCK_DGRAM, undo)
    sock.bind((settings.host, settings.number))
    return [_describe(settings, [sock])]


def _bindUnix(
    settings: PortSettings, undo: ExitStack, kept: KeptSockets
) -> list[BoundPort]:
    """
    Bind a path.  The umask sets its permissions at the bind.  A later chmod would be
    unsafe: another user might have put another file at the path.
    """
    assert settings.path is not None
    taken = kept.takePath(settings.path)
    if taken is not None:
        undo.callback(kept.giveBack, [taken])
        return [_takePath(settings, taken)]
    unlock = locks.lock(settings.path) if settings.lock else lambda: None
    undo.callback(unlock)
    sock = undo.enter_context(
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    )
    umask = os.umask(0o777 & ~settings.mode)
    try:
        sock.bind(settings.path)
    finally:
        os.umask(umask)
    path = BoundPath(settings.path, sock)
    undo.callback(path.remove)
    sock.listen(settings.backlog)

    def cleanUp() -> None:
        path.remove()
        unlock()

    return [_withLock(settings, _describe(settings, [sock], cleanUp))]


def _takePath(settings: PortSettings, sock: socket.socket) -> BoundPort:
    """
    Take over a path that another process has bound, and its lock.
    """
    assert settings.path is not None
    path = BoundPath(settings.path, sock)
    path.setMode(settings.mode)
    sock.listen(settings.backlog)
    unlock = giveBack = lambda: None
    if settings.lock:
        unlock, giveBack = locks.take(settings.path)

    def cleanUp() -> None:
        path.remove()
        unlock()

    port = _describe(settings, [sock], cleanUp)
    return _withLock(settings, replace(port, giveBack=giveBack))


def _withLock(settings: PortSettings, port: BoundPort) -> BoundPort:
    if not settings.lock or settings.path is None:
        return port
    return replace(port, takeBack=partial(locks.takeBack, settings.path))


def _takeInherited(
    settings: PortSettings, undo: ExitStack, kept: KeptSockets
) -> list[BoundPort]:
    """
    Take a socket that another process made and keeps.  So nothing shuts the socket
    down, removes its path, or changes the path's mode.  A Twisted port would do all
    three.

    The descriptor belongs to the L{BoundPort} afterwards.  If this raises, the
    descriptor stays open, and remains the caller's.
    """
    sock = socket.socket(fileno=settings.descriptor)
    undo.callback(sock.detach)
    _checkInherited(sock, settings.shared)
    _checkLimits(settings, sock)
    sock.set_inheritable(False)
    sock.setblocking(False)
    return [_describe(settings, [sock], inherited=True)]


def _checkInherited(sock: socket.socket, shared: bool) -> None:
    """
    Check that an inherited socket can be used.

    @param shared: whether workers get the socket itself.  Only then may it be a UDP
        socket.
    @raise ValueError: if the listener cannot use the socket.
    """
    try:
        kind = _kernel.kindOf(sock)
    except WrongSocket as error:
        raise ValueError(
            f"the inherited descriptor is {error}: {listen_fds.rightUnit(sock)}"
        ) from None
    if kind is Kind.DATAGRAMS and not shared:
        raise ValueError(
            "the inherited descriptor is a UDP socket, which has no connections to hand"
            " off: use --share"
        )
    if kind is Kind.CONNECTIONS:
        raise ValueError(
            "the inherited descriptor is a stream socket that does not listen: its"
            " socket unit should have Accept=no"
        )


def _checkLimits(settings: PortSettings, sock: socket.socket) -> None:
    """
    Check that the clients of a socket can have the limits of its port.  Nobody knows
    before what another process has bound.

    @raise ValueError: if they cannot.
    """
    names = settings.options.limitNames
    if names and sock.family not in (socket.AF_INET, socket.AF_INET6):
        raise ValueError(
            "the inherited descriptor is a Unix socket, whose clients have no address:"
            f" leave out {', '.join(names)}"
        )
    counted = countedNames(settings.limits)
    if counted and sock.proto == _kernel.IPPROTO_MPTCP:
        raise ValueError(
            "the inherited descriptor is a socket of Multipath TCP, and the kernel does"
            " not say which of its connections live: leave out"
            f" {' and '.join(counted)}, or SocketProtocol=mptcp in its socket unit"
        )


_BINDERS = {
    PortKind.NUMBER: _bindNumber,
    PortKind.TCP: _bindTCP,
    PortKind.UDP: _bindUDP,
    PortKind.UNIX: _bindUnix,
    PortKind.INHERITED: _takeInherited,
}


def _listen(
    settings: PortSettings,
    host: str,
    number: int,
    undo: ExitStack,
    kept: KeptSockets,
) -> list[socket.socket]:
    """
    Bind listening TCP sockets: as many as the settings say, all on one port.

    @param undo: closes the sockets, or gives them back.
    @raise OSError: if that fails.
    """
    group = settings.options.reuseport or 0
    shares = group > 0
    sockets = _takeInternet(settings, host, number, kept)
    undo.callback(kept.giveBack, list(sockets))
    for sock in sockets:
        setAnew(sock, settings.options)
        sock.listen(settings.backlog)
    if shares and not sockets:
        # SO_REUSEPORT would also let a port be bound that another process of this user
        # has, and that process would get a share of the connections.
        with ExitStack() as probe:
            _openTCP(settings, host, probe).bind((host, number))
    for _ in range((group or 1) - len(sockets)):
        sock = _openTCP(settings, host, undo)
        if shares:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((host, number))
        sock.listen(settings.backlog)
        number = sock.getsockname()[1]
        sockets.append(sock)
    return sockets


def _takeInternet(
    settings: PortSettings, host: str, number: int, kept: KeptSockets
) -> list[socket.socket]:
    """
    Take the sockets of a TCP or UDP port that fit.

    @return: the sockets, which are the caller's.
    """
    options = settings.options
    return kept.take(
        socket.AF_INET6 if ":" in host else socket.AF_INET,
        socket.SOCK_DGRAM if settings.kind is PortKind.UDP else socket.SOCK_STREAM,
        host,
        number,
        _kernel.IPPROTO_MPTCP if options.mptcp else 0,
        options.reuseport or 0,
        options.device or "",
    )


def _openTCP(settings: PortSettings, host: str, undo: ExitStack) -> socket.socket:
    """
    Open a TCP socket.  Its port can be bound even if old connections linger on it.

    @param undo: closes the socket.
    """
    sock = _open(settings, host, socket.SOCK_STREAM, undo)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return sock


def _open(
    settings: PortSettings, host: str, kind: int, undo: ExitStack
) -> socket.socket:
    """
    Open a non-blocking socket for an address, with the options of the port.  An IPv6
    socket is for IPv6 alone.

    @param undo: closes the socket.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = undo.enter_context(openSocket(family, kind, settings.options))
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    return sock


def _describe(
    settings: PortSettings,
    sockets: list[socket.socket],
    cleanUp: Callable[[], None] = lambda: None,
    inherited: bool = False,
) -> BoundPort:
    address = addressOf(sockets[0])
    kind = _kindOf(settings, sockets)
    return BoundPort(
        sockets,
        address,
        cleanUp,
        settings.name,
        kind,
        inherited,
        balanced=settings.options.balanced,
        limits=settings.limits,
        description=settings.description,
    )


def addressOf(sock: socket.socket) -> Address:
    """
    The address that a socket of TCP or UDP, or a Unix socket, is bound to.
    """
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return UnixAddress(os.fsencode(name))
    host, number, *rest = name
    scope = rest[1] if rest else 0
    protocol: Literal["TCP", "UDP"] = "UDP" if sock.type == socket.SOCK_DGRAM else "TCP"
    return InternetAddress(protocol, host, number, scope)


def _kindOf(settings: PortSettings, sockets: list[socket.socket]) -> Kind:
    """
    Say what workers get of a port.
    """
    if not settings.shared:
        return Kind.CONNECTIONS
    if sockets[0].type == socket.SOCK_DGRAM:
        return Kind.DATAGRAMS
    return Kind.GROUP if len(sockets) > 1 else Kind.LISTENER


_ADVICE = {
    errno.EACCES: (
        "; for a port below 1024 start as root and add --uid, or grant"
        " CAP_NET_BIND_SERVICE"
    ),
    errno.EADDRINUSE: "; 'ss -lntup' shows who has it",
    errno.EADDRNOTAVAIL: (
        "; 'ip address' shows the addresses of this host, and freebind=yes binds one"
        " that it will have later"
    ),
}

_PATH_ADVICE = {
    errno.EACCES: (
        "; the user that starts the listener must be able to write to the folder"
    ),
    errno.EADDRINUSE: "; 'ss -lxp' shows who has it: if nobody has, remove it",
    errno.ENOENT: "; make the folder first",
}


def _explain(settings: PortSettings, error: Exception) -> str:
    number = getattr(error, "errno", None)
    if isinstance(error, CannotSet):
        return f"cannot listen on {settings}: {error.strerror}"
    if number is None or isinstance(error, locks.Locked):
        return f"cannot listen on {settings}: {firstLine(error)}"
    if isinstance(error, OSError) and number < 0:
        reason = str(error.strerror)  # its errno is getaddrinfo's
    else:
        reason = os.strerror(number)
    advice = (_PATH_ADVICE if settings.path else _ADVICE).get(number or 0, "")
    return f"cannot listen on {settings}: {reason}{advice}"
