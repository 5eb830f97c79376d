"""
What the commands that ask a control socket have in common.
"""

from __future__ import annotations

import glob
import os
import signal
import stat
from contextlib import suppress
from typing import NoReturn

from twisted.python.usage import CompleteFiles, UsageError

from portlisten._commands.options import CommandOptions
from portlisten._commands.run_file import channelOf
from portlisten._config.options import Settings
from portlisten._config.settings import TargetSettings
from portlisten._control.client import ControlClient
from portlisten._control.convert import ControlError
from portlisten._control.place import SUFFIX
from portlisten._process.output import complain
from portlisten.errors import CannotRun

#: The exit code if time ran out.
TIME_OVER = 1

#: The exit code if a command cannot ask.
NOT_ASKED = 2

#: Where control sockets are, usually.
FOLDER = "/run/portlisten"

#: What may be wrong if the supervisor of a file cannot be asked.
PLACE_HINT = (
    "if path or control of the file was changed since the start, change it back: they"
    " cannot change while it runs"
)


class AskingOptions(CommandOptions):
    """
    The options of a command that asks a control socket.
    """

    settingsType: type[Settings] = TargetSettings

    program = ""

    def refuse(self, reason: str) -> NoReturn:
        """
        End the process with one line.

        @raise SystemExit: always.
        """
        self.complain(f"{reason} (see '{self.command} --help')")
        raise SystemExit(NOT_ASKED)

    def complain(self, message: str) -> None:
        """
        Write to standard error.
        """
        complain(self.command, message)

    def run(self) -> NoReturn:
        """
        Run the command.

        @raise SystemExit: always.
        """
        try:
            code = self.work()
        except (ControlError, CannotRun) as error:
            self.complain(str(error))
            raise SystemExit(NOT_ASKED) from None
        except KeyboardInterrupt:
            raise SystemExit(128 + signal.SIGINT) from None
        raise SystemExit(code)

    def work(self) -> int:
        """
        Do what the command is for.

        @return: the exit code.
        @raise ControlError: if the listener cannot be asked.
        @raise CannotRun: if an argument is of no use.
        """
        raise NotImplementedError

    def connect(self, settings: TargetSettings) -> ControlClient:
        """
        Connect to the control socket that the arguments mean.

        @return: the client, which the caller owns.
        @raise ControlError: if that fails.
        @raise CannotRun: if the file cannot be read.
        """
        path, control = channelOf(settings.target or onlyChannel())
        return ControlClient(
            path, control if settings.control is None else settings.control
        )


class TargetOptions(AskingOptions):
    """
    The options of a command that asks one supervisor, which must be named.
    """

    arguments = [CompleteFiles(descr="FILE or PATH")]

    synopsis = "[options] FILE|PATH"

    def parseArgs(self, *args: str) -> None:
        """
        Take FILE or PATH.
        """
        self.checkOrder(args)
        if len(args) != 1:
            raise UsageError(f"expected FILE or PATH, got {len(args)} arguments")
        (self["target"],) = args
        self.checkPath(self["target"])

    def connectOrHint(self, settings: TargetSettings) -> ControlClient:
        """
        Connect to the control socket that the arguments mean.  If a file says where it
        is, an error says what may be wrong with that.

        @return: the client, which the caller owns.
        @raise ControlError: if that fails.
        @raise CannotRun: if the file cannot be read.
        """
        try:
            return self.connect(settings)
        except ControlError as error:
            if fileOf(settings.target or "") and settings.control is None:
                raise ControlError(f"{error}\n{PLACE_HINT}") from None
            raise


def onlyChannel() -> str:
    """
    Find the only listener in L{FOLDER}.

    @return: the path of its channel.
    @raise ControlError: if none runs there, or several.
    """
    found = [each.removesuffix(SUFFIX) for each in sorted(_controlSockets())]
    if len(found) == 1:
        return found[0]
    if not found:
        raise ControlError(
            f"no listener has a control socket in {FOLDER}: give PATH, or the FILE of"
            " 'portlisten run'"
        )
    raise ControlError(
        "\n  ".join([f"{len(found)} listeners are in {FOLDER}: give one of", *found])
    )


def _controlSockets() -> list[str]:
    found = []
    for path in glob.glob(os.path.join(glob.escape(FOLDER), f"*{SUFFIX}")):
        with suppress(OSError):
            if stat.S_ISSOCK(os.stat(path).st_mode):
                found.append(path)
    return found


def fileOf(target: str) -> str:
    """
    Find the file that an argument means.

    @return: its absolute path; empty if the argument is no regular file.
    """
    try:
        isFile = stat.S_ISREG(os.stat(target).st_mode)
    except (OSError, ValueError):
        return ""
    return os.path.abspath(target) if isFile else ""
