"""
Tests for L{portlisten._commands.restart}, with a supervisor that follows a script.
"""

from __future__ import annotations

import io
import time
from dataclasses import replace
from typing import Any

from portlisten._commands import restart
from portlisten._control.messages import ProgressAnswer, Restart, Watch
from portlisten._control.status import Progress, Step, StepState
from tests.support.control_script import CommandTestCase, Terminal

WAITING, STARTING, DRAINING, STOPPING, DONE, FAILED = StepState


def step(
    state: StepState, old: str = "web-1", new: str = "web-5", **others: Any
) -> Step:
    """
    Make a step.
    """
    made = Step(old, "" if state is WAITING else new, state, 1.5)
    return replace(made, **others)


def progress(*steps: Step, done: bool = False, **others: Any) -> ProgressAnswer:
    """
    Make an answer.
    """
    made = Progress("7", "restart of web", done, steps=steps)
    return ProgressAnswer(replace(made, **others))


class RestartTestCase(CommandTestCase):
    """
    Runs C{portlisten restart}.
    """

    def setUp(self) -> None:
        super().setUp()
        self.patch(restart, "INTERVAL_SECONDS", 0.005)

    def restart(
        self, *arguments: str, output: Any = io.StringIO
    ) -> tuple[object, str, str]:
        """
        Run C{portlisten restart} with PATH.
        """
        options = [each for each in arguments if each.startswith("-")]
        groups = arguments[len(options) :]
        return self.call("restart", *options, self.path, *groups, output=output)


class AskedTests(RestartTestCase):
    """
    Tests for what is asked, and for what cannot be.
    """

    def test_usage(self) -> None:
        """
        A mistake is one line.
        """
        for arguments, reason in [
            ([], "expected FILE or PATH, got no arguments"),
            (["a", "web", "--quiet"], "options come before the arguments"),
            (["--", "-a"], "PATH would be '-a'"),
        ]:
            code, output, errors = self.call("restart", *arguments)
            self.assertEqual((code, output), (2, ""))
            self.assertTrue(errors.startswith(f"portlisten restart: {reason}"), errors)
            self.assertEqual(errors.count("\n"), 1)

    def test_requests(self) -> None:
        """
        The restart is asked for once, and its progress by its name.
        """
        script = self.serve(progress(), progress(), progress(done=True))
        self.assertEqual(self.restart("web", "api")[0], 0)
        self.assertEqual(
            script.requests, [Restart(("web", "api")), Watch(("7",)), Watch(("7",))]
        )

    def test_refused(self) -> None:
        """
        The supervisor's own words are shown, and the restart is not asked for again.
        """
        script = self.serve("no group is wep: the groups are web, api")
        self.assertEqual(
            self.restart("wep"),
            (
                2,
                "",
                "portlisten restart: no group is wep: the groups are web, api\n",
            ),
        )
        self.assertEqual(len(script.requests), 1)

    def test_alone(self) -> None:
        """
        A listener without a supervisor cannot restart workers.
        """
        self.serve("restart means nothing to this listener")
        code, output, errors = self.restart()
        self.assertEqual((code, output), (2, ""))
        self.assertEqual(
            errors,
            f"portlisten restart: the listener at {self.path} has no supervisor, and"
            " cannot restart workers: restart them by what started them, after"
            " 'portlisten drain'\n",
        )

    def test_ends(self) -> None:
        """
        If the supervisor ends, the command says that the restart was not over.
        """
        script = self.serve(
            progress(step(STARTING)),
            lambda request: script.leave(request),  # noqa: PLW0108
        )
        code, output, errors = self.restart()
        self.assertEqual((code, output), (2, "web-1: starting web-5\n"))
        self.assertEqual(
            errors,
            f"portlisten restart: no listener runs at {self.path}: start it, or check"
            " the path; the restart was not over: 'portlisten status' shows what"
            " runs\n",
        )

    def test_again(self) -> None:
        """
        If the connection ends, the command connects again, and goes on watching.
        """
        script = self.serve(
            progress(step(STARTING)),
            "no request within 5 s",
            progress(step(DONE), done=True),
        )
        self.assertEqual(self.restart()[0], 0)
        self.assertEqual(script.requests, [Restart(), Watch(("7",)), Watch(("7",))])
        self.assertEqual(script.clients, 2)

    def test_otherSupervisor(self) -> None:
        """
        Another supervisor does not know the restart.
        """
        self.serve(progress(), None, 'no operation is "7"')
        code, _, errors = self.restart()
        self.assertEqual(code, 2)
        self.assertIn('no operation is "7"; the restart was not over', errors)


class LinesTests(RestartTestCase):
    """
    Tests for what is shown where it is no terminal.
    """

    def test_course(self) -> None:
        """
        Each change is a line.
        """
        self.serve(
            progress(step(WAITING), step(WAITING, "web-2")),
            progress(step(STARTING), step(WAITING, "web-2")),
            progress(step(STARTING, seconds=2.0), step(WAITING, "web-2")),
            progress(step(DRAINING, left=12), step(WAITING, "web-2")),
            progress(step(DRAINING, left=1), step(WAITING, "web-2")),
            progress(step(STOPPING), step(WAITING, "web-2")),
            progress(step(DONE), step(STARTING, "web-2", "web-1")),
            progress(step(DONE), step(DRAINING, "web-2", "web-1", left=1)),
            progress(step(DONE), step(DONE, "web-2", "web-1"), done=True),
        )
        code, output, errors = self.restart()
        self.assertEqual((code, errors), (0, ""))
        *lines, last = output.splitlines()
        self.assertEqual(
            lines,
            [
                "web-1: starting web-5",
                "web-5 is ready",
                "web-1 drains, 12 connections left",
                "web-1 stops",
                "web-1 has stopped",
                "web-2: starting web-1",
                "web-1 is ready",
                "web-2 drains, 1 connection left",
                "web-2 has stopped",
            ],
        )
        self.assertRegex(last, r"\A2 workers replaced in [\d.]+ s\Z")

    def test_detail(self) -> None:
        """
        What a drain waits for is a line, once.
        """
        detail = "it cannot say what is left, so this takes 5 s"
        self.serve(
            progress(step(DRAINING)),
            progress(step(DRAINING, detail=detail)),
            progress(step(DRAINING, detail=detail)),
            progress(step(DONE), done=True),
        )
        _, output, _ = self.restart()
        self.assertEqual(
            output.splitlines()[2:-1],
            ["web-1 drains", f"web-1 drains: {detail}", "web-1 has stopped"],
        )

    def test_missed(self) -> None:
        """
        What happened between two requests is told all the same, if it matters.
        """
        self.serve(progress(step(DONE), step(DONE, "", "web-2"), done=True))
        code, output, _ = self.restart()
        self.assertEqual(code, 0)
        self.assertEqual(
            output.splitlines()[:-1],
            [
                "web-1: starting web-5",
                "web-5 is ready",
                "web-1 has stopped",
                "starting web-2",
                "web-2 is ready",
            ],
        )

    def test_nothing(self) -> None:
        """
        A group may have no workers.
        """
        self.serve(progress(done=True))
        code, output, _ = self.restart()
        self.assertEqual(code, 0)
        self.assertTrue(output.startswith("0 workers replaced"))

    def test_quiet(self) -> None:
        """
        With C{--quiet}, only errors are written.
        """
        self.serve(progress(step(STARTING)), progress(step(DONE), done=True))
        self.assertEqual(self.restart("--quiet"), (0, "", ""))

    def test_nobodyReads(self) -> None:
        """
        If nobody reads the output, the command watches the restart to its end.
        """

        class Closed(io.StringIO):
            def write(self, text: str) -> int:
                raise BrokenPipeError

        script = self.serve(
            progress(step(STARTING)),
            progress(step(DRAINING)),
            progress(step(DONE), done=True),
        )
        self.assertEqual(self.restart(output=Closed), (0, "", ""))
        self.assertEqual(len(script.requests), 3)

    def test_interrupted(self) -> None:
        """
        Ctrl-C leaves the restart running, and the command says so.
        """

        def sleep(seconds: float) -> None:
            raise KeyboardInterrupt

        self.patch(time, "sleep", sleep)
        for output in (io.StringIO, Terminal):
            script = self.serve(progress(step(STARTING)))
            code, _, errors = self.restart(output=output)
            script.remove()
            self.assertEqual(code, 130)
            self.assertEqual(
                errors,
                "portlisten restart: interrupted; the restart goes on: 'portlisten"
                " status' shows it\n",
            )


class FailureTests(RestartTestCase):
    """
    Tests for a restart that fails.
    """

    def test_first(self) -> None:
        """
        The reason, the end of the log and what serves now are written, and the exit
        code is 1.
        """
        failed = step(FAILED, detail="not ready within 30 s")
        self.serve(
            progress(step(STARTING), step(WAITING, "web-2")),
            progress(
                failed,
                step(WAITING, "web-2"),
                done=True,
                error="web-5 did not get ready within 30 s",
                log=("Traceback (most recent call last):", "ImportError: app"),
            ),
        )
        code, output, errors = self.restart()
        self.assertEqual(code, 1)
        self.assertEqual(
            output, "web-1: starting web-5\nweb-5 failed: not ready within 30 s\n"
        )
        self.assertEqual(
            errors,
            "portlisten restart: web-5 did not get ready within 30 s\n"
            "the end of the log of web-5:\n"
            "  Traceback (most recent call last):\n"
            "  ImportError: app\n"
            "0 of 2 workers replaced. The old workers serve on.\n",
        )

    def test_later(self) -> None:
        """
        Some may be replaced already.
        """
        self.serve(
            progress(
                step(DONE),
                step(FAILED, "web-2", "web-1"),
                step(WAITING, "web-3"),
                done=True,
                error="web-1 ended with exit status 3",
            )
        )
        code, output, errors = self.restart()
        self.assertEqual(code, 1)
        self.assertIn("web-1 failed\n", output)
        self.assertNotIn("replaced in", output)
        self.assertEqual(
            errors,
            "portlisten restart: web-1 ended with exit status 3\n"
            "1 of 3 workers replaced. The other old workers serve on.\n",
        )

    def test_incomplete(self) -> None:
        """
        A restart that is over is no success while a worker is not replaced.
        """
        for last, reason in [
            (step(WAITING, "web-2"), "the restart ended before all were replaced"),
            (step(FAILED, "web-2", ""), "web-2 failed"),
        ]:
            script = self.serve(progress(step(DONE), last, done=True))
            code, _, errors = self.restart("--quiet")
            script.remove()
            self.assertEqual(code, 1)
            self.assertTrue(errors.startswith(f"portlisten restart: {reason}\n"))
            self.assertIn("1 of 2 workers replaced.", errors)

    def test_error(self) -> None:
        """
        An error counts, even if all workers were replaced.
        """
        self.serve(progress(step(DONE), done=True, error="the supervisor stops"))
        code, _, errors = self.restart()
        self.assertEqual(code, 1)
        self.assertIn("portlisten restart: the supervisor stops\n", errors)


class TerminalTests(RestartTestCase):
    """
    Tests for a restart that is watched on a terminal.
    """

    def test_live(self) -> None:
        """
        Each worker has a line that changes.
        """
        self.serve(
            progress(step(STARTING, detail="joining"), step(WAITING, "web-2")),
            progress(step(DRAINING, left=12), step(WAITING, "web-2")),
            progress(step(DONE), step(DONE, "web-2", "web-1"), done=True),
        )
        code, output, errors = self.restart(output=Terminal)
        self.assertEqual((code, errors), (0, ""))
        self.assertIn("web-1 → web-5", output)
        self.assertIn("starts: joining", output)
        self.assertIn("drains, 12 connections left", output)
        self.assertIn("2 of 2", output)
        self.assertNotIn("is ready", output)
        self.assertIn("2 workers replaced in", output.splitlines()[-1])
        # The cursor is shown again.
        self.assertGreater(output.rindex("\x1b[?25h"), output.rindex("\x1b[?25l"))

    def test_withoutRich(self) -> None:
        """
        Without rich, plain lines are shown, and no error.
        """
        self.withoutRich()
        self.serve(progress(step(STARTING)), progress(step(DONE), done=True))
        code, output, errors = self.restart(output=Terminal)
        self.assertEqual((code, errors), (0, ""))
        self.assertTrue(output.startswith("web-1: starting web-5\nweb-5 is ready\n"))

    def test_nobodyReads(self) -> None:
        """
        If the terminal is gone, the command watches the restart to its end.
        """

        class Gone(Terminal):
            def write(self, text: str) -> int:
                raise OSError(5, "Input/output error")

        script = self.serve(progress(step(STARTING)), progress(step(DONE), done=True))
        code, _, errors = self.restart(output=Gone)
        self.assertEqual((code, errors), (0, ""))
        self.assertEqual(len(script.requests), 2)
