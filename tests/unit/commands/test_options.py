"""
Tests for L{portlisten._commands.options}.
"""

from __future__ import annotations

import io
import os
import pwd
import sys
from dataclasses import dataclass
from typing import Any

from twisted.python.usage import Options, UsageError
from twisted.scripts.twistd import ServerOptions  # type: ignore[attr-defined]
from twisted.trial.unittest import SynchronousTestCase

from portlisten import __version__, _compiled, _kernel
from portlisten._commands.options import CommandOptions
from portlisten._config.options import Settings, option
from portlisten._config.values import count
from tests.support.users import unusedUID
from twisted import copyright

NOBODY = pwd.getpwnam("nobody").pw_uid


@dataclass(frozen=True, kw_only=True)
class ToolSettings(Settings):
    """
    The settings of a command of the tests' own.
    """

    size: int = option(3, count(1, 10), "How large.")


class ToolOptions(CommandOptions):
    """
    The options of a command of the tests' own.
    """

    settingsType = ToolSettings

    command = "tool"

    synopsis = "[options] NAME"

    epilogue = "\nExamples:\n  tool  one\n"

    def parseArgs(self, *args: str) -> None:
        """
        Take NAME.
        """
        if len(args) != 1:
            raise UsageError("expected NAME")


def toolOptions(**values: Any) -> ToolOptions:
    """
    Make options whose parent, C{twistd}, was given these.
    """
    options = ToolOptions()
    options.parent = Options()
    options.parent.update(values)
    return options


class OptionsTests(SynchronousTestCase):
    """
    Tests for L{CommandOptions}.
    """

    def assertRefused(self, reason: str, *args: str) -> None:
        """
        Expect that the process would end with this line.
        """
        error = self.assertRaises(SystemExit, ToolOptions().parseOptions, list(args))
        self.assertEqual(error.code, f"tool: {reason} (see 'twistd tool --help')")

    def test_good(self) -> None:
        """
        What is right is taken.
        """
        options = ToolOptions()
        options.parseOptions(["--size", "7", "name"])
        self.assertEqual(options["size"], 7)

    def test_version(self) -> None:
        """
        It says which portlisten and which Twisted it is, and exits with 0.
        """
        output = io.StringIO()
        self.patch(sys, "stdout", output)
        exit = self.assertRaises(SystemExit, ToolOptions().parseOptions, ["--version"])
        self.assertEqual(exit.code, 0)
        self.assertEqual(
            output.getvalue(),
            f"portlisten {__version__} ({_compiled.describe()}), with Twisted"
            f" {copyright.version}\n",
        )

    def test_twistdsOptions(self) -> None:
        """
        An option of C{twistd}'s that comes too late is told to be one.
        """
        options = ToolOptions()
        options.parent = ServerOptions()
        for argument in ("--uid", "--nodaemon", "-n", "-u", "--pidfile=x"):
            error = self.assertRaises(SystemExit, options.parseOptions, [argument, "x"])
            name = argument.partition("=")[0]
            self.assertIn(
                f"{name} is an option of twistd's: it comes before tool", str(error)
            )
        error = self.assertRaises(SystemExit, options.parseOptions, ["--nonsense"])
        self.assertIn("option --nonsense not recognized", str(error))

    def test_order(self) -> None:
        """
        An option that comes after an argument is told to be misplaced; others may
        begin with a dash.
        """
        options = ToolOptions()
        for arguments in (["a", "--size", "3"], ["a", "b", "--size=3"]):
            error = self.assertRaises(UsageError, options.checkOrder, arguments)
            self.assertIn("options come before the arguments: --size", str(error))
        for arguments in ([], ["--size"], ["a", "--other"], ["a", "-"], ["a", "size"]):
            options.checkOrder(arguments)

    def test_path(self) -> None:
        """
        A path does not begin with a dash.
        """
        options = ToolOptions()
        error = self.assertRaises(UsageError, options.checkPath, "--size=3")
        self.assertIn("is written ./--size=3", str(error))
        options.checkPath("./--size=3")

    def test_mistakes(self) -> None:
        """
        Each kind of mistake is told in one line: an unknown option, a bad
        value, and a bad argument.
        """
        self.assertRefused("option --colour not recognized", "--colour", "name")
        self.assertRefused(
            "--size: '11' is not a whole number from 1 to 10", "--size", "11", "name"
        )
        self.assertRefused("expected NAME")

    def test_privileges(self) -> None:
        """
        A mistake in C{twistd}'s own options is told in the same way.
        """
        error = self.assertRaises(SystemExit, toolOptions(gid=1).parseOptions, ["name"])
        self.assertTrue(str(error.code).startswith("tool: --gid without --uid"))

    def test_fromCommandLine(self) -> None:
        """
        Without arguments, those of the process count.
        """
        self.patch(sys, "argv", ["tool", "--size", "5", "name"])
        options = ToolOptions()
        options.parseOptions()
        self.assertEqual(options["size"], 5)

    def test_usage(self) -> None:
        """
        The help ends with the examples, as they were laid out.
        """
        usage = ToolOptions().getUsage()
        self.assertIn("--size=", usage)
        self.assertTrue(usage.endswith("\nExamples:\n  tool  one\n"))

    def test_platform(self) -> None:
        """
        On other systems than Linux, one line says so.
        """
        self.patch(sys, "platform", "darwin")
        error = self.assertRaises(SystemExit, ToolOptions().parseOptions, [])
        self.assertEqual(error.code, "tool: needs Linux, and this is darwin")


class PrivilegesTests(SynchronousTestCase):
    """
    Tests for L{CommandOptions.checkPrivileges}.
    """

    def be(self, uid: int) -> None:
        """
        Pretend to be this user.
        """
        self.patch(os, "getuid", lambda: uid)

    def assertRefused(self, reason: str, **parent: Any) -> None:
        """
        Expect that these options of C{twistd}'s are refused, and why.
        """
        options = toolOptions(**parent)
        error = self.assertRaises(UsageError, options.checkPrivileges)
        self.assertIn(reason, str(error))

    def test_tac(self) -> None:
        """
        Without C{twistd}'s options, privileges are not checked.
        """
        ToolOptions().checkPrivileges()

    def test_neither(self) -> None:
        """
        Whoever runs it may leave users and groups alone.
        """
        for uid in (0, 1000):
            self.be(uid)
            toolOptions(uid=None, gid=None, euid=0).checkPrivileges()

    def test_drop(self) -> None:
        """
        Root may become another user, with a group or with that user's own.
        """
        self.be(0)
        toolOptions(uid=NOBODY, gid=1, euid=0).checkPrivileges()
        toolOptions(uid=NOBODY, gid=None, euid=0).checkPrivileges()

    def test_euid(self) -> None:
        """
        Root that could come back is refused.
        """
        self.be(0)
        self.assertRefused("--euid would keep root", uid=NOBODY, gid=1, euid=1)

    def test_gidAlone(self) -> None:
        """
        A group without a user would drop nothing, and is refused, the group 0
        included.
        """
        self.be(0)
        for gid in (1, 0):
            self.assertRefused("--gid without --uid", uid=None, gid=gid, euid=0)

    def test_unknownUser(self) -> None:
        """
        The number of no user is refused, before it is too late.
        """
        self.be(0)
        uid = unusedUID()
        self.assertRefused(f"no user has the number {uid}", uid=uid, gid=1, euid=0)

    def test_notRoot(self) -> None:
        """
        Others cannot become anybody else, root included.
        """
        self.be(NOBODY)
        self.assertRefused("--uid needs root", uid=0, gid=None, euid=0)
        self.assertRefused("--uid needs root", uid=unusedUID(), gid=None, euid=0)

    def test_already(self) -> None:
        """
        Others may name themselves.
        """
        self.be(NOBODY)
        toolOptions(uid=NOBODY, gid=None, euid=0).checkPrivileges()

    def test_withoutCapabilities(self) -> None:
        """
        Root that may not change users is refused before anything is bound.
        """
        self.be(0)
        self.patch(_kernel, "mayChangeUsers", lambda: False)
        self.assertRefused("needs CAP_SETUID and CAP_SETGID", uid=NOBODY, euid=0)
        toolOptions(uid=0, gid=None, euid=0).checkPrivileges()

    def test_chroot(self) -> None:
        """
        A process that stays outside of its chroot is refused, and one whose pid file
        has no folder there.
        """
        root = self.mktemp()
        os.makedirs(os.path.join(root, "run"))
        self.assertRefused("add --rundir /", chroot=root, rundir=".")
        self.assertRefused("add --rundir /", chroot=root)
        for pidFile in ("twistd.pid", "/nowhere/twistd.pid"):
            self.assertRefused(
                "add --pidfile=", chroot=root, rundir="/", pidfile=pidFile
            )
        for harmless in ("", None, "/twistd.pid", "/run/twistd.pid"):
            options = toolOptions(chroot=root, rundir="/", pidfile=harmless)
            options.checkPrivileges()
