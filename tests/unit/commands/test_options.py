"""
Tests for L{portlisten._commands.options}.
"""

from __future__ import annotations

import atexit
import grp
import io
import os
import pwd
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from twisted.internet.error import ReactorNotRunning
from twisted.internet.interfaces import IReactorCore
from twisted.internet.task import Clock
from twisted.logger import Logger, LogLevel, capturedLogs, formatEvent
from twisted.python.usage import UsageError
from twisted.scripts.twistd import ServerOptions
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from portlisten import __version__, _kernel
from portlisten._commands.options import CommandOptions
from portlisten._config import values
from portlisten._process import exits, signals
from portlisten._reactor.log_limit import MAXIMUM_LINES
from portlisten.errors import StartFailure
from tests.support.descriptors import watchDescriptors
from twisted import copyright

NOBODY = pwd.getpwnam("nobody").pw_uid


class ToolOptions(CommandOptions):
    """
    The options of a command of the tests' own.
    """

    command = "tool"

    synopsis = "[options] NAME"

    epilogue = "\nExamples:\n  tool  one\n"

    optParameters = [["size", None, 3, "How large.", values.number("size", int, 1, 10)]]

    def parseArgs(self, *args: str) -> None:
        """
        Take NAME.
        """
        if len(args) != 1:
            raise UsageError("expected NAME")


def toolOptions(**parent: Any) -> ToolOptions:
    """
    Make options whose parent, C{twistd}, was given these.
    """
    options = ToolOptions()
    options.parent = parent
    return options


def unusedUID() -> int:
    """
    A number that is no user's.
    """
    return next(
        number
        for number in range(54321, 65000)
        if number not in {entry.pw_uid for entry in pwd.getpwall()}
    )


class Child:
    """
    A Python process.

    @param code: what it runs.
    """

    def __init__(self, test: SynchronousTestCase, code: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        test.addCleanup(self._end)

    def _end(self) -> None:
        self._process.kill()
        self._process.communicate()

    def readLine(self) -> str:
        """
        Wait for a line of its output.
        """
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def terminate(self) -> None:
        """
        Send SIGTERM.
        """
        self._process.terminate()

    def wait(self) -> tuple[int, str, str]:
        """
        Wait for its end.

        @return: its exit code, and what it wrote to standard output and to
            standard error.
        """
        output, errors = self._process.communicate(timeout=60)
        return self._process.returncode, output, errors


class StandInReactor:
    """
    A reactor that only counts how often it was stopped.
    """

    def __init__(self, running: bool) -> None:
        self.running = running
        self.stops = 0

    def stop(self) -> None:
        """
        See L{IReactorCore.stop}.
        """
        if not self.running:
            raise ReactorNotRunning
        self.stops += 1


class StartFailureTests(SynchronousTestCase):
    """
    Tests for L{StartFailure}.
    """

    def test_text(self) -> None:
        """
        Its text is the reason.
        """
        self.assertEqual(str(StartFailure("no room")), "no room")

    def test_exception(self) -> None:
        """
        C{except Exception} catches it, as C{twistd} does to clean up.
        """
        try:
            raise StartFailure("no room")
        except Exception as error:
            self.assertIsInstance(error, StartFailure)

    def test_shortName(self) -> None:
        """
        Its name is short enough to leave most of 100 bytes to the reason.
        """
        qualified = f"{StartFailure.__module__}.{StartFailure.__qualname__}"
        self.assertEqual(qualified, "portlisten.StartFailure")

    def test_exit(self) -> None:
        """
        Nobody catching it, the process exits with 1, and without a traceback.
        """
        watchDescriptors(self)
        child = Child(
            self,
            """
from portlisten.errors import StartFailure
raise StartFailure("no room")
""",
        )
        self.assertEqual(child.wait(), (1, "", ""))


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
            f"portlisten {__version__}, with Twisted {copyright.version}\n",
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
        Elsewhere than on Linux, there is a line that says so.
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
        Without C{twistd}'s options there is nothing to look at.
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
        self.assertRefused(
            f"there is no user with the number {uid}", uid=uid, gid=1, euid=0
        )

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
        for pidFile in ("", None, "/twistd.pid", "/run/twistd.pid"):
            options = toolOptions(chroot=root, rundir="/", pidfile=pidFile)
            options.checkPrivileges()

    def test_userInChroot(self) -> None:
        """
        A user whom the chroot does not know is refused before anything is bound.
        """

        def unknown(uid: int) -> Any:
            raise KeyError(uid)

        exits.checkUser(toolOptions(uid=NOBODY, chroot="/srv"))
        self.patch(pwd, "getpwuid", unknown)
        self.patch(sys, "__stderr__", io.StringIO())
        error = self.assertRaises(
            StartFailure, exits.checkUser, toolOptions(uid=NOBODY, chroot="/srv")
        )
        self.assertIn(f"no user with the number {NOBODY} in /srv", str(error))
        exits.checkUser(toolOptions(uid=None, chroot="/srv"))
        exits.checkUser(ToolOptions())


class LogsElsewhereTests(SynchronousTestCase):
    """
    Tests for L{CommandOptions.logsElsewhere}.
    """

    def test_terminal(self) -> None:
        """
        In the foreground the log goes to the terminal.
        """
        for logfile in (None, "", "-"):
            options = toolOptions(nodaemon=1, logfile=logfile, syslog=0, logger=None)
            self.assertFalse(options.logsElsewhere)

    def test_asked(self) -> None:
        """
        Even there it can be sent elsewhere.
        """
        for name, value in (("logfile", "x.log"), ("syslog", 1), ("logger", "a.b")):
            self.assertTrue(toolOptions(nodaemon=1, **{name: value}).logsElsewhere)

    def test_daemon(self) -> None:
        """
        A daemon has no terminal.
        """
        self.assertTrue(toolOptions(nodaemon=0, logfile=None).logsElsewhere)

    def test_tac(self) -> None:
        """
        Of a C{.tac} file nobody knows, so the log is written to as well.
        """
        self.assertTrue(ToolOptions().logsElsewhere)


class NumberTests(SynchronousTestCase):
    """
    Tests for L{values.number}.
    """

    def assertRefused(
        self, coerce: Callable[[str], Any], texts: list[str], wanted: str
    ) -> None:
        """
        Expect that each of these is refused, and what would do instead.
        """
        for text in texts:
            error = self.assertRaises(UsageError, coerce, text)
            self.assertEqual(str(error), f"--size: {text!r} is not a {wanted}")

    def test_whole(self) -> None:
        """
        Whole numbers in the range are taken, its ends included.
        """
        coerce = values.number("size", int, 1, 10)
        self.assertEqual([coerce(text) for text in ("1", "7", "10")], [1, 7, 10])
        self.assertIsInstance(coerce("7"), int)

    def test_notWhole(self) -> None:
        """
        Everything else is refused.
        """
        self.assertRefused(
            values.number("size", int, 1, 10),
            ["0", "11", "-1", "1.5", "1e0", "many", "", "nan"],
            "whole number from 1 to 10",
        )

    def test_fraction(self) -> None:
        """
        Fractions are taken where they make sense.
        """
        coerce = values.number("size", float, 0.5)
        self.assertEqual([coerce(text) for text in ("0.5", "7", "1e3")], [0.5, 7, 1e3])

    def test_notFinite(self) -> None:
        """
        What is no number that one can count or wait for is refused, even where
        there is no upper limit.
        """
        self.assertRefused(
            values.number("size", float, 0.5),
            ["0.4", "-inf", "inf", "nan", "1e999", "long"],
            "number of at least 0.5",
        )

    def test_noMaximum(self) -> None:
        """
        Where there is no upper limit, none is spoken of.
        """
        coerce = values.number("size", int, 0)
        self.assertEqual(coerce("1000000000000"), 10**12)
        self.assertRefused(coerce, ["-1"], "whole number of at least 0")


class GroupTests(SynchronousTestCase):
    """
    Tests for L{values.group}.
    """

    def test_name(self) -> None:
        """
        A group may be given by its name.
        """
        for entry in grp.getgrall():
            self.assertEqual(values.group(entry.gr_name), entry.gr_gid)

    def test_number(self) -> None:
        """
        A group may be given by its number.
        """
        self.assertEqual(values.group("0"), 0)

    def test_unknown(self) -> None:
        """
        What is no group's name or number is refused.
        """
        unused = max(entry.gr_gid for entry in grp.getgrall() if entry.gr_gid < 60000)
        for text in (str(unused + 1), "no such group", "", "-1", str(2**70)):
            error = self.assertRaises(UsageError, values.group, text)
            self.assertEqual(str(error), f"--group: there is no group {text!r}")

    def test_option(self) -> None:
        """
        The text names the option.
        """
        error = self.assertRaises(UsageError, values.group, "no such group", "team")
        self.assertEqual(str(error), "--team: there is no group 'no such group'")


class UserTests(SynchronousTestCase):
    """
    Tests for L{values.user}.
    """

    def test_name(self) -> None:
        """
        A user may be given by name.
        """
        self.assertEqual(values.user("nobody", "user"), NOBODY)

    def test_number(self) -> None:
        """
        A user may be given by number.
        """
        self.assertEqual(values.user(str(NOBODY), "user"), NOBODY)

    def test_unknown(self) -> None:
        """
        What is no user's name or number is refused.
        """
        for text in (str(unusedUID()), "no such user", "", "-1", str(2**70)):
            error = self.assertRaises(UsageError, values.user, text, "owner")
            self.assertEqual(str(error), f"--owner: there is no user {text!r}")


class ChoiceTests(SynchronousTestCase):
    """
    Tests for L{values.choice}.
    """

    def test_values(self) -> None:
        """
        Each of the values is taken, and nothing else.
        """
        coerce = values.choice("colour", "red", "green")
        self.assertEqual([coerce("red"), coerce("green")], ["red", "green"])
        for text in ("blue", "", "Red", "red, green"):
            error = self.assertRaises(UsageError, coerce, text)
            self.assertEqual(str(error), f"--colour: {text!r} is none of red, green")


class FailToStartTests(SynchronousTestCase):
    """
    Tests for L{exits.failToStart}.
    """

    def failing(self, **parent: Any) -> list[Any]:
        """
        Fail, and expect one line on standard error.

        @return: what was logged.
        """
        terminal = io.StringIO()
        self.patch(sys, "__stderr__", terminal)
        events: list[Any] = []
        self.patch(exits, "log", Logger(observer=events.append))
        error = self.assertRaises(
            StartFailure, exits.failToStart, toolOptions(**parent), "{no} room"
        )
        self.assertEqual(str(error), "{no} room")
        self.assertEqual(terminal.getvalue(), "tool: {no} room\n")
        return events

    def test_terminal(self) -> None:
        """
        Where the log goes to the terminal, nothing is said twice.
        """
        self.assertEqual(self.failing(nodaemon=1), [])

    def test_log(self) -> None:
        """
        Where the log goes elsewhere, it is told as well.
        """
        (event,) = self.failing(nodaemon=0)
        self.assertEqual(event["log_level"], LogLevel.critical)
        self.assertEqual(formatEvent(event), "tool: {no} room")

    def test_pidFile(self) -> None:
        """
        The pid file is removed before twistd reports the failure; twistd then has
        nothing left to remove.
        """
        path = self.mktemp()
        with open(path, "w"):
            pass
        options = toolOptions(nodaemon=1, pidfile=path)
        self.patch(sys, "__stderr__", io.StringIO())
        self.assertRaises(StartFailure, exits.failToStart, options, "no room")
        self.assertFalse(os.path.exists(path))
        self.assertEqual(options.twistd["pidfile"], "")

    def test_noPidFile(self) -> None:
        """
        A pid file that cannot be removed is left to twistd, which says so.
        """
        options = toolOptions(nodaemon=1, pidfile="/nowhere/pid")
        self.patch(sys, "__stderr__", io.StringIO())
        self.assertRaises(StartFailure, exits.failToStart, options, "no room")
        self.assertEqual(options.twistd["pidfile"], "/nowhere/pid")


class WarnOfRootTests(SynchronousTestCase):
    """
    Tests for L{exits.warnOfRoot}.
    """

    def warnings(self, *uids: int) -> list[Any]:
        """
        What is logged when these are the real, effective and saved user.
        """
        self.patch(os, "getresuid", lambda: uids)
        with capturedLogs() as events:
            exits.warnOfRoot("tool")
        return list(events)

    def test_root(self) -> None:
        """
        Whoever is root, or can become it again, is warned.
        """
        for uids in ((0, 0, 0), (0, 1, 1), (1, 0, 1), (1, 1, 0)):
            (event,) = self.warnings(*uids)
            self.assertEqual(event["log_level"], LogLevel.warn)
            self.assertEqual(event["command"], "tool")

    def test_others(self) -> None:
        """
        Nobody else is.
        """
        self.assertEqual(self.warnings(1, 1, 1), [])


class ExitCleanlyOnTermTests(SynchronousTestCase):
    """
    Tests for L{signals.exitCleanlyOnTerm}.
    """

    def test_exits(self) -> None:
        """
        SIGTERM stops the reactor, what has to be done then is done, and the
        process exits with 0.
        """
        watchDescriptors(self)
        child = Child(
            self,
            """
from twisted.internet import reactor
from portlisten._process.signals import exitCleanlyOnTerm
exitCleanlyOnTerm(reactor)
reactor.addSystemEventTrigger("before", "shutdown", print, "stopping")
reactor.callLater(0.01, print, "ready", flush=True)
reactor.run()
print("done")
""",
        )
        self.assertEqual(child.readLine(), "ready\n")
        child.terminate()
        self.assertEqual(child.wait(), (0, "stopping\ndone\n", ""))

    def test_installed(self) -> None:
        """
        The handler is installed once the reactor runs, and has it stop from
        its own thread.
        """
        calls: list[Any] = []

        @implementer(IReactorCore)
        class Reactor(StandInReactor):
            def callLater(self, delay: float, *call: Any) -> None:
                calls.append((delay, *call))

            def callFromThread(self, *call: Any) -> None:
                calls.append(call)

            def addSystemEventTrigger(self, *trigger: Any) -> None:
                triggers.append(trigger)

        triggers: list[Any] = []
        before = signal.getsignal(signal.SIGTERM)
        self.addCleanup(signal.signal, signal.SIGTERM, before)
        self.patch(signals, "_terms", [])
        reactor = Reactor(running=True)
        signals.exitCleanlyOnTerm(reactor)
        ((delay, install, number, handler),) = calls
        self.assertEqual((delay, install, number), (0, signal.signal, signal.SIGTERM))
        self.assertIs(signal.getsignal(signal.SIGTERM), handler)
        ((phase, event, *forget),) = triggers
        self.assertEqual((phase, event), ("after", "shutdown"))
        self.assertEqual(forget, [signals._forgetTerm, reactor])
        self.assertFalse(signals.toldToStop())
        handler(signal.SIGTERM, None)
        self.assertTrue(signals.toldToStop())
        self.assertEqual(reactor.stops, 0)
        stop, *args = calls[1]
        with capturedLogs() as events:
            stop(*args)
        self.assertEqual(reactor.stops, 1)
        self.assertEqual(
            [formatEvent(event) for event in events], ["received SIGTERM, stopping"]
        )

    def test_notRunning(self) -> None:
        """
        A reactor that has stopped is not stopped once more.
        """
        reactor = StandInReactor(running=False)
        signals._stop(reactor)
        self.assertEqual(reactor.stops, 0)


class ForgetTermTests(SynchronousTestCase):
    """
    Tests for L{signals._forgetTerm} and L{signals.toldToStop}.
    """

    def after(self, number: int | None) -> int | None:
        """
        What a reactor would end the process with after a signal, if it is told to
        forget one.
        """

        class Reactor:
            _exitSignal = number

        signals._forgetTerm(Reactor)
        return Reactor._exitSignal

    def test_term(self) -> None:
        """
        SIGTERM that met Twisted's own handler is no reason to end by a signal; any
        other is.
        """
        self.assertIsNone(self.after(signal.SIGTERM))
        self.assertEqual(self.after(signal.SIGINT), signal.SIGINT)
        self.assertIsNone(self.after(None))

    def test_otherReactor(self) -> None:
        """
        A reactor that knows nothing of that is left alone.
        """
        signals._forgetTerm(object())

    def test_firstMoment(self) -> None:
        """
        The process ends with 0, though SIGTERM came before the reactor's first turn.
        """
        watchDescriptors(self)
        child = Child(
            self,
            """
import os, signal
from twisted.internet import reactor
from portlisten._process.signals import exitCleanlyOnTerm
exitCleanlyOnTerm(reactor)
reactor.addSystemEventTrigger("after", "startup", os.kill, os.getpid(), signal.SIGTERM)
reactor.run()
signal.signal(signal.SIGTERM, signal.SIG_DFL)
# What the reactor's last act is, and twistd's.
if reactor._exitSignal is not None:
    os.kill(os.getpid(), reactor._exitSignal)
""",
        )
        self.assertEqual(child.wait(), (0, "", ""))

    def test_told(self) -> None:
        """
        It is known that SIGTERM came, from that moment on and before the reactor runs.
        """
        watchDescriptors(self)
        child = Child(
            self,
            """
import os, signal
from twisted.internet import reactor
from portlisten._process.signals import exitCleanlyOnTerm, toldToStop
exitCleanlyOnTerm(reactor)
print(toldToStop())
os.kill(os.getpid(), signal.SIGTERM)
print(toldToStop())
""",
        )
        self.assertEqual(child.wait(), (0, "False\nTrue\n", ""))


class MindSignalsTests(SynchronousTestCase):
    """
    Tests for L{signals.mindSignals}.
    """

    NUMBERS = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)

    def setUp(self) -> None:
        """
        Have the signals do what they do at first, and a reactor that calls at once.
        """
        for number in self.NUMBERS:
            before = signal.signal(number, signal.SIG_DFL)
            self.addCleanup(signal.signal, number, before)
        self.reactor: Any = Clock()
        self.calls: list[tuple[Any, ...]] = []
        self.reactor.callFromThread = lambda *call: self.calls.append(call)

    def test_logged(self) -> None:
        """
        SIGHUP and SIGUSR2 are noted in the log by the reactor, and do nothing else.
        """
        signals.mindSignals(self.reactor)
        for number in (signal.SIGHUP, signal.SIGUSR2):
            signal.raise_signal(number)
        with capturedLogs() as events:
            for call, *arguments in self.calls:
                call(*arguments)
        self.assertEqual(
            [formatEvent(event) for event in events],
            [
                "received SIGHUP, which means nothing to this command",
                "received SIGUSR2, which means nothing to this command",
            ],
        )

    def test_bounded(self) -> None:
        """
        However many come, the log does not fill with them.
        """
        signals.mindSignals(self.reactor)
        for _ in range(100):
            signal.raise_signal(signal.SIGHUP)
        with capturedLogs() as events:
            for call, *arguments in self.calls:
                call(*arguments)
        self.assertEqual(len(events), MAXIMUM_LINES)

    def test_report(self) -> None:
        """
        SIGUSR1 does nothing at first.  To C{twistd}, it is as if there were no handler,
        so that it installs its own.
        """
        signals.mindSignals(self.reactor)
        signal.raise_signal(signal.SIGUSR1)
        self.assertEqual(self.calls, [])
        handler = signal.getsignal(signal.SIGUSR1)
        self.assertTrue(callable(handler))
        self.assertFalse(handler)

    def test_reportThere(self) -> None:
        """
        A handler of SIGUSR1 that there is already stays.
        """

        def handle(number: int, frame: object) -> None:
            """
            Do something else.
            """

        signal.signal(signal.SIGUSR1, handle)
        signals.mindSignals(self.reactor)
        self.assertIs(signal.getsignal(signal.SIGUSR1), handle)

    def test_thenReport(self) -> None:
        """
        Once there is a report, SIGUSR1 has it made.
        """
        signals.mindSignals(self.reactor)
        signals.onReportSignal(self.reactor, list)
        signal.raise_signal(signal.SIGUSR1)
        self.assertEqual(self.calls, [(list,)])
        self.assertTrue(signal.getsignal(signal.SIGUSR1))


class OwnProcessTests(SynchronousTestCase):
    """
    Tests for L{signals.ownProcess}.
    """

    def test_all(self) -> None:
        """
        The process gets monotonic time, and handlers of all signals that are meant to
        tell it something.
        """
        watchDescriptors(self)
        child = Child(
            self,
            """
import os, signal, time
from twisted.internet import reactor
from portlisten._process.signals import ownProcess
ownProcess(reactor, 0.1)
print(reactor.seconds is time.monotonic)

def signals():
    for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM):
        os.kill(os.getpid(), number)

reactor.callWhenRunning(reactor.callLater, 0.01, signals)
reactor.run()
print("over")
""",
        )
        self.assertEqual(child.wait(), (0, "True\nover\n", ""))


class OnReportSignalTests(SynchronousTestCase):
    """
    Tests for L{signals.onReportSignal}.
    """

    def signalled(self, earlier: Any) -> list[object]:
        """
        Send SIGUSR1 to a process that handled it in this way before.

        @return: what was given to the reactor.
        """
        before = signal.signal(signal.SIGUSR1, earlier)
        self.addCleanup(signal.signal, signal.SIGUSR1, before)
        calls: list[object] = []

        class Reactor:
            callFromThread = calls.append

        signals.onReportSignal(Reactor, self.report)
        self.assertEqual(calls, [])
        signal.raise_signal(signal.SIGUSR1)
        return calls

    def report(self) -> None:
        """
        The report, which belongs to the reactor's thread.
        """
        raise AssertionError("called in the signal's handler")

    def test_reports(self) -> None:
        """
        The signal has the report made by the reactor, even where it would have
        ended the process before.
        """
        for earlier in (signal.SIG_DFL, signal.SIG_IGN):
            self.assertEqual(self.signalled(earlier), [self.report])

    def test_earlier(self) -> None:
        """
        Whatever the signal did before is done as well.
        """
        seen = []
        calls = self.signalled(lambda *args: seen.append(args))
        self.assertEqual(calls, [self.report])
        ((number, _),) = seen
        self.assertEqual(number, signal.SIGUSR1)


class ExitWithTests(SynchronousTestCase):
    """
    Tests for L{exits.exitWith}.
    """

    def test_exits(self) -> None:
        """
        The reactor stops, what has to be done then is done, what was printed
        is printed, and the process exits with the code.
        """
        watchDescriptors(self)
        child = Child(
            self,
            """
from twisted.internet import reactor
from portlisten._process.exits import exitWith
reactor.addSystemEventTrigger("before", "shutdown", print, "stopping")
reactor.callLater(0, exitWith, reactor, 7)
reactor.run()
print("done")
""",
        )
        self.assertEqual(child.wait(), (7, "stopping\ndone\n", ""))

    def test_atTheEnd(self) -> None:
        """
        The process is left only when all else is done, with nothing unwritten.
        """
        registered: list[Callable[[], None]] = []
        done: list[object] = []

        class Stream(io.StringIO):
            def flush(self) -> None:
                done.append("flushed")

        self.patch(atexit, "register", registered.append)
        self.patch(os, "_exit", done.append)
        self.patch(sys, "stdout", Stream())
        self.patch(sys, "stderr", Stream())
        reactor = StandInReactor(running=True)
        exits.exitWith(reactor, 7)
        self.assertEqual((reactor.stops, done), (1, []))
        (leave,) = registered
        leave()
        self.assertEqual(done, ["flushed", "flushed", 7])

    def test_notRunning(self) -> None:
        """
        A reactor that has stopped is left alone, as is the exit code.
        """
        registered: list[object] = []
        self.patch(atexit, "register", registered.append)
        reactor = StandInReactor(running=False)
        exits.exitWith(reactor, 7)
        self.assertEqual((reactor.stops, registered), (0, []))
