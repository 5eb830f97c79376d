"""
C{portlisten}: the command that runs a supervisor, asks it, and makes workers of
programs.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from twisted.python.usage import Options as UsageOptions
from twisted.python.usage import UsageError

from portlisten._commands.as_port import AsPortOptions
from portlisten._commands.check import CheckOptions
from portlisten._commands.deny import AllowOptions, DenyOptions
from portlisten._commands.drain import DrainOptions, UndrainOptions
from portlisten._commands.each import EachOptions
from portlisten._commands.execute import ExecOptions
from portlisten._commands.options import printVersion
from portlisten._commands.pause import PauseOptions, ResumeOptions
from portlisten._commands.reload import ReloadOptions
from portlisten._commands.restart import RestartOptions
from portlisten._commands.run import RunOptions
from portlisten._commands.status import StatusOptions
from portlisten._commands.stop import StopOptions
from portlisten._commands.upgrade import UpgradeOptions
from portlisten._process.output import show


class Options(UsageOptions):
    """
    The options of C{portlisten}.
    """

    synopsis = "Usage: portlisten"

    longdesc = (
        "'portlisten COMMAND --help' describes a command. 'portlisten run FILE' runs a"
        " listener and its workers. A listener alone, and a worker, are commands of"
        " twistd: 'twistd portlisten --help', 'twistd hellofdpass --help'."
    )

    subCommands: list[list[Any]] = [
        ["run", None, RunOptions, "Run a listener and its workers as a file says."],
        ["check", None, CheckOptions, "Say what 'portlisten run' would run."],
        ["status", None, StatusOptions, "Show what is going on, and what is wrong."],
        ["restart", None, RestartOptions, "Replace workers, one after the other."],
        ["reload", None, ReloadOptions, "Change what runs to what the file says."],
        ["upgrade", None, UpgradeOptions, "Replace the listener while it serves."],
        ["stop", None, StopOptions, "Stop a supervisor, and all that it started."],
        ["exec", None, ExecOptions, "Run any program on the ports that are shared."],
        ["each", None, EachOptions, "Start a program for each connection."],
        [
            "as-port",
            None,
            AsPortOptions,
            "Make a Twisted program a worker.",
        ],
        ["pause", None, PauseOptions, "Let load balancers send clients elsewhere."],
        ["resume", None, ResumeOptions, "Let load balancers send clients here again."],
        ["deny", None, DenyOptions, "Reset clients of an address, or list these."],
        ["allow", None, AllowOptions, "Let clients of an address come in again."],
        ["drain", None, DrainOptions, "Let workers finish what they serve."],
        ["undrain", None, UndrainOptions, "Let drained workers serve again."],
    ]

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

    def postOptions(self) -> None:
        """
        Check that the command line has a command.
        """
        if not self.subCommand:
            names = [name for name, *_ in self.subCommands]
            known = f"{', '.join(names[:-1])} or {names[-1]}"
            raise UsageError(f"expected a command, which is {known}")


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """
    Run the C{portlisten} command.

    @param arguments: without the command's name; by default the process's.
    @raise SystemExit: when the command has ended.
    """
    options: Any = Options()
    try:
        options.parseOptions(sys.argv[1:] if arguments is None else arguments)
    except UsageError as error:
        raise SystemExit(
            f"portlisten: {error}; the listener is 'twistd portlisten' (see"
            " 'portlisten --help')"
        ) from None
    options.subOptions.run()
    raise SystemExit(0)
