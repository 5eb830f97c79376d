"""
The events that a L{portlisten._wire.worker_session.WorkerSession} gives its driver.

A I{token} stands for the descriptor of a socket.  The driver owns it once it has the
event.  Memory has descriptors, and no tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeAlias

from portlisten._model import Port
from portlisten._wire.claims import Token
from portlisten._wire.frames import Offer
from portlisten._wire.session import Broken


@dataclass(frozen=True, slots=True)
class Joined:
    """
    The worker has joined the listener.

    @ivar ports: the ports whose connections or sockets the listener sends.
    @ivar honoursLimit: whether the listener keeps to the worker's limit.
    @ivar honoursFirst: whether the listener keeps connections whose clients are silent.
    @ivar claimTimeout: how long the worker may take to claim an offer, in seconds, or
        L{None} if the listener does not say.
    """

    ports: tuple[Port, ...]
    honoursLimit: bool = False
    honoursFirst: bool = False
    claimTimeout: float | None = None

    @property
    def ignored(self) -> list[str]:
        """
        The names of the options of workers that the listener is too old for.
        """
        honoured = {"limit": self.honoursLimit, "first": self.honoursFirst}
        return [name for name, known in honoured.items() if not known]


@dataclass(slots=True)
class Adopt(Generic[Token]):
    """
    A connection belongs to this worker, which may touch it from now on.
    """

    offer: Offer
    token: Token


@dataclass(slots=True)
class Close(Generic[Token]):
    """
    Close a descriptor.
    """

    token: Token


@dataclass(frozen=True, slots=True)
class UseSocket(Generic[Token]):
    """
    Use a socket of a shared port, until it is withdrawn or the channel has ended.

    @ivar port: the port's number.
    @ivar cookie: C{SO_COOKIE} of the socket.
    """

    port: int
    cookie: int
    token: Token


@dataclass(frozen=True, slots=True)
class ShareLoads:
    """
    Tell the other workers how many connections this one has, by memory that all share,
    until the channel has ended.

    @ivar slot: this worker's place in it.
    @ivar ports: one more than the largest number of a port in it.
    @ivar loads: the descriptor of the memory that workers write.
    @ivar members: the descriptor of the memory that the listener writes.
    """

    slot: int
    ports: int
    loads: int
    members: int


@dataclass(frozen=True, slots=True)
class CloseMemory:
    """
    Close a descriptor of memory.
    """

    descriptor: int


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """
    Stop using a shared socket.
    """

    cookie: int


@dataclass(frozen=True, slots=True)
class DrainConfirmed:
    """
    The listener sends no more offers, as the worker asked.
    """


@dataclass(frozen=True, slots=True)
class LeaveRequested:
    """
    The listener asks the worker to drain, and to end the connections that it keeps for
    further requests.  The worker keeps the channel, and its server goes on.  The
    listener may ask again.
    """


@dataclass(frozen=True, slots=True)
class ByeReceived:
    """
    The listener ends the channel.  The driver reads on.

    @ivar reason: the reason, for the log.
    """

    reason: str


@dataclass(frozen=True, slots=True)
class Left:
    """
    The last event: the channel has ended.

    @ivar reason: the reason that either side gave, or L{None} if neither gave one.
    """

    reason: str | None


Event: TypeAlias = (
    "Joined | Adopt[Token] | Close[Token] | UseSocket[Token] | ShareLoads"
    " | CloseMemory | Withdrawn | DrainConfirmed | LeaveRequested | ByeReceived"
    " | Broken | Left"
)
