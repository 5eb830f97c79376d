"""
How a process of ours ends, and how a start fails: in one line, with an exit code.
"""

from __future__ import annotations

import atexit
import os
import pwd
import sys
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from twisted.internet.error import ReactorNotRunning
from twisted.logger import Logger

from portlisten.errors import StartFailure

log = Logger(namespace="portlisten")


@dataclass(frozen=True)
class Command:
    """
    A command, as far as its failures go.

    @ivar name: what it is called.
    @ivar twistd: the options of C{twistd} itself; empty in a C{.tac} file.
    """

    name: str
    twistd: MutableMapping[str, Any] = field(default_factory=dict)

    @property
    def logsElsewhere(self) -> bool:
        """
        Whether the log goes somewhere else than to the terminal.
        """
        return not self.twistd.get("nodaemon") or any(
            self.twistd.get(name) not in (None, "", "-", False)
            for name in ("logfile", "syslog", "logger")
        )


def failToStart(command: Command, reason: str, code: int = 1) -> NoReturn:
    """
    Say why a service cannot start, once: on standard error, and in the log
    where that is elsewhere.

    @param code: to exit with.
    @raise StartFailure: always.
    """
    message = f"{command.name}: {reason}"
    if command.logsElsewhere:
        log.critical("{reason}", reason=message)
    print(message, file=sys.__stderr__, flush=True)
    _removePidFile(command.twistd)
    raise StartFailure(reason, code)


def _removePidFile(twistd: MutableMapping[str, Any]) -> None:
    """
    Remove C{twistd}'s pid file.  C{twistd} itself removes it after it has told the
    process that waits for the daemon, which may be too late for who looks then.
    """
    try:
        os.unlink(twistd["pidfile"])
    except (KeyError, TypeError, OSError):
        return
    twistd["pidfile"] = ""


def checkUser(command: Command) -> None:
    """
    See that the user that C{twistd} is about to become is known to the process, which
    may be in a chroot by now: C{twistd} looks up the user's groups there.

    @raise StartFailure: if not.
    """
    uid = command.twistd.get("uid")
    try:
        if uid is not None:
            pwd.getpwuid(uid)
    except KeyError:
        failToStart(
            command,
            f"no user has the number {uid} in"
            f" {command.twistd.get('chroot')}: --uid needs an /etc/passwd in the chroot"
            " that has it",
        )


def warnOfRoot(command: str) -> None:
    """
    Log a warning if the process is root, or could become it.
    """
    if 0 in os.getresuid():
        log.warn(
            "this process runs as root, and need not: start it with a uid of"
            " its own, as in 'twistd --uid nobody {command} …'",
            command=command,
        )


def exitWith(reactor: Any, code: int) -> None:
    """
    Stop the reactor, and exit with this code.  C{twistd} knows no way to ask
    for one from inside, so it is done when all else is.
    """

    def leave() -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    try:
        reactor.stop()
    except ReactorNotRunning:
        return  # it is stopping already
    atexit.register(leave)
