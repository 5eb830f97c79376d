"""
Limits of the clients that a port takes: of each source, and of all together.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Network, IPv6Network
from typing import TypeAlias

Network: TypeAlias = "IPv4Network | IPv6Network"


class Beyond(Enum):
    """
    What happens to a client beyond a limit.

    @cvar RESET: its connection is reset.
    @cvar CLOSE: its connection is closed.
    @cvar WAIT: it waits, behind everybody else.
    """

    RESET = "reset"
    CLOSE = "close"
    WAIT = "wait"


@dataclass(frozen=True)
class Rate:
    """
    How many connections may come in a time: a token bucket.

    @ivar perSecond: how many tokens come each second.
    @ivar burst: how many tokens the bucket holds.
    """

    perSecond: float
    burst: int


@dataclass(frozen=True)
class Limits:
    """
    The limits of a port.  L{None} stands for no limit.

    @ivar maxPerSource: how many connections a source may have at a time.
    @ivar ratePerSource: how many connections of a source may come in a time.
    @ivar most: how many connections the port may have at a time.
    @ivar rate: how many connections may come in a time.
    @ivar allow: only clients of these networks come in; if empty, all.
    @ivar deny: clients of these networks do not come in.
    @ivar beyond: what happens to clients beyond a limit.  Clients that may not come in
        are reset, or closed.
    @ivar fair: whether sources take turns while connections wait.
    @ivar prefix: how many leading bits of an IPv4 address make the source.
    @ivar prefix6: the same for IPv6.
    @ivar proxies: the networks whose PROXY headers are believed.
    """

    maxPerSource: int | None = None
    ratePerSource: Rate | None = None
    most: int | None = None
    rate: Rate | None = None
    allow: tuple[Network, ...] = ()
    deny: tuple[Network, ...] = ()
    beyond: Beyond = Beyond.RESET
    fair: bool = True
    prefix: int = 32
    prefix6: int = 64
    proxies: tuple[Network, ...] = ()
