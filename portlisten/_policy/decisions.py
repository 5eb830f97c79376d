"""
What the ledger decides about connections and workers.

Connections and channels are opaque here: they are the caller's objects.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, NamedTuple, TypeAlias


class Reason(Enum):
    """
    Why a connection ended in the listener.
    """

    TIMED_OUT = "no worker took it within its patience"
    LOST_IN_SERVICE = "the worker that served it died"
    GONE = "its client left while it waited"
    STOPPED = "the listener stopped while it waited"
    SILENT = "its client sent nothing for too long"
    QUEUE_FULL = "its source had as many connections that wait as it may"
    UNUSABLE = "a worker that did not take it made it unusable"


class HandOff(NamedTuple):
    """
    Send this connection to this channel, with this id, and keep the copy.
    """

    channel: Any
    id: int
    connection: Any
    port: int


class CloseCopy(NamedTuple):
    """
    Close the copy: the connection is in the worker's hands.
    """

    connection: Any


class GiveUp(NamedTuple):
    """
    Close the connection: no worker will serve it.
    """

    connection: Any
    reason: Reason


class Watch(NamedTuple):
    """
    Watch this connection, which waits and is silent.  When something comes from its
    client, call L{portlisten._policy.ledger.Ledger.spoke}.  Stop watching it before it
    is handed off or closed.
    """

    connection: Any


class Revoke(NamedTuple):
    """
    Revoke this channel, because its worker hangs.  Then call
    L{portlisten._policy.ledger.Ledger.workerLeft}.
    """

    channel: Any
    reason: str


Decision: TypeAlias = "HandOff | CloseCopy | GiveUp | Watch | Revoke"
