"""
Makes the limits of a port of its options, and refuses those that contradict each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from portlisten._config.port_values import RateValue
from portlisten._policy.networks import Network, nameOf
from portlisten._policy.source_limits import Beyond, Limits

#: What a port without limits has: sources do not take turns.
NO_LIMITS = Limits(fair=False)

#: The limits that count connections, by their fields, with their options' names.
_COUNTED = {
    "maxPerSource": "max-per-source",
    "ratePerSource": "rate-per-source",
    "most": "max",
    "rate": "rate",
}
_PER_SOURCE = ("maxPerSource", "ratePerSource")
_LISTS = ("allow", "deny")


def limitsOf(given: Mapping[str, Any]) -> Limits | None:
    """
    Make limits.

    @param given: the values of the options that are given, by the fields of L{Limits}.
    @return: L{None} if none is given.
    @raise ValueError: if the options contradict each other, or one does nothing.  The
        error names the option, and says what would be right.
    """
    if not given:
        return None
    fair = any(name in given for name in _PER_SOURCE)
    limits = Limits(**{"fair": fair, **given})
    _checkSizes(limits)
    _checkLists(limits)
    _checkUses(given, limits)
    return limits


def _checkSizes(limits: Limits) -> None:
    """
    Check that the limit of a source is not above the limit of all.
    """
    own, all = limits.maxPerSource, limits.most
    if own is not None and all is not None and own > all:
        raise ValueError(
            f"max-per-source: {own} is more than max, which is {all}: lower"
            " max-per-source, or raise max"
        )
    rate, total = limits.ratePerSource, limits.rate
    if rate is None or total is None:
        return
    if rate.perSecond > total.perSecond and rate.burst >= total.burst:
        write = RateValue().write
        raise ValueError(
            f"rate-per-source: {write(rate)} is more than rate, which is"
            f" {write(total)}: lower rate-per-source, or raise rate"
        )


def _checkLists(limits: Limits) -> None:
    """
    Check that what is allowed is not denied.
    """
    denied = frozenset(limits.deny)
    if not denied:
        return
    for allowed in limits.allow:
        for each in _around(allowed):
            if each not in denied:
                continue
            where = (
                "in deny as well"
                if each == allowed
                else f"within {nameOf(each)} of deny"
            )
            raise ValueError(
                f"allow: {nameOf(allowed)} is {where}, so its clients do not come"
                " in: leave it out of allow or of deny"
            )


def _around(network: Network) -> Iterator[Network]:
    """
    List all networks that have all addresses of a network, beginning with itself.
    """
    for bits in range(network.prefixlen + 1):
        yield network.supernet(bits)


def _checkUses(given: Mapping[str, Any], limits: Limits) -> None:
    """
    Check that each option has an effect.
    """
    counted = any(name in given for name in _COUNTED)
    listed = any(name in given for name in _LISTS)
    perSource = limits.fair or any(name in given for name in _PER_SOURCE)
    limitNames = ", ".join(_COUNTED.values())
    if "beyond" in given:
        if not counted and not listed:
            raise ValueError(
                "beyond: there is no limit that it is for: give a limit, such as"
                " max-per-source=20, or leave beyond out"
            )
        if not counted and limits.beyond is Beyond.WAIT:
            raise ValueError(
                f"beyond: wait is for {limitNames}: clients that allow and deny keep"
                " out are reset, or closed with beyond=close"
            )
    if given == {"fair": False}:
        raise ValueError(
            "fair: without limits, sources do not take turns: leave fair=no out"
        )
    for name, option in (("prefix", "source-prefix"), ("prefix6", "source-prefix6")):
        if name in given and not perSource:
            raise ValueError(
                f"{option}: nothing here counts sources: give max-per-source,"
                f" rate-per-source or fair=yes, or leave {option} out"
            )
    if "proxies" in given and not perSource and not listed:
        raise ValueError(
            "proxy-from: nothing here goes by the source: give max-per-source,"
            " rate-per-source, allow, deny or fair=yes, or leave proxy-from out"
        )
