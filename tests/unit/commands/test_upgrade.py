"""
Tests for L{portlisten._commands.upgrade}, with a supervisor that follows a script.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from portlisten._commands import upgrade
from portlisten._control.messages import ProgressAnswer, Upgrade, Watch
from portlisten._control.status import Progress, Step, StepState
from tests.unit.commands.test_reload import ReloadTestCase

STEP = Step("", "listener", StepState.STARTING, 1.0)


def progress(state: StepState = StepState.STARTING, **others: Any) -> Progress:
    """
    Make a progress.
    """
    step = replace(STEP, state=state)
    return replace(Progress("7", "upgrade", False, steps=(step,)), **others)


class UpgradeTests(ReloadTestCase):
    """
    Tests for C{portlisten upgrade}.
    """

    def test_done(self) -> None:
        """
        Each step is shown, and how long it took.
        """
        script = self.serve(
            ProgressAnswer(progress()),
            ProgressAnswer(progress()),
            ProgressAnswer(progress(StepState.DONE, done=True)),
        )
        code, output, errors = self.call("upgrade", self.path)
        self.assertEqual((code, errors), (0, ""))
        first, *_, last = output.splitlines()
        self.assertEqual(first, "starting listener")
        self.assertRegex(last, r"^the listener is replaced, in [0-9.]+ m?s$")
        watches = [Watch(("7",))] * 2
        self.assertEqual(script.requests, [Upgrade(), *watches])

    def test_quiet(self) -> None:
        """
        With --quiet, only errors are written.
        """
        self.serve(ProgressAnswer(progress(StepState.DONE, done=True)))
        self.assertEqual(self.call("upgrade", "--quiet", self.path), (0, "", ""))

    def test_failed(self) -> None:
        """
        If the new listener does not take over, its reason and log are shown.
        """
        self.serve(
            ProgressAnswer(progress()),
            ProgressAnswer(
                progress(
                    StepState.FAILED,
                    done=True,
                    error="the new listener is not ready",
                    log=("line", "another"),
                )
            ),
        )
        code, _, errors = self.call("upgrade", self.path)
        self.assertEqual(code, upgrade.FAILED)
        self.assertEqual(
            errors,
            "portlisten upgrade: the new listener is not ready\n"
            "the end of the log of the new listener:\n  line\n  another\n",
        )

    def test_endedEarly(self) -> None:
        """
        A replacement that ended without a reason has failed as well.
        """
        self.serve(ProgressAnswer(progress(StepState.WAITING, done=True)))
        code, _, errors = self.call("upgrade", "--quiet", self.path)
        self.assertEqual(code, upgrade.FAILED)
        self.assertEqual(
            errors,
            "portlisten upgrade: the replacement ended before it was done\n",
        )

    def test_refused(self) -> None:
        """
        If the supervisor cannot be asked, or refuses, the exit code is 2.
        """
        code, _, errors = self.call("upgrade", self.path)
        self.assertEqual(code, 2)
        self.assertNotIn("if path or control", errors)
        self.serve("a restart of web is not done yet")
        code, _, errors = self.call("upgrade", self.path)
        self.assertEqual(code, 2)
        self.assertIn("a restart of web is not done yet", errors)

    def test_disappears(self) -> None:
        """
        If the supervisor ends meanwhile, the error says that it was not over.
        """
        self.serve(ProgressAnswer(progress()), None)
        code, _, errors = self.call("upgrade", self.path)
        self.assertEqual(code, 2)
        self.assertIn("the replacement was not over", errors)

    def test_file(self) -> None:
        """
        A file says where the supervisor is.
        """
        self.write()
        script = self.serve(ProgressAnswer(progress(StepState.DONE, done=True)))
        self.assertEqual(self.call("upgrade", self.file)[0], 0)
        self.assertEqual(script.requests, [Upgrade()])

    def test_otherPlace(self) -> None:
        """
        If the supervisor of FILE is not where FILE says, its place may have changed.
        """
        self.write()
        code, _, errors = self.call("upgrade", self.file)
        self.assertEqual(code, 2)
        self.assertIn("if path or control of the file was changed", errors)
        control = f"--control={self.path}.other"
        errors = self.call("upgrade", control, self.file)[2]
        self.assertNotIn("if path or control", errors)

    def test_interrupted(self) -> None:
        """
        If the command is interrupted, the replacement goes on.
        """

        def interrupt(*_: object) -> None:
            raise KeyboardInterrupt

        self.patch(upgrade, "watch", interrupt)
        self.serve(ProgressAnswer(progress()))
        code, _, errors = self.call("upgrade", self.path)
        self.assertEqual(code, 130)
        self.assertIn("interrupted; the replacement goes on", errors)

    def test_usage(self) -> None:
        """
        A mistake is one line.
        """
        for arguments in ([], ["a", "b"]):
            code, _, errors = self.call("upgrade", *arguments)
            self.assertEqual(code, 2)
            self.assertIn("expected FILE or PATH", errors)
