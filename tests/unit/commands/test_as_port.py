"""
Tests for L{portlisten._commands.as_port}: its command line.
"""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from twisted.trial.unittest import SynchronousTestCase

from portlisten._commands import portlisten
from portlisten._commands.as_port import AsPortOptions, prepare
from portlisten._config.settings import AsPortSettings
from tests.support.tls import certify, needsTLS


class OptionsTests(SynchronousTestCase):
    """
    From a command line to settings.
    """

    def parse(self, *arguments: str) -> AsPortSettings:
        options = AsPortOptions()
        options.parseOptions(list(arguments))
        return options.settings()

    def test_settings(self) -> None:
        """
        Mappings, and after C{--} the program with all of its words.
        """
        settings = self.parse("80=/a", "81=/b", "--", "twistd", "-n", "--", "web")
        self.assertEqual(settings.mappings, ("80=/a", "81=/b"))
        self.assertEqual(settings.program, ("twistd", "-n", "--", "web"))
        self.assertEqual(settings.warnAfter, 10)
        self.assertEqual(self.parse("--warn-after=2", "80=/a", "--", "x").warnAfter, 2)

    def test_refused(self) -> None:
        """
        Each mistake is one line.
        """
        for arguments, reason in [
            ([], "expected MAPPING, '--' and PROGRAM, as in 6800=/run"),
            (["80=/a", "twistd"], "expected MAPPING, '--' and PROGRAM"),
            (["80=/a", "--"], "expected PROGRAM after '--'"),
            (["x", "--warn-after=3", "--", "y"], "options come before the arguments"),
            (["--warn-after=x", "80=/a", "--", "y"], "--warn-after: 'x' is not a"),
            (["--warn-before=3"], "option --warn-before not recognized"),
        ]:
            exit = self.assertRaises(SystemExit, self.parse, *arguments)
            self.assertIn(reason, str(exit.code))
            self.assertEqual(len(str(exit.code).splitlines()), 1)

    def test_help(self) -> None:
        """
        The help says what a mapping is, and shows examples.
        """
        output = io.StringIO()
        self.patch(sys, "stdout", output)
        exit = self.assertRaises(SystemExit, portlisten.main, ["as-port", "--help"])
        self.assertEqual(exit.code, 0)
        for text in (
            "MAPPING is the number of the port",
            "-- scrapyd",
            "--warn-after=",
        ):
            self.assertIn(text, output.getvalue())


class PrepareTests(SynchronousTestCase):
    """
    What is tried before the program runs.
    """

    def setUp(self) -> None:
        folder = TemporaryDirectory(prefix="portlisten.")
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def prepare(self, *mappings: str) -> list[str]:
        made = prepare(AsPortSettings(mappings=mappings, program=("x",)))
        return [mapping.settings.path for mapping, _ in made]

    def refusal(self, *arguments: str) -> str:
        """
        Run the command, which must not run the program.
        """
        program = ["--", "-c", "raise AssertionError"]
        words = ["as-port", *arguments, *program]
        exit = self.assertRaises(SystemExit, portlisten.main, words)
        message = str(exit.code)
        self.assertEqual(len(message.splitlines()), 1)
        self.assertTrue(message.startswith("portlisten as-port: "))
        self.assertTrue(message.endswith("(see 'portlisten as-port --help')"))
        return message

    def test_absolute(self) -> None:
        """
        A path is that of the folder in which the command starts.
        """
        here = os.getcwd()
        self.assertEqual(self.prepare("80=./a"), [f"{here}/a"])
        self.assertEqual(self.prepare("80=/tmp/a"), ["/tmp/a"])

    def test_refused(self) -> None:
        """
        What cannot work is refused before the program runs.
        """
        (self.folder / "file").touch()
        self.patch(os, "environ", {**os.environ, "PORTLISTEN_LABEL": "a b"})
        for mapping, reason in [
            ("80", "'80' is no mapping"),
            ("80=/nowhere/a", "80: the folder '/nowhere' of '/nowhere/a' does not"),
            (f"80={self.folder}/file", "exists and is no socket"),
            (f"80={self.folder}/a", "80: PORTLISTEN_LABEL: 'a b' is no label"),
        ]:
            self.assertIn(reason, self.refusal(mapping))

    def test_tls(self) -> None:
        """
        Files for TLS are read before the program runs.
        """
        if needsTLS:
            self.skipTest(needsTLS)
        key, certificate = certify(str(self.folder / "web"))
        text = f"{self.folder}/a:privateKey={key}:certKey={certificate}"
        ((_, contextFactory),) = prepare(
            AsPortSettings(mappings=(f"80={text}",), program=("x",))
        )
        self.assertIsNotNone(contextFactory)
        self.assertIn(
            "80: TLS does not load", self.refusal(f"80={self.folder}/a:privateKey=/x")
        )
