"""
The clients that an operator denies while the listener runs: a table of networks, each
denied until a time, or until it is allowed again.

A lookup costs one step for each length of prefix in the table, however many networks
it has.  The table is bounded: fail2ban may deny a network for each line of a log.

This module keeps no time: the caller says what time it is, in seconds of a clock that
never goes back.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from itertools import islice

from portlisten._policy.networks import Network, Networks, plain

#: How many networks may be denied at a time.
MAXIMUM_DENIALS = 65536


@dataclass(frozen=True)
class Denial:
    """
    A network that is denied.

    @ivar network: the network.
    @ivar seconds: for how long; L{None} for as long as nobody allows it.
    """

    network: Network
    seconds: float | None = None


class Denials:
    """
    The networks that are denied.

    @param most: how many there may be.
    """

    def __init__(self, most: int = MAXIMUM_DENIALS) -> None:
        self._most = most
        # When the denial of each network ends, in the order of the denials; and which
        # denial that is, so that an entry of the heap can be out of date.
        self._ends: dict[Network, tuple[float, int]] = {}
        self._numbered = 0
        self._heap: list[tuple[float, int, Network]] = []
        self._networks = Networks()
        self._next = math.inf

    def __len__(self) -> int:
        """
        How many networks are denied.  One whose time is over may still count.
        """
        return len(self._ends)

    def deny(self, network: Network, seconds: float | None, now: float) -> list[Denial]:
        """
        Deny a network.  If it is denied already, the new time counts.

        @param seconds: for how long; L{None} until L{allow}.
        @return: what had to be forgotten for it: the denials that would have ended
            first.
        """
        self._expire(now)
        network = plain(network)
        forgotten = []
        while len(self._ends) >= self._most and network not in self._ends:
            self._dropStale()
            end, _, first = self._heap[0]
            self._remove(first)
            forgotten.append(Denial(first, _left(end, now)))
        # The newest comes last.
        self._ends.pop(network, None)
        end = math.inf if seconds is None else now + seconds
        self._numbered += 1
        self._ends[network] = end, self._numbered
        heappush(self._heap, (end, self._numbered, network))
        self._networks.add(network)
        self._tidy()
        return forgotten

    def allow(self, network: Network, now: float) -> bool:
        """
        Deny a network no more.  Other denied networks may contain it, or be a part of
        it, and stay.

        @return: whether it was denied.
        """
        self._expire(now)
        network = plain(network)
        if network not in self._ends:
            return False
        self._remove(network)
        self._tidy()
        return True

    def denies(self, address: bytes, now: float) -> bool:
        """
        Say whether an address is denied.

        @param address: its bytes, as in L{portlisten._policy.networks}.  Anything else
            is not denied.
        """
        if not self._ends:
            return False
        if now >= self._next:
            self._expire(now)
        return address in self._networks

    def containing(self, network: Network, now: float) -> Network | None:
        """
        Find a denied network that contains another one, or is the same.

        @return: the smallest one; L{None} if there is none.
        """
        self._expire(now)
        return self._networks.containing(plain(network))

    def all(self, now: float, most: int | None = None) -> list[Denial]:
        """
        List all, those that were denied last first.

        @param most: how many to list; L{None} for all.
        """
        self._expire(now)
        return [
            Denial(network, _left(end, now))
            for network, (end, _) in islice(reversed(self._ends.items()), most)
        ]

    def _remove(self, network: Network) -> None:
        del self._ends[network]
        self._networks.remove(network)

    def _expire(self, now: float) -> None:
        """
        Remove the denials whose time is over.
        """
        if now < self._next:
            return
        while self._heap and self._heap[0][0] <= now:
            _, number, network = heappop(self._heap)
            if self._isCurrent(number, network):
                self._remove(network)
        self._tidy()

    def _isCurrent(self, number: int, network: Network) -> bool:
        return self._ends.get(network, (0.0, 0))[1] == number

    def _dropStale(self) -> None:
        """
        Remove from the top of the heap what is out of date.
        """
        while self._heap and not self._isCurrent(*self._heap[0][1:]):
            heappop(self._heap)

    def _tidy(self) -> None:
        """
        Keep the heap as small as the table, and note when the next denial ends.
        """
        if len(self._heap) > 2 * len(self._ends) + 16:
            self._heap = [
                (end, number, network) for network, (end, number) in self._ends.items()
            ]
            heapify(self._heap)
        self._dropStale()
        self._next = self._heap[0][0] if self._heap else math.inf


def _left(end: float, now: float) -> float | None:
    return None if end == math.inf else end - now
