"""
The turns of a worker at the sockets that it shares with others: this carries out what
L{portlisten._policy.fairness} decides.
"""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Callable
from typing import Any

from portlisten import _kernel
from portlisten._policy.fairness import (
    BATCH,
    CLOSED,
    LATELY,
    LOADS_BYTES,
    MOMENT,
    Fairness,
    LoadTable,
    membersBytes,
)
from portlisten._reactor.pause import Pause


class Board:
    """
    A worker's end of the memory in which workers tell each other how many connections
    they have.

    @param slot: the worker's place.
    @param ports: one more than the largest number of a port in it.
    @param loads: the descriptor of the memory that workers write.
    @param members: the descriptor of the memory that the listener writes.  Both are
        owned by this object from now on, also if this fails.
    @raise WrongMemory: if one is no such memory.
    @raise OSError: if the kernel does not map one.

    @ivar load: what L{write} wrote.
    """

    def __init__(self, slot: int, ports: int, loads: int, members: int) -> None:
        self._slot = slot
        self._tick = 0
        self.load = CLOSED
        memories = []
        try:
            memories.append(_kernel.attachMemory(loads, LOADS_BYTES, True))
        except BaseException:
            os.close(members)
            raise
        try:
            memories.append(_kernel.attachMemory(members, membersBytes(ports), False))
        except BaseException:
            memories[0].close()
            raise
        self._memories = memories
        self._table = LoadTable(*(memory.view for memory in memories))

    def write(self, load: int) -> None:
        """
        Tell the others how many connections the worker has.

        @param load: L{CLOSED} if it accepts nothing now.
        """
        self.load = load
        if self._memories:
            self._table.write(self._slot, self.load, self._tick)

    def look(self) -> None:
        """
        Tell the others that the worker looks for clients.
        """
        self._tick += 1
        self.write(self.load)

    def fairness(self, port: int) -> Fairness | None:
        """
        Decide fairly on a port, until L{close}.

        @return: L{None} if the listener does not want that there.
        """
        if not self._memories or self._slot not in self._table.members(port):
            return None
        return Fairness(self._table, self._slot, port)

    def close(self) -> None:
        """
        Say that the worker accepts nothing, and unmap the memory.  May be called again.
        """
        self.write(CLOSED)
        memories, self._memories = self._memories, []
        for memory in memories:
            memory.close()


class Turns:
    """
    The turns of a worker at one socket.

    @param clock: an L{IReactorTime}.
    @param sock: the listening socket; it stays the caller's.
    @param board: has the worker's load.  Both objects end before the board is closed.
    @param fairness: decides.
    @param watch: called with whether to watch the socket, and returns whether it is
        watched now.
    @param accept: called to accept after the worker has waited, and the socket is
        watched again.
    """

    def __init__(
        self,
        clock: Any,
        sock: socket.socket,
        board: Board,
        fairness: Fairness,
        watch: Callable[[bool], bool],
        accept: Callable[[], object],
    ) -> None:
        self._socket = sock
        self._board = board
        self._fairness = fairness
        self._watch = watch
        self._accept = accept
        self._clock = clock
        self._accepted = -math.inf
        self._isUnix = sock.family == socket.AF_UNIX
        self._wait = Pause(clock, self._over)

    @property
    def waiting(self) -> bool:
        """
        Whether the worker leaves its turn to others.
        """
        return self._wait.active

    @property
    def alone(self) -> bool:
        """
        Whether no other worker is there to leave clients to.
        """
        return self._fairness.alone

    def next(self) -> int:
        """
        How many clients to accept now.  If none, others may come first, and this
        accepts later.
        """
        if self._wait.active:
            return 0
        self._board.look()
        waiting = _kernel.listenQueue(self._socket)
        if waiting is None and not self._isUnix:
            return BATCH  # accepting finds out what is wrong with the socket
        if waiting == 0:
            return 0
        now = self._clock.seconds()
        busy = now - self._accepted < LATELY
        count = self._fairness.take(self._board.load, waiting, busy)
        if count:
            self._accepted = now
        else:
            self._wait.begin(MOMENT)
            self._watch(False)
        return count

    def _over(self) -> None:
        waiting = watched = False
        try:
            waiting = bool(_kernel.queueLength(self._socket))
            self._fairness.waited(waiting)
        finally:
            watched = self._watch(True)
        if watched and waiting:
            self._accept()

    def stop(self) -> None:
        """
        Take no more turns.
        """
        self._wait.cancel()


def turnsAt(
    board: Board | None,
    port: int,
    clock: Any,
    sock: socket.socket,
    watch: Callable[[bool], bool],
    accept: Callable[[], object],
) -> Turns | None:
    """
    Let a worker leave clients of a port to others, if the listener wants that.

    @param board: L{None} if the worker has none.
    @param port: the port's number.
    @return: L{None} if the worker takes clients as they come.  See L{Turns} for the
        other parameters.
    """
    fairness = None if board is None else board.fairness(port)
    if board is None or fairness is None:
        return None
    return Turns(clock, sock, board, fairness, watch, accept)
