"""
The log of commands without Twisted, which is that of L{logging}.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Mapping
from typing import Any

from portlisten._events import EVENTS
from portlisten._log.lines import encode
from portlisten._log.writer import Sink, Writer

#: The attribute of a record that has the fields of an event.
FIELDS = "portlisten"

_LEVELS = {
    logging.DEBUG: "debug",
    logging.INFO: "info",
    logging.WARNING: "warn",
    logging.ERROR: "error",
    logging.CRITICAL: "critical",
}

#: What is said if lines were dropped.
DROPPED = "the log could not be written for a while, and {count} lines were dropped"


def jsonOf(record: logging.LogRecord) -> str:
    """
    Write a record as a line of JSON, without its end.
    """
    fields: dict[str, Any] = dict(getattr(record, FIELDS, {}))
    name = fields.pop("event", None)
    if record.exc_info:
        fields["traceback"] = "".join(traceback.format_exception(*record.exc_info))
    level = _LEVELS.get(record.levelno, record.levelname.lower())
    if name not in EVENTS:
        name, fields["system"] = "log", record.name
    return encode(str(name), level, record.getMessage(), record.created, fields)


def lineOf(
    format: str,
    prefix: str,
    event: str,
    level: str,
    message: str,
    fields: Mapping[str, object],
) -> str:
    """
    Write an event in a format, without the end of the line.

    @param prefix: what stands before the text.
    """
    if format == "json":
        return encode(event, level, message, time.time(), fields)
    return f"{prefix}: {message}"


class Handler(logging.Handler):
    """
    Writes records to standard error, and never waits for its reader.

    @param prefix: what stands before each line of text.
    @param format: the format of the log.
    """

    def __init__(self, prefix: str, format: str) -> None:
        super().__init__()
        self._prefix = prefix
        self._json = format == "json"
        if not self._json:
            self.setFormatter(logging.Formatter(f"{prefix}: %(message)s"))
        self.writer = Writer(Sink(2), self._dropped)

    def emit(self, record: logging.LogRecord) -> None:
        """
        See C{logging.Handler.emit}.
        """
        try:
            line = jsonOf(record) if self._json else self.format(record)
        except Exception:
            self.handleError(record)
            return
        self.writer.put(line.encode("utf-8", "backslashreplace") + b"\n")

    def _dropped(self, count: int) -> bytes:
        line = lineOf(
            "json" if self._json else "text",
            self._prefix,
            "lines-dropped",
            "error",
            DROPPED.format(count=count),
            {"count": count},
        )
        return line.encode() + b"\n"
