"""
The listener's book of shared ports: which worker has which listening socket.

A port that is shared has one socket, which each worker gets, or several that are
bound with C{SO_REUSEPORT}.  The kernel gives each of those a queue of its own and
deals connections out among the queues, whether anybody takes from them or not.
When such a socket is closed, what waits in its queue is reset.  So none is ever
closed: this divides them among the workers, and has an heir ready for each that
a worker leaves behind.

Two rules, while there is a worker at all:

  - Each socket has a worker that accepts from it, and each worker has a socket.
  - Nobody has two more than somebody else; where there are more workers than
    sockets, each has one, and no socket has two more workers than another.

A socket that changes hands is lent to the next before it is withdrawn from the
last, and while both have it both may accept from it, which does no harm.

Like the ledger, this decides and never acts.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from portlisten._model import Kind, Port


@dataclass(frozen=True)
class Lend:
    """
    Have a worker use a socket of a port.
    """

    channel: Any
    port: int
    socket: Any


@dataclass(frozen=True)
class Withdraw:
    """
    Have it use the socket no more.
    """

    channel: Any
    socket: Any


Decision: TypeAlias = "Lend | Withdraw"


class Shares:
    """
    The book.

    @param ports: the shared ports.
    @param sockets: what stands for the sockets of each, by its number.
    """

    def __init__(
        self, ports: Sequence[Port], sockets: Mapping[int, Sequence[Hashable]]
    ) -> None:
        self._common = {
            port.number: sockets[port.number][0]
            for port in ports
            if port.kind is not Kind.GROUP
        }
        self._borrowers: dict[Hashable, dict[Hashable, None]] = {
            socket: {} for socket in self._common.values()
        }
        self._groups = {
            port.number: _Group(port.number, sockets[port.number])
            for port in ports
            if port.kind is Kind.GROUP
        }

    def joined(self, channel: Hashable, ports: Iterable[Port]) -> list[Decision]:
        """
        A worker came that gets something of these ports, not all of which need
        be shared.
        """
        decisions: list[Decision] = []
        for port in ports:
            if port.number in self._common:
                socket = self._common[port.number]
                self._borrowers[socket][channel] = None
                decisions.append(Lend(channel, port.number, socket))
            elif port.number in self._groups:
                decisions.extend(self._groups[port.number].joined(channel))
        return decisions

    def left(self, channel: Hashable) -> list[Decision]:
        """
        A worker uses its sockets no more, if it had any.
        """
        for borrowers in self._borrowers.values():
            borrowers.pop(channel, None)
        return [each for group in self._groups.values() for each in group.left(channel)]

    def holders(self, socket: Hashable) -> list[Any]:
        """
        Which workers have a socket.
        """
        holders = list(self._borrowers.get(socket, ()))
        for group in self._groups.values():
            holders.extend(group.holders(socket))
        return holders


class _Group:
    """
    The sockets of one port that has several.
    """

    def __init__(self, number: int, sockets: Iterable[Hashable]) -> None:
        self._number = number
        self._holders: dict[Hashable, dict[Hashable, None]] = {
            socket: {} for socket in sockets
        }
        self._has: dict[Hashable, dict[Hashable, None]] = {}
        self._decisions: list[Decision] = []

    def joined(self, channel: Hashable) -> list[Decision]:
        self._has[channel] = {}
        return self._settle()

    def left(self, channel: Hashable) -> list[Decision]:
        for socket in self._has.pop(channel, ()):
            del self._holders[socket][channel]
        return self._settle()

    def holders(self, socket: Hashable) -> Iterable[Hashable]:
        return self._holders.get(socket, ())

    def _settle(self) -> list[Decision]:
        if self._has:
            self._lendWhatNobodyHas()
            self._withdrawWhatTwoHave()
            self._evenWorkers()
            self._lendToWhoHasNone()
            self._evenSockets()
        decisions, self._decisions = self._decisions, []
        return decisions

    def _lendWhatNobodyHas(self) -> None:
        for socket, holders in self._holders.items():
            if not holders:
                self._lend(self._poorest(), socket)

    def _withdrawWhatTwoHave(self) -> None:
        """
        From whoever has another one.
        """
        for socket, holders in self._holders.items():
            for channel in list(holders):
                if len(holders) > 1 and len(self._has[channel]) > 1:
                    self._withdraw(channel, socket)

    def _evenWorkers(self) -> None:
        while True:
            poorest = self._poorest()
            richest = max(self._has, key=lambda channel: len(self._has[channel]))
            if len(self._has[richest]) - len(self._has[poorest]) < 2:
                break
            self._move(next(reversed(self._has[richest])), richest, poorest)

    def _lendToWhoHasNone(self) -> None:
        for channel, sockets in self._has.items():
            if not sockets:
                self._lend(channel, self._loneliest())

    def _evenSockets(self) -> None:
        """
        No worker has two when there is a socket that two have.
        """
        while True:
            loneliest = self._loneliest()
            busiest = max(self._holders, key=lambda each: len(self._holders[each]))
            if len(self._holders[busiest]) - len(self._holders[loneliest]) < 2:
                break
            channel = next(reversed(self._holders[busiest]))
            self._lend(channel, loneliest)
            self._withdraw(channel, busiest)

    def _poorest(self) -> Hashable:
        return min(self._has, key=lambda channel: len(self._has[channel]))

    def _loneliest(self) -> Hashable:
        return min(self._holders, key=lambda socket: len(self._holders[socket]))

    def _move(self, socket: Hashable, last: Hashable, following: Hashable) -> None:
        self._lend(following, socket)
        self._withdraw(last, socket)

    def _lend(self, channel: Hashable, socket: Hashable) -> None:
        self._has[channel][socket] = None
        self._holders[socket][channel] = None
        self._decisions.append(Lend(channel, self._number, socket))

    def _withdraw(self, channel: Hashable, socket: Hashable) -> None:
        del self._has[channel][socket]
        del self._holders[socket][channel]
        self._decisions.append(Withdraw(channel, socket))
