"""
Whether anybody accepts from a shared socket.

The listener does not accept from a shared socket: its workers do, and a program under
C{portlisten exec} tells the listener nothing.  It may serve some other socket, or none.
Then clients wait in the socket's queue without an end, and nothing is logged.  So the
listener looks at the queue.

A busy server must not be accused.  Its queue may have the same length at each look,
though it accepts all the time: as many clients come as go.  So two facts of the kernel
are needed:

  - The queue was never empty, and never shorter than at the look before.  This is
    cheap, and is found at each look.  Only accept(2) makes a queue shorter.
  - All clients that were in the queue L{PATIENCE_SECONDS} ago are still in it.  The
    first client is accepted first, so nobody was accepted meanwhile.  This is found
    only if the first has been so for a while.

If only some of those clients are still in the queue, the server accepts, and is slow.

A program starts after it got its sockets.  So each new worker is given time to start.

Like the ledger, this decides and never acts.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

#: How long clients may wait before the listener complains, in seconds.
PATIENCE_SECONDS = 5.0

#: How long a new worker may take until it accepts, in seconds.
START_SECONDS = 5.0

#: How long a queue may be in use before its clients are looked at, in seconds.
BUSY_SECONDS = 1.0


class Verdict(Enum):
    """
    What a look at a queue leads to.
    """

    NOTHING = "nothing"
    IDENTIFY = "find out which clients are in the queue, for Queue.identified"
    UNSERVED = "log that clients wait, and nobody accepts"
    SLOW = "log that clients wait for long, though somebody accepts"
    SERVED = "log that this is over"


@dataclass
class Queue:
    """
    The queue of a shared socket, as seen from look to look.

    @ivar length: how many clients were in it at the last look.
    @ivar waited: how many clients are known to have waited too long.
    """

    length: int = 0
    waited: int = 0
    _since: float | None = None
    _workersSince: float = 0.0
    _clients: frozenset[int] | None = None
    _clientsSince: float = 0.0
    _unserved: bool = False
    _slow: bool = False

    @property
    def unserved(self) -> bool:
        """
        Whether clients wait, and nobody accepts.
        """
        return self._unserved

    def workerAdded(self, now: float) -> None:
        """
        Note that another worker got the socket.
        """
        self._workersSince = now
        self._clients = None

    def look(self, now: float, length: int) -> Verdict:
        """
        Note how many clients are in the queue.  There must be a worker.
        """
        before, self.length = self.length, length
        if not length or length < before:
            over = self._unserved or (self._slow and not length)
            self._since = self._clients = None
            self._unserved = False
            self._slow = self._slow and not over
            return Verdict.SERVED if over else Verdict.NOTHING
        if self._since is None:
            self._since = now
        if self._unserved:
            return Verdict.NOTHING
        if self._clients is not None:
            due = self._clientsSince + PATIENCE_SECONDS
        else:
            due = max(self._since + BUSY_SECONDS, self._workersSince + START_SECONDS)
        return Verdict.IDENTIFY if now >= due else Verdict.NOTHING

    def identified(self, now: float, clients: frozenset[int]) -> Verdict:
        """
        Note which clients are in the queue, after L{Verdict.IDENTIFY}.
        """
        before = self._clients or frozenset()
        self._clients, self._clientsSince = clients, now
        self.waited = len(clients & before)
        if before and clients >= before:
            self._unserved = True
            return Verdict.UNSERVED
        if self.waited and not self._slow:
            self._slow = True
            return Verdict.SLOW
        return Verdict.NOTHING

    def abandoned(self) -> None:
        """
        Note that the socket has no worker any more: clients may wait for one.
        """
        self._since = self._clients = None
        self._unserved = self._slow = False
