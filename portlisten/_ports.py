"""
From a description of a port to bound, listening sockets.
"""

from __future__ import annotations

import errno
import os
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import (
    AdoptedStreamServerEndpoint,
    TCP4ServerEndpoint,
    TCP6ServerEndpoint,
    UNIXServerEndpoint,
    serverFromString,
)
from twisted.internet.error import CannotListenError, ConnectionDone
from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure

from portlisten._frames import Address, describe, portName

# Those whose ports are plain sockets.  Of any other (TLS, a wrapper) only the
# socket would be handed over, and what it adds would silently be missing.
_PLAIN = (
    TCP4ServerEndpoint,
    TCP6ServerEndpoint,
    UNIXServerEndpoint,
    AdoptedStreamServerEndpoint,
)


class BadDescription(Exception):
    """
    The description cannot be understood; the text says why.
    """


class CannotBind(Exception):
    """
    The port cannot be bound; the text says why and what to do.
    """


@dataclass
class BoundPort:
    """
    A bound, listening, non-blocking socket.

    @ivar socket: whoever takes it closes it.
    @ivar address: where it listens.
    @ivar cleanUp: call it once, before the socket is closed.
    @ivar name: what the operator called it, or nothing.
    """

    socket: socket.socket
    address: Address
    cleanUp: Callable[[], None] = lambda: None
    name: str = ""

    @property
    def label(self) -> str:
        """
        The address as an endpoint description, for the log.
        """
        return describe(self.address, self.name)


class NumberedPort:
    """
    A TCP port on every interface, IPv4 and IPv6, or IPv4 alone where the host
    has no IPv6.
    """

    def __init__(self, number: int, backlog: int) -> None:
        self._number = number
        self._backlog = backlog

    def __str__(self) -> str:
        return f"port {self._number}"

    def bind(self) -> list[BoundPort]:
        """
        Bind.

        @raise OSError: if that fails.  Nothing stays bound then.
        """
        first = self._create(socket.AF_INET, "0.0.0.0", self._number)  # noqa: S104
        bound = [_describe(first)]
        try:
            # With port 0 the kernel has chosen one by now.
            second = self._create(socket.AF_INET6, "::", first.getsockname()[1])
        except OSError as error:
            if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                first.close()
                raise
        else:
            bound.append(_describe(second))
        return bound

    def _create(
        self, family: socket.AddressFamily, host: str, number: int
    ) -> socket.socket:
        # Of an IPv6 socket, this makes one for IPv6 alone.
        sock = socket.create_server(
            (host, number), family=family, backlog=self._backlog
        )
        sock.setblocking(False)
        return sock


class DescribedPort:
    """
    A port that one of Twisted's endpoints binds.

    @param backlog: the length of the queue, or L{None} for the endpoint's.
    """

    def __init__(self, description: str, endpoint: Any, backlog: int | None) -> None:
        self._description = description
        self._endpoint = endpoint
        self._backlog = backlog

    def __str__(self) -> str:
        return self._description

    def bind(self) -> list[BoundPort]:
        """
        Bind.

        @raise OSError: if that fails.
        @raise CannotListenError: likewise.
        """
        factory = Factory.forProtocol(Protocol)
        factory.noisy = False
        deferred: Deferred[Any] = self._endpoint.listen(factory)
        results: list[Any] = []
        deferred.addBoth(results.append)
        result = results[0]
        if isinstance(result, Failure):
            result.raiseException()
        # The socket is taken from the port, which then can neither accept from
        # it nor shut it down, but still cleans up what else it made.
        result.stopReading()
        sock = socket.socket(fileno=result.socket.detach())
        sock.setblocking(False)
        if self._backlog is not None:
            sock.listen(self._backlog)

        bound = _describe(sock)
        identity = _identity(bound.address)

        def cleanUp() -> None:
            try:
                if identity == _identity(bound.address):
                    result.connectionLost(Failure(ConnectionDone()))
            except OSError:
                pass  # after privileges were dropped, it may not be ours to remove
            lock = getattr(result, "lockFile", None)
            if lock is not None and lock.locked:
                lock.unlock()

        bound.cleanUp = cleanUp
        return [bound]


class InheritedPort:
    """
    A listening socket that another process made, as systemd does.  It stays
    that process's as well: nothing here shuts it down, removes its path, or
    changes the path's mode, all of which a Twisted port would do.

    @param descriptor: becomes the L{BoundPort}'s.
    """

    def __init__(self, description: str, descriptor: int) -> None:
        self._description = description
        self._descriptor = descriptor

    def __str__(self) -> str:
        return self._description

    def bind(self) -> list[BoundPort]:
        """
        Take it.

        @raise OSError: if it is no socket.
        @raise ValueError: if it does not listen for stream connections.
        """
        sock = socket.socket(fileno=self._descriptor)
        if sock.type != socket.SOCK_STREAM or not sock.getsockopt(
            socket.SOL_SOCKET, socket.SO_ACCEPTCONN
        ):
            sock.detach()
            raise ValueError("the inherited descriptor is no listening stream socket")
        sock.set_inheritable(False)
        sock.setblocking(False)
        return [_describe(sock)]


class NamedPort:
    """
    A port with a name, by which workers can ask for it.
    """

    def __init__(self, name: str, port: Nameless) -> None:
        self.name = name
        self._port = port

    def __str__(self) -> str:
        return str(self._port)

    def bind(self) -> list[BoundPort]:
        """
        Bind.

        @raise Exception: what the port that it names raises.
        """
        bound = self._port.bind()
        for each in bound:
            each.name = self.name
        return bound


Nameless: TypeAlias = "NumberedPort | DescribedPort | InheritedPort"
PortPlan: TypeAlias = "Nameless | NamedPort"


def parse(reactor: Any, description: str, backlog: int) -> PortPlan:
    """
    Understand a port: a number, or one of Twisted's descriptions of a server
    endpoint, perhaps with a name and C{=} before it.

    @param backlog: for ports whose description has none of its own.
    @raise BadDescription: if it is neither, or the name is none.
    """
    named = re.match("([^:=]*)=", description)
    if named is not None:
        try:
            name = portName(named[1])
        except ValueError as error:
            raise BadDescription(str(error)) from None
        return NamedPort(name, _parse(reactor, description[named.end() :], backlog))
    return _parse(reactor, description, backlog)


def _parse(reactor: Any, description: str, backlog: int) -> Nameless:
    if ":" not in description:
        if re.fullmatch("[0-9]{1,5}", description) and int(description) < 65536:
            return NumberedPort(int(description), backlog)
        raise BadDescription(
            f"{description!r} is no port: give a number from 0 to 65535, or an"
            " endpoint description such as tcp:80:interface=127.0.0.1"
        )
    try:
        endpoint = serverFromString(reactor, description)
    except Exception as error:
        raise BadDescription(
            f"{description!r} is no endpoint description: {_firstLine(error)}"
        ) from error
    if not isinstance(endpoint, _PLAIN):
        raise BadDescription(
            f"{description!r} is not a plain port: use tcp, tcp6, unix or systemd,"
            " and leave TLS and the like to the worker"
        )
    if isinstance(endpoint, AdoptedStreamServerEndpoint):
        return InheritedPort(description, endpoint.fileno)
    ownBacklog = re.search(r"(?<!\\):backlog=", description) is not None
    return DescribedPort(description, endpoint, None if ownBacklog else backlog)


def bind(port: PortPlan) -> list[BoundPort]:
    """
    Bind what L{parse} understood.

    @raise CannotBind: if that is impossible.  Nothing stays bound then.
    """
    try:
        return port.bind()
    except CannotListenError as error:
        raise CannotBind(_explain(port, error.socketError)) from error
    except (OSError, OverflowError, ValueError) as error:
        raise CannotBind(_explain(port, error)) from error


def _identity(address: Address) -> tuple[int, int] | None:
    """
    What a Unix address names at the moment.
    """
    if not isinstance(address, UNIXAddress) or address.name is None:
        return None
    try:
        status = os.lstat(address.name)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _explain(port: object, error: object) -> str:
    number = getattr(error, "errno", None)
    if number is None:
        reason = _firstLine(error)
    elif isinstance(error, socket.gaierror):
        reason = str(error.strerror)  # its errno is getaddrinfo's
    else:
        reason = os.strerror(number)
    advice = {
        errno.EACCES: (
            "; for a port below 1024 start as root and add --uid, or grant"
            " CAP_NET_BIND_SERVICE"
        ),
        errno.EADDRINUSE: "; 'ss -lntp' shows who has it",
        errno.EADDRNOTAVAIL: "; 'ip address' shows the addresses of this host",
    }.get(number or 0, "")
    return f"cannot listen on {port}: {reason}{advice}"


def _firstLine(error: object) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _describe(sock: socket.socket) -> BoundPort:
    name = sock.getsockname()
    if sock.family == socket.AF_INET:
        return BoundPort(sock, IPv4Address("TCP", *name))
    if sock.family == socket.AF_INET6:
        return BoundPort(sock, IPv6Address("TCP", *name))
    return BoundPort(sock, UNIXAddress(os.fsencode(name) or None))
