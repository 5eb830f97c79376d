"""
C{portlisten check}: say what C{portlisten run} would run.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from typing import NoReturn

from portlisten._commands import obstacles
from portlisten._commands.asking import PLACE_HINT
from portlisten._commands.obstacles import groupName
from portlisten._commands.options import FileOptions
from portlisten._commands.run_file import load
from portlisten._config.file import RunSettings, WorkersSettings
from portlisten._config.file_values import Age, Size
from portlisten._config.settings import CheckSettings
from portlisten._config.wrong import Problem, key
from portlisten._config.wrong_file import WrongFile
from portlisten._control.client import ControlClient, UnknownCommand
from portlisten._control.convert import ControlError
from portlisten._control.messages import Compare, Reload, ReloadAnswer
from portlisten._control.place import controlPath
from portlisten._model import printable
from portlisten._process import listen_fds, users
from portlisten._process.output import complain, show
from portlisten._supervisor.slots import labelOf

#: A file, for the help of commands that take one.
EXAMPLE = """\
  path = "/run/portlisten/web.sock"
  user = "portlisten"
  group = "web"

  [ports.http]
  listen = 80

  [workers.web]
  command = ["twistd", "--nodaemon", "--pidfile=", "web", "--path", "/srv/www",
             "--listen=portlisten:{path}:name=http"]
  count = 4
  user = "web"
"""


class CheckOptions(FileOptions):
    """
    The options of C{portlisten check}.
    """

    settingsType = CheckSettings
    command = "portlisten check"

    longdesc = (
        "Says what 'portlisten run FILE' would run, and names all mistakes in FILE. It"
        " binds no port, and starts no worker. FILE is TOML. It names the ports, the"
        " path of the channel, and the commands of the workers."
    )

    epilogue = f"""
Run it as the user that runs FILE: as root, it also checks that the users of the workers
may execute their programs. FILE and its folder must then belong to root, and no other
user may be able to write to them: root runs the commands in FILE.

Each mistake is one line on standard error: the file, the key, and what would be right.

With --against-running, the command asks the supervisor that runs FILE what 'portlisten
reload FILE' would change, and shows that instead.

Examples, with this file:
{EXAMPLE}
  portlisten check /etc/portlisten/web.toml && portlisten run /etc/portlisten/web.toml
  portlisten check --against-running /etc/portlisten/web.toml
"""

    def run(self) -> NoReturn:
        """
        Run the command.

        @raise SystemExit: always.
        """
        settings = CheckSettings(file=self["file"], **self.given())
        try:
            # systemd passes them to ExecStart= alone, and not to ExecStartPre=.
            found = check(settings.file, listen_fds.werePassed())
        except WrongFile as error:
            for problem in error.problems:
                self._complain(str(problem))
            raise SystemExit(1) from None
        for doubt in doubts(found):
            self._complain(f"warning: {doubt}")
        lines = list(describe(found))
        if settings.againstRunning:
            lines = self._plan(found)
        if not settings.quiet:
            show("\n".join(lines))
        raise SystemExit(0)

    def _plan(self, found: RunSettings) -> list[str]:
        """
        Ask the supervisor what a reload would change.

        @return: that, in lines.
        @raise SystemExit: if it cannot be asked, or not all of it can change.
        """
        listener = found.listener
        try:
            with ControlClient(listener.path, listener.control) as client:
                request = Compare((os.path.abspath(self["file"]),))
                answer = askForPlan(client, request)
        except ControlError as error:
            self._complain(f"it cannot be compared with what runs: {error}")
            self._complain(PLACE_HINT)
            raise SystemExit(1) from None
        if answer.problems:
            for problem in answer.problems:
                self._complain(problem.removeprefix(f"{request.file[0]}: "))
            raise SystemExit(1)
        return list(answer.lines)

    def _complain(self, text: str) -> None:
        complain(printable(self["file"]), printable(text))


def askForPlan(client: ControlClient, request: Reload | Compare) -> ReloadAnswer:
    """
    Ask a supervisor what a reload changes.

    @raise ControlError: if it does not answer.
    """
    try:
        return client.askFor(request, ReloadAnswer)
    except UnknownCommand:
        raise ControlError(
            f"the listener at {client.channel} has no supervisor that can reload:"
            " 'portlisten run' starts one"
        ) from None


def check(path: str, hasSockets: bool = True) -> RunSettings:
    """
    Check a file, and whether this machine can run it.

    @param path: the path of the file.
    @param hasSockets: see L{load}.
    @raise WrongFile: if it has mistakes.  The error names all of them.
    """
    try:
        settings = load(path, hasSockets)
    except WrongFile as error:
        problems = [*error.problems, *obstacles.find(error.path, error.workers)]
        raise WrongFile(problems, path, error.path, error.workers) from None
    listener, workers = settings.listener, settings.workers
    problems = [
        *obstacles.ofUsers(settings),
        *obstacles.find(listener.path, workers),
    ]
    if problems:
        raise WrongFile(problems, path, listener.path, workers)
    return settings


def doubts(settings: RunSettings) -> Iterator[Problem]:
    """
    Find what is allowed, and may be a mistake.
    """
    for group in settings.workers:
        where = key("workers", group.name)
        if not any("{path}" in word for word in group.command):
            yield Problem(
                f"{where}.command",
                "it has no {path}: the workers must find the channel's path elsewhere",
            )
        if group.user is not None and group.user == settings.user != os.geteuid():
            yield Problem(
                f"{where}.user",
                f"{users.nameOf(group.user)} is the listener's user as well, so a"
                " worker could signal the listener: give the listener a user of its"
                " own",
            )
    if not settings.workers:
        yield Problem("workers", "the file starts no worker: connections wait")


def describe(settings: RunSettings) -> Iterator[str]:
    """
    Say what would be run, in lines.
    """
    listener = settings.listener
    control = controlPath(listener.path, listener.control)
    group = "" if listener.group is None else f", group {groupName(listener.group)}"
    yield f"listener  user {_user(settings.user)}"
    yield f"path      {listener.path}, mode {listener.mode:04o}{group}"
    yield f"control   {control or 'none'}"
    yield "ports"
    for texts, how in (
        (listener.listen, "connections are handed to workers"),
        (listener.share, "workers accept themselves"),
    ):
        for text in texts:
            name, _, port = text.partition("=")
            yield f"  {name}  {port}: {how}"
    yield "workers" if settings.workers else "workers   none"
    for each in settings.workers:
        yield from _describeGroup(each, listener.path)


def _describeGroup(group: WorkersSettings, path: str) -> Iterator[str]:
    own = "" if group.group is None else f", group {groupName(group.group)}"
    yield f"  {group.name}  {group.count}, user {_user(group.user)}{own}"
    words = group.commandFor(path, labelOf(group.name, 1))
    yield f"    command  {printable(shlex.join(words))}"
    yield f"    folder   {group.folder}"
    yield (
        f"    stop     drain for up to {group.grace:g} s, then SIGTERM, and SIGKILL"
        f" after {group.stop:g} s"
    )
    limits = list(_limits(group))
    if limits:
        yield f"    limits   {', '.join(limits)}"
    if group.environment:
        names = ", ".join(sorted(group.environment))
        yield f"    environment  {printable(names)}"


def _limits(group: WorkersSettings) -> Iterator[str]:
    if group.maxMemory is not None:
        yield f"memory {Size().write(group.maxMemory)}"
    if group.maxAge is not None:
        yield f"age {Age().write(group.maxAge)}"
    if group.openFiles is not None:
        yield f"{group.openFiles} open files"
    if group.umask is not None:
        yield f"umask {group.umask:04o}"


def _user(uid: int | None) -> str:
    return users.nameOf(os.geteuid() if uid is None else uid)
