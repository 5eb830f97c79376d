"""
The options that the description of a port may have: those of its sockets, as in
C{80:nodelay=yes}, and the limits of its clients, as in C{80:max-per-source=20}.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from portlisten._config.limits import limitsOf
from portlisten._config.options import STREAM, WIRES
from portlisten._config.port_values import (
    BeyondValue,
    Device,
    Keepalive,
    Networks,
    PlainCount,
    RateValue,
)
from portlisten._config.values import Flag, ValueType
from portlisten._policy.networks import Network
from portlisten._policy.source_limits import Beyond, Limits, Rate
from portlisten.errors import BadDescription

#: The most sockets that a port may have.
MAXIMUM_REUSEPORT = 64

#: The most seconds of C{defer}.  The kernel keeps them as a number of retransmissions,
#: of which it counts 255 (C{secs_to_retrans} in net/ipv4/tcp.c).
MAXIMUM_DEFER = 29887

#: The most of C{max} and C{max-per-source}.
MAXIMUM_CONNECTIONS = 1_000_000

_SEPARATOR = re.compile(r"\\.|(:)", re.DOTALL)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_SPECIAL = re.compile(r"([\\:])")
_BACKSLASH = r"\\\1"


@dataclass(frozen=True)
class PortOption:
    """
    An option that the description of a port may have.

    @ivar name: its name.
    @ivar value: the type of its values.
    @ivar datagrams: whether it goes with UDP, and not only with TCP.
    @ivar unit: what systemd calls it in a socket unit, systemd.socket(5); empty if
        such a socket cannot have it.
    @ivar limit: the field of L{Limits} that it sets; empty if it sets none.
    @ivar wires: the wires that it goes with.
    """

    name: str
    value: ValueType
    datagrams: bool = False
    unit: str = ""
    limit: str = ""
    wires: Sequence[str] = WIRES

    @property
    def field(self) -> str:
        """
        The field of L{PortOptions}.
        """
        return self.limit or self.name


#: Each option that a description may have, by its name.
PORT_OPTIONS = {
    option.name: option
    for option in (
        PortOption("reuseport", PlainCount("N", 1, MAXIMUM_REUSEPORT)),
        PortOption("nodelay", Flag(), unit="NoDelay="),
        PortOption(
            "keepalive",
            Keepalive(),
            unit="KeepAlive=, KeepAliveTimeSec= and KeepAliveIntervalSec=",
        ),
        PortOption(
            "defer", PlainCount("SECONDS", 1, MAXIMUM_DEFER), unit="DeferAcceptSec="
        ),
        PortOption("mptcp", Flag(), unit="SocketProtocol=mptcp"),
        PortOption("freebind", Flag(), datagrams=True, unit="FreeBind="),
        PortOption("device", Device(), datagrams=True, unit="BindToDevice="),
        PortOption("balance", Flag()),
        PortOption(
            "max-per-source",
            PlainCount("N", 1, MAXIMUM_CONNECTIONS),
            limit="maxPerSource",
            wires=STREAM,
        ),
        PortOption("rate-per-source", RateValue(), limit="ratePerSource"),
        PortOption(
            "max", PlainCount("N", 1, MAXIMUM_CONNECTIONS), limit="most", wires=STREAM
        ),
        PortOption("rate", RateValue(), limit="rate"),
        PortOption("allow", Networks(), limit="allow"),
        PortOption("deny", Networks(), limit="deny"),
        PortOption("beyond", BeyondValue(), limit="beyond"),
        PortOption("fair", Flag(), limit="fair", wires=STREAM),
        PortOption("source-prefix", PlainCount("N", 1, 32), limit="prefix"),
        PortOption("source-prefix6", PlainCount("N", 1, 128), limit="prefix6"),
        PortOption("proxy-from", Networks(), limit="proxies", wires=STREAM),
    )
}

#: Those that set limits.
LIMIT_OPTIONS = [option for option in PORT_OPTIONS.values() if option.limit]


@dataclass(frozen=True)
class PortOptions:
    """
    The options of a port.  L{None} leaves an option of a socket as the host has it, and
    gives no limit.  The fields of the limits are those of L{Limits}.

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
    maxPerSource: int | None = None
    ratePerSource: Rate | None = None
    most: int | None = None
    rate: Rate | None = None
    allow: tuple[Network, ...] | None = None
    deny: tuple[Network, ...] | None = None
    beyond: Beyond | None = None
    fair: bool | None = None
    prefix: int | None = None
    prefix6: int | None = None
    proxies: tuple[Network, ...] | None = None

    def __post_init__(self) -> None:
        """
        Check the values.

        @raise ValueError: if an option cannot have its value, or options contradict
            each other.
        """
        for option in self.given:
            try:
                option.value.check(getattr(self, option.field))
            except ValueError as error:
                raise ValueError(f"{option.name}: {error}") from None
        counted = countedNames(self.limits)
        if self.mptcp:
            for name in counted:
                raise ValueError(
                    f"{name}: the kernel does not say which connections of Multipath"
                    f" TCP live: leave out {name} or mptcp=yes"
                )

    @cached_property
    def limits(self) -> Limits | None:
        """
        The limits of the port; L{None} if it has none.
        """
        given = [option.field for option in self.given if option.limit]
        return limitsOf({name: getattr(self, name) for name in given})

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
            for option in PORT_OPTIONS.values()
            if getattr(self, option.field) is not None
        ]

    @property
    def limitNames(self) -> list[str]:
        """
        The names of the given options that set limits.
        """
        return [option.name for option in self.given if option.limit]


def countedNames(limits: Limits | None) -> list[str]:
    """
    Name the options of limits that count the connections that live.
    """
    if limits is None:
        return []
    counts = {"max-per-source": limits.maxPerSource, "max": limits.most}
    return [name for name, count in counts.items() if count is not None]


def writeLimits(limits: Limits | None) -> str:
    """
    Write limits as options of a description, for L{readLimits}.

    @return: empty if there are none.
    """
    if limits is None:
        return ""
    perSource = limits.maxPerSource is not None or limits.ratePerSource is not None
    usual = Limits(fair=perSource)
    return ":".join(
        f"{option.name}={_SPECIAL.sub(_BACKSLASH, option.value.write(value))}"
        for option in LIMIT_OPTIONS
        if (value := getattr(limits, option.field)) != getattr(usual, option.field)
    )


def readLimits(text: str) -> Limits | None:
    """
    Undo L{writeLimits}.

    @raise BadDescription: if the text is no options that set limits.
    """
    if not text:
        return None
    rest, options = separate(f"0:{text}")
    if rest != "0" or any(not option.limit for option in options.given):
        raise BadDescription(f"{text!r} has other options than limits")
    return options.limits


def separate(description: str) -> tuple[str, PortOptions]:
    """
    Take the options of L{PortOptions} out of the description of a port.  They may stand
    anywhere behind its first part.

    @return: the rest of the description, and the options.
    @raise BadDescription: if an option is given twice, or has no value, or one that it
        cannot have, or if options contradict each other.
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
        if option.field in values:
            raise BadDescription(f"{description!r} has {name} twice")
        text = _ESCAPED.sub(r"\1", text)
        values[option.field] = _value(description, option, text)
    try:
        return rest, PortOptions(**values)
    except ValueError as error:
        raise BadDescription(f"{description!r}: {error}") from None


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
