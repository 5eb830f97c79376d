"""
The messages of the control socket, as values: requests, answers, and their lines.

A message is a JSON object in one line.  The client sends a request, and the listener,
or its supervisor, sends the answer.  C{docs/control.md} describes the messages for
authors of clients in other languages.

To add a command, define its L{Request} and its L{Answer}, and add the request to
L{REQUESTS}.  Then give the L{portlisten._control.server.ControlServer} of the listener,
and that of the supervisor, a function that answers it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, TypeVar

from portlisten._control.convert import (
    ControlError,
    Refusal,
    fromJSON,
    parseObject,
    toJSON,
)
from portlisten._control.status import (
    DenialStatus,
    ListenerStatus,
    Progress,
    SupervisorStatus,
    WorkerState,
)

#: The version of the messages.
VERSION = 1

#: How many bytes the line of a request may have.
MAXIMUM_REQUEST_BYTES = 65536

#: How many denied networks an answer lists: its line must fit the supervisor's limit.
MAXIMUM_LISTED = 20000

#: How many characters of the reason of a refusal count.
MAXIMUM_REASON = 2000


@dataclass(frozen=True)
class Answer:
    """
    The base of all answers.
    """

    def toJSON(self) -> dict[str, Any]:
        """
        Make an object that L{json} can write.
        """
        raise NotImplementedError

    @classmethod
    def fromJSON(cls, message: Mapping[str, Any]) -> Answer:
        """
        Make an answer of an object that L{json} has read.  Fields that are not known
        are ignored, since a later version may add some.

        @raise ControlError: if a known field is missing or has a wrong type.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class _PlainAnswer(Answer):
    """
    The base of answers whose fields are written as they are.
    """

    def toJSON(self) -> dict[str, Any]:
        """
        See L{Answer.toJSON}.
        """
        return toJSON(self)

    @classmethod
    def fromJSON(cls, message: Mapping[str, Any]) -> Answer:
        """
        See L{Answer.fromJSON}.
        """
        return fromJSON(message, cls)


@dataclass(frozen=True)
class WorkersAnswer(_PlainAnswer):
    """
    Some workers.
    """

    workers: tuple[WorkerState, ...] = ()

    @classmethod
    def fromJSON(cls, message: Mapping[str, Any]) -> Answer:
        """
        See L{Answer.fromJSON}.
        """
        if "workers" not in message:
            raise ControlError("the answer has no list of workers")
        return super().fromJSON(message)


@dataclass(frozen=True)
class StatusAnswer(_PlainAnswer):
    """
    What is going on.

    @ivar listener: the listener; L{None} if a supervisor answers whose listener does
        not.
    @ivar supervisor: the supervisor; L{None} for a listener that has none.
    @ivar problems: what is wrong, in sentences; the worst first.
    """

    listener: ListenerStatus | None
    supervisor: SupervisorStatus | None = None
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class ProgressAnswer(_PlainAnswer):
    """
    How far an operation has come.
    """

    progress: Progress


@dataclass(frozen=True)
class ReloadAnswer(_PlainAnswer):
    """
    What a reload changes.

    @ivar lines: what changes, in sentences.
    @ivar problems: what is wrong with the file, or cannot change while it runs; each
        with the file and the key.  If there is any, nothing changes.
    @ivar progress: how far it has come; L{None} if nothing is to be done.
    """

    lines: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    progress: Progress | None = None

    @classmethod
    def fromJSON(cls, message: Mapping[str, Any]) -> Answer:
        """
        See L{Answer.fromJSON}.
        """
        if "lines" not in message or "problems" not in message:
            raise ControlError("the answer does not say what a reload changes")
        return super().fromJSON(message)


@dataclass(frozen=True)
class StopAnswer(_PlainAnswer):
    """
    The process stops.

    @ivar pid: its number.
    """

    pid: int


@dataclass(frozen=True)
class PauseAnswer(_PlainAnswer):
    """
    Whether the listener is paused.

    @ivar paused: whether it is.
    @ivar metrics: where the monitor serves health, as in C{--metrics}; empty if no
        monitor runs.
    """

    paused: bool
    metrics: str = ""


@dataclass(frozen=True)
class DenialsAnswer(_PlainAnswer):
    """
    The networks that operators have denied.

    @ivar count: how many there are.
    @ivar networks: those that the request names, or of all those that were denied last,
        L{MAXIMUM_LISTED} at the most.
    """

    count: int
    networks: tuple[DenialStatus, ...] = ()


@dataclass(frozen=True)
class Allowed:
    """
    What became of a network that was to be allowed.

    @ivar network: the network.
    @ivar wasDenied: whether an operator had denied it.
    @ivar deniedBy: the denied network that contains it, so that it is still denied; or
        empty.
    @ivar bySettings: whether the settings deny that one.  If not, an operator did.
    """

    network: str
    wasDenied: bool
    deniedBy: str = ""
    bySettings: bool = False


@dataclass(frozen=True)
class AllowAnswer(_PlainAnswer):
    """
    What became of the networks that were to be allowed, in their order.
    """

    networks: tuple[Allowed, ...]


@dataclass(frozen=True)
class HandedSocket:
    """
    A socket that a listener hands over.

    @ivar role: what it is: C{port}, C{channel} for the path that workers connect to,
        C{control} for the control socket, or C{transfer} for the connection by which
        the connections come that wait.
    """

    role: str


@dataclass(frozen=True)
class Manifest(_PlainAnswer):
    """
    What a listener hands over.  The descriptors go with the bytes of this answer.

    @ivar handover: the version of the messages that follow.
    @ivar pid: the number of the listener's process.
    @ivar sockets: the sockets, in the order of their descriptors.
    """

    handover: int
    pid: int
    sockets: tuple[HandedSocket, ...]


@dataclass(frozen=True)
class Request:
    """
    The base of all requests.  Each field is a tuple of strings.

    @cvar COMMAND: the name of the command.
    @cvar ANSWER: the type of the answer.
    @cvar MAY_BE_EMPTY: the fields that may be missing.
    """

    COMMAND: ClassVar[str]
    ANSWER: ClassVar[type[Answer]]
    MAY_BE_EMPTY: ClassVar[frozenset[str]] = frozenset()


@dataclass(frozen=True)
class Workers(Request):
    """
    List all workers.
    """

    COMMAND = "workers"
    ANSWER = WorkersAnswer


@dataclass(frozen=True)
class Drain(Request):
    """
    Drain workers.  Draining a worker again changes nothing.  The answer lists the
    workers that match now.

    @ivar workers: labels, and numbers of processes.
    """

    COMMAND = "drain"
    ANSWER = WorkersAnswer
    workers: tuple[str, ...]


@dataclass(frozen=True)
class Undrain(Request):
    """
    Let drained workers serve again.  A worker with an offer that it has not answered
    goes on draining: ask again.  The answer lists the workers that match, as they were
    left.

    @ivar workers: labels, and numbers of processes.
    """

    COMMAND = "undrain"
    ANSWER = WorkersAnswer
    workers: tuple[str, ...]


@dataclass(frozen=True)
class Status(Request):
    """
    Describe what is going on.
    """

    COMMAND = "status"
    ANSWER = StatusAnswer


@dataclass(frozen=True)
class Restart(Request):
    """
    Replace all workers of some groups, one after the other.  The answer comes at once.
    Only a supervisor can do this.

    @ivar groups: the names of the groups; if empty, all groups.
    """

    COMMAND = "restart"
    ANSWER = ProgressAnswer
    MAY_BE_EMPTY = frozenset(["groups"])
    groups: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reload(Request):
    """
    Read the file again, and change what runs to what it says.  The answer comes at
    once.  Only a supervisor can do this.

    @ivar file: the absolute path of the file, so that no other one is meant; may be
        empty.
    """

    COMMAND = "reload"
    ANSWER = ReloadAnswer
    MAY_BE_EMPTY = frozenset(["file"])
    file: tuple[str, ...] = ()


@dataclass(frozen=True)
class Compare(Request):
    """
    Say what L{Reload} would change, and change nothing.

    @ivar file: the absolute path of a file; if empty, the file that runs.
    """

    COMMAND = "compare"
    ANSWER = ReloadAnswer
    MAY_BE_EMPTY = frozenset(["file"])
    file: tuple[str, ...] = ()


@dataclass(frozen=True)
class Upgrade(Request):
    """
    Replace the listener while it serves.  The answer comes at once.  Only a supervisor
    can do this.
    """

    COMMAND = "upgrade"
    ANSWER = ProgressAnswer


@dataclass(frozen=True)
class Watch(Request):
    """
    Say how far an operation has come.

    @ivar operation: the name of the operation, from L{ProgressAnswer}.
    """

    COMMAND = "progress"
    ANSWER = ProgressAnswer
    operation: tuple[str, ...]


@dataclass(frozen=True)
class Stop(Request):
    """
    Stop in good order.  Only a supervisor, and a listener that a supervisor started,
    can do this.
    """

    COMMAND = "stop"
    ANSWER = StopAnswer


@dataclass(frozen=True)
class Pause(Request):
    """
    Let the health say that the listener does not serve.  It accepts as before.
    """

    COMMAND = "pause"
    ANSWER = PauseAnswer


@dataclass(frozen=True)
class Resume(Request):
    """
    Undo L{Pause}.
    """

    COMMAND = "resume"
    ANSWER = PauseAnswer


@dataclass(frozen=True)
class Deny(Request):
    """
    Deny the clients of some networks on all ports.  If one is denied already, the new
    time counts.

    @ivar networks: addresses and networks.
    @ivar seconds: for how many seconds, a number above 0; if it is missing, until
        L{Allow}.
    """

    COMMAND = "deny"
    ANSWER = DenialsAnswer
    MAY_BE_EMPTY = frozenset(["seconds"])
    networks: tuple[str, ...]
    seconds: tuple[str, ...] = ()


@dataclass(frozen=True)
class Allow(Request):
    """
    Undo L{Deny}.  To allow a network that is not denied changes nothing.

    @ivar networks: addresses and networks, as they were denied.
    """

    COMMAND = "allow"
    ANSWER = AllowAnswer
    networks: tuple[str, ...]


@dataclass(frozen=True)
class ListDenials(Request):
    """
    List the networks that operators have denied.
    """

    COMMAND = "denials"
    ANSWER = DenialsAnswer


@dataclass(frozen=True)
class Replace(Request):
    """
    Hand over to another listener, which asks.  The connection then belongs to the
    handover: L{portlisten._handover.messages}.

    @ivar versions: the versions of the handover that it speaks.
    """

    COMMAND = "replace"
    ANSWER = Manifest
    versions: tuple[str, ...]


#: All requests, by the names of their commands.
REQUESTS: dict[str, type[Request]] = {
    each.COMMAND: each
    for each in (
        Workers,
        Drain,
        Undrain,
        Status,
        Restart,
        Reload,
        Compare,
        Upgrade,
        Watch,
        Stop,
        Pause,
        Resume,
        Deny,
        Allow,
        ListDenials,
        Replace,
    )
}

_Answer = TypeVar("_Answer", bound=Answer)


def encodeRequest(request: Request) -> bytes:
    """
    Write a request as a line.
    """
    given = {
        name: words
        for name, words in asdict(request).items()
        if words or name not in request.MAY_BE_EMPTY
    }
    return _line({"command": request.COMMAND, **given})


def encodeAnswer(answer: Answer) -> bytes:
    """
    Write an answer as a line.
    """
    return _line(answer.toJSON())


def encodeError(reason: str) -> bytes:
    """
    Write the answer to a request that was refused as a line.
    """
    return _line({"error": reason})


def parseRequest(line: bytes) -> Request:
    """
    Read a request.  A field that is not known is an error: the client expects
    something of it.

    @raise ControlError: if it is no request.
    """
    message = _parse(line, "request")
    command = message.pop("command", None)
    kind = REQUESTS.get(command) if isinstance(command, str) else None
    if kind is None:
        known = ", ".join(REQUESTS)
        raise ControlError(f"unknown command {_shown(command)}: there are {known}")
    names = [field.name for field in fields(kind)]
    for name in message:
        if name not in names:
            raise ControlError(f"{command} has no field {_shown(name)}")
    return kind(
        **{
            name: _words(command, name, message)
            for name in names
            if name in message or name not in kind.MAY_BE_EMPTY
        }
    )


def parseAnswer(line: bytes, kind: type[_Answer]) -> _Answer:
    """
    Read an answer.

    @param kind: the type of the answer.
    @raise Refusal: if the request was refused.
    @raise ControlError: if it is no such answer.
    """
    message = _parse(line, "answer")
    error = message.get("error")
    if error is not None:
        raise Refusal(str(error)[:MAXIMUM_REASON])
    answer = kind.fromJSON(message)
    assert isinstance(answer, kind)
    return answer


def _line(message: Mapping[str, Any]) -> bytes:
    return json.dumps({"version": VERSION, **message}).encode() + b"\n"


def _parse(line: bytes, what: str) -> dict[str, Any]:
    """
    Read a message, and check its version.

    @param what: the kind of message, for errors.
    @return: the fields without the version.
    @raise ControlError: if it is no message of this version.
    """
    message = parseObject(line, what)
    version = message.pop("version", None)
    if type(version) is not int or version != VERSION:
        raise ControlError(
            f"the {what} has the version {_shown(version)}, and only {VERSION} is known"
        )
    return message


def _words(command: str, name: str, message: Mapping[str, Any]) -> tuple[str, ...]:
    value = message.get(name)
    isList = isinstance(value, list) and all(isinstance(each, str) for each in value)
    if not value or not isList:
        raise ControlError(f"{command} needs {name}: a list of strings, at least one")
    return tuple(value)


def _shown(value: object) -> str:
    """
    Show a part of a message in an error, in one short line.
    """
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
