"""
Tests for L{portlisten._process.exits}.
"""

from __future__ import annotations

import atexit
import io
import os
import pwd
import sys
from collections.abc import Callable
from typing import Any, cast

from twisted.logger import ILogObserver, Logger, LogLevel, capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from portlisten._process import exits
from portlisten._process.exits import Command
from portlisten.errors import StartFailure
from tests.support.children import Child, StandInReactor
from tests.support.descriptors import watchDescriptors

NOBODY = pwd.getpwnam("nobody").pw_uid


def tool(**twistd: Any) -> Command:
    """
    Make a command that C{twistd} runs with these options of its own.
    """
    return Command("tool", twistd)


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


class LogsElsewhereTests(SynchronousTestCase):
    """
    Tests for L{Command.logsElsewhere}.
    """

    def test_terminal(self) -> None:
        """
        In the foreground the log goes to the terminal.
        """
        for logfile in (None, "", "-"):
            command = tool(nodaemon=1, logfile=logfile, syslog=0, logger=None)
            self.assertFalse(command.logsElsewhere)

    def test_asked(self) -> None:
        """
        Even there it can be sent elsewhere.
        """
        for name, value in (("logfile", "x.log"), ("syslog", 1), ("logger", "a.b")):
            self.assertTrue(tool(nodaemon=1, **{name: value}).logsElsewhere)

    def test_daemon(self) -> None:
        """
        A daemon has no terminal.
        """
        self.assertTrue(tool(nodaemon=0, logfile=None).logsElsewhere)

    def test_tac(self) -> None:
        """
        Of a C{.tac} file nobody knows, so the log is written to as well.
        """
        self.assertTrue(Command("tool").logsElsewhere)


class CheckUserTests(SynchronousTestCase):
    """
    Tests for L{exits.checkUser}.
    """

    def test_userInChroot(self) -> None:
        """
        A user whom the chroot does not know is refused before anything is bound.
        """

        def unknown(uid: int) -> Any:
            raise KeyError(uid)

        exits.checkUser(tool(uid=NOBODY, chroot="/srv"))
        self.patch(pwd, "getpwuid", unknown)
        self.patch(sys, "__stderr__", io.StringIO())
        error = self.assertRaises(
            StartFailure, exits.checkUser, tool(uid=NOBODY, chroot="/srv")
        )
        self.assertIn(f"no user with the number {NOBODY} in /srv", str(error))
        exits.checkUser(tool(uid=None, chroot="/srv"))
        exits.checkUser(Command("tool"))


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
        self.patch(exits, "log", Logger(observer=cast(ILogObserver, events.append)))
        error = self.assertRaises(
            StartFailure, exits.failToStart, tool(**parent), "{no} room"
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
        command = tool(nodaemon=1, pidfile=path)
        self.patch(sys, "__stderr__", io.StringIO())
        self.assertRaises(StartFailure, exits.failToStart, command, "no room")
        self.assertFalse(os.path.exists(path))
        self.assertEqual(command.twistd["pidfile"], "")

    def test_noPidFile(self) -> None:
        """
        A pid file that cannot be removed is left to twistd, which says so.
        """
        command = tool(nodaemon=1, pidfile="/nowhere/pid")
        self.patch(sys, "__stderr__", io.StringIO())
        self.assertRaises(StartFailure, exits.failToStart, command, "no room")
        self.assertEqual(command.twistd["pidfile"], "/nowhere/pid")


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
