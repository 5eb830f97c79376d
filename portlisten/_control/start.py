"""
The messages with which a supervisor starts its listener, as values.

The I{start message} is a JSON object in one line.  The descriptors of all sockets go
with its bytes: first those of the ports, in the order of the message, and then that of
the channel's path.  When the listener accepts, it answers with the I{ready message},
which is a line as well.  Before the start message, it may send the I{loaded message},
when it has loaded what it needs.  After the ready message, the supervisor sends
requests, as to a control socket: L{portlisten._control.messages}.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from portlisten._config.port_options import readLimits
from portlisten._config.settings import ListenerSettings
from portlisten._control.convert import ControlError, parseObject
from portlisten._model import Kind
from portlisten.errors import BadDescription

#: The version of the messages.
VERSION = 1

#: How many bytes the line of a start message may have.
MAXIMUM_START_BYTES = 4 * 1024 * 1024

#: What may come after the channel's socket.
LINKS = ("successors", "predecessor")

#: How many descriptors a start message may have.
MAXIMUM_SOCKETS = 16384

_T = TypeVar("_T")


@dataclass(frozen=True)
class GivenPort:
    """
    A port that the supervisor has bound.

    @ivar name: the operator's name for the port, or empty.
    @ivar kind: what workers get of the port, as the name of a L{Kind}.
    @ivar address: its address, in readable form.
    @ivar sockets: how many sockets it has.
    @ivar kept: whether another process, such as systemd, keeps the sockets when the
        supervisor ends.
    @ivar balanced: whether workers leave clients to those that have fewer connections,
        if they accept on the port themselves.
    @ivar limits: the limits of its clients, as L{writeLimits} writes them.
    """

    name: str
    kind: str
    address: str
    sockets: int
    kept: bool = False
    balanced: bool = True
    limits: str = ""


@dataclass(frozen=True)
class StartMessage:
    """
    What a listener needs for its start.

    @ivar settings: the listener's settings.
    @ivar ports: the ports, in the order of their descriptors.
    @ivar channel: which descriptor is the socket of the channel's path; the first one
        is 0.
    @ivar links: what the descriptors are that come after it: C{successors} for the
        connection by which the supervisor gives the listener its successors, and
        C{predecessor} for the one to the listener that it is to replace.
    """

    settings: ListenerSettings
    ports: tuple[GivenPort, ...]
    channel: int
    links: tuple[str, ...] = ()

    @property
    def descriptors(self) -> int:
        """
        How many descriptors go with the message.
        """
        return sum(port.sockets for port in self.ports) + 1 + len(self.links)


def encodeStart(message: StartMessage) -> bytes:
    """
    Write a start message as a line.
    """
    return _line(
        {
            "settings": asdict(message.settings),
            "ports": [asdict(port) for port in message.ports],
            "channel": message.channel,
            "links": list(message.links),
        }
    )


def parseStart(line: bytes) -> StartMessage:
    """
    Read a start message.  Settings that it lacks have their defaults, since an older
    supervisor may not know them.

    @raise ControlError: if it is no start message of this version.
    """
    message = _parse(
        line, "start message", ("settings", "ports", "channel"), ("links",)
    )
    settings, ports = message["settings"], message["ports"]
    if not isinstance(settings, dict):
        raise ControlError("the settings are no object")
    if not isinstance(ports, list) or not ports:
        raise ControlError("the ports are no list with at least one port")
    made = StartMessage(
        _make(ListenerSettings, settings, "the settings", ("path",)),
        tuple(_port(each, place) for place, each in enumerate(ports)),
        message["channel"],
        _links(message.get("links", [])),
    )
    if made.settings.wire != "stream":
        raise ControlError("the wire must be stream: a supervisor has no other")
    place = made.descriptors - 1 - len(made.links)
    if type(made.channel) is not int or made.channel != place:
        raise ControlError("the channel must come after the ports")
    if made.descriptors > MAXIMUM_SOCKETS:
        raise ControlError(
            f"{made.descriptors} sockets are too many: {MAXIMUM_SOCKETS} at the most"
        )
    return made


def encodeLoaded() -> bytes:
    """
    Write a loaded message as a line.
    """
    return _line({"loaded": True})


def isLoaded(line: bytes) -> bool:
    """
    Say whether a line is a loaded message.
    """
    return line + b"\n" == encodeLoaded()


def encodeReady(pid: int) -> bytes:
    """
    Write a ready message as a line.

    @param pid: the number of the listener's process.
    """
    return _line({"ready": True, "pid": pid})


def parseReady(line: bytes) -> int:
    """
    Read a ready message.

    @return: the number that the listener gives as that of its process.
    @raise ControlError: if it is no ready message of this version.
    """
    message = _parse(line, "ready message", ("ready", "pid"))
    if message["ready"] is not True or type(message["pid"]) is not int:
        raise ControlError("the ready message cannot be understood")
    return int(message["pid"])


def _line(message: Mapping[str, Any]) -> bytes:
    return json.dumps({"version": VERSION, **message}).encode() + b"\n"


def _links(value: object) -> tuple[str, ...]:
    if (
        isinstance(value, list)
        and all(each in LINKS for each in value)
        and len(set(value)) == len(value)
    ):
        return tuple(value)
    raise ControlError(f"the links must be some of {', '.join(LINKS)}")


def _parse(
    line: bytes, what: str, names: Sequence[str], more: Sequence[str] = ()
) -> dict[str, Any]:
    """
    Read an object, and check its version and the names of its fields.

    @param what: the kind of message, for errors.
    @param more: fields that it may have.
    @return: the fields without the version.
    @raise ControlError: if it is no such message.
    """
    message = parseObject(line, what)
    version = message.pop("version", None)
    if type(version) is not int or version != VERSION:
        raise ControlError(
            f"the {what} has another version than {VERSION}: portlisten was installed"
            " anew, so stop the supervisor, and start it again"
        )
    if set(message) - set(more) != set(names):
        raise ControlError(f"the {what} must have the fields {', '.join(names)}")
    return message


def _port(value: object, place: int) -> GivenPort:
    needed = [each.name for each in fields(GivenPort) if each.default is MISSING]
    port = _make(GivenPort, value, f"port {place}", needed)
    known = [kind.name for kind in Kind if kind is not Kind.UNKNOWN]
    if port.kind not in known:
        raise ControlError(f"port {place}: its kind must be one of {', '.join(known)}")
    if port.sockets < 1 or (port.sockets > 1 and port.kind != Kind.GROUP.name):
        raise ControlError(
            f"port {place}: {port.sockets} sockets do not fit the kind {port.kind}"
        )
    try:
        readLimits(port.limits)
    except BadDescription as error:
        raise ControlError(f"port {place}: {error}") from None
    return port


def _make(kind: type[_T], value: object, what: str, needed: Sequence[str]) -> _T:
    """
    Make a dataclass of an object.

    @param what: the object, for errors.
    @param needed: the fields that must be there.
    @raise ControlError: if a field is missing, unknown, or of a wrong type.
    """
    if not isinstance(value, dict):
        raise ControlError(f"{what}: this is no object")
    hints = get_type_hints(kind)
    known: dict[str, Any] = {}
    for name in needed:
        if name not in value:
            raise ControlError(f"{what}: {name} is missing")
    for field in fields(kind):  # type: ignore[arg-type]
        if field.name in value:
            given = value[field.name]
            known[field.name] = tuple(given) if isinstance(given, list) else given
            if not _fits(known[field.name], hints[field.name]):
                raise ControlError(f"{what}: {field.name} has a wrong type")
    for name in value:
        if name not in known:
            raise ControlError(f"{what}: {json.dumps(name)[:60]} is not known")
    try:
        return kind(**known)
    except ValueError as error:
        raise ControlError(f"{what}: {error}") from None


def _fits(value: object, hint: Any) -> bool:
    """
    Say whether a value of JSON fits a simple type: a number, a string, a flag, a tuple
    of one type, or one of several types.
    """
    if isinstance(hint, UnionType):
        return any(_fits(value, each) for each in get_args(hint))
    if get_origin(hint) is tuple:
        (each, _) = get_args(hint)
        return isinstance(value, tuple) and all(_fits(item, each) for item in value)
    if hint is float:
        return type(value) in (int, float)
    return type(value) is hint
