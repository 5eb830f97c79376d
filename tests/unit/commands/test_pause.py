"""
Tests for L{portlisten._commands.pause}: the command lines, and what is asked and shown,
with a listener made by hand.
"""

from __future__ import annotations

from portlisten._commands import asking
from portlisten._control.messages import (
    Pause,
    PauseAnswer,
    Resume,
)
from tests.support.control_commands import ControlCommandTestCase

PAUSED = PauseAnswer(True, "9100")
RESUMED = PauseAnswer(False, "9100")


class PauseTests(ControlCommandTestCase):
    """
    Tests for C{portlisten pause} and C{portlisten resume}.
    """

    def test_usage(self) -> None:
        """
        A mistake is one line.
        """
        for command in ("pause", "resume"):
            for arguments, reason in (
                ([], "expected FILE or PATH, got 0 arguments"),
                (["a", "b"], "expected FILE or PATH, got 2 arguments"),
                (["s", "--quiet"], "options come before the arguments"),
                (["--fast", "s"], "option --fast not recognized"),
                (["--control"], "option --control requires argument"),
            ):
                code, output, errors = self.run_(command, *arguments)
                self.assertEqual((code, output), (asking.NOT_ASKED, ""), arguments)
                self.assertIn(f"portlisten {command}: {reason}", errors)
                self.assertTrue(
                    errors.endswith(f" (see 'portlisten {command} --help')\n")
                )
                self.assertEqual(errors.count("\n"), 1)

    def test_both(self) -> None:
        """
        Each asks for one thing, and says what is so now.
        """
        for command, answer, request, line in (
            (
                "pause",
                PAUSED,
                Pause(),
                "paused: /healthz at 9100 says 503, and accepting goes on\n",
            ),
            (
                "resume",
                RESUMED,
                Resume(),
                "not paused: /healthz at 9100 says 200 while workers serve\n",
            ),
        ):
            for quiet in (False, True):
                self.serve(answer)
                options = ["--quiet"] if quiet else []
                result = self.run_(command, *options, self.path)
                self.thread.join()
                self.assertEqual(result, (0, "" if quiet else line, ""))
                self.assertEqual(self.requests.pop(), request)

    def test_control(self) -> None:
        """
        The control socket may be elsewhere.
        """
        self.serve(PAUSED, f"{self.path}.other")
        code, _, errors = self.run_("pause", f"--control={self.path}.other", self.path)
        self.assertEqual((code, errors), (0, ""))

    def test_noMonitor(self) -> None:
        """
        If no monitor runs, a pause is of little use, and the command says so.
        """
        self.serve(PauseAnswer(True, ""))
        code, output, errors = self.run_("pause", self.path)
        self.thread.join()
        self.assertEqual(code, 0)
        self.assertEqual(output, "paused: /healthz says 503, and accepting goes on\n")
        self.assertEqual(
            errors,
            "portlisten pause: warning: no load balancer can see that: this listener"
            " serves no health, see --metrics\n",
        )
        self.serve(PauseAnswer(False, ""))
        code, output, errors = self.run_("resume", self.path)
        self.assertEqual((code, errors), (0, ""))
        self.assertEqual(output, "not paused: /healthz says 200 while workers serve\n")

    def test_fails(self) -> None:
        """
        If the listener cannot be asked, or is older, the command says so.
        """
        for command in ("pause", "resume"):
            code, output, errors = self.run_(command, self.path)
            self.assertEqual((code, output), (asking.NOT_ASKED, ""))
            self.assertIn(f"portlisten {command}: no listener runs at ", errors)
            for answer, reason in (
                (
                    'unknown command "pause"',
                    f"the listener at {self.path} is older, and cannot be paused:"
                    " restart it",
                ),
                ("uid 7 may not ask", "uid 7 may not ask"),
                (None, "the listener "),
            ):
                self.serve(answer)
                code, output, errors = self.run_(command, self.path)
                self.thread.join()
                self.assertEqual((code, output), (asking.NOT_ASKED, ""))
                self.assertIn(f"portlisten {command}: ", errors)
                self.assertIn(reason, errors)
                self.assertEqual(errors.count("\n"), 1)
