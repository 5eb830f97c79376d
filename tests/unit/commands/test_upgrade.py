"""
Tests for L{portlisten._commands.upgrade}, with a supervisor that follows a script.
"""

from __future__ import annotations

from dataclasses import replace

from portlisten._commands import restart
from portlisten._control.messages import ProgressAnswer, Upgrade, Watch
from portlisten._control.status import Progress, Step, StepState
from tests.support.control_script import CommandTestCase

STEP = Step("", "listener", StepState.STARTING, 1.0)
BEGUN = Progress("7", "replacement", False, steps=(STEP,))
DONE = replace(BEGUN, done=True, steps=(replace(STEP, state=StepState.DONE),))
FAILED = replace(
    BEGUN,
    done=True,
    error="the new listener does not get ready: it exited with 1",
    log=("no such module",),
    steps=(replace(STEP, state=StepState.FAILED),),
)


class UpgradeTests(CommandTestCase):
    """
    Tests for C{portlisten upgrade}.
    """

    def setUp(self) -> None:
        super().setUp()
        self.patch(restart, "INTERVAL_SECONDS", 0.005)

    def test_done(self) -> None:
        """
        Each step is shown, and how long all took.
        """
        script = self.serve(ProgressAnswer(BEGUN), ProgressAnswer(DONE))
        code, output, errors = self.call("upgrade", self.path)
        self.assertEqual((code, errors), (0, ""))
        *lines, last = output.splitlines()
        self.assertEqual(lines, ["starting listener", "listener is ready"])
        self.assertTrue(last.startswith("the listener is replaced, in "), last)
        self.assertEqual(script.requests, [Upgrade(), Watch(("7",))])

    def test_quiet(self) -> None:
        """
        With --quiet, only errors are written.
        """
        self.serve(ProgressAnswer(DONE))
        self.assertEqual(self.call("upgrade", "--quiet", self.path), (0, "", ""))

    def test_failed(self) -> None:
        """
        If the new listener does not take over, the end of its log is shown.
        """
        self.serve(ProgressAnswer(BEGUN), ProgressAnswer(FAILED))
        code, _, errors = self.call("upgrade", self.path)
        self.assertEqual(code, 1)
        self.assertIn("does not get ready: it exited with 1\n", errors)
        self.assertIn("the end of the log of the new listener:\n", errors)
        self.assertIn("  no such module\n", errors)

    def test_refused(self) -> None:
        """
        The supervisor may refuse.
        """
        self.serve("a reload is not done yet: wait until it is")
        code, _, errors = self.call("upgrade", self.path)
        self.assertEqual(code, 2)
        self.assertIn("a reload is not done yet", errors)

    def test_nobody(self) -> None:
        """
        Nobody may be there.
        """
        code, _, errors = self.call("upgrade", self.path)
        self.assertEqual(code, 2)
        self.assertIn("no listener runs at", errors)

    def test_arguments(self) -> None:
        """
        It takes one FILE or PATH.
        """
        for arguments in [(), ("a", "b")]:
            code, _, errors = self.call("upgrade", *arguments)
            self.assertEqual(code, 2)
            self.assertIn("expected FILE or PATH", errors)
