"""
From a description of a port to bound, listening sockets.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import stat
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeAlias

from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.endpoints import (
    AdoptedStreamServerEndpoint,
    TCP4ServerEndpoint,
    TCP6ServerEndpoint,
    UNIXServerEndpoint,
    serverFromString,
)
from twisted.internet.protocol import Factory
from twisted.python.lockfile import FilesystemLock
from twisted.python.systemd import ListenFDs

from portlisten import _kernel
from portlisten._channel.paths import BoundPath
from portlisten._model import (
    Address,
    InternetAddress,
    Kind,
    UnixAddress,
    describe,
    portName,
)
from portlisten.errors import BadDescription, CannotBind, WrongSocket

#: How many sockets a port may have.
MAXIMUM_REUSE = 64

_NUMBER = re.compile("[0-9]{1,5}")
_OWN_BACKLOG = re.compile(r"(?<!\\):backlog=")


@dataclass
class BoundPort:
    """
    A bound port.

    @ivar sockets: non-blocking, and listening unless they are for datagrams; one,
        but for L{Kind.GROUP}.  Whoever takes them closes them.
    @ivar address: where it listens.
    @ivar cleanUp: call it once, before the sockets are closed.
    @ivar name: what the operator called it, or nothing.
    @ivar kind: what workers are to get of it.
    @ivar inherited: whether another process has its sockets as well, and keeps them.
    """

    sockets: list[socket.socket]
    address: Address
    cleanUp: Callable[[], None] = lambda: None
    name: str = ""
    kind: Kind = Kind.CONNECTIONS
    inherited: bool = False

    @property
    def socket(self) -> socket.socket:
        """
        The first of them.
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


class NumberedPort:
    """
    A TCP port on every interface, IPv4 and IPv6, or IPv4 alone where the host
    has no IPv6.

    @param count: how many sockets each of them is to have, which share it by
        C{SO_REUSEPORT}; or 0 for one without.
    """

    def __init__(self, number: int, backlog: int, count: int = 0) -> None:
        self._number = number
        self._backlog = backlog
        self._count = count

    def __str__(self) -> str:
        return f"port {self._number}"

    def bind(self) -> list[BoundPort]:
        """
        Bind.

        @raise OSError: if that fails.  Nothing stays bound then.
        """
        with ExitStack() as undo:
            first = _listen("0.0.0.0", self._number, self._backlog, self._count)  # noqa: S104
            for sock in first:
                undo.callback(sock.close)
            bound = [_describe(*first)]
            try:
                # With port 0 the kernel has chosen one by now.
                number = first[0].getsockname()[1]
                second = _listen("::", number, self._backlog, self._count)
            except OSError as error:
                if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                    raise
            else:
                bound.append(_describe(*second))
            undo.pop_all()
        return bound


class TCPPort:
    """
    A TCP port on one address, or on all those of IPv4 or of IPv6.

    @param host: the address, or nothing for all those of IPv4.
    @param count: how many sockets, which share it by C{SO_REUSEPORT}: the kernel
        deals its connections out among them; or 0 for one without.
    """

    def __init__(
        self, description: str, host: str, number: int, backlog: int, count: int = 0
    ) -> None:
        self._description = description
        self._host = host
        self._number = number
        self._backlog = backlog
        self._count = count

    def __str__(self) -> str:
        return self._description

    def bind(self) -> list[BoundPort]:
        """
        Bind.

        @raise OSError: if that fails.  Nothing stays bound then.
        """
        return [
            _describe(*_listen(self._host, self._number, self._backlog, self._count))
        ]


class UDPPort:
    """
    A UDP port.

    @param host: the address, or nothing for all those of IPv4.
    """

    def __init__(self, description: str, host: str, number: int) -> None:
        self._description = description
        self._host = host
        self._number = number

    def __str__(self) -> str:
        return self._description

    def bind(self) -> list[BoundPort]:
        """
        Bind.

        @raise OSError: if that fails.  Nothing stays bound then.
        """
        sock = _unbound(self._host, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            sock.bind((self._host, self._number))
        except OSError:
            sock.close()
            raise
        return [_describe(sock)]


class UNIXPort:
    """
    A Unix socket with a path.

    @param mode: the permissions of the path.
    @param lock: whether to lock the path as Twisted does: by a symbolic link beside
        it, which leads to the number of this process.
    """

    def __init__(
        self, description: str, path: str, backlog: int, mode: int, lock: bool
    ) -> None:
        self.path = path
        self._description = description
        self._backlog = backlog
        self._mode = mode
        self._lock = FilesystemLock(f"{path}.lock") if lock else None

    def __str__(self) -> str:
        return self._description

    def bind(self) -> list[BoundPort]:
        """
        Bind.  The permissions are right from the first moment, and nothing changes
        them later: somebody else might have put something else at the path.

        @raise OSError: if that fails.  Nothing stays bound then.
        @raise ValueError: likewise.
        """
        with ExitStack() as undo:
            if self._lock is not None:
                self._acquire(self._lock)
                undo.callback(self._unlock)
            sock = socket.socket(
                socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK
            )
            undo.callback(sock.close)
            umask = os.umask(0o777 & ~self._mode)
            try:
                sock.bind(self.path)
            finally:
                os.umask(umask)
            path = BoundPath(self.path, sock)
            undo.callback(path.remove)
            sock.listen(self._backlog)
            undo.pop_all()
        bound = _describe(sock)

        def cleanUp() -> None:
            path.remove()
            self._unlock()

        bound.cleanUp = cleanUp
        return [bound]

    def _acquire(self, lock: Any) -> None:
        """
        Take the lock, and remove the path if its last owner died.
        """
        if not lock.lock():
            raise ValueError(
                f"Cannot acquire lock {lock.name}: a process that lives has it"
            )
        if not lock.clean:
            try:
                if stat.S_ISSOCK(os.lstat(self.path).st_mode):
                    os.remove(self.path)
            except OSError:
                pass  # binding says why, if that is impossible

    def _unlock(self) -> None:
        if self._lock is not None:
            try:
                self._lock.unlock()
            except (OSError, ValueError):
                pass  # after privileges were dropped, it may not be ours to remove


class InheritedPort:
    """
    A listening socket that another process made, as systemd does.  It stays
    that process's as well: nothing here shuts it down, removes its path, or
    changes the path's mode, all of which a Twisted port would do.

    @param descriptor: becomes the L{BoundPort}'s.
    @param datagrams: whether it may be for datagrams.
    """

    def __init__(self, description: str, descriptor: int, datagrams: bool) -> None:
        self._description = description
        self._descriptor = descriptor
        self._datagrams = datagrams

    def __str__(self) -> str:
        return self._description

    def bind(self) -> list[BoundPort]:
        """
        Take it.

        @raise OSError: if it is no socket.
        @raise ValueError: if it is of no use.
        """
        sock = socket.socket(fileno=self._descriptor)
        try:
            kind = _kernel.kindOf(sock)
        except WrongSocket as error:
            advice = _rightUnit(sock)
            sock.detach()
            raise ValueError(f"the inherited descriptor is {error}: {advice}") from None
        if kind is Kind.DATAGRAMS and not self._datagrams:
            sock.detach()
            raise ValueError(
                "the inherited descriptor is a UDP socket, which has no connections"
                " to hand off: use --share"
            )
        if kind is Kind.CONNECTIONS:
            sock.detach()
            raise ValueError(
                "the inherited descriptor is a stream socket that does not listen: its"
                " socket unit should have Accept=no"
            )
        sock.set_inheritable(False)
        sock.setblocking(False)
        bound = _describe(sock)
        bound.inherited = True
        return [bound]


class NamedPort:
    """
    A port with a name, by which workers can ask for it.
    """

    def __init__(self, name: str, port: Nameless) -> None:
        self.name = name
        self.port = port

    def __str__(self) -> str:
        return str(self.port)

    def bind(self) -> list[BoundPort]:
        """
        Bind.

        @raise Exception: what the port that it names raises.
        """
        bound = self.port.bind()
        for each in bound:
            each.name = self.name
        return bound


class SharedPort:
    """
    A port whose sockets the workers get.
    """

    def __init__(self, port: PortPlan) -> None:
        self.port = port

    def __str__(self) -> str:
        return str(self.port)

    @property
    def name(self) -> str:
        """
        What the port that it shares is called, or nothing.
        """
        return nameOf(self.port)

    def bind(self) -> list[BoundPort]:
        """
        Bind.

        @raise Exception: what the port that it shares raises.
        """
        bound = self.port.bind()
        for each in bound:
            if each.sockets[0].type == socket.SOCK_DGRAM:
                each.kind = Kind.DATAGRAMS
            else:
                each.kind = Kind.GROUP if len(each.sockets) > 1 else Kind.LISTENER
        return bound


Nameless: TypeAlias = "NumberedPort | TCPPort | UNIXPort | UDPPort | InheritedPort"
PortPlan: TypeAlias = "Nameless | NamedPort"


def nameOf(port: PortPlan) -> str:
    """
    What a port is called, or nothing.
    """
    return port.name if isinstance(port, NamedPort) else ""


def parseShared(description: str, backlog: int) -> SharedPort:
    """
    Understand a port that is to be shared: what L{parse} does, or C{udp:} and
    C{udp6:} with what Twisted has for TCP.  Of TCP it may have several sockets,
    with C{reuseport=N} at its end.

    @param backlog: for ports whose description has none of its own.
    @raise BadDescription: if it is none of these.
    """
    return SharedPort(_named(description, partial(_parseShared, backlog)))


def parse(description: str, backlog: int) -> PortPlan:
    """
    Understand a port: a number, or one of Twisted's descriptions of a server
    endpoint, perhaps with a name and C{=} before it.

    @param backlog: for ports whose description has none of its own.
    @raise BadDescription: if it is neither, or the name is none.
    """
    return _named(description, partial(_parseListened, backlog))


def _named(description: str, parse: Callable[[str], Nameless]) -> PortPlan:
    named = re.match("([^:=]*)=", description)
    if named is not None:
        try:
            name = portName(named[1])
        except ValueError as error:
            raise BadDescription(str(error)) from None
        return NamedPort(name, parse(description[named.end() :]))
    return parse(description)


_UDP = re.compile("udp6?:")
_REUSEPORT = re.compile(r"(?<!\\):reuseport=([^:]*)")


def _parseListened(backlog: int, description: str) -> Nameless:
    if _UDP.match(description):
        raise BadDescription(
            f"{description!r} has no connections to hand off: use --share"
        )
    if _REUSEPORT.search(description):
        raise BadDescription(f"{description!r}: reuseport is for --share")
    return _parse(backlog, description, False)


def _parseShared(backlog: int, description: str) -> Nameless:
    if _UDP.match(description):
        if _REUSEPORT.search(description):
            raise BadDescription(f"{description!r}: reuseport is for TCP ports only")
        host, number, ownBacklog = _internet(description, "tcp" + description[3:])
        if ownBacklog is not None:
            raise BadDescription(f"{description!r}: a UDP port has no backlog")
        return UDPPort(description, host, number)
    reused = _REUSEPORT.search(description)
    if reused is None:
        return _parse(backlog, description, True)
    count = int(reused[1]) if re.fullmatch("[0-9]{1,3}", reused[1]) else 0
    if not 1 <= count <= MAXIMUM_REUSE:
        raise BadDescription(
            f"{description!r}: reuseport is how many sockets to bind, from 1 to"
            f" {MAXIMUM_REUSE}"
        )
    rest = description[: reused.start()] + description[reused.end() :]
    if _REUSEPORT.search(rest):
        raise BadDescription(f"{description!r} has reuseport twice")
    if _NUMBER.fullmatch(rest) and int(rest) < 65536:
        return NumberedPort(int(rest), backlog, count)
    if not re.match("tcp6?:", rest):
        raise BadDescription(f"{description!r}: reuseport is for TCP ports only")
    host, number, ownBacklog = _internet(description, rest)
    return TCPPort(description, host, number, ownBacklog or backlog, count)


class _TakesArguments:
    """
    A reactor that listens nowhere: it only tells what it was to do.
    """

    def listenTCP(
        self, port: int, factory: object, backlog: int, interface: str
    ) -> tuple[str, int, int]:
        return interface, port, backlog

    def listenUNIX(
        self, path: str, factory: object, backlog: int, mode: int, wantPID: bool
    ) -> tuple[str, int, int, bool]:
        return path, backlog, mode, wantPID


def _arguments(endpoint: Any) -> Any:
    """
    Say what an endpoint would have a L{_TakesArguments} do.
    """
    results: list[Any] = []
    endpoint.listen(Factory()).addBoth(results.append)
    return results[0]


def _internet(description: str, asTCP: str) -> tuple[str, int, int | None]:
    """
    Have Twisted's C{tcp:} and C{tcp6:} make sense of a description.

    @param asTCP: it, as if it were one of these.
    @return: the address, the port, and the backlog if there is one.
    @raise BadDescription: if it cannot be understood.
    """
    try:
        endpoint = serverFromString(_TakesArguments(), asTCP)
        host, number, backlog = _arguments(endpoint)
        if not 0 <= number < 65536:
            raise ValueError(f"{number} is no port")
    except Exception as error:
        raise BadDescription(
            f"{description!r} is no port: {_reason(description, error)}"
        ) from error
    return host, number, backlog if _OWN_BACKLOG.search(asTCP) else None


def _parse(backlog: int, description: str, datagrams: bool) -> Nameless:
    if ":" not in description:
        if _NUMBER.fullmatch(description) and int(description) < 65536:
            return NumberedPort(int(description), backlog)
        meant = _meant(description)
        raise BadDescription(
            f"{description!r} is no port: give a number from 0 to 65535, or an"
            " endpoint description such as"
            f" {meant or 'tcp:80:interface=127.0.0.1'}"
        )
    unnamed = _unnamed(description)
    if unnamed is not None:
        return InheritedPort(description, unnamed, datagrams)
    try:
        endpoint = serverFromString(_TakesArguments(), description)
    except Exception as error:
        if description.startswith("systemd:") and isinstance(error, LookupError):
            raise BadDescription(
                f"{description!r} is not among the sockets that systemd passed to"
                " this process, as its LISTEN_FDS and LISTEN_FDNAMES say"
            ) from error
        raise BadDescription(
            f"{description!r} is no endpoint description: {_reason(description, error)}"
        ) from error
    if isinstance(endpoint, AdoptedStreamServerEndpoint):
        return InheritedPort(description, endpoint.fileno, datagrams)
    ownBacklog = _OWN_BACKLOG.search(description) is not None
    if isinstance(endpoint, UNIXServerEndpoint):
        path, own, mode, lock = _arguments(endpoint)
        return UNIXPort(description, path, own if ownBacklog else backlog, mode, lock)
    if isinstance(endpoint, TCP4ServerEndpoint | TCP6ServerEndpoint):
        host, number, own = _arguments(endpoint)
        return TCPPort(description, host, number, own if ownBacklog else backlog)
    # Of any other (TLS, a wrapper) only the socket would be handed over, and what it
    # adds would silently be missing.
    raise BadDescription(
        f"{description!r} is not a plain port: use tcp, tcp6, unix or systemd,"
        " and leave TLS and the like to the worker"
    )


#: What Python and Twisted say of a description, and what is meant.
_REASONS = [
    (r"invalid literal for int\(\) with base [0-9]+: (.*)", r"\1 is no number"),
    (r".* got an unexpected keyword argument (.*)", r"it has no option \1"),
    (r".* got multiple values for argument (.*)", r"it has two values for \1"),
    (r".* missing [0-9]+ required positional arguments?: (.*)", r"\1 is missing"),
    (r".* takes .* positional arguments? but .*", "it has too many parts"),
]


def _reason(description: str, error: Exception) -> str:
    """
    Say why a description makes no sense, and what was meant by it if that can be
    guessed.
    """
    meant = _meant(description)
    if meant:
        return f"write it as '{meant}'"
    reason = _firstLine(error)
    for pattern, said in _REASONS:
        if re.fullmatch(pattern, reason):
            return re.sub(pattern, said, reason)
    return reason


def _meant(description: str) -> str:
    """
    Guess how a description that makes no sense should have been written.

    @return: nothing if that cannot be guessed.
    """
    head, separator, tail = description.partition(":interface=")
    address = re.match(r"\[?([^=\]]*?)\]?(?=:[A-Za-z]+=|$)", tail)
    if separator and address is not None and isIPv6Address(address[1]):
        return head + _interface(address[1]) + tail[address.end() :]
    if "/" in description and ":" not in description:
        return f"unix:{description}"
    parts = re.fullmatch(r"(?:(tcp|udp)6?:)?(.*):([0-9]{1,5})", description)
    if parts is None:
        return ""
    kind, host = parts[1] or "tcp", parts[2].strip("[]")
    if isIPv6Address(host):
        return f"{kind}6:{parts[3]}{_interface(host)}"
    if isIPAddress(host) or host == "localhost":
        return f"{kind}:{parts[3]}{_interface(host)}"
    return parts[3] if host in ("", "*") and kind == "tcp" else ""


def _interface(address: str) -> str:
    return ":interface=" + address.replace(":", "\\:")


def _rightUnit(sock: socket.socket) -> str:
    """
    Say what a systemd socket unit should have instead of a socket that is of no use.
    """
    if sock.family not in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):
        return "its socket unit should have a TCP port or a path in ListenStream="
    if sock.type in (socket.SOCK_STREAM, socket.SOCK_DGRAM) and sock.proto:
        return "its socket unit should have no SocketProtocol="
    return "its socket unit should have ListenStream="


def _unnamed(description: str) -> int | None:
    """
    Find a socket that has an index and no name, as from systemd-socket-activate:
    Twisted looks at none unless all have names, which sd_listen_fds_with_names(3)
    does not ask for.

    @return: its descriptor, or L{None} if there is no such one.
    """
    index = re.fullmatch(
        "systemd:(?:domain=[A-Z0-9]+:)?index=([0-9]+)(?::domain=[A-Z0-9]+)?",
        description,
    )
    # Twisted takes them out of os.environ when it is imported.
    environment = _kernel.initialEnvironment()
    count = environment.get("LISTEN_FDS", "")
    if index is None or not re.fullmatch("[0-9]{1,4}", count):
        return None
    if "LISTEN_FDNAMES" in environment:
        return None
    environment["LISTEN_FDNAMES"] = ":".join(["unknown"] * int(count))
    passed = ListenFDs.fromEnvironment(environment).inheritedDescriptors()
    return passed[int(index[1])] if int(index[1]) < len(passed) else None


def bind(port: PortPlan | SharedPort) -> list[BoundPort]:
    """
    Bind what L{parse} or L{parseShared} understood.

    @raise CannotBind: if that is impossible.  Nothing stays bound then.
    """
    try:
        return port.bind()
    except (OSError, OverflowError, ValueError) as error:
        number = getattr(error, "errno", None) or 0
        raise CannotBind(_explain(port, error), number) from error


def pathOf(port: object) -> str | None:
    """
    The path of a Unix socket that is to be bound; L{None} for any other port.
    """
    if isinstance(port, NamedPort | SharedPort):
        return pathOf(port.port)
    return port.path if isinstance(port, UNIXPort) else None


_ADVICE = {
    errno.EACCES: (
        "; for a port below 1024 start as root and add --uid, or grant"
        " CAP_NET_BIND_SERVICE"
    ),
    errno.EADDRINUSE: "; 'ss -lntup' shows who has it",
    errno.EADDRNOTAVAIL: "; 'ip address' shows the addresses of this host",
}

_PATH_ADVICE = {
    errno.EACCES: (
        "; the user that starts the listener must be able to write to the folder"
    ),
    errno.EADDRINUSE: "; 'ss -lxp' shows who has it: if nobody has, remove it",
    errno.ENOENT: "; make the folder first",
}


def _explain(port: object, error: object) -> str:
    number = getattr(error, "errno", None)
    if number is None:
        reason = _firstLine(error)
    elif isinstance(error, OSError) and number < 0:
        reason = str(error.strerror)  # its errno is getaddrinfo's
    else:
        reason = os.strerror(number)
    advice = (_PATH_ADVICE if pathOf(port) else _ADVICE).get(number or 0, "")
    return f"cannot listen on {port}: {reason}{advice}"


def _firstLine(error: object) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _listen(host: str, number: int, backlog: int, count: int) -> list[socket.socket]:
    """
    Bind sockets that listen.

    @param count: how many, which share the port by C{SO_REUSEPORT}; or 0 for one
        without.
    @raise OSError: if that fails.  Nothing stays bound then.
    """
    sockets: list[socket.socket] = []
    if count:
        # Others of this user who bind likewise would take their share, unnoticed.
        with _unbound(host, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, number))
    try:
        for _ in range(count or 1):
            # Of an IPv6 socket, this makes one for IPv6 alone.
            sock = socket.create_server(
                (host, number),
                family=_familyOf(host),
                backlog=backlog,
                reuse_port=count > 0,
            )
            sockets.append(sock)
            sock.setblocking(False)
            number = sock.getsockname()[1]
    except OSError:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def _unbound(host: str, kind: int) -> socket.socket:
    """
    Make a socket to be bound to an address; one for IPv6 is for that alone.

    @return: the socket, which is the caller's.
    """
    sock = socket.socket(_familyOf(host), kind)
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    return sock


def _familyOf(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _describe(*sockets: socket.socket) -> BoundPort:
    sock = sockets[0]
    name = sock.getsockname()
    address: Address
    if sock.family == socket.AF_UNIX:
        address = UnixAddress(os.fsencode(name))
    else:
        host, number, *rest = name
        scope = rest[1] if rest else 0
        protocol: Literal["TCP", "UDP"] = (
            "UDP" if sock.type == socket.SOCK_DGRAM else "TCP"
        )
        address = InternetAddress(protocol, host, number, scope)
    return BoundPort(list(sockets), address)
