"""
Makes the reactors of this process take mapped ports from listeners.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Sequence
from typing import Any

from twisted.internet.posixbase import PosixReactorBase
from twisted.logger import Logger

from portlisten import _kernel
from portlisten._as_port.mappings import ANY, Mapping, find, host, writePort
from portlisten._as_port.port import MappedPort
from portlisten._as_port.watch import Watch


class Interception:
    """
    Takes the place of methods of L{PosixReactorBase}, from which all of Twisted's
    reactors for Linux inherit.  C{listenSSL} calls C{listenTCP}.  No reactor is made.

    @param mappings: each with a context factory, which is L{None} for no TLS.
    @param watch: is told what the program listens on.
    """

    log = Logger(namespace="portlisten")

    def __init__(self, mappings: Sequence[tuple[Mapping, Any]], watch: Watch) -> None:
        self._mappings = [mapping for mapping, _ in mappings]
        self._contextFactories = dict(mappings)
        self._watch = watch
        self._taken: list[MappedPort] = []
        self._warned: set[int] = set()
        self._original: dict[str, Any] = {}

    def install(self) -> None:
        """
        Replace the methods.
        """
        for name in ("__init__", "listenTCP", "listenUDP", "adoptStreamPort"):
            self._original[name] = getattr(PosixReactorBase, name)
        interception = self
        initialize = self._original["__init__"]

        def __init__(self: Any, *arguments: Any, **named: Any) -> None:
            initialize(self, *arguments, **named)
            interception._watch.madeReactor(self)

        def listenTCP(
            self: Any, port: Any, factory: Any, backlog: int = 50, interface: str = ""
        ) -> Any:
            return interception.listenTCP(self, port, factory, backlog, interface)

        def listenUDP(
            self: Any,
            port: Any,
            protocol: Any,
            interface: str = "",
            maxPacketSize: int = 8192,
        ) -> Any:
            return interception.listenUDP(
                self, port, protocol, interface, maxPacketSize
            )

        def adoptStreamPort(
            self: Any, fileDescriptor: int, addressFamily: int, factory: Any
        ) -> Any:
            return interception.adoptStreamPort(
                self, fileDescriptor, addressFamily, factory
            )

        for method in (__init__, listenTCP, listenUDP, adoptStreamPort):
            setattr(PosixReactorBase, method.__name__, method)
        reactor = sys.modules.get("twisted.internet.reactor")
        if reactor is not None:  # made by what Python loads at its start
            self._watch.madeReactor(reactor)

    def remove(self) -> None:
        """
        Put the methods back.
        """
        for name, method in self._original.items():
            setattr(PosixReactorBase, name, method)

    def listenTCP(
        self, reactor: Any, port: Any, factory: Any, backlog: int, interface: str
    ) -> Any:
        """
        See L{IReactorTCP<twisted.internet.interfaces.IReactorTCP>}.
        """
        mapping, address = self._find(interface, _number(port, "tcp"))
        if mapping is None:
            made = self._original["listenTCP"](
                reactor, port, factory, backlog, interface
            )
            self._watch.listensElsewhere(_written(made.getHost()))
            return made
        return self._join(reactor, mapping, factory, backlog, interface, address)

    def adoptStreamPort(
        self, reactor: Any, descriptor: int, family: int, factory: Any
    ) -> Any:
        """
        See L{IReactorSocket<twisted.internet.interfaces.IReactorSocket>}.  Some
        programs bind a socket themselves, and let the reactor accept on it.

        @param descriptor: remains the caller's.
        """
        mapping = None
        # Not so a socket that a listener shares.
        ours = type(factory).__module__.partition(".")[0] == "portlisten"
        if family in (socket.AF_INET, socket.AF_INET6) and not ours:
            address, number = _nameOf(descriptor)
            mapping = find(self._mappings, host(address), number)
        if mapping is None:
            made = self._original["adoptStreamPort"](
                reactor, descriptor, family, factory
            )
            if family != socket.AF_UNIX and not ours:
                self._watch.listensElsewhere(_written(made.getHost()))
            return made
        return self._join(reactor, mapping, factory, 50, address, host(address))

    def _join(
        self,
        reactor: Any,
        mapping: Mapping,
        factory: Any,
        backlog: int,
        interface: str,
        address: str,
    ) -> MappedPort:
        """
        Make a port that listens.
        """
        mapped = MappedPort(
            reactor,
            mapping,
            self._contextFactories[mapping],
            self._taken,
            factory,
            backlog,
            interface,
            address,
        )
        mapped.startListening()
        self._watch.listensOn(mapping)
        return mapped

    def listenUDP(
        self,
        reactor: Any,
        port: Any,
        protocol: Any,
        interface: str,
        maxPacketSize: int,
    ) -> Any:
        """
        See L{IReactorUDP<twisted.internet.interfaces.IReactorUDP>}.
        """
        mapping, _ = self._find(interface, _number(port, "udp"))
        if mapping is not None and mapping.number not in self._warned:
            self._warned.add(mapping.number)
            self.log.warn(
                "the program binds UDP port {port} itself: as-port takes only the TCP"
                " port of this number from a listener",
                event="udp-not-mapped",
                port=mapping.number,
            )
        made = self._original["listenUDP"](
            reactor, port, protocol, interface, maxPacketSize
        )
        if port:  # clients use any free port
            self._watch.listensElsewhere(f"{_written(made.getHost())} (UDP)")
        return made

    def _find(self, interface: str, number: int) -> tuple[Mapping | None, str]:
        """
        Find the mapping of a port.

        @return: the mapping, or L{None}, and the address of the interface.
        """
        address = host(interface)
        if all(each.number != number for each in self._mappings):
            return None, address
        try:
            # The interface may be a name: Python's bind() looks it up as well.
            address = socket.gethostbyname(address)
        except OSError:
            pass  # an address of IPv6, or a name that has none
        return find(self._mappings, address, number), address


def _number(port: Any, protocol: str) -> int:
    """
    Find the number of a port.

    @param port: a number, or the name of a service.
    @return: 0 if it is neither.
    """
    if isinstance(port, str):
        try:
            return socket.getservbyname(port, protocol)
        except OSError:
            return 0
    return port if isinstance(port, int) else 0


def _nameOf(descriptor: int) -> tuple[str, int]:
    """
    Read the address and the number of a socket.

    @param descriptor: remains the caller's.
    @raise OSError: if it is no socket's.
    """
    with _kernel.duplicate(descriptor) as sock:
        address, number, *_ = sock.getsockname()
    return address, number


def _written(address: Any) -> str:
    """
    Write the address of a port that is bound.
    """
    if address.host == ANY:
        return str(address.port)
    return writePort(address.host, address.port)
