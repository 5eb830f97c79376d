"""
Tests for L{portlisten._commands.each}: the command line.
"""

from __future__ import annotations

import os
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from portlisten._commands import portlisten
from portlisten._commands.each import EachOptions
from portlisten._config.settings import EachSettings
from portlisten._process import programs
from portlisten.errors import CannotRun


class EachOptionsTests(SynchronousTestCase):
    """
    Tests for L{EachOptions}.
    """

    def parse(self, *arguments: str) -> EachSettings:
        """
        Parse a command line.
        """
        options: Any = portlisten.Options()
        options.parseOptions(["each", *arguments])
        assert isinstance(options.subOptions, EachOptions)
        settings: EachSettings = options.subOptions.settings()
        return settings

    def assertRefused(self, arguments: list[str], reason: str) -> None:
        """
        Check that a command line is refused in one line.
        """
        exit = self.assertRaises(SystemExit, self.parse, *arguments)
        message = str(exit.code)
        self.assertIn(reason, message)
        self.assertTrue(message.startswith("portlisten each: "), message)
        self.assertTrue(message.endswith(" (see 'portlisten each --help')"), message)
        self.assertEqual(len(message.splitlines()), 1)

    def test_defaults(self) -> None:
        """
        Without options, there are at most 64 processes, which get the connection as
        standard input and output.
        """
        settings = self.parse("path", "cat", "-n", "--limit")
        self.assertEqual(
            settings, EachSettings(path="path", program=("cat", "-n", "--limit"))
        )
        self.assertEqual((settings.limit, settings.grace), (64, 10.0))
        self.assertEqual((settings.stderr, settings.listenFds), ("log", False))
        self.assertEqual((settings.user, settings.group), (None, None))
        self.assertEqual((settings.first, settings.verbose), (None, False))

    def test_separator(self) -> None:
        """
        PROGRAM may have -- before it, and begin with a dash then.
        """
        self.assertEqual(self.parse("path", "--", "-x", "y").program, ("-x", "y"))

    def test_all(self) -> None:
        """
        All options have their settings.
        """
        arguments = (
            "--limit 3 --name a --name b --listen-fds --grace 5 --first yes --retry 1"
            " --label one --verbose --user 0 --group 0 --listener-user 0 path cat"
        )
        if os.getuid() != 0:
            arguments = arguments.replace("--user 0 --group 0 ", "")
        settings = self.parse(*arguments.split())
        self.assertEqual(settings.names, ("a", "b"))
        self.assertEqual((settings.limit, settings.grace), (3, 5.0))
        self.assertEqual((settings.first, settings.retry), (2.0, 1.0))
        self.assertTrue(settings.listenFds and settings.verbose)
        self.assertEqual((settings.label, settings.listenerUsers), ("one", (0,)))

    def test_refused(self) -> None:
        """
        A mistake is one line.
        """
        both = ["--listen-fds", "--stderr=connection", "path", "cat"]
        for arguments, reason in (
            ([], "expected PATH and PROGRAM, got 0 arguments"),
            (["path"], "expected PATH and PROGRAM, got 1 arguments"),
            (["path", "--"], "expected PATH and PROGRAM, got 1 arguments"),
            (["path", "--limit", "3", "cat"], "--limit stands after path"),
            (["--limit", "0", "path", "cat"], "'0' is not a whole number"),
            (["--stderr", "x", "path", "cat"], "'x' is none of log, connection"),
            (both, "--stderr=connection means nothing with --listen-fds"),
            (["--label", "1", "path", "cat"], "--label"),
            (["--user", "no-such-user", "path", "cat"], "does not exist"),
        ):
            self.assertRefused(arguments, reason)

    def test_environment(self) -> None:
        """
        A bad label in the environment is a mistake as well.
        """
        self.patch(os, "environ", {**os.environ, "PORTLISTEN_LABEL": "a b"})
        self.assertRefused(["path", "cat"], "PORTLISTEN_LABEL")

    def test_help(self) -> None:
        """
        The help has each option, and an example.
        """
        help = str(EachOptions())
        for word in ("--limit", "--user", "--listen-fds", "sshd -i", "TCPREMOTEIP"):
            self.assertIn(word, help)


class FindTests(SynchronousTestCase):
    """
    Tests for L{programs.find}.
    """

    def test_found(self) -> None:
        """
        A program is found by its name, and by its path.
        """
        found = programs.find("sh")
        self.assertTrue(os.path.isabs(found))
        self.assertEqual(programs.find(found), found)

    def test_refused(self) -> None:
        """
        A missing program and a file that is no program have the codes of a shell.
        """
        with open("plain", "w"):
            pass
        error: Any = self.assertRaises(CannotRun, programs.find, "no-such-program")
        self.assertEqual(error.code, 127)
        error = self.assertRaises(CannotRun, programs.find, "./plain")
        self.assertEqual((str(error), error.code), ("./plain is not executable", 126))
