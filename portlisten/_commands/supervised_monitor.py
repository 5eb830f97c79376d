"""
C{python -m portlisten supervised-monitor}: the monitor that a supervisor starts, or a
listener that runs alone.

No operator starts this command, so no help, completion or table names it.  Descriptor 3
is connected to the parent.  It brings the start message, and then the answers to this
process's requests.  When the parent closes it, as by dying, the monitor ends.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any, NoReturn

from twisted.logger import Logger

from portlisten import _kernel
from portlisten._commands.supervised import takeLink
from portlisten._control.convert import ControlError
from portlisten._process import exits
from portlisten._process.logs import logToStandardError
from portlisten._process.output import complain

COMMAND = "portlisten supervised-monitor"

log = Logger()


def run() -> NoReturn:
    """
    Run the command.

    @raise SystemExit: when it has ended.
    """
    try:
        # Before the reactor has descriptors.
        link = takeLink("a listener", "--metrics")
    except ControlError as error:
        complain(COMMAND, str(error))
        raise SystemExit(1) from None
    _dropPrivileges()
    # It takes a while to load, and is not needed for an error.
    from twisted.internet import reactor

    from portlisten._monitor.server import Server, receiveStart
    from portlisten._reactor.monotonic import monotonicReactor

    anyReactor: Any = reactor
    try:
        message, sockets = receiveStart(link)
    except ControlError as error:
        complain(COMMAND, str(error))
        raise SystemExit(1) from None
    logToStandardError(message.logFormat)
    failures: list[str] = []

    def fail(reason: str) -> None:
        failures.append(reason)
        log.error("{reason}", event="monitor-failed", reason=reason)
        exits.stopReactor(anyReactor)

    def begin() -> None:
        if message.description:
            server.listen(message.description, fail)
        else:
            server.start()

    server = Server(
        monotonicReactor(anyReactor),
        link,
        sockets,
        lambda: exits.stopReactor(anyReactor),
    )
    anyReactor.callWhenRunning(begin)
    # Before the reactor drops the sockets, which would look like a failure.
    anyReactor.addSystemEventTrigger("before", "shutdown", server.stop)
    anyReactor.run()
    raise SystemExit(1 if failures else 0)


def _dropPrivileges() -> None:
    """
    If the parent could become root again, as after C{twistd --euid}, let this process
    not be able to.  No program that it becomes may have privileges either.
    """
    with suppress(OSError):
        _kernel.gainNoPrivileges()
    user = os.geteuid()
    if user != 0 and 0 in os.getresuid():
        os.setresuid(user, user, user)
