"""
The log of a command's process: where it goes, and in which format.
"""

from __future__ import annotations

import signal
import syslog
from collections.abc import Mapping
from typing import Any, cast

from twisted.internet.interfaces import IReactorCore
from twisted.logger import (
    ILogObserver,
    LegacyLogObserverWrapper,
    LogLevel,
    globalLogBeginner,
)
from twisted.python.syslog import (
    DEFAULT_FACILITY,
    DEFAULT_OPTIONS,
    SyslogObserver,
)

from portlisten._events import NEVER_SUMMED_UP
from portlisten._log.files import LogFile
from portlisten._log.observers import (
    LINES,
    Observer,
    jsonOf,
    plainTextOf,
    standardOutput,
)
from portlisten._log.writer import Sink, Writer
from portlisten._reactor import log_limit

#: The name of C{twistd}'s log file, if its options do not give one.
DEFAULT_FILE = "twistd.log"

#: The priority of each level.
_PRIORITIES = {
    LogLevel.debug: syslog.LOG_DEBUG,
    LogLevel.info: syslog.LOG_INFO,
    LogLevel.warn: syslog.LOG_WARNING,
    LogLevel.error: syslog.LOG_ERR,
    LogLevel.critical: syslog.LOG_CRIT,
}


def install(
    reactor: Any, twistd: Mapping[str, Any], format: str, application: Any
) -> None:
    """
    Make the log of a process of C{twistd}'s go where C{twistd}'s options say, in this
    format, and never let the process wait for it.  If the options do not say it, as in
    a C{.tac} file, leave the log alone.

    @param twistd: the options of C{twistd}.
    @param application: what C{twistd} runs, before it begins to log.
    @raise OSError: if the log file cannot be opened.
    """
    setFormat(format)
    if not hasattr(application, "setComponent") or not twistd:
        return
    if twistd.get("logger") or application.getComponent(ILogObserver, None):
        return
    made = _observerFor(reactor, twistd, format)
    if made is None:
        return
    observer, writer = made
    application.setComponent(ILogObserver, observer)
    if IReactorCore.providedBy(reactor):
        # By now, the process has become a daemon if it was to.
        reactor.callWhenRunning(writer.start)
        # C{twistd} may end the process by a signal.
        reactor.addSystemEventTrigger("after", "shutdown", writer.end)


def setFormat(format: str) -> None:
    """
    Note the format of this process's log.  In JSON, some events are never summed up.
    """
    log_limit.neverLimited = NEVER_SUMMED_UP if format == "json" else frozenset()


def _observerFor(
    reactor: Any, twistd: Mapping[str, Any], format: str
) -> tuple[Any, Writer] | None:
    if twistd.get("syslog"):
        return _syslogObserver(twistd.get("prefix") or "twisted", format)
    sink: Sink
    path = twistd.get("logfile")
    if path == "-" or (not path and twistd.get("nodaemon")):
        descriptor = standardOutput()
        if descriptor is None or not twistd.get("nodaemon"):
            return None
        sink = Sink(descriptor)
        observer = Observer(LINES[format], sink)
    else:
        sink = LogFile(path or DEFAULT_FILE)
        observer = Observer(LINES[format], sink)
        _rotateAtSignal(reactor, observer.writer, sink)
    return observer, observer.writer


def _rotateAtSignal(reactor: Any, writer: Writer, file: LogFile) -> None:
    """
    Rotate the file at SIGUSR1, if nothing else handles the signal, as C{twistd} does.
    """
    if signal.getsignal(signal.SIGUSR1):
        return

    def handle(number: int, frame: object) -> None:
        reactor.callFromThread(writer.call, file.rotate)

    signal.signal(signal.SIGUSR1, handle)


# The system's log


class _SyslogSink:
    """
    Sends each line to the system's log.  A line begins with its priority.
    """

    def write(self, data: bytes) -> int:
        """
        See L{Sink.write}.
        """
        for line in bytes(data).splitlines():
            priority, _, text = line.partition(b" ")
            syslog.syslog(int(priority), text.decode("utf-8", "replace"))
        return len(data)


class _SyslogText(SyslogObserver):
    """
    Twisted's own observer, which does not wait for the system's log.
    """

    def __init__(self, prefix: str) -> None:
        super().__init__(prefix)
        self.writer = Writer(_SyslogSink(), _dropped)

    def syslog(self, priority: int, message: str) -> None:
        """
        Send a line later.
        """
        self.writer.put(_withPriority(priority, message))


def _dropped(count: int) -> bytes:
    return _withPriority(
        syslog.LOG_ERR,
        f"[portlisten] the log could not be written for a while, and {count} lines"
        " were dropped",
    )


def _withPriority(priority: int, text: str) -> bytes:
    line = text.replace("\n", " ").encode("utf-8", "backslashreplace")
    return b"%d %s\n" % (priority, line)


def _syslogObserver(prefix: str, format: str) -> tuple[Any, Writer]:
    if format == "text":
        text = _SyslogText(prefix)
        return LegacyLogObserverWrapper(cast(Any, text.emit)), text.writer
    syslog.openlog(prefix, DEFAULT_OPTIONS, DEFAULT_FACILITY)

    def line(event: Mapping[str, Any]) -> str | None:
        made = jsonOf(event)
        if made is None:
            return None
        level = event.get("log_level", LogLevel.info)
        return f"{_PRIORITIES[level]} {made}"

    observer = Observer(line, _SyslogSink())
    return observer, observer.writer


# Processes without C{twistd}


def logToStandardError(format: str = "text") -> None:
    """
    Write the log to standard error.  The parent adds the time to each line of text.
    """
    setFormat(format)
    observer = Observer(jsonOf if format == "json" else plainTextOf, Sink(2))
    observer.writer.start()
    globalLogBeginner.beginLoggingTo([observer], redirectStandardIO=False)
