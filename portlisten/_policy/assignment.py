"""
Which worker accepts from which socket of a shared port.

A shared port has one socket for all workers, or several sockets that are bound with
C{SO_REUSEPORT}.  The kernel gives each of several sockets a queue of its own.  It
distributes connections among the queues, even to a queue from which no worker accepts.
If such a socket is closed, the connections in its queue are reset.  So the listener
closes none of them.  This module assigns the sockets to the workers.  If a worker
leaves, its sockets are assigned to other workers.

While the listener has workers, two rules hold:

  - Each socket has a worker that accepts from it, and each worker has a socket.
  - No worker has two sockets more than another.  If the workers are more than the
    sockets, each worker has one socket, and no socket has two workers more than
    another.

To move a socket, share it with the next worker, and then withdraw it from the last.
Meanwhile both may accept from it, which does no harm.

Like the ledger, this decides and never acts.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from portlisten._model import Kind, Port


@dataclass(frozen=True)
class ShareSocket:
    """
    Let a worker use a socket of a port.
    """

    channel: Any
    port: int
    socket: Any


@dataclass(frozen=True)
class WithdrawSocket:
    """
    Tell a worker to use a socket no more.
    """

    channel: Any
    socket: Any


Decision: TypeAlias = "ShareSocket | WithdrawSocket"


class Assignment:
    """
    Assigns sockets to workers.

    @param ports: the shared ports.
    @param sockets: the sockets of each port, by its number.  Any hashable objects may
        stand for them.
    """

    def __init__(
        self, ports: Sequence[Port], sockets: Mapping[int, Sequence[Hashable]]
    ) -> None:
        self._common = {
            port.number: sockets[port.number][0]
            for port in ports
            if port.kind is not Kind.GROUP
        }
        self._holders: dict[Hashable, dict[Hashable, None]] = {
            socket: {} for socket in self._common.values()
        }
        self._groups = {
            port.number: _Group(port.number, sockets[port.number])
            for port in ports
            if port.kind is Kind.GROUP
        }

    def addWorker(self, channel: Hashable, ports: Iterable[Port]) -> list[Decision]:
        """
        Add a worker that gets sockets of these ports.  Some need not be shared.
        """
        decisions: list[Decision] = []
        for port in ports:
            if port.number in self._common:
                socket = self._common[port.number]
                self._holders[socket][channel] = None
                decisions.append(ShareSocket(channel, port.number, socket))
            elif port.number in self._groups:
                decisions.extend(self._groups[port.number].addWorker(channel))
        return decisions

    def removeWorker(self, channel: Hashable) -> list[Decision]:
        """
        Remove a worker.  It may have no sockets.
        """
        for holders in self._holders.values():
            holders.pop(channel, None)
        return [
            each
            for group in self._groups.values()
            for each in group.removeWorker(channel)
        ]

    def socketsOf(self, channel: Hashable) -> list[Any]:
        """
        Find the sockets that a worker has.
        """
        sockets: list[Any] = [
            socket for socket, holders in self._holders.items() if channel in holders
        ]
        for group in self._groups.values():
            sockets.extend(group.socketsOf(channel))
        return sockets

    def holders(self, socket: Hashable) -> list[Any]:
        """
        Find the workers that have a socket.
        """
        holders = list(self._holders.get(socket, ()))
        for group in self._groups.values():
            holders.extend(group.holders(socket))
        return holders


class _Group:
    """
    The sockets of a port that has several.
    """

    def __init__(self, number: int, sockets: Iterable[Hashable]) -> None:
        self._number = number
        self._holders: dict[Hashable, dict[Hashable, None]] = {
            socket: {} for socket in sockets
        }
        self._has: dict[Hashable, dict[Hashable, None]] = {}
        self._decisions: list[Decision] = []

    def addWorker(self, channel: Hashable) -> list[Decision]:
        self._has[channel] = {}
        return self._rebalance()

    def removeWorker(self, channel: Hashable) -> list[Decision]:
        for socket in self._has.pop(channel, ()):
            del self._holders[socket][channel]
        return self._rebalance()

    def socketsOf(self, channel: Hashable) -> Iterable[Hashable]:
        return self._has.get(channel, ())

    def holders(self, socket: Hashable) -> Iterable[Hashable]:
        return self._holders.get(socket, ())

    def _rebalance(self) -> list[Decision]:
        if self._has:
            self._shareUnheldSockets()
            self._withdrawSecondHolders()
            self._balanceWorkers()
            self._shareWithEmptyWorkers()
            self._balanceSockets()
        decisions, self._decisions = self._decisions, []
        return decisions

    def _shareUnheldSockets(self) -> None:
        for socket, holders in self._holders.items():
            if not holders:
                self._share(self._workerWithFewest(), socket)

    def _withdrawSecondHolders(self) -> None:
        """
        If several workers have a socket, withdraw it from those that have another one.
        """
        for socket, holders in self._holders.items():
            for channel in list(holders):
                if len(holders) > 1 and len(self._has[channel]) > 1:
                    self._withdraw(channel, socket)

    def _balanceWorkers(self) -> None:
        while True:
            fewest = self._workerWithFewest()
            most = max(self._has, key=lambda channel: len(self._has[channel]))
            if len(self._has[most]) - len(self._has[fewest]) < 2:
                break
            self._move(next(reversed(self._has[most])), most, fewest)

    def _shareWithEmptyWorkers(self) -> None:
        for channel, sockets in self._has.items():
            if not sockets:
                self._share(channel, self._leastHeldSocket())

    def _balanceSockets(self) -> None:
        """
        Make the numbers of workers of any two sockets differ by at most one.
        """
        while True:
            leastHeld = self._leastHeldSocket()
            mostHeld = max(self._holders, key=lambda each: len(self._holders[each]))
            if len(self._holders[mostHeld]) - len(self._holders[leastHeld]) < 2:
                break
            channel = next(reversed(self._holders[mostHeld]))
            self._share(channel, leastHeld)
            self._withdraw(channel, mostHeld)

    def _workerWithFewest(self) -> Hashable:
        return min(self._has, key=lambda channel: len(self._has[channel]))

    def _leastHeldSocket(self) -> Hashable:
        return min(self._holders, key=lambda socket: len(self._holders[socket]))

    def _move(self, socket: Hashable, last: Hashable, following: Hashable) -> None:
        self._share(following, socket)
        self._withdraw(last, socket)

    def _share(self, channel: Hashable, socket: Hashable) -> None:
        self._has[channel][socket] = None
        self._holders[socket][channel] = None
        self._decisions.append(ShareSocket(channel, self._number, socket))

    def _withdraw(self, channel: Hashable, socket: Hashable) -> None:
        del self._has[channel][socket]
        del self._holders[socket][channel]
        self._decisions.append(WithdrawSocket(channel, socket))
