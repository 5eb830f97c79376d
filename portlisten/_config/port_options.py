"""
The options of a port's sockets, which its description may have: C{80:nodelay=yes}.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from portlisten._config.values import Flag, Number, ValueType, count
from portlisten.errors import BadDescription

#: The most sockets that a port may have.
MAXIMUM_REUSEPORT = 64

#: The most seconds of C{keepalive}: C{MAX_TCP_KEEPIDLE} and C{MAX_TCP_KEEPINTVL} in
#: include/net/tcp.h.
MAXIMUM_KEEPALIVE = 32767

#: The most seconds of C{defer}.  The kernel keeps them as a number of retransmissions,
#: of which it counts 255 (C{secs_to_retrans} in net/ipv4/tcp.c).
MAXIMUM_DEFER = 29887

#: The most bytes of the name of a network device: C{IFNAMSIZ} in netdevice(7), less the
#: zero at its end.
_MAXIMUM_DEVICE = 15

_SEPARATOR = re.compile(r"\\.|(:)", re.DOTALL)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_DIGITS = re.compile("[0-9]{1,9}")


def _read(number: Number, text: str) -> int:
    """
    Read a whole number.  It has only the digits of ASCII, without a sign.
    """
    value: Any = int(text) if _DIGITS.fullmatch(text) else text
    number.check(value)
    return int(value)


class _Count(ValueType):
    """
    A whole number in a range.
    """

    def __init__(self, metavar: str, minimum: int, maximum: int) -> None:
        super().__init__(metavar)
        self._number = count(minimum, maximum)

    def parse(self, text: str) -> int:
        """
        See L{ValueType.parse}.
        """
        return _read(self._number, text)

    def check(self, value: Any) -> None:
        """
        See L{ValueType.check}.
        """
        self._number.check(value)


class _Keepalive(ValueType):
    """
    Whether to probe clients that are silent, and after how many seconds.  The value is
    a number, or whether to probe at all, at the times of the host.
    """

    def __init__(self) -> None:
        super().__init__("yes|no|SECONDS")
        self._number = count(1, MAXIMUM_KEEPALIVE)

    def parse(self, text: str) -> bool | int:
        """
        See L{ValueType.parse}.
        """
        if text in ("yes", "no"):
            return text == "yes"
        try:
            return _read(self._number, text)
        except ValueError as error:
            raise ValueError(f"{error}, and neither yes nor no") from None

    def check(self, value: Any) -> None:
        """
        See L{ValueType.check}.
        """
        if not isinstance(value, bool):
            self._number.check(value)


class _Device(ValueType):
    """
    The name of a network device, as the kernel checks it (C{dev_valid_name} in
    net/core/dev.c).
    """

    def __init__(self) -> None:
        super().__init__("NAME")

    def check(self, value: Any) -> None:
        """
        See L{ValueType.check}.
        """
        super().check(value)
        size = len(value.encode("utf-8", "surrogateescape"))
        wrong = not 1 <= size <= _MAXIMUM_DEVICE or value in (".", "..")
        if wrong or any(c in "/:\0" or c.isspace() for c in value):
            raise ValueError(
                f"{value!r} is no name of a network device: give up to"
                f" {_MAXIMUM_DEVICE} bytes, such as eth0"
            )


@dataclass(frozen=True)
class PortOption:
    """
    An option that the description of a port may have.

    @ivar name: its name, which is that of a field of L{PortOptions}.
    @ivar value: the type of its values.
    @ivar datagrams: whether it goes with UDP, and not only with TCP.
    @ivar unit: what systemd calls it in a socket unit, systemd.socket(5); empty if
        such a socket cannot have it.
    """

    name: str
    value: ValueType
    datagrams: bool = False
    unit: str = ""


#: Each option that a description may have, by its name.
PORT_OPTIONS = {
    option.name: option
    for option in (
        PortOption("reuseport", _Count("N", 1, MAXIMUM_REUSEPORT)),
        PortOption("nodelay", Flag(), unit="NoDelay="),
        PortOption(
            "keepalive",
            _Keepalive(),
            unit="KeepAlive=, KeepAliveTimeSec= and KeepAliveIntervalSec=",
        ),
        PortOption(
            "defer", _Count("SECONDS", 1, MAXIMUM_DEFER), unit="DeferAcceptSec="
        ),
        PortOption("mptcp", Flag(), unit="SocketProtocol=mptcp"),
        PortOption("freebind", Flag(), datagrams=True, unit="FreeBind="),
        PortOption("device", _Device(), datagrams=True, unit="BindToDevice="),
        PortOption("balance", Flag()),
    )
}


@dataclass(frozen=True)
class PortOptions:
    """
    The options of a port's sockets.  L{None} leaves an option as the host has it.

    @ivar reuseport: how many sockets share a TCP port by C{SO_REUSEPORT}; L{None} for
        one socket without it.
    @ivar nodelay: whether small writes are sent at once: C{TCP_NODELAY}.
    @ivar keepalive: whether silent clients are probed: C{SO_KEEPALIVE}; or after how
        many seconds, and at which interval: C{TCP_KEEPIDLE} and C{TCP_KEEPINTVL}.
    @ivar defer: for how many seconds the kernel keeps a connection whose client says
        nothing: C{TCP_DEFER_ACCEPT}.
    @ivar mptcp: whether clients may speak Multipath TCP: C{IPPROTO_MPTCP}.
    @ivar freebind: whether the address may be bound that the host does not have (yet):
        C{IP_FREEBIND}, C{IPV6_FREEBIND}.
    @ivar device: the network device through which clients come: C{SO_BINDTODEVICE}.
    @ivar balance: whether the workers of a shared port leave clients to those that have
        fewer connections.
    """

    reuseport: int | None = None
    nodelay: bool | None = None
    keepalive: bool | int | None = None
    defer: int | None = None
    mptcp: bool | None = None
    freebind: bool | None = None
    device: str | None = None
    balance: bool | None = None

    def __post_init__(self) -> None:
        """
        Check the values.

        @raise ValueError: if an option cannot have its value.
        """
        for option in self.given:
            try:
                option.value.check(getattr(self, option.name))
            except ValueError as error:
                raise ValueError(f"{option.name}: {error}") from None

    @property
    def balanced(self) -> bool:
        """
        C{balance}, or what it is if it is not given.
        """
        return self.balance is not False

    @property
    def given(self) -> list[PortOption]:
        """
        The options that are given.
        """
        return [
            option
            for name, option in PORT_OPTIONS.items()
            if getattr(self, name) is not None
        ]


def separate(description: str) -> tuple[str, PortOptions]:
    """
    Take the options of L{PortOptions} out of the description of a port.  They may stand
    anywhere behind its first part.

    @return: the rest of the description, and the options.
    @raise BadDescription: if an option is given twice, or has no value, or one that it
        cannot have.
    """
    rest, *parts = _split(description)
    values: dict[str, Any] = {}
    for part in parts:
        name, equals, text = part.partition("=")
        option = PORT_OPTIONS.get(name)
        if option is None:
            rest += f":{part}"
            continue
        if not equals:
            raise BadDescription(
                f"{description!r}: {name} has no value: write"
                f" {name}={option.value.metavar}"
            )
        if name in values:
            raise BadDescription(f"{description!r} has {name} twice")
        values[name] = _value(description, option, _ESCAPED.sub(r"\1", text))
    return rest, PortOptions(**values)


def _split(description: str) -> list[str]:
    """
    Split a description at its colons.  A colon behind a backslash is none.
    """
    parts, start = [], 0
    for match in _SEPARATOR.finditer(description):
        if match[1]:
            parts.append(description[start : match.start()])
            start = match.end()
    return [*parts, description[start:]]


def _value(description: str, option: PortOption, text: str) -> Any:
    """
    Read the value of an option.
    """
    try:
        value = option.value.parse(text)
        option.value.check(value)
    except ValueError as error:
        raise BadDescription(f"{description!r}: {option.name}: {error}") from None
    return value
