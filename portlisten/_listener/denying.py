"""
What operators deny and allow while the listener runs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from twisted.logger import Logger

from portlisten import _kernel
from portlisten._control.convert import ControlError
from portlisten._control.messages import (
    MAXIMUM_LISTED,
    Allow,
    AllowAnswer,
    Allowed,
    DenialsAnswer,
    Deny,
    ListDenials,
)
from portlisten._control.status import DenialStatus
from portlisten._control.words import howLong
from portlisten._listener.limits import Limiter
from portlisten._policy.denials import Denial
from portlisten._policy.networks import Network, nameOf, networkOf


class Denying:
    """
    Answers L{Deny}, L{Allow} and L{ListDenials}.
    """

    log = Logger()

    def __init__(self, limiter: Limiter) -> None:
        self._limiter = limiter

    def deny(self, request: Deny, client: _kernel.Credentials) -> DenialsAnswer:
        """
        Deny networks.

        @raise ControlError: if one of them is none, or the time is none.  Then none is
            denied.
        """
        networks = _networks(request.networks)
        seconds = _seconds(request.seconds)
        for network in networks:
            self._limiter.deny(network, seconds)
            self.log.info(
                "{network} is denied {howLong}, as pid {askerPid} of uid {askerUid}"
                " asks",
                event="denied",
                network=nameOf(network),
                howLong=howLong(seconds),
                seconds=seconds,
                askerPid=client.pid,
                askerUid=client.uid,
            )
        return DenialsAnswer(
            self._limiter.denials(0)[0],
            described(Denial(each, seconds) for each in networks),
        )

    def allow(self, request: Allow, client: _kernel.Credentials) -> AllowAnswer:
        """
        Deny networks no more.

        @raise ControlError: if one of them is none.  Then none is allowed.
        """
        return AllowAnswer(
            tuple(self._allow(each, client) for each in _networks(request.networks))
        )

    def _allow(self, network: Network, client: _kernel.Credentials) -> Allowed:
        wasDenied = self._limiter.allow(network)
        if wasDenied:
            self.log.info(
                "{network} is denied no more, as pid {askerPid} of uid {askerUid} asks",
                event="allowed",
                network=nameOf(network),
                askerPid=client.pid,
                askerUid=client.uid,
            )
        by = self._limiter.deniedBy(network)
        if by is None:
            return Allowed(nameOf(network), wasDenied)
        return Allowed(nameOf(network), wasDenied, nameOf(by[0]), by[1])

    def list(self, request: ListDenials, client: _kernel.Credentials) -> DenialsAnswer:
        """
        List what is denied.
        """
        count, found = self._limiter.denials(MAXIMUM_LISTED)
        return DenialsAnswer(count, described(found))


def described(denials: Iterable[Denial]) -> tuple[DenialStatus, ...]:
    """
    Describe denials for an answer.
    """
    return tuple(
        DenialStatus(
            nameOf(each.network),
            None if each.seconds is None else round(each.seconds, 3),
        )
        for each in denials
    )


def _networks(words: Sequence[str]) -> list[Network]:
    """
    Read networks.

    @raise ControlError: if one of them is none.
    """
    try:
        return [networkOf(each) for each in words]
    except ValueError as error:
        raise ControlError(str(error)) from None


def _seconds(words: Sequence[str]) -> float | None:
    """
    Read a time.

    @return: L{None} if none is given.
    @raise ControlError: if it is none.
    """
    if not words:
        return None
    try:
        seconds = float(words[0])
    except ValueError:
        seconds = math.nan
    if len(words) > 1 or not (0 < seconds < math.inf):
        raise ControlError("deny needs seconds: one number above 0, or none at all")
    return seconds
