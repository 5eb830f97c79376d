"""
The message with which a listener, or a supervisor, starts its monitor.

The I{start message} is a JSON object in one line.  The descriptors of the listening
sockets go with its bytes.  After that, the monitor sends requests, as to a control
socket: L{portlisten._control.messages}.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields

from portlisten._config.settings import LOG_FORMATS
from portlisten._control.convert import ControlError, parseObject

#: The version of the message.
VERSION = 1

#: How many bytes the line may have.
MAXIMUM_START_BYTES = 65536

#: How many sockets may come.
MAXIMUM_SOCKETS = 16


@dataclass(frozen=True)
class MonitorStart:
    """
    What a monitor needs for its start.

    @ivar description: the endpoint that it listens on itself; empty if it gets sockets.
    @ivar sockets: how many listening sockets come with the message.
    @ivar logFormat: the format of its log.
    """

    description: str
    sockets: int
    logFormat: str = "text"


def encodeStart(message: MonitorStart) -> bytes:
    """
    Write a start message as a line.
    """
    return json.dumps({"version": VERSION, **asdict(message)}).encode() + b"\n"


def parseStart(line: bytes) -> MonitorStart:
    """
    Read a start message.

    @raise ControlError: if it is no start message of this version.
    """
    message = parseObject(line, "start message")
    version = message.pop("version", None)
    if type(version) is not int or version != VERSION:
        raise ControlError(
            f"the start message has another version than {VERSION}: portlisten was"
            " installed anew, so start it again"
        )
    if set(message) != {each.name for each in fields(MonitorStart)}:
        raise ControlError("the start message has other fields than it must have")
    description, sockets = message["description"], message["sockets"]
    if message["logFormat"] not in LOG_FORMATS:
        raise ControlError("the start message names an unknown format of the log")
    if not isinstance(description, str) or type(sockets) is not int:
        raise ControlError("a field of the start message has a wrong type")
    if not 0 <= sockets <= MAXIMUM_SOCKETS or bool(description) == bool(sockets):
        raise ControlError("the start message has neither sockets nor a description")
    return MonitorStart(description, sockets, message["logFormat"])
