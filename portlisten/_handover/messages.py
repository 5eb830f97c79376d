"""
The messages of a handover, as values.

The successor asks for the handover with a request of the control socket,
L{portlisten._control.messages.Replace}.  After the answer, the connection carries the
messages of this module: a JSON object in one line each.  C{docs/control.md} describes
them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, TypeAlias

from portlisten._control.convert import ControlError, Refusal, parseObject
from portlisten._policy.networks import networkOf

#: The versions of the handover that this release speaks, the best one first.  A later
#: version may have other messages.
VERSIONS = (2, 1)

#: The first version whose COMMIT has C{denied}.
DENIED_VERSION = 2

#: Why a predecessor ends a handover if it was told to stop.
TOLD_TO_STOP = "this listener was told to stop"

#: How many bytes a line may have.  The longest one has all networks that operators have
#: denied: L{portlisten._policy.denials.MAXIMUM_DENIALS}.
MAXIMUM_LINE_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True)
class Ready:
    """
    The successor has all that it needs, and has dropped its privileges.

    @ivar cookies: C{SO_COOKIE} of each of its sockets of ports.
    @ivar names: the names of its ports.
    """

    KIND: ClassVar[str] = "ready"
    cookies: tuple[int, ...]
    names: tuple[str, ...]


@dataclass(frozen=True)
class Commit:
    """
    The predecessor accepts nothing any more, neither clients nor workers.

    @ivar paused: whether an operator has paused it.
    @ivar drained: the processes of the workers that an operator has drained.
    @ivar denied: the networks that an operator has denied, those that were denied last
        last: each with the seconds for which it is still denied, or with L{None} if it
        has no end.  Version 1 does not have them.
    @ivar labels: the labels of the drained workers whose processes the kernel does not
        tell, as those of other containers.
    """

    KIND: ClassVar[str] = "commit"
    paused: bool
    drained: tuple[int, ...]
    denied: tuple[tuple[str, float | None], ...] = ()
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Running:
    """
    The successor takes over.  It accepts nothing before this message is in the kernel.

    @ivar pid: the number of its process.
    """

    KIND: ClassVar[str] = "running"
    pid: int


@dataclass(frozen=True)
class Stopping:
    """
    The successor was told to stop: the predecessor must stop, too, and not take back
    what it has handed over.
    """

    KIND: ClassVar[str] = "stopping"


Message: TypeAlias = "Ready | Commit | Running | Stopping"

_KINDS: dict[str, type[Message]] = {
    each.KIND: each for each in (Ready, Commit, Running, Stopping)
}

#: The type of the elements of each field that is a list.
_ELEMENTS = {"cookies": int, "names": str, "drained": int, "labels": str}


def encode(message: Message) -> bytes:
    """
    Write a message as a line.
    """
    return json.dumps({"handover": message.KIND, **asdict(message)}).encode() + b"\n"


def decode(line: bytes) -> Message:
    """
    Read a message.

    @raise Refusal: if the other end ends the handover, with its reason.
    @raise ControlError: if the line is no message.
    """
    fields = parseObject(line, "message of the handover")
    if "error" in fields:
        raise Refusal(str(fields["error"])[:2000])
    kind = _KINDS.get(str(fields.pop("handover", "")))
    if kind is None:
        raise ControlError("the message of the handover is of no known kind")
    known: dict[str, Any] = {}
    for name, hint in kind.__annotations__.items():
        if hint.startswith("ClassVar"):
            continue
        if name not in fields:
            if hasattr(kind, name):
                continue  # it has a default: the other end speaks an older version
            raise ControlError(f"the message {kind.KIND} lacks {name}")
        known[name] = _value(kind.KIND, name, fields[name])
    return kind(**known)


def _value(kind: str, name: str, given: object) -> object:
    """
    Check the value of a field.

    @raise ControlError: if it is of a wrong type.
    """
    wanted = _ELEMENTS.get(name)
    if name == "denied":
        if isinstance(given, list) and all(map(_isDenial, given)):
            return tuple(map(tuple, given))
    elif wanted is not None:
        if isinstance(given, list) and all(type(each) is wanted for each in given):
            return tuple(given)
    elif type(given) is (bool if name == "paused" else int):
        return given
    raise ControlError(f"the message {kind} has a wrong {name}")


def _isDenial(given: object) -> bool:
    """
    Say whether this is a network, and for how many seconds it is denied.
    """
    if not isinstance(given, list) or len(given) != 2:
        return False
    network, seconds = given
    isTime = type(seconds) in (int, float) and math.isfinite(seconds)
    if not isinstance(network, str) or not (seconds is None or isTime):
        return False
    try:
        networkOf(network)
    except ValueError:
        return False
    return True


def agreed(versions: Sequence[str]) -> int | None:
    """
    Choose the version of a handover.

    @param versions: those that the other end speaks.
    @return: L{None} if the ends have none in common.
    """
    return next((each for each in VERSIONS if str(each) in versions), None)
