"""
C{portlisten exec}: runs a program that knows nothing of portlisten on the ports that a
listener shares.

The program gets the sockets as from systemd: from descriptor 3 on, with
C{LISTEN_FDS}, C{LISTEN_FDNAMES} and C{LISTEN_PID} in its environment, see
sd_listen_fds(3).  The channel's descriptor comes after the sockets.  The program
ignores the channel.  The channel stays open while the program or a child of it lives,
so the listener knows of them.

The program replaces this process, so its supervisor sees one process only.
"""

from __future__ import annotations

import math
import os
import socket
import time
from collections.abc import Sequence
from typing import NoReturn

from portlisten._channel import paths
from portlisten._commands.options import ProgramOptions
from portlisten._config.settings import ExecSettings
from portlisten._log.standard import lineOf
from portlisten._model import Port
from portlisten._policy.complaints import Complaint
from portlisten._policy.link import SILENT
from portlisten._process import listen_fds, programs, users
from portlisten._process.label import labelOf
from portlisten._process.output import write
from portlisten._worker.joining import receive
from portlisten.errors import CannotRun, PathError, ProtocolError

#: Seconds between two tries to connect to the listener.
RETRY_SECONDS = 0.1

#: Seconds that a listener may stay silent: longer than it makes a worker wait.
ANSWER_SECONDS = 15.0

#: Programs that start a child, which serves or not.
FORKS = frozenset(["doas", "npm", "runuser", "su", "sudo"])


class ExecOptions(ProgramOptions):
    """
    The options of C{portlisten exec}.
    """

    settingsType = ExecSettings

    command = "portlisten exec"
    longdesc = (
        "Runs PROGRAM with the sockets of the ports that the listener at PATH shares."
        " The sockets are descriptor 3 and so on, as systemd would pass them. If no"
        " listener runs at PATH, waits for one."
    )

    epilogue = """
With --user, the command must be root, and becomes that user for good before it joins
the listener. So PROGRAM needs no setpriv, and the listener sees the user that PROGRAM
has.

The sockets are non-blocking, and must stay so: other processes use them too. If a
file is open at one of these numbers already, a socket replaces it. If the listener
stops, PROGRAM goes on, and the port stays taken until PROGRAM stops too: restart
PROGRAM with the listener, or let systemd hold the port.

PROGRAM must be able to take listening sockets: by LISTEN_FDS, as gunicorn and twistd's
systemd: descriptions do, or by their numbers, as uvicorn --fd does. Not all programs
that a systemd socket can start do: unbound takes one only where systemd runs.
LISTEN_PID names this process, so the server must be this process: PROGRAM itself, or
what PROGRAM becomes. These start the server as a child instead: runuser, su, sudo,
doas, 'npm start', sh -c 'a; b'. The server would then listen elsewhere, or not at
all. After its start, the server may fork, as gunicorn does for its workers. These
become the server: env, nice, setpriv, chpst, and exec in a shell:
  portlisten exec ./socket sh -c 'cd /srv/www && exec server'

PROGRAM must serve every socket that it gets: clients of a socket that it leaves
alone wait for ever. With --name, it gets fewer sockets. A port that is only a number
has two sockets, for IPv4 and IPv6; tcp:80 and tcp6:80 have one each.

Examples, with 'twistd portlisten --share http=tcp:80 /run/portlisten/web.sock':
  portlisten exec /run/portlisten/web.sock uvicorn --fd 3 example:app
  portlisten exec --name http /run/portlisten/web.sock gunicorn example:app
  portlisten exec --user web /run/portlisten/web.sock -- gunicorn example:app
"""

    def work(self, settings: ExecSettings) -> None:
        """
        See L{execute}.
        """
        execute(settings)


class _Log:
    """
    Writes what happens to standard error.

    @ivar format: the format of the log.
    """

    format = "text"

    def __call__(
        self, event: str, message: str, level: str = "info", **fields: object
    ) -> None:
        prefix = "portlisten exec"
        write(lineOf(self.format, prefix, event, level, message, fields))


_log = _Log()


def obtain(
    path: str,
    names: Sequence[str],
    users: Sequence[int],
    timeout: float | None,
    label: str = "",
) -> tuple[socket.socket, list[tuple[Port, int]]]:
    """
    Join the listener, and receive the sockets that it shares.

    @param timeout: how long that may take, in seconds; L{None} for no limit.
    @param label: the program's name for the operator, or nothing.
    @return: the channel, and each port with a descriptor.  The caller owns all of
        them.
    @raise CannotRun: if no listener answers in time, or the listener cannot serve this
        process.
    """
    complaint = Complaint()
    end = math.inf if timeout is None else time.monotonic() + timeout
    while True:
        found = _request(path, names, users, end, label, complaint)
        if not isinstance(found, str):
            return found
        if time.monotonic() >= end:
            raise CannotRun(f"no listener at {path} within {timeout:g} s: {found}")
        if complaint.isNew(found):
            text = f"waiting for a listener at {path}: {found}"
            _log("listener-awaited", text, path=path, why=found)
        time.sleep(RETRY_SECONDS)


def _request(
    path: str,
    names: Sequence[str],
    users: Sequence[int],
    end: float,
    label: str,
    complaint: Complaint,
) -> tuple[socket.socket, list[tuple[Port, int]]] | str:
    """
    Try once to join the listener.

    @param end: until when the listener may take to answer, as a time of
        C{time.monotonic}.
    @return: as L{obtain}; or the reason, if a later try may succeed.
    @raise CannotRun: if no later try can succeed.
    """
    place = paths.place(path)
    try:
        sock = paths.connect(path, users)
    except OSError as error:
        return paths.explain(error)

    def limitTime() -> None:
        left = end - time.monotonic()
        sock.settimeout(max(0.001, min(ANSWER_SECONDS, left)))

    def waitsOn() -> bool:
        if time.monotonic() >= end or not paths.maySpeakYet(path, place):
            return False
        if complaint.isNew(SILENT):
            text = f"waiting for the listener at {path}: {SILENT}"
            _log("listener-awaited", text, path=path, why=SILENT)
        limitTime()
        return True

    limitTime()
    try:
        received = receive(sock, names, label, waitsOn)
    except TimeoutError:
        sock.close()
        return "it does not answer"
    except ProtocolError as error:
        sock.close()
        raise CannotRun(
            f"the listener at {path} cannot serve this program: {error}"
        ) from None
    if received is None:
        sock.close()
        return "it closed the channel without a reason"
    sock.setblocking(True)
    return sock, received


def execute(settings: ExecSettings) -> NoReturn:
    """
    Become the program's user, and replace this process with the program.

    @raise CannotRun: if that fails.
    """
    _log.format = settings.logFormat
    program, *arguments = settings.program
    _warnOfFork(program)
    environment = users.environmentOf(settings.user, os.environ)
    # All that follows is done by that user, so mistakes in permissions show now.
    users.become(settings.user, settings.group)
    found = programs.find(program)
    try:
        paths.check(settings.path)
        label = labelOf(None)
    except (PathError, ValueError) as error:
        raise CannotRun(str(error)) from None
    sock, received = obtain(
        settings.path, settings.names, settings.listenerUsers, settings.timeout, label
    )
    for number, (port, _) in enumerate(received, listen_fds.FIRST_DESCRIPTOR):
        text = f"{port.label} is descriptor {number}"
        _log("socket-given", text, port=port.label, descriptor=number)
    try:
        listen_fds.arrange([*(descriptor for _, descriptor in received), sock.detach()])
    except OSError as error:
        raise CannotRun(
            f"no room for {len(received)} sockets: {error.strerror}; raise 'ulimit -n'"
        ) from None
    environment.update(listen_fds.environment([port.name for port, _ in received]))
    programs.restoreSignals()
    try:
        os.execve(found, [program, *arguments], environment)  # noqa: S606
    except OSError as error:
        why = programs.explain(found, error)
        raise CannotRun(f"{found}: {why}", programs.NOT_EXECUTABLE) from None


def _warnOfFork(program: str) -> None:
    """
    Warn if the program is one that starts the server as a child.
    """
    name = os.path.basename(program)
    if name in FORKS:
        instead = (
            "run the server itself, as in 'node server.js'"
            if name == "npm"
            else "leave it out, and say --user"
        )
        _log(
            "program-forks",
            f"{name} starts the server as a child, and LISTEN_PID names {name}: the"
            f" server may listen elsewhere, or not at all; {instead}",
            "warn",
        )
