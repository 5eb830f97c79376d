"""
C{python -m portlisten supervised-listener}: the listener that a supervisor starts.

No operator starts this command, so no help, completion or table names it.  Descriptor 3
is connected to the supervisor.  It brings the start message with all sockets, and then
requests.  When the supervisor closes it, as by dying, the listener stops as after
SIGTERM.  L{portlisten._listener.given_sockets} has the details.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, NoReturn

from portlisten import _kernel
from portlisten._commands.supervised import takeLink
from portlisten._control.convert import ControlError
from portlisten._control.start import encodeLoaded
from portlisten._listener.given_sockets import receiveStart
from portlisten._listener.making import makeListener
from portlisten._process import exits
from portlisten._process.logs import logToStandardError
from portlisten._process.output import complain

COMMAND = "portlisten supervised-listener"


def run() -> NoReturn:
    """
    Run the command.

    @raise SystemExit: when it has ended.
    """
    try:
        link = takeLink("a supervisor", "portlisten run")
        # It takes a while to load.
        from twisted.internet import reactor

        with suppress(OSError):  # reading then says what is wrong
            link.send(encodeLoaded())
        message, sockets = receiveStart(link)
    except ControlError as error:
        complain(COMMAND, str(error))
        raise SystemExit(1) from None
    logToStandardError(message.settings.logFormat)
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
