"""
Tests for L{portlisten._commands.stop}, with a supervisor that follows a script.
"""

from __future__ import annotations

import os
import subprocess
import sys

from portlisten._commands import stop
from portlisten._control.client import ControlClient
from portlisten._control.messages import Stop, StopAnswer
from tests.support.control_script import CommandTestCase

#: Answers one request to stop, and removes the path.  Ends a while later, or when its
#: standard input is closed.
SUPERVISOR = """
import json, os, socket, sys, time
path, pause = sys.argv[1:]
listening = socket.socket(socket.AF_UNIX)
listening.bind(path)
listening.listen()
print(flush=True)
sock, _ = listening.accept()
sock.recv(1000)
os.unlink(path)
listening.close()
sock.sendall(json.dumps({"version": 1, "pid": os.getpid()}).encode() + b"\\n")
sock.close()
if pause == "forever":
    sys.stdin.read()
time.sleep(float(pause))
"""


class StopTestCase(CommandTestCase):
    """
    Runs C{portlisten stop}.
    """

    def start(self, pause: str) -> subprocess.Popen[str]:
        """
        Start a process that stops when it is asked.

        @param pause: how long it takes, in seconds; or "forever".
        """
        process = subprocess.Popen(
            [sys.executable, "-c", SUPERVISOR, f"{self.path}.ctl", pause],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.addCleanup(process.__exit__, None, None, None)
        self.addCleanup(process.kill)
        assert process.stdout is not None
        process.stdout.readline()
        return process

    def hasEnded(self, process: subprocess.Popen[str]) -> bool:
        """
        Say whether a process has ended, now.
        """
        options = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, process.pid, options) is not None


class StopTests(StopTestCase):
    """
    Tests for C{portlisten stop}.
    """

    def test_usage(self) -> None:
        """
        A mistake is one line.
        """
        for arguments, reason in [
            ([], "expected FILE or PATH, got 0 arguments"),
            (["a", "b"], "expected FILE or PATH, got 2 arguments"),
            (["--timeout=-1", "a"], "--timeout: '-1' is not a number"),
            (["--", "-a"], "PATH would be '-a'"),
        ]:
            code, output, errors = self.call("stop", *arguments)
            self.assertEqual((code, output), (2, ""))
            self.assertTrue(errors.startswith(f"portlisten stop: {reason}"), errors)
            self.assertEqual(errors.count("\n"), 1)

    def test_ended(self) -> None:
        """
        The command returns when the process has ended, and not when its control socket
        is gone.
        """
        process = self.start("0.3")
        code, output, errors = self.call("stop", self.path)
        self.assertTrue(self.hasEnded(process))
        self.assertEqual((code, errors), (0, ""))
        self.assertRegex(output, r"\Astopped in [\d.]+ s\n\Z")

    def test_timeout(self) -> None:
        """
        If the time is over, the process goes on to stop, and the exit code is 1.
        """
        process = self.start("forever")
        code, output, errors = self.call("stop", "--timeout=0.05", self.path)
        self.assertFalse(self.hasEnded(process))
        self.assertEqual((code, output), (1, ""))
        self.assertEqual(
            errors,
            f"portlisten stop: process {process.pid} has not ended after 0.05 s; it"
            " goes on to stop\n",
        )

    def test_otherProcess(self) -> None:
        """
        If the process that stops is not the one that the kernel names, as in another
        namespace, the command waits until nobody listens on the control socket.
        """
        self.patch(stop, "INTERVAL_SECONDS", 0.005)
        script = self.serve(StopAnswer(1))
        looks = iter(range(3))

        def refuse(*_: object) -> bool:
            self.fail("the other process is waited for")

        def sleep(seconds: float) -> None:
            if next(looks, None) == 2:
                script.remove()

        self.patch(stop, "_awaitProcess", refuse)
        self.patch(stop, "sleep", sleep)
        code, output, _ = self.call("stop", self.path)
        self.assertEqual(code, 0)
        self.assertEqual(script.requests, [Stop()])
        self.assertTrue(output.startswith("stopped in"))

    def test_otherProcessTimeout(self) -> None:
        """
        That has the same time.
        """
        self.patch(stop, "INTERVAL_SECONDS", 0.005)
        self.serve(StopAnswer(1))
        code, _, errors = self.call("stop", "--timeout=0.05", self.path)
        self.assertEqual(code, 1)
        self.assertIn("process 1 has not ended after 0.05 s", errors)

    def test_interrupted(self) -> None:
        """
        Ctrl-C leaves the process stopping, and the command says so.
        """

        def interrupt(*_: object) -> bool:
            raise KeyboardInterrupt

        self.patch(stop, "_awaitProcess", interrupt)
        process = self.start("forever")
        code, output, errors = self.call("stop", self.path)
        self.assertEqual((code, output), (130, ""))
        self.assertEqual(
            errors,
            f"portlisten stop: interrupted; process {process.pid} goes on to stop\n",
        )

    def test_refused(self) -> None:
        """
        The supervisor's own words are shown.
        """
        self.serve("it cannot")
        self.assertEqual(
            self.call("stop", self.path), (2, "", "portlisten stop: it cannot\n")
        )

    def test_alone(self) -> None:
        """
        A listener without a supervisor is stopped by other means.  The kernel tells
        which process that is, if it can.
        """
        for refusal in (
            "stop means nothing to this listener",
            'unknown command "stop": there are workers, drain, undrain',
        ):
            script = self.serve(refusal)
            code, output, errors = self.call("stop", self.path)
            script.remove()
            self.assertEqual((code, output), (2, ""))
            self.assertEqual(
                errors,
                f"portlisten stop: the listener at {self.path} has no supervisor, and"
                f" cannot be stopped so: use 'systemctl stop', or 'kill {os.getpid()}'"
                "\n",
            )

    def test_aloneElsewhere(self) -> None:
        """
        In another namespace, the kernel does not tell.
        """
        self.patch(ControlClient, "pid", 0)
        self.serve("stop means nothing to this listener")
        _, _, errors = self.call("stop", self.path)
        self.assertIn("use 'systemctl stop', or its pid file\n", errors)
