"""
Tests for the shell's completion: L{portlisten._commands.generated.completions}.
"""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

from twisted.python.usage import Options
from twisted.scripts.twistd import ServerOptions  # type: ignore[attr-defined]
from twisted.trial.unittest import SynchronousTestCase

from portlisten._commands import portlisten


class CompletionTests(SynchronousTestCase):
    """
    The completion of zsh.
    """

    def complete(self, options: type[Options], *words: str) -> list[str]:
        """
        Ask as zsh does, with the cursor behind the last word.

        @return: the lines about the subcommand.
        """
        output = io.BytesIO()
        self.patch(Options, "_shellCompFile", output)
        ask = [*words, "--_shell-completion", f"zsh:{len(words) + 1}"]
        exit = self.assertRaises(SystemExit, options().parseOptions, ask)
        self.assertEqual(exit.code, 0)
        text = output.getvalue().decode()
        self.assertTrue(text.startswith("#compdef "))
        return text.rpartition("#compdef ")[2].splitlines()

    def line(self, lines: list[str], option: str) -> str:
        """
        Find what is said of an option.
        """
        (found,) = (each for each in lines if f"--{option}" in each.partition("[")[0])
        return found

    def test_listener(self) -> None:
        """
        Words, users and groups are offered for the listener's options, files for PATH.
        """
        lines = self.complete(ServerOptions, "portlisten", "--")
        for option, action in [
            ("wire", ":(stream datagram)"),
            ("on-timeout", ":(close exit)"),
            ("balance", ":(least round-robin)"),
            ("group", ":_groups"),
            ("allow-user", ":_users"),
            ("allow-group", ":_groups"),
            ("queue", ":N:"),
            ("share", ":[NAME=]PORT:"),
        ]:
            self.assertIn(action, self.line(lines, option).replace("\\", ""))
        self.assertTrue(any("PATH" in each and "_files" in each for each in lines))

    def test_repeated(self) -> None:
        """
        An option that may be given several times is offered again, with its effect.
        """
        lines = self.complete(ServerOptions, "portlisten", "--")
        self.assertIn("*--listen", self.line(lines, "listen"))
        self.assertNotIn("*--queue", self.line(lines, "queue"))
        self.assertIn("Listen on this", self.line(lines, "listen"))

    def test_worker(self) -> None:
        """
        So it is for the sample worker, whose flag has no value.
        """
        lines = self.complete(ServerOptions, "hellofdpass", "--")
        self.assertIn(":_users", self.line(lines, "listener-user"))
        self.assertTrue(self.line(lines, "replace").rstrip(" \\'").endswith("]"))
        self.assertTrue(any("PATH" in each and "_files" in each for each in lines))
        self.assertTrue(any("STRING" in each for each in lines))

    def test_exec(self) -> None:
        """
        So it is for C{portlisten exec}, and for the command before it.
        """
        lines = self.complete(portlisten.Options, "exec", "--")
        self.assertIn(":_users", self.line(lines, "listener-user"))
        self.assertTrue(any("PROGRAM" in each and "_files" in each for each in lines))
        self.assertTrue(
            any(
                "exec:Run any program" in e
                for e in self.complete(portlisten.Options, "")
            )
        )

    def test_drain(self) -> None:
        """
        So it is for C{portlisten drain} and C{portlisten undrain}.
        """
        for command in ("drain", "undrain"):
            lines = self.complete(portlisten.Options, command, "--")
            self.assertIn("_files", self.line(lines, "control"))
            self.assertIn("quiet", self.line(lines, "quiet"))
            self.assertTrue(any("PATH" in each and "_files" in each for each in lines))
            self.assertTrue(any("WORKER" in each for each in lines))

    def test_operator(self) -> None:
        """
        So it is for C{portlisten status}, C{portlisten restart} and C{portlisten stop}.
        """
        for command, flag in (("status", "watch"), ("restart", "quiet")):
            lines = self.complete(portlisten.Options, command, "--")
            self.assertIn(flag, self.line(lines, flag))
        for command in ("status", "restart", "stop"):
            lines = self.complete(portlisten.Options, command, "--")
            self.assertIn("_files", self.line(lines, "control"))
            self.assertTrue(any("FILE" in each and "_files" in each for each in lines))

    def test_process(self) -> None:
        """
        The command itself answers, and its completion function asks it so.
        """
        root = Path(__file__).parents[3]
        answer = subprocess.run(
            [
                *(sys.executable, "-m", "portlisten", "exec", "--"),
                *("--_shell-completion", "zsh:3"),
            ],
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
        )
        self.assertIn("--listener-user", answer.stdout)
        function = (root / "contrib/zsh/_portlisten").read_text()
        self.assertTrue(function.startswith("#compdef portlisten\n"))
        self.assertIn("--_shell-completion zsh:$CURRENT", function)
