"""
C{portlisten each}: starts a program for each connection that a listener hands off.
"""

from __future__ import annotations

import logging
import os

from twisted.python.usage import UsageError

from portlisten._channel import paths
from portlisten._commands.options import ProgramOptions
from portlisten._config.settings import EachSettings
from portlisten._each.environment import withoutConnection
from portlisten._each.starting import Program
from portlisten._log.standard import Handler
from portlisten._process import forking, programs, users
from portlisten._process.label import labelOf
from portlisten.errors import CannotRun, PathError


class EachOptions(ProgramOptions):
    """
    The options of C{portlisten each}.
    """

    settingsType = EachSettings

    command = "portlisten each"
    longdesc = (
        "Starts PROGRAM for each connection that the listener at PATH hands off, as"
        " inetd, tcpserver and systemd's Accept=yes do. The connection is PROGRAM's"
        " standard input and output, and ends when PROGRAM ends. If no listener runs at"
        " PATH, waits for one."
    )

    epilogue = """
PROGRAM learns who connects from its environment. For TCP: PROTO is TCP, or TCP6 for
IPv6; TCPREMOTEIP, TCPREMOTEPORT, TCPLOCALIP and TCPLOCALPORT are the addresses, and
so are TCP6REMOTEIP and so on for IPv6; REMOTE_ADDR and REMOTE_PORT are as from systemd.
For a Unix socket: PROTO is UNIX, UNIXLOCALPATH is the path, and UNIXREMOTEPID,
UNIXREMOTEEUID and UNIXREMOTEEGID are the client's process, user and group. Names of
hosts are not looked up. With --listen-fds, PROGRAM also gets LISTEN_FDS, LISTEN_PID and
LISTEN_FDNAMES.

The connection is blocking. PROGRAM gets no other descriptor but standard error, and
has a session of its own. TLS is PROGRAM's business.

Without --user, PROGRAM runs as the user that starts this command, which may be root:
'sshd -i' needs that. PATH must let the user in.

If PROGRAM cannot be started, as when it is being replaced or processes are short, the
connections wait, and it is tried again. When this command stops, other workers get
those that still wait. If this command is killed by SIGKILL, the processes go on with
their clients.

On SIGTERM and SIGINT, no more connections come, and the processes may finish. After
--grace, or a second signal, their process groups get SIGTERM, and SIGKILL 5 seconds
later, or after a third signal. The process that was started stands for the connection:
what it leaves behind when it ends is not waited for, nor counted.

The listener must be as new as this command.

Examples, with 'twistd portlisten 22 /run/portlisten/ssh.sock':
  portlisten each /run/portlisten/ssh.sock /usr/sbin/sshd -i
  portlisten each --user nobody --limit 20 /run/portlisten/echo.sock cat
"""

    def postOptions(self) -> None:
        """
        See L{ProgramOptions.postOptions}.

        @raise UsageError: also if two options exclude each other, or the environment
            gives a bad label.
        """
        super().postOptions()
        if self["listen-fds"] and self["stderr"] != "log":
            raise UsageError("--stderr=connection means nothing with --listen-fds")
        try:
            labelOf(self["label"])
        except ValueError as error:
            raise UsageError(str(error)) from None

    def work(self, settings: EachSettings) -> None:
        """
        See L{each}.
        """
        each(settings)


def each(settings: EachSettings) -> None:
    """
    Start a program for each connection, until this process is told to stop.

    @raise CannotRun: if that is impossible.
    """
    # Other commands need no event loop, and start faster without it.
    from portlisten._each import service

    users.become(settings.user, settings.group)
    environment = users.environmentOf(settings.user, withoutConnection(os.environ))
    path = programs.find(settings.program[0])
    try:
        paths.check(settings.path)
        label = labelOf(settings.label)
        forking.closeOnExec()
    except (PathError, ValueError, OSError) as error:
        raise CannotRun(str(error)) from None
    program = Program(
        path,
        settings.program,
        environment,
        settings.listenFds,
        settings.stderr == "connection",
    )
    _log(settings.verbose, settings.logFormat)
    try:
        service.run(settings, program, label)
    except OSError as error:
        raise CannotRun(f"cannot start: {error.strerror}") from None


def _log(verbose: bool, format: str) -> None:
    """
    Write the log to standard error.
    """
    # Without this, the log has a traceback for each line that cannot be written.
    logging.raiseExceptions = False
    handler = Handler("portlisten each", format)
    handler.writer.start()
    logger = logging.getLogger("portlisten")
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG if verbose else logging.INFO)
