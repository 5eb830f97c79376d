"""
Tests for L{portlisten._commands.reload}, and for C{portlisten check
--against-running}, with a supervisor that follows a script.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from portlisten._commands import restart
from portlisten._control.messages import (
    Compare,
    ProgressAnswer,
    Reload,
    ReloadAnswer,
    Watch,
)
from portlisten._control.status import Progress, Step, StepState
from tests.support.control_script import CommandTestCase

STEPS = (
    Step("port old=tcp:81", "", StepState.DONE, 1.0),
    Step("", "listener", StepState.DONE, 1.0),
    Step("", "web-3", StepState.STARTING, 1.0),
    Step("web-1", "", StepState.WAITING, 1.0),
)
DONE = tuple(replace(each, state=StepState.DONE) for each in STEPS)


def progress(*steps: Step, **others: Any) -> Progress:
    """
    Make a progress.
    """
    return replace(Progress("7", "reload", False, steps=steps), **others)


class ReloadTestCase(CommandTestCase):
    """
    Runs commands on a file.
    """

    def setUp(self) -> None:
        super().setUp()
        self.patch(restart, "INTERVAL_SECONDS", 0.005)
        folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder)
        self.path = f"{folder}/sock"
        self.file = f"{folder}/web.toml"

    def write(self, *lines: str) -> None:
        """
        Write the file.
        """
        top = [f'path = "{self.path}"']
        if os.getuid() == 0:
            top.append('user = "nobody"')
        Path(self.file).write_text(
            "\n".join([*top, *lines, "[ports.http]", "listen = 80", ""])
        )
        os.chmod(self.file, 0o644)


class ReloadTests(ReloadTestCase):
    """
    Tests for C{portlisten reload}.
    """

    def test_done(self) -> None:
        """
        The plan is shown, and then each step.
        """
        script = self.serve(
            ReloadAnswer(("workers web: 1 -> 2",), (), progress(*STEPS)),
            ProgressAnswer(progress(*DONE, done=True)),
        )
        code, output, errors = self.call("reload", self.path)
        self.assertEqual((code, errors), (0, ""))
        *lines, last = output.splitlines()
        self.assertEqual(
            lines,
            [
                "workers web: 1 -> 2",
                "port old=tcp:81 has stopped",
                "starting listener",
                "listener is ready",
                "starting web-3",
                "web-3 is ready",
                "web-1 has stopped",
            ],
        )
        self.assertTrue(last.startswith("reloaded in "), last)
        self.assertEqual(script.requests, [Reload(()), Watch(("7",))])

    def test_nothing(self) -> None:
        """
        If nothing changes, that is all.
        """
        self.serve(ReloadAnswer(("nothing changes",)))
        self.assertEqual(self.call("reload", self.path), (0, "nothing changes\n", ""))

    def test_quiet(self) -> None:
        """
        With --quiet, only errors are written.
        """
        self.serve(
            ReloadAnswer(("a",), (), progress(*STEPS)),
            ProgressAnswer(progress(*DONE, done=True)),
        )
        self.assertEqual(self.call("reload", "--quiet", self.path), (0, "", ""))

    def test_problems(self) -> None:
        """
        Mistakes that the supervisor finds end the command with 1.
        """
        self.serve(ReloadAnswer((), ("f: a: no", "f: b: no")))
        self.assertEqual(
            self.call("reload", self.path),
            (1, "", "portlisten reload: f: a: no\nf: b: no\nnothing changes\n"),
        )

    def test_failed(self) -> None:
        """
        If it fails, the reason is shown, with the end of the log.
        """
        failed = (*DONE[:2], replace(STEPS[2], state=StepState.FAILED, detail="why"))
        self.serve(
            ReloadAnswer(("a",), (), progress(*STEPS)),
            ProgressAnswer(
                progress(*failed, done=True, error="web-3 is not ready", log=("line",))
            ),
        )
        code, _, errors = self.call("reload", self.path)
        self.assertEqual(code, 1)
        self.assertEqual(
            errors,
            "portlisten reload: web-3 is not ready\nthe end of the log of web-3:\n"
            "  line\nWhat was done stays. Change the file, or mend what failed, and"
            " reload again: it goes on from there.\n",
        )

    def test_file(self) -> None:
        """
        A wrong file is found at once, and a good one is named to the supervisor.
        """
        self.write("patince = 3", "quueue = 4")
        code, output, errors = self.call("reload", self.file)
        self.assertEqual((code, output), (1, ""))
        self.assertEqual(
            [line.rpartition(self.file)[2][:9] for line in errors.splitlines()],
            [": patince", ": quueue:", "nothing c"],
        )
        self.assertTrue(errors.endswith("\nnothing changes\n"), errors)
        self.write()
        script = self.serve(ReloadAnswer(("nothing changes",)))
        self.assertEqual(self.call("reload", self.file)[0], 0)
        self.assertEqual(script.requests, [Reload((self.file,))])

    def test_refused(self) -> None:
        """
        If the supervisor cannot be asked, or refuses, the exit code is 2.
        """
        self.assertEqual(self.call("reload", self.path)[0], 2)
        self.serve("a restart of web is not done yet")
        code, _, errors = self.call("reload", self.path)
        self.assertEqual(code, 2)
        self.assertIn("a restart of web is not done yet", errors)
        self.assertNotIn("change it back", errors)

    def test_otherPlace(self) -> None:
        """
        If the supervisor of FILE is not where FILE says, its place may have changed.
        """
        self.write()
        code, _, errors = self.call("reload", self.file)
        self.assertEqual(code, 2)
        self.assertIn("no listener runs at", errors)
        self.assertIn("if path or control of the file was changed", errors)
        self.assertNotIn("change it back", self.call("reload", self.path)[2])

    def test_alone(self) -> None:
        """
        A listener without a supervisor cannot reload.
        """
        self.serve("reload means nothing to this listener")
        code, _, errors = self.call("reload", self.path)
        self.assertEqual(code, 2)
        self.assertIn("has no supervisor that can reload", errors)

    def test_usage(self) -> None:
        """
        A mistake is one line.
        """
        for arguments in ([], ["a", "b"]):
            code, _, errors = self.call("reload", *arguments)
            self.assertEqual(code, 2)
            self.assertIn("expected FILE or PATH", errors)


class AgainstRunningTests(ReloadTestCase):
    """
    Tests for C{portlisten check --against-running}.
    """

    def check(self) -> tuple[object, str, str]:
        """
        Run the command.
        """
        return self.call("check", "--against-running", self.file)

    def test_plan(self) -> None:
        """
        The plan is shown in the place of the file.
        """
        self.write()
        script = self.serve(ReloadAnswer(("workers web: 1 -> 2", "b")))
        code, output, _ = self.check()
        self.assertEqual((code, output), (0, "workers web: 1 -> 2\nb\n"))
        self.assertEqual(script.requests, [Compare((self.file,))])

    def test_problems(self) -> None:
        """
        What cannot change is an error.
        """
        self.write()
        self.serve(ReloadAnswer(("a",), (f"{self.file}: mode: it cannot",)))
        code, output, errors = self.check()
        self.assertEqual((code, output), (1, ""))
        self.assertIn(f"{self.file}: mode: it cannot\n", errors)
        self.assertEqual(errors.count(f"{self.file}: mode"), 1)

    def test_notRunning(self) -> None:
        """
        If nothing runs, the error says so.
        """
        self.write()
        code, output, errors = self.check()
        self.assertEqual((code, output), (1, ""))
        self.assertIn("it cannot be compared with what runs", errors)
        self.assertIn("if path or control of the file was changed", errors)
