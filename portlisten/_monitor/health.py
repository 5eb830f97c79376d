"""
What a load balancer wants to know: whether to send clients here.

This decides from the answer to C{status} alone, and never acts.
"""

from __future__ import annotations

from portlisten._control.messages import StatusAnswer
from portlisten._control.status import ListenerStatus, ProcessState
from portlisten._model import printable

#: The codes of HTTP.
OK = 200
UNKNOWN_NAME = 404
UNAVAILABLE = 503


def health(answer: StatusAnswer | None, name: str | None) -> tuple[int, str]:
    """
    Say whether the listener serves.

    @param answer: the status; L{None} if neither the listener nor its supervisor
        answers.
    @param name: the name of the ports that are meant; empty for the ports without a
        name; L{None} for all ports.
    @return: the code of HTTP, and why, in one line.  The code is 200 if the listener
        accepts, and a worker takes connections of that name; without a name, if that is
        so of every name.  It is 404 if no port has the name, and otherwise 503.
    """
    listener = None if answer is None else answer.listener
    if answer is None or listener is None:
        return UNAVAILABLE, "the listener does not answer"
    names = dict.fromkeys(port.name for port in listener.ports)
    if name is not None:
        if name not in names:
            return UNKNOWN_NAME, _unknown(name, listener)
        names = {name: None}
    if listener.stopping or _isStopping(answer):
        return UNAVAILABLE, "the listener stops"
    if listener.paused:
        return UNAVAILABLE, "paused by an operator"
    unserved = [each for each in names if not _isServed(listener, each)]
    if unserved:
        text = " and ".join(_shown(each, listener) for each in unserved)
        return UNAVAILABLE, f"nobody serves {text}"
    return OK, f"serving {', '.join(_shown(each, listener) for each in names)}"


def _isStopping(answer: StatusAnswer) -> bool:
    supervisor = answer.supervisor
    return supervisor is not None and supervisor.listener.state in (
        ProcessState.STOPPING,
        ProcessState.GIVEN_UP,
    )


def _isServed(listener: ListenerStatus, name: str) -> bool:
    """
    Say whether workers take connections of each port of a name.
    """
    return all(
        port.workers > 0 and not port.unserved
        for port in listener.ports
        if port.name == name
    )


def _unknown(name: str, listener: ListenerStatus) -> str:
    names = dict.fromkeys(_shown(port.name, listener) for port in listener.ports)
    asked = printable(name)[:64] if name else "no port is without a name"
    text = f"no port is named {asked}" if name else asked
    return f"{text}; the ports are {', '.join(names)}"


def _shown(name: str, listener: ListenerStatus) -> str:
    """
    Show a name, or the addresses of the ports without one.
    """
    if name:
        return name
    return ", ".join(port.address for port in listener.ports if not port.name)
