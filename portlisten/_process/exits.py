"""
The end of a command's process, and the failure of its start: one line, and an exit
code.
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

from portlisten._log.writer import endAll
from portlisten.errors import StartFailure

log = Logger(namespace="portlisten")


@dataclass(frozen=True)
class Command:
    """
    A command, as far as its failures need it.

    @ivar name: its name.
    @ivar twistd: the options of C{twistd} itself.  Empty in a C{.tac} file.
    @ivar warnsOfRoot: whether the operator who starts the command chooses its user.
    @ivar logFormat: the format of its log.
    """

    name: str
    twistd: MutableMapping[str, Any] = field(default_factory=dict)
    warnsOfRoot: bool = True
    logFormat: str = "text"

    @property
    def logsElsewhere(self) -> bool:
        """
        Whether the log goes elsewhere than to the terminal.
        """
        return not self.twistd.get("nodaemon") or any(
            self.twistd.get(name) not in (None, "", "-", False)
            for name in ("logfile", "syslog", "logger")
        )


def failToStart(command: Command, reason: str, code: int = 1) -> NoReturn:
    """
    Say why a service cannot start: on standard error and, if the log goes elsewhere, in
    the log.

    @param code: the exit code.
    @raise StartFailure: always.
    """
    message = f"{command.name}: {reason}"
    if command.logsElsewhere:
        log.critical("{reason}", event="start-failed", reason=message)
    print(message, file=sys.__stderr__, flush=True)
    _removePidFile(command.twistd)
    raise StartFailure(reason, code)


def _removePidFile(twistd: MutableMapping[str, Any]) -> None:
    """
    Remove C{twistd}'s pid file.  C{twistd} itself removes it only after it has told the
    process that started the daemon.  A script that looks then could still find it.
    """
    try:
        os.unlink(twistd["pidfile"])
    except (KeyError, TypeError, OSError):
        return
    twistd["pidfile"] = ""


def checkUser(command: Command) -> None:
    """
    Check that the process can look up the user that C{twistd} is about to become.
    C{twistd} looks up the user's groups, and the process may be in a chroot by now.

    @raise StartFailure: if the user is unknown.
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
    Log a warning if the process is root, or could become root.
    """
    if 0 in os.getresuid():
        log.warn(
            "this process runs as root, and need not: start it with a uid of"
            " its own, as in 'twistd --uid nobody {command} …'",
            event="runs-as-root",
            command=command,
        )


def exitWith(reactor: Any, code: int) -> None:
    """
    Stop the reactor, and exit with this code.  A service cannot set C{twistd}'s exit
    code, so the process exits in the last step of its end.  If the reactor is stopping
    already, do nothing.
    """
    if stopReactor(reactor):
        endWith(code)


def stopReactor(reactor: Any) -> bool:
    """
    Stop the reactor.

    @return: whether it ran, and was not stopping already.
    """
    try:
        reactor.stop()
    except ReactorNotRunning:
        return False
    return True


def endWith(code: int) -> None:
    """
    When the process ends, let it exit with this code.  See L{exitWith}.
    """

    def leave() -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        endAll()
        os._exit(code)

    atexit.register(leave)
