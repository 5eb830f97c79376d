"""
The types of values that the options of a port have.
"""

from __future__ import annotations

import re
from ipaddress import ip_interface
from typing import Any

from portlisten._config.values import Choice, Number, ValueType, count
from portlisten._policy.networks import Network, nameOf, plain
from portlisten._policy.source_limits import Beyond, Rate

#: The most seconds of C{keepalive}: C{MAX_TCP_KEEPIDLE} and C{MAX_TCP_KEEPINTVL} in
#: include/net/tcp.h.
MAXIMUM_KEEPALIVE = 32767

#: The most connections of a rate, and of its burst.
MAXIMUM_RATE = 1_000_000

#: The most networks of a list.
MAXIMUM_NETWORKS = 1024

#: The most bytes of the name of a network device: C{IFNAMSIZ} in netdevice(7), less the
#: zero at its end.
_MAXIMUM_DEVICE = 15

_DIGITS = re.compile("[0-9]{1,9}")
_RATE = re.compile("([0-9]{1,9})/([smh])(?: +burst +([0-9]{1,9}))?")
_NETWORK = re.compile(r"[^/%\s]+(?:/[0-9]+)?")
_START_OF_IPV6 = re.compile("[0-9A-Fa-f]{0,4}|/[0-9]+")

#: The units of a rate, in seconds.
_UNITS = {"s": 1, "m": 60, "h": 3600}


def _read(number: Number, text: str) -> int:
    """
    Read a whole number.  It has only the digits of ASCII, without a sign.
    """
    value: Any = int(text) if _DIGITS.fullmatch(text) else text
    number.check(value)
    return int(value)


class PlainCount(ValueType):
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


class Keepalive(ValueType):
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


class Device(ValueType):
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


class RateValue(ValueType):
    """
    A number of connections in a second, a minute or an hour, and perhaps a burst.  The
    value is a L{Rate}.
    """

    def __init__(self) -> None:
        super().__init__("N/s")

    def parse(self, text: str) -> Rate:
        """
        See L{ValueType.parse}.
        """
        match = _RATE.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} is no rate: {_rateHint(text)}")
        number, unit, burst = match.groups()
        perSecond = int(number) / _UNITS[unit]
        if burst is None:
            return Rate(perSecond, min(max(1, int(perSecond)), MAXIMUM_RATE))
        return Rate(perSecond, int(burst))

    def check(self, value: Any) -> None:
        """
        See L{ValueType.check}.
        """
        if not isinstance(value, Rate):
            raise ValueError(f"{value!r} is no rate")
        if not 0 < value.perSecond <= MAXIMUM_RATE:
            raise ValueError(
                f"a rate of {value.perSecond:g}/s is not possible: give at least 1/h,"
                f" and at most {MAXIMUM_RATE}/s"
            )
        if not 1 <= value.burst <= MAXIMUM_RATE:
            raise ValueError(
                f"a burst of {value.burst} is not possible: give at least 1, and at"
                f" most {MAXIMUM_RATE}, or leave the burst out"
            )

    def write(self, value: Rate) -> str:
        """
        See L{ValueType.write}.
        """
        for unit, seconds in _UNITS.items():
            number = round(value.perSecond * seconds)
            if number and number / seconds == value.perSecond:
                return f"{number}/{unit} burst {value.burst}"
        return f"{max(1, round(value.perSecond * 3600))}/h burst {value.burst}"


def _rateHint(text: str) -> str:
    """
    Say how to write a rate.

    @param text: what is none.
    """
    if _DIGITS.fullmatch(text):
        return (
            f"it needs a unit, as in {text}/s for connections in a second, {text}/m in"
            f" a minute, or {text}/h in an hour"
        )
    return (
        "give connections in a second, a minute or an hour, such as 20/s, 30/m or 5/h,"
        " perhaps with a burst, as in '20/s burst 40'"
    )


class Networks(ValueType):
    """
    A list of addresses and networks.  The value is a tuple of networks.
    """

    def __init__(self) -> None:
        super().__init__("NETWORK,…")

    def parse(self, text: str) -> tuple[Network, ...]:
        """
        See L{ValueType.parse}.
        """
        texts = text.split(",") if text.strip() else []
        networks = tuple(_network(each.strip()) for each in texts)
        self.check(networks)
        return networks

    def check(self, value: Any) -> None:
        """
        See L{ValueType.check}.
        """
        if not value:
            raise ValueError(
                "it has no network: give some, such as 192.0.2.7,10.0.0.0/8, or leave"
                " it out"
            )
        if len(value) > MAXIMUM_NETWORKS:
            raise ValueError(
                f"{len(value)} networks are too many: give up to {MAXIMUM_NETWORKS},"
                " and filter more by nftables"
            )
        seen: set[Network] = set()
        for each in value:
            if each in seen:
                raise ValueError(f"{nameOf(each)} is there twice: leave out one")
            seen.add(each)

    def write(self, value: tuple[Network, ...]) -> str:
        """
        See L{ValueType.write}.
        """
        return ",".join(map(nameOf, value))


def _network(text: str) -> Network:
    """
    Read an address or a network.

    @raise ValueError: if it is none.  The error says what would be right.
    """
    found = None
    if _NETWORK.fullmatch(text):
        try:
            # Unlike a network, an interface may be any address in it.
            found = ip_interface(text)
        except ValueError:
            pass
    if found is None:
        hint = "give an address or a network, such as 192.0.2.7 or 10.0.0.0/8"
        if text and _START_OF_IPV6.fullmatch(text):
            hint = (
                r"if it is of IPv6, write each colon as '\:', such as"
                r" 2001\:db8\:\:/32"
            )
        elif "%" in text:
            hint = f"leave out {re.sub('/.*', '', text[text.index('%') :])}"
        raise ValueError(f"{text!r} is no address and no network: {hint}")
    network = found.network
    if found.ip != network.network_address:
        raise ValueError(
            f"{text!r} is no network, since it has bits behind the prefix: write"
            f" {network} for the network, or {found.ip} for the address"
        )
    meant = plain(network)
    if meant is not network:
        raise ValueError(f"{text!r} is of IPv4: write {nameOf(meant)}")
    return network


class BeyondValue(Choice):
    """
    What happens to a client beyond a limit.  The value is a L{Beyond}.
    """

    def __init__(self) -> None:
        super().__init__(*(each.value for each in Beyond))

    def parse(self, text: str) -> Beyond:
        """
        See L{ValueType.parse}.
        """
        super().check(text)
        return Beyond(text)

    def check(self, value: Any) -> None:
        """
        See L{ValueType.check}.
        """
        if not isinstance(value, Beyond):
            super().check(value)

    def write(self, value: Beyond) -> str:
        """
        See L{ValueType.write}.
        """
        return value.value
