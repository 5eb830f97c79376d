"""
What a L{portlisten._wire.worker_session.WorkerSession} tells its driver.

A I{token} stands for a descriptor.  With its event it is the driver's.
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
    The listener knows of this worker, and sends it what comes in by these ports.
    """

    ports: tuple[Port, ...]


@dataclass(slots=True)
class Adopt(Generic[Token]):
    """
    A connection is this worker's, which may touch it from now on.
    """

    offer: Offer
    token: Token


@dataclass(slots=True)
class Close(Generic[Token]):
    """
    A descriptor is to be closed.
    """

    token: Token


@dataclass(frozen=True, slots=True)
class UseSocket(Generic[Token]):
    """
    A socket of a shared port may be used, until it is withdrawn or the channel has
    ended.
    """

    port: int
    cookie: int
    token: Token


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """
    A shared socket is not to be used any more.
    """

    cookie: int


@dataclass(frozen=True, slots=True)
class DrainConfirmed:
    """
    No offer follows.
    """


@dataclass(frozen=True, slots=True)
class ByeSaid:
    """
    The listener ends the channel.  The driver reads on.

    @ivar reason: why, in words for the log.
    """

    reason: str


@dataclass(frozen=True, slots=True)
class Left:
    """
    The last event: the channel is gone.

    @ivar reason: what either side said of it, or L{None} if it ended without a word.
    """

    reason: str | None


Event: TypeAlias = (
    "Joined | Adopt[Token] | Close[Token] | UseSocket[Token] | Withdrawn"
    " | DrainConfirmed | ByeSaid | Broken | Left"
)
