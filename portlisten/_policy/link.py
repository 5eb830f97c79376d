"""
The state of a worker's connection to its listener, for every event loop.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto

#: How long to wait before connecting again if the listener cannot serve this worker, in
#: seconds.  The listener has no port of that name, speaks another protocol, or turned
#: the worker away.
INCOMPATIBLE_RETRY_SECONDS = 5.0

#: How long a worker may take to disconnect from its listener, in seconds.
DISCONNECT_SECONDS = 1.0

#: How long a worker waits after a change before it reports how many connections it has,
#: in seconds.
REPORT_SECONDS = 0.1

#: What a worker logs while it waits for a listener that has not answered.
SILENT = "no HELLO has come yet"

#: What a listener hears from a worker that stops.
STOP_REASON = "the worker stops"


#: How the reason of a BYE ends that asks the worker to join again at once.
JOIN_AGAIN = "join again"


def asksToJoinAgain(reason: str | None) -> bool:
    """
    Whether the reason of a BYE asks the worker to join again at once.
    """
    return reason is not None and reason.endswith(JOIN_AGAIN)


class Link(Enum):
    """
    The state of a worker's connection to its listener.
    """

    #: No channel: the worker waits before it tries to connect.
    ABSENT = auto()
    #: The channel is open, and the listener has not answered.
    JOINING = auto()
    #: The listener knows of the worker, and may send offers.
    JOINED = auto()
    #: The listener will send no more offers.
    DRAINED = auto()
    #: The listener has asked the worker to drain.
    LEAVING = auto()
    #: The same, and the listener will send no more offers.
    LEFT = auto()

    @property
    def registered(self) -> bool:
        """
        Whether the listener knows of the worker.
        """
        return self not in (Link.ABSENT, Link.JOINING)

    @property
    def away(self) -> bool:
        """
        Whether the listener has asked the worker to drain.
        """
        return self in (Link.LEAVING, Link.LEFT)

    @property
    def mayGet(self) -> bool:
        """
        Whether offers may come.
        """
        return self in (Link.JOINING, Link.JOINED, Link.LEAVING)

    def after(self, event: str) -> Link:
        """
        Give the state after an event on the channel: C{connected}, C{registered},
        C{leaveRequested}, C{drained} or C{lost}.
        """
        return _TRANSITIONS[event].get(self, self)


#: For each event on a channel, the new state for each old state.  In any other state,
#: the event changes nothing.
_TRANSITIONS: Mapping[str, Mapping[Link, Link]] = {
    "connected": {Link.ABSENT: Link.JOINING},
    "registered": {Link.JOINING: Link.JOINED},
    "leaveRequested": {Link.JOINED: Link.LEAVING},
    "drained": {Link.JOINED: Link.DRAINED, Link.LEAVING: Link.LEFT},
    "lost": dict.fromkeys(Link, Link.ABSENT),
}


def whyLost(
    registered: bool, reason: str | None, broken: bool, retry: float
) -> tuple[str, float]:
    """
    Say why a worker has no channel any more, and when it tries again.

    @param registered: whether the worker had joined.
    @param reason: the reason that either side gave, or L{None} if neither gave one.
    @param broken: whether the next channel may have the same error.
    @param retry: how long to wait as a rule, in seconds.
    @return: the reason for the log; and how long to wait, in seconds.
    """
    if registered:
        delay = INCOMPATIBLE_RETRY_SECONDS if broken else retry
        return reason or "the listener is gone", delay
    if reason is None:
        return "it closed the channel without a reason", retry
    return (
        f"the listener cannot serve this worker: {reason}",
        INCOMPATIBLE_RETRY_SECONDS,
    )
