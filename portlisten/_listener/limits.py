"""
The limits of the clients that a listener takes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from twisted.logger import Logger

from portlisten._policy.denials import Denial, Denials, nameOf
from portlisten._policy.source_limits import Network


@dataclass(frozen=True)
class SourceSummary:
    """
    What a source has.

    @ivar source: the address, or the network.
    @ivar connections: how many connections it has.
    @ivar waiting: how many of them wait for a worker.
    @ivar refused: how many connections were refused.
    """

    source: str
    connections: int
    waiting: int
    refused: int


class Limiter:
    """
    The limits of a listener.

    @param seconds: says what time it is, on a clock that never goes back.
    """

    log = Logger()

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self._denials = Denials()

    def deny(self, network: Network, seconds: float | None) -> None:
        """
        Deny the clients of a network on all ports.

        @param seconds: for how long; L{None} until L{allow}.
        """
        for each in self._denials.deny(network, seconds, self._seconds()):
            self.log.warn(
                "{network} is denied no more: {count} networks are denied, which is the"
                " most",
                event="denial-forgotten",
                network=nameOf(each.network),
                count=len(self._denials),
            )

    def allow(self, network: Network) -> bool:
        """
        Undo L{deny}.

        @return: whether the network was denied.
        """
        return self._denials.allow(network, self._seconds())

    def denials(self) -> list[Denial]:
        """
        List what L{deny} has denied, those that were denied last first.
        """
        return list(self._denials.all(self._seconds()))

    def deniedBy(self, network: Network) -> tuple[Network, bool] | None:
        """
        Say why a network is denied.

        @return: the denied network that contains it, and whether the settings deny that
            one; L{None} if none does.
        """
        found = self._denials.containing(network, self._seconds())
        return None if found is None else (found, False)

    def busiest(self, most: int = 10) -> list[SourceSummary]:
        """
        List the sources that have the most connections.
        """
        return []

    def refusals(self) -> dict[str, dict[str, int]]:
        """
        Count the refusals: by the ports' names, by the reason.
        """
        return {}
