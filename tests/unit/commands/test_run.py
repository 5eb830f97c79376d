"""
Tests for L{portlisten._commands.run}.
"""

from __future__ import annotations

import io
import os
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from portlisten._commands import check, run
from portlisten._commands.check import EXAMPLE
from portlisten._config.caller import Caller
from portlisten._config.toml import parse


class RunOptionsTests(SynchronousTestCase):
    """
    Tests for L{run.RunOptions} and L{run.TwistdRunOptions}.
    """

    def refused(self, options: Any, *arguments: str) -> str:
        """
        Check that arguments are refused.

        @return: why.
        """
        error = self.assertRaises(SystemExit, options.parseOptions, list(arguments))
        return str(error.code)

    def test_file(self) -> None:
        """
        One file is expected.
        """
        options = run.RunOptions()
        options.parseOptions(["web.toml"])
        self.assertEqual(options["file"], "web.toml")
        self.assertEqual(
            self.refused(run.RunOptions()),
            "portlisten run: expected FILE, got 0 arguments (see 'portlisten run"
            " --help')",
        )
        self.assertIn("got 2 arguments", self.refused(run.RunOptions(), "a", "b"))

    def test_users(self) -> None:
        """
        C{twistd} may not drop the supervisor's privilege.
        """
        for name in ("uid", "gid", "euid", "chroot"):
            options: Any = run.TwistdRunOptions()
            options.parent = {name: "1"}
            self.assertEqual(
                self.refused(options, "web.toml"),
                f"portlisten-run: --{name} means nothing here: the supervisor keeps its"
                " privilege, and FILE names the users of the listener and of the"
                " workers (see 'twistd portlisten-run --help')",
            )

    def test_root(self) -> None:
        """
        No warning says that the supervisor is root.
        """
        self.assertFalse(run.RunOptions().process.warnsOfRoot)


class MakeServiceTests(SynchronousTestCase):
    """
    Tests for L{run.makeService}.
    """

    def test_wrongFile(self) -> None:
        """
        All mistakes of the file are told, in a line each, and the process ends.
        """
        folder = Path(os.path.realpath(self.mktemp()))
        folder.mkdir()
        file = folder / "web.toml"
        file.write_text("colour = 3\n[ports.http]\nlisten = 70000\n")
        options = run.RunOptions()
        options.parseOptions([str(file)])
        with redirect_stderr(io.StringIO()) as said:
            error = self.assertRaises(SystemExit, run.makeService, options, Clock())
        self.assertEqual(error.code, 1)
        lines = said.getvalue().splitlines()
        for key in ("colour", "path", "ports.http.listen"):
            self.assertIn(
                f"portlisten run: {file}: {key}: ",
                "".join(each for each in lines if f": {key}: " in each),
            )

    def test_example(self) -> None:
        """
        The example in the help is a good file, but for its users.
        """
        for user in ("portlisten", "web"):
            self.assertIn(f'"{user}"', EXAMPLE)
        text = EXAMPLE.replace('"portlisten"', '"nobody"').replace('"web"', '"daemon"')
        settings = parse(text, Caller(0, 0), lambda *arguments: None)
        self.assertEqual(settings.workers[0].count, 4)
        self.assertIn(EXAMPLE, run.RunOptions.epilogue)
        self.assertIn(EXAMPLE, check.CheckOptions.epilogue)
