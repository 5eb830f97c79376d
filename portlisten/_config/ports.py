"""
The settings of a port to be bound.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from portlisten._config.options import WIRES
from portlisten._config.port_options import PortOption, PortOptions
from portlisten._model import portName
from portlisten._policy.source_limits import Beyond, Limits


class PortKind(Enum):
    """
    How a port is bound.

    @cvar NUMBER: a TCP port on every interface, IPv4 and IPv6, or IPv4 alone if the
        host has no IPv6.
    @cvar TCP: a TCP port on one address, or on all addresses of IPv4 or of IPv6.
    @cvar UDP: a UDP port on one address, or on all addresses of IPv4 or of IPv6.
    @cvar UNIX: a Unix stream socket with a path.
    @cvar INHERITED: a socket that another process has bound, such as systemd.
    """

    NUMBER = "number"
    TCP = "tcp"
    UDP = "udp"
    UNIX = "unix"
    INHERITED = "inherited"


@dataclass(frozen=True)
class PortSettings:
    """
    A port to be bound.  A field that a kind of port does not use keeps its default.

    @ivar kind: how the port is bound.
    @ivar description: the text that gave these settings, for errors.
    @ivar name: the name that workers ask for, or nothing.
    @ivar shared: whether workers get the sockets, and not the connections.
    @ivar options: the options of its sockets.
    @ivar backlog: the most connections that wait in the kernel, for each listening
        socket.
    @ivar host: the address or its name, for TCP and UDP; empty for all of IPv4.
    @ivar number: the number of a TCP or UDP port; 0 lets the kernel choose.
    @ivar path: the path of a Unix socket; L{None} for any other port.
    @ivar mode: the permissions of that path.
    @ivar lock: whether to lock that path as Twisted does: by a symbolic link beside
        the path, whose target is the pid of this process.
    @ivar descriptor: the inherited descriptor; -1 for any other port.
    """

    kind: PortKind
    description: str
    name: str = ""
    shared: bool = False
    options: PortOptions = field(default_factory=PortOptions)
    backlog: int = 0
    host: str = ""
    number: int = 0
    path: str | None = None
    mode: int = 0o666
    lock: bool = True
    descriptor: int = -1

    def __post_init__(self) -> None:
        """
        Check the rules for all ports.

        @raise ValueError: if the settings contradict each other.
        """
        if self.name:
            portName(self.name)
        if self.kind is PortKind.UDP and not self.shared:
            raise ValueError(
                f"{self.description!r} has no connections to hand off: use --share"
            )
        for option in self.options.given:
            self._checkOption(option)
        if self.kind is PortKind.TCP:
            self._checkFamily()
        self._checkGiven(
            PortKind.UNIX, "a Unix socket", "a path", self.path is not None
        )
        self._checkGiven(
            PortKind.INHERITED,
            "an inherited socket",
            "a descriptor",
            self.descriptor >= 0,
        )

    def _checkGiven(self, kind: PortKind, what: str, part: str, given: bool) -> None:
        """
        Check that every port of a kind has a part, and that no other port has it.
        """
        if given and self.kind is not kind:
            raise ValueError(f"{self.description!r}: only {what} has {part}")
        if self.kind is kind and not given:
            raise ValueError(f"{self.description!r}: {what} needs {part}")

    @property
    def limits(self) -> Limits | None:
        """
        The limits of its clients; L{None} if there are none.
        """
        return self.options.limits

    def checkWire(self, wire: str) -> None:
        """
        Check that the port can have its options with a wire.

        @raise ValueError: if it cannot.
        """
        for option in self.options.given:
            if wire not in option.wires:
                raise ValueError(
                    f"{self.description!r}: {option.name} goes with"
                    f" --wire={option.wires[0]} only: with the wire {wire}, the"
                    " listener does not know when connections end, and keeps no queue"
                    f" of sources: leave {option.name} out, or limit by rate"
                )
        if wire != WIRES[0] and self.options.beyond is Beyond.WAIT:
            raise ValueError(
                f"{self.description!r}: beyond=wait goes with --wire={WIRES[0]} only:"
                f" with the wire {wire}, write beyond=reset or beyond=close"
            )

    def _checkFamily(self) -> None:
        """
        Check that the networks are not all of the other version of IP.
        """
        version = 6 if ":" in self.host else 4
        options = self.options
        # A PROXY header may have an address of the other version.
        lists = (
            {"proxy-from": options.proxies}
            if options.proxies
            else {"allow": options.allow}
        )
        for name, networks in lists.items():
            if networks and all(each.version != version for each in networks):
                raise ValueError(
                    f"{self.description!r}: {name}: clients of this port are of"
                    f" IPv{version}, and no network in it is: give one of"
                    f" IPv{version}, or leave {name} out"
                )

    def _checkLimit(self, name: str) -> None:
        """
        Check that a port of this kind can have an option that sets limits.
        """
        if self.kind is PortKind.UNIX:
            raise ValueError(
                f"{self.description!r}: {name} is for TCP ports only, since clients of"
                f" a Unix socket have no address: leave {name} out"
            )
        if self.kind is PortKind.UDP:
            raise ValueError(
                f"{self.description!r}: {name} is for TCP ports only: leave it out"
            )
        if self.shared:
            raise ValueError(
                f"{self.description!r}: {name} is not for --share, since workers accept"
                f" on this port themselves: use --listen, or leave {name} out"
            )

    def _checkOption(self, option: PortOption) -> None:
        """
        Check that a port of this kind can have an option.
        """
        name = option.name
        if option.limit:
            self._checkLimit(name)
            return
        if name in ("reuseport", "balance") and not self.shared:
            raise ValueError(f"{self.description!r}: {name} is for --share")
        if name == "balance":
            if self.kind is PortKind.UDP:
                raise ValueError(
                    f"{self.description!r}: balance is for TCP and Unix ports only"
                )
            if self.options.balance and self.options.reuseport is not None:
                raise ValueError(
                    f"{self.description!r}: with reuseport, the kernel distributes the"
                    " clients: leave balance out"
                )
            return
        if self.kind in (PortKind.NUMBER, PortKind.TCP):
            return
        if self.kind is PortKind.INHERITED and option.unit:
            raise ValueError(
                f"{self.description!r}: {name} is for ports that the listener binds:"
                f" for a socket of systemd's, its socket unit has {option.unit}"
            )
        if self.kind is not PortKind.UDP or not option.datagrams:
            kinds = "TCP and UDP" if option.datagrams else "TCP"
            raise ValueError(f"{self.description!r}: {name} is for {kinds} ports only")

    def __str__(self) -> str:
        """
        Write the port, for errors.
        """
        if self.kind is PortKind.NUMBER:
            return f"port {self.number}"
        return self.description
