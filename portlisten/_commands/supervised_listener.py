"""
C{python -m portlisten supervised-listener}: the listener that a supervisor starts.

No operator starts this command, so no help, completion or table names it.  Descriptor 3
is connected to the supervisor.  It brings the start message with all sockets, and then
requests.  When the supervisor closes it, as by dying, the listener stops as after
SIGTERM.  L{portlisten._listener.given_sockets} has the details.
"""

from __future__ import annotations

import socket
import sys
from contextlib import suppress
from typing import Any, NoReturn

from twisted.logger import ILogObserver, LogLevel, eventAsText, globalLogBeginner
from zope.interface import provider

from portlisten import _kernel
from portlisten._control.convert import ControlError
from portlisten._control.start import encodeLoaded
from portlisten._listener.given_sockets import receiveStart
from portlisten._listener.making import makeListener
from portlisten._process import exits, forking
from portlisten._process.output import complain

#: The descriptor that is connected to the supervisor.
LINK = 3

COMMAND = "portlisten supervised-listener"


def run() -> NoReturn:
    """
    Run the command.

    @raise SystemExit: when it has ended.
    """
    try:
        link = _link()
        # It takes a while to load.
        from twisted.internet import reactor

        with suppress(OSError):  # reading then says what is wrong
            link.send(encodeLoaded())
        message, sockets = receiveStart(link)
    except ControlError as error:
        complain(COMMAND, str(error))
        raise SystemExit(1) from None
    _log()
    anyReactor: Any = reactor
    settings = message.settings
    sockets.stop = lambda: exits.stopReactor(anyReactor)
    service = makeListener(
        anyReactor,
        exits.Command(COMMAND, {"nodaemon": True}, warnsOfRoot=False),
        settings,
        sockets,
        settings.backlog or _kernel.longestBacklog(),
    )
    service.privilegedStartService()
    anyReactor.addSystemEventTrigger("before", "shutdown", service.stopService)
    service.startService()
    sockets.sayReady()
    anyReactor.run()
    raise SystemExit(0)


def _link() -> socket.socket:
    """
    Take the descriptor that is connected to the supervisor, and close those after it,
    which somebody may have passed on by mistake.

    @return: the link, which the caller owns.
    @raise ControlError: if it is not connected to a supervisor.
    """
    with suppress(OSError):  # without /proc, they stay open
        forking.closeFrom(LINK + 1)
    try:
        link = socket.socket(fileno=LINK)
        link.getpeername()
    except OSError as error:
        raise ControlError(
            f"descriptor {LINK} is not connected to a supervisor ({error.strerror}):"
            " 'portlisten run' starts this command"
        ) from None
    if (link.family, link.type) != (socket.AF_UNIX, socket.SOCK_STREAM):
        raise ControlError(f"descriptor {LINK} is no Unix stream socket")
    link.set_inheritable(False)
    return link


def _log() -> None:
    """
    Write the log to standard error.  The supervisor adds the time to each line.
    """

    @provider(ILogObserver)
    def write(event: dict[str, Any]) -> None:
        text = eventAsText(
            event, includeTraceback=True, includeTimestamp=False, includeSystem=False
        )
        level = event.get("log_level", LogLevel.info)
        if text:
            line = f"{text}\n" if level is LogLevel.info else f"{level.name}: {text}\n"
            # If nobody reads it any more, the log is lost.
            with suppress(OSError, ValueError):
                sys.stderr.write(line)
                sys.stderr.flush()

    globalLogBeginner.beginLoggingTo([write], redirectStandardIO=False)
