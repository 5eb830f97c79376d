"""
How a process of ours ends, and how a start fails: in one line, with an exit code.
"""

from __future__ import annotations

import atexit
import os
import pwd
import sys
from collections.abc import Mapping
from typing import Any, NoReturn, Protocol

from twisted.internet.error import ReactorNotRunning
from twisted.logger import Logger

from portlisten.errors import StartFailure

log = Logger(namespace="portlisten")


class _Options(Protocol):
    """
    What is asked of the options of a command.
    """

    command: str

    @property
    def twistd(self) -> Mapping[str, Any]: ...

    @property
    def logsElsewhere(self) -> bool: ...


def failToStart(options: _Options, reason: str, code: int = 1) -> NoReturn:
    """
    Say why a service cannot start, once: on standard error, and in the log
    where that is elsewhere.

    @param code: to exit with.
    @raise StartFailure: always.
    """
    message = f"{options.command}: {reason}"
    if options.logsElsewhere:
        log.critical("{reason}", reason=message)
    print(message, file=sys.__stderr__, flush=True)
    _removePidFile(options.twistd)
    raise StartFailure(reason, code)


def _removePidFile(twistd: Any) -> None:
    """
    Remove C{twistd}'s pid file.  C{twistd} itself removes it after it has told the
    process that waits for the daemon, which may be too late for who looks then.
    """
    try:
        os.unlink(twistd["pidfile"])
    except (KeyError, TypeError, OSError):
        return
    twistd["pidfile"] = ""


def checkUser(options: _Options) -> None:
    """
    See that the user that C{twistd} is about to become is known to the process, which
    may be in a chroot by now: C{twistd} looks up the user's groups there.

    @raise StartFailure: if not.
    """
    parent = options.twistd
    uid = parent.get("uid")
    try:
        if uid is not None:
            pwd.getpwuid(uid)
    except KeyError:
        failToStart(
            options,
            f"there is no user with the number {uid} in {parent.get('chroot')}: --uid"
            " needs an /etc/passwd in the chroot that has it",
        )


def warnOfRoot(command: str) -> None:
    """
    Log a warning if the process is root, or could become it.
    """
    if 0 in os.getresuid():
        log.warn(
            "this process runs as root and has no need to: start it with a uid of"
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
