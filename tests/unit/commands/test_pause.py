"""
Tests for L{portlisten._commands.pause}: the command lines, and what is asked and shown,
with a listener made by hand.
"""

from __future__ import annotations

import contextlib
import io
import os
import socket
import threading

from twisted.trial.unittest import SynchronousTestCase

from portlisten._commands import asking, portlisten
from portlisten._control.messages import (
    Pause,
    PauseAnswer,
    Request,
    Resume,
    encodeAnswer,
    encodeError,
    parseRequest,
)
from tests.support.descriptors import watchDescriptors

PAUSED = PauseAnswer(True, "9100")
RESUMED = PauseAnswer(False, "9100")


class PauseTests(SynchronousTestCase):
    """
    Tests for C{portlisten pause} and C{portlisten resume}.
    """

    def setUp(self) -> None:
        watchDescriptors(self)
        self.folder = os.path.dirname(self.mktemp())
        self.path = os.path.join(self.folder, "path")
        self.requests: list[Request] = []

    def serve(self, answer: PauseAnswer | str | None, suffix: str = ".ctl") -> None:
        """
        Answer one request.

        @param answer: the answer.  A string is an error, and L{None} ends the listener.
        """
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(f"{self.path}{suffix}")
        listening.listen()

        def run() -> None:
            with listening:
                sock, _ = listening.accept()
            with sock, sock.makefile("rb") as lines:
                self.requests.append(parseRequest(lines.readline()))
                if isinstance(answer, str):
                    sock.sendall(encodeError(answer))
                elif answer is not None:
                    sock.sendall(encodeAnswer(answer))
            os.unlink(f"{self.path}{suffix}")

        thread = threading.Thread(target=run)
        thread.start()
        self.addCleanup(thread.join)
        self.thread = thread

    def run_(self, *arguments: str) -> tuple[object, str, str]:
        """
        Run a command.

        @return: the exit code, the output, and the errors.
        """
        out, errors = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
            exit = self.assertRaises(SystemExit, portlisten.main, arguments)
        return exit.code, out.getvalue(), errors.getvalue()

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
        self.serve(PAUSED, ".other")
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
