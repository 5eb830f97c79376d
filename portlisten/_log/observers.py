"""
Observers of Twisted's log that write both formats.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from twisted.logger import (
    ILogObserver,
    LogLevel,
    eventAsText,
    formatEvent,
    formatEventAsClassicLogText,
)
from zope.interface import implementer

from portlisten._events import EVENTS
from portlisten._log.lines import encode, merge
from portlisten._log.writer import Writer

#: Keys of events that Twisted adds.
_TWISTEDS = frozenset(
    ["format", "message", "time", "system", "isError", "failure", "event"]
)

#: What is said if lines were dropped.
DROPPED = "the log could not be written for a while, and {count} lines were dropped"


def jsonOf(event: Mapping[str, Any]) -> str | None:
    """
    Write an event of Twisted's as a line of JSON, without its end.

    @return: L{None} if it has no text.
    """
    name = event.get("event")
    if name == "output":
        return _outputOf(event)
    own = isinstance(name, str) and name in EVENTS
    fields: dict[str, Any] = {}
    if own:
        for key, value in event.items():
            if key not in _TWISTEDS and not key.startswith("log_"):
                fields[key] = value
    else:
        fields["system"] = event.get("log_system") or event.get("log_namespace")
    failure = event.get("log_failure")
    text = formatEvent(dict(event))
    if failure is not None:
        try:
            fields["traceback"] = failure.getTraceback()
            text = text or failure.getErrorMessage()
        except Exception:
            fields["traceback"] = "(no traceback can be made)"
    if not text and failure is None:
        return None
    level = event.get("log_level", LogLevel.info).name
    if not own and event.get("isError"):
        level = LogLevel.critical.name
    name = str(name) if own else "log"
    return encode(name, level, text, event.get("log_time", time.time()), fields)


def _outputOf(event: Mapping[str, Any]) -> str:
    """
    Write a line of a process.  Nothing that it writes can hide which process it is.
    """
    line, now = event["line"], event.get("log_time", time.time())
    keys = {key: event.get(key) for key in ("worker", "group", "slot", "pid")}
    own = {"process": event["log_system"]}
    made = merge(line, now, {"event": "output", "level": "info", **keys}, own)
    return made or encode("output", "info", line, now, {**own, **keys})


def textOf(event: Mapping[str, Any]) -> str | None:
    """
    Write an event as C{twistd} does.
    """
    text = formatEventAsClassicLogText(dict(event))
    return text.removesuffix("\n") if text else None


def plainTextOf(event: Mapping[str, Any]) -> str | None:
    """
    Write an event without its time, for a process whose parent adds the time.
    """
    text = eventAsText(
        dict(event), includeTraceback=True, includeTimestamp=False, includeSystem=False
    )
    level = event.get("log_level", LogLevel.info)
    if not text or level is LogLevel.info:
        return text or None
    return f"{level.name}: {text}"


#: How an event is written, by the format of the log.
LINES: dict[str, Callable[[Mapping[str, Any]], str | None]] = {
    "text": textOf,
    "json": jsonOf,
}


@implementer(ILogObserver)
class Observer:
    """
    Writes all events.

    @param line: writes an event as a line without its end.
    @param sink: see L{portlisten._log.writer.Sink}.
    """

    def __init__(
        self, line: Callable[[Mapping[str, Any]], str | None], sink: Any
    ) -> None:
        self._line = line
        self.writer = Writer(sink, self._dropped)

    def __call__(self, event: Mapping[str, Any]) -> None:
        text = self._line(event)
        if text is not None:
            self.writer.put(_bytes(text))

    def _dropped(self, count: int) -> bytes:
        event = {
            "log_format": DROPPED,
            "log_level": LogLevel.error,
            "log_namespace": "portlisten",
            "log_time": time.time(),
            "event": "lines-dropped",
            "count": count,
        }
        return _bytes(self._line(event) or "")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace") + b"\n"


def standardOutput() -> int | None:
    """
    Find the descriptor of standard output.

    @return: L{None} if it is no descriptor, as in a test.
    """
    try:
        return sys.stdout.fileno()
    except (AttributeError, OSError, ValueError):
        return None
