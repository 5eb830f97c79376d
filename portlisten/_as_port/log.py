"""
The log of C{portlisten as-port} goes where the program's log goes.
"""

from __future__ import annotations

from typing import Any

from twisted.logger import (
    ILogObserver,
    LogLevel,
    LogPublisher,
    formatEvent,
    globalLogBeginner,
    globalLogPublisher,
)
from zope.interface import implementer

from portlisten._log.observers import jsonOf
from portlisten._process.output import complain, write

#: What stands before each line of text.
PREFIX = "portlisten as-port"

#: The levels that are shown while the program has no log.
_SHOWN = (LogLevel.warn, LogLevel.error, LogLevel.critical)


def say(line: str) -> None:
    """
    Write a line to standard error.
    """
    complain(PREFIX, line)


@implementer(ILogObserver)
class _Fallback:
    """
    Shows portlisten's warnings on standard error.

    @param format: the format of the log.
    """

    def __init__(self, format: str) -> None:
        self._format = format

    def __call__(self, event: dict[str, Any]) -> None:
        namespace = event.get("log_namespace") or ""
        own = namespace.partition(".")[0] == "portlisten"
        if own and event.get("log_level") in _SHOWN:
            line = jsonOf(event) if self._format == "json" else None
            write(line or f"{PREFIX}: {formatEvent(event)}")


def showWarnings(
    beginner: Any = globalLogBeginner,
    publisher: LogPublisher = globalLogPublisher,
    format: str = "text",
) -> None:
    """
    Show portlisten's warnings on standard error, until the program begins a log of
    Twisted's.

    @param format: the format of the log.
    """
    fallback = _Fallback(format)
    publisher.addObserver(fallback)
    begin = beginner.beginLoggingTo

    def beginLoggingTo(*arguments: Any, **named: Any) -> Any:
        publisher.removeObserver(fallback)
        return begin(*arguments, **named)

    beginner.beginLoggingTo = beginLoggingTo
