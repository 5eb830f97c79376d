"""
The options of a command: a mistake in them is one line, and C{twistd} drops all
privileges.
"""

from __future__ import annotations

import itertools
import os
import re
import signal
import sys
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any, NoReturn

from twisted.python.usage import (
    CompleteFiles,
    Completer,
    Completions,
    Options,
    UsageError,
)

from portlisten import __version__, _compiled
from portlisten._commands import generated
from portlisten._config.options import Settings, useless
from portlisten._config.settings import ProgramSettings
from portlisten._process import exits, users
from portlisten._process.output import complain, show
from portlisten.errors import CannotRun
from twisted import copyright


def printVersion() -> NoReturn:
    """
    Print the versions of portlisten and Twisted, and which parts of portlisten are
    compiled, and end the process.

    @raise SystemExit: always.
    """
    parts = _compiled.describe()
    show(f"portlisten {__version__} ({parts}), with Twisted {copyright.version}")
    raise SystemExit(0)


class CommandOptions(Options):
    """
    The options of a command.  A mistake ends the process with one line.

    The command's settings define the options.  This object maps the name of each option
    to its value.  C{settings()} of the subclass makes settings of the values.

    @cvar settingsType: the class of the settings.
    @cvar command: the name of the command.
    @cvar program: the words before the command on a command line.
    @cvar arguments: how the shell completes the arguments.
    @cvar synopsis: the arguments, as the help shows them.
    @cvar longdesc: the purpose of the command.
    @cvar epilogue: the end of the help, with its line breaks.
    """

    settingsType: type[Settings]
    command = ""
    program = "twistd "
    arguments: Sequence[Completer] = ()
    epilogue = ""

    synopsis: str
    longdesc: str
    optParameters: list[list[Any]]
    optFlags: list[list[Any]]
    compData: Completions

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.optParameters = generated.parameters(cls.settingsType)
        cls.optFlags = generated.flags(cls.settingsType)
        cls.compData = generated.completions(cls.settingsType, cls.arguments)
        for name, method in generated.methods(cls.settingsType).items():
            setattr(cls, name, method)

    def __init__(self) -> None:
        super().__init__()
        for option in generated.commandLine(self.settingsType):
            several = option.several
            self[option.name] = list(option.default) if several else option.default

    def given(self) -> dict[str, Any]:
        """
        Return the values of all options, by the names of the settings' fields.
        """
        return {
            option.field: option.freeze(self[option.name])
            for option in generated.commandLine(self.settingsType)
        }

    def postOptions(self) -> None:
        """
        Check that every given option means something with the given wire.

        @raise UsageError: if an option does not.
        """
        for option in useless(self.settingsType, self):
            raise UsageError(
                f"--{option.name} means nothing with --wire={self['wire']}"
            )

    def parseOptions(self, options: Any = None) -> None:
        """
        See L{Options.parseOptions}.

        @raise SystemExit: where L{Options} would raise L{UsageError}.
        """
        if sys.platform != "linux":
            raise SystemExit(f"{self.command}: needs Linux, and this is {sys.platform}")
        try:
            super().parseOptions(options)
            self.checkPrivileges()
            self._checkLog()
        except UsageError as error:
            self.refuse(self._misplaced(str(error)) or str(error))

    def opt_version(self) -> NoReturn:
        """
        Print portlisten's version and Twisted's, and exit.
        """
        printVersion()

    def opt_help(self) -> NoReturn:
        """
        Display this help and exit.
        """
        show(str(self))
        raise SystemExit(0)

    def getUsage(self, width: int | None = None) -> str:
        """
        See L{Options.getUsage}.
        """
        # Docstrings of methods have line breaks and indentation.
        for name, doc in self.docs.items():
            self.docs[name] = doc and " ".join(doc.split())
        return str(super().getUsage(width)) + self.epilogue

    def _misplaced(self, reason: str) -> str | None:
        """
        Explain an unknown option that belongs to C{twistd}.

        @param reason: the text of the L{UsageError}.
        @return: L{None} if the error is another one.
        """
        unknown = re.fullmatch("option (--?([A-Za-z_-]+)) not recognized", reason)
        known = [
            *(name.rstrip("=") for name in getattr(self._parent, "longOpt", ())),
            *getattr(self._parent, "shortOpt", "").replace(":", ""),
        ]
        if unknown is None or unknown[2] not in known:
            return None
        return f"{unknown[1]} is an option of twistd's: it comes before {self.command}"

    def checkOrder(self, arguments: Sequence[str]) -> None:
        """
        Check that no option comes after the first argument: options end there.

        @raise UsageError: if an option does.
        """
        for before, argument in itertools.pairwise(arguments):
            name = argument.lstrip("-").partition("=")[0]
            if argument.startswith("-") and name in self.synonyms:
                raise UsageError(
                    f"options come before the arguments: {argument} stands after"
                    f" {before}"
                )

    def checkPath(self, path: str) -> None:
        """
        Check that a path does not look like an option.

        @raise UsageError: if it does.
        """
        if path.startswith("-"):
            raise UsageError(
                f"PATH would be {path!r}: options come before the arguments, and a path"
                f" that begins with '-' is written ./{path}"
            )

    def refuse(self, reason: str) -> NoReturn:
        """
        End the process with one line.

        @raise SystemExit: always.
        """
        raise SystemExit(
            f"{self.command}: {reason} (see '{self.program}{self.command} --help')"
        )

    def checkPrivileges(self) -> None:
        """
        Check C{twistd}'s options for users, groups and the chroot.

        @raise UsageError: if C{twistd} would fail, or would keep privileges that the
            operator expects it to drop.
        """
        if self._parent is None:
            return
        self._checkChroot(self._parent)
        uid, gid = self._parent.get("uid"), self._parent.get("gid")
        if self._parent.get("euid"):
            raise UsageError(
                "--euid would keep root as the saved uid, to be taken back by"
                " anything in the process: leave it out"
            )
        if uid is None:
            if gid is not None:
                raise UsageError(
                    "--gid without --uid would keep all of root's privileges: add"
                    " --uid, as in 'twistd --uid nobody --gid nogroup'"
                )
            return
        found = users.obstacle("--uid", uid, uid != os.getuid())
        if found is not None:
            raise UsageError(found)

    def _checkLog(self) -> None:
        if self.get("log-format") == "json" and (self._parent or {}).get("logger"):
            raise UsageError(
                "--log-format=json means nothing with twistd's --logger, which writes"
                " the log itself: leave one of them out"
            )

    @staticmethod
    def _checkChroot(parent: Mapping[str, Any]) -> None:
        chroot, pidFile = parent.get("chroot"), parent.get("pidfile")
        if not chroot:
            return
        if not os.path.isabs(parent.get("rundir") or ""):
            raise UsageError(
                "--chroot would leave the process in the folder that it is in now,"
                " outside: add --rundir / or another folder of the chroot's"
            )
        if pidFile:
            folder = os.path.dirname(os.path.abspath(pidFile))
            if not os.path.isdir(chroot + folder):
                raise UsageError(
                    f"--chroot: {chroot} has no folder {folder} for the pid file: add"
                    " --pidfile= for none, or name another one"
                )

    @property
    def _parent(self) -> MutableMapping[str, Any] | None:
        # twistd's own options; None in a .tac file.
        return getattr(self, "parent", None)

    @property
    def process(self) -> exits.Command:
        """
        The command with twistd's options, for the service.
        """
        return exits.Command(
            self.command,
            self._parent or {},
            logFormat=self.get("log-format") or "text",
        )


class FileOptions(CommandOptions):
    """
    The options of a command that takes the file of C{portlisten run}.
    """

    settingsType: type[Settings] = Settings

    program = ""

    arguments = [CompleteFiles(descr="FILE")]

    synopsis = "[options] FILE"

    def parseArgs(self, *args: str) -> None:
        """
        Take FILE.
        """
        self.checkOrder(args)
        if len(args) != 1:
            raise UsageError(f"expected FILE, got {len(args)} arguments")
        (self["file"],) = args


class ProgramOptions(CommandOptions):
    """
    The options of a command that takes PATH and PROGRAM, and runs PROGRAM.
    """

    settingsType: type[ProgramSettings] = ProgramSettings

    program = ""

    arguments = [
        CompleteFiles(descr="PATH"),
        CompleteFiles(descr="PROGRAM", repeat=True),
    ]

    synopsis = "[options] PATH PROGRAM [ARGUMENT ...]"

    def parseArgs(self, *args: str) -> None:
        """
        Take PATH, PROGRAM and its arguments.  PROGRAM may have C{--} before it.

        @raise UsageError: if one is missing, or an option follows PATH.
        """
        path, *program = args or [""]
        if program[:1] == ["--"]:
            del program[0]
        else:
            self.checkOrder([path, *program[:1]])
        if not program:
            raise UsageError(
                f"expected PATH and PROGRAM, got {min(len(args), 1)} arguments"
            )
        self.checkPath(path)
        self["path"], self["program"] = path, program

    def settings(self) -> Any:
        """
        Make settings of the options and arguments.
        """
        return self.settingsType(
            path=self["path"], program=tuple(self["program"]), **self.given()
        )

    def work(self, settings: Any) -> None:
        """
        Do what the command is for.

        @raise CannotRun: if that is impossible.
        """
        raise NotImplementedError

    def run(self) -> NoReturn:
        """
        Run the command.

        @raise SystemExit: always.
        """
        try:
            self.work(self.settings())
        except CannotRun as error:
            complain(self.command, str(error))
            raise
        except KeyboardInterrupt:
            raise SystemExit(128 + signal.SIGINT) from None
        raise SystemExit(0)
