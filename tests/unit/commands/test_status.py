"""
Tests for L{portlisten._commands.status}, with a control socket that follows a script.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from portlisten._commands import asking, status
from portlisten._control import client
from portlisten._control.messages import Status, StatusAnswer, encodeAnswer
from tests.support.channels import PATIENCE
from tests.support.control_script import CommandTestCase, Terminal
from tests.support.statuses import ALONE, BAD, LISTENER, WELL


class StatusTestCase(CommandTestCase):
    """
    Runs C{portlisten status}.
    """

    def setUp(self) -> None:
        super().setUp()
        self.patch(status, "SAMPLE_SECONDS", 0.005)

    def status(
        self, *options: str, output: Any = io.StringIO
    ) -> tuple[object, str, str]:
        """
        Run C{portlisten status} with PATH.
        """
        return self.call("status", *options, self.path, output=output)


class ArgumentTests(StatusTestCase):
    """
    Tests for what is asked.
    """

    def test_usage(self) -> None:
        """
        A mistake is one line.
        """
        for arguments, reason in [
            (["a", "b"], "expected FILE or PATH, got 2 arguments"),
            (["--fast"], "option --fast not recognized"),
            (["a", "--json"], "options come before the arguments"),
            (["--", "-a"], "PATH would be '-a'"),
            (["--alive", "--json", "a"], "--alive shows nothing: leave out --json"),
        ]:
            code, output, errors = self.call("status", *arguments)
            self.assertEqual((code, output), (2, ""))
            self.assertTrue(errors.startswith(f"portlisten status: {reason}"), errors)
            self.assertEqual(errors.count("\n"), 1)

    def goElsewhere(self) -> None:
        """
        Take a path for the channel that is absolute, and short.
        """
        folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder)
        self.path = os.path.join(folder, "path")

    def test_file(self) -> None:
        """
        The file of C{portlisten run} names the channel, and the control socket.
        """
        self.goElsewhere()
        script = self.serve(WELL)
        with open(f"{self.path}.toml", "w") as file:
            file.write(f'path = "{self.path}"\n')
        self.assertEqual(self.call("status", f"{self.path}.toml")[0], 0)
        with open(f"{self.path}.toml", "w") as file:
            file.write(f'path = "/elsewhere"\ncontrol = "{self.path}.ctl"\n')
        self.assertEqual(self.call("status", f"{self.path}.toml")[0], 0)
        self.assertEqual(script.requests, [Status()] * 4)

    def test_control(self) -> None:
        """
        C{--control} names another control socket than the usual one.
        """
        self.serve(WELL)
        control = f"--control={self.path}.ctl"
        self.assertEqual(self.call("status", control, "elsewhere")[0], 0)

    def test_noControl(self) -> None:
        """
        The file may say that there is no control socket.
        """
        self.goElsewhere()
        with open(f"{self.path}.toml", "w") as file:
            file.write(f'path = "{self.path}"\ncontrol = "none"\n')
        code, _, errors = self.call("status", f"{self.path}.toml")
        self.assertEqual(code, 2)
        self.assertIn(f"the listener at {self.path} has no control socket", errors)

    def test_wrongFile(self) -> None:
        """
        A file that cannot be understood is an error, and no traceback.
        """
        with open(f"{self.path}.toml", "w") as file:
            file.write("path =\n")
        code, output, errors = self.call("status", f"{self.path}.toml")
        self.assertEqual((code, output), (2, ""))
        self.assertIn(f"{self.path}.toml", errors)


class OnlyTests(StatusTestCase):
    """
    Tests for the command without an argument.
    """

    def setUp(self) -> None:
        super().setUp()
        self.folder = f"{self.path}.d"
        os.mkdir(self.folder)
        self.patch(asking, "FOLDER", self.folder)

    def bind(self, name: str) -> None:
        """
        Leave a socket behind.
        """
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(f"{self.folder}/{name}")

    def test_one(self) -> None:
        """
        The only control socket is asked.  Other files are none.
        """
        self.path = f"{self.folder}/web.sock"
        with open(f"{self.folder}/notes.ctl", "w"):
            pass
        self.bind("web.sock")
        script = self.serve(WELL)
        code, output, _ = self.call("status")
        self.assertEqual((code, len(script.requests)), (0, 2))
        self.assertTrue(output.startswith("all is well\n"))

    def test_none(self) -> None:
        """
        There may be none.
        """
        self.assertEqual(
            self.call("status"),
            (
                2,
                "",
                "portlisten status: no listener has a control socket in"
                f" {self.folder}: give PATH, or the FILE of 'portlisten run'\n",
            ),
        )

    def test_several(self) -> None:
        """
        If there are several, the command lists them.
        """
        self.bind("a.sock.ctl")
        self.bind("b.sock.ctl")
        code, output, errors = self.call("status")
        self.assertEqual((code, output), (2, ""))
        self.assertEqual(
            errors,
            f"portlisten status: 2 listeners are in {self.folder}: give one of\n"
            f"  {self.folder}/a.sock\n  {self.folder}/b.sock\n",
        )


class AnswerTests(StatusTestCase):
    """
    Tests for one answer.
    """

    def test_well(self) -> None:
        """
        If nothing is wrong, the exit code is 0.  Rates are measured by two requests.
        """
        counters = {**LISTENER.counters, "accepted": 1_204_445}
        later = replace(WELL, listener=replace(LISTENER, counters=counters))
        script = self.serve(WELL, later)
        code, output, errors = self.status()
        self.assertEqual((code, errors), (0, ""))
        self.assertTrue(
            output.startswith("all is well\n\nsupervisor  /etc/portlisten/")
        )
        self.assertRegex(output, r"\naccepted +1,204,445 +[\d,]{4,}\n")
        self.assertRegex(output, r"\noffered +4 +-\n")
        self.assertEqual((script.requests, script.clients), ([Status()] * 2, 1))
        self.assertNotIn("\x1b", output)

    def test_problems(self) -> None:
        """
        What is wrong comes first, and the exit code is 1.
        """
        self.serve(BAD)
        code, output, errors = self.status()
        self.assertEqual((code, errors), (1, ""))
        self.assertTrue(
            output.startswith(
                "! nobody serves https: 12 wait, the oldest for 8 s\n"
                "! api-1 has failed 8 times in a row, and is given up\n\n"
            )
        )

    def test_noListener(self) -> None:
        """
        If the supervisor answers, and its listener does not, that is a problem.
        """
        script = self.serve(StatusAnswer(None, WELL.supervisor))
        code, output, _ = self.status()
        self.assertEqual(code, 1)
        self.assertTrue(output.startswith("! the listener does not answer\n"))
        self.assertEqual(len(script.requests), 1)

    def test_alive(self) -> None:
        """
        C{--alive} tells only whether the listener answers, and not how it is.
        """
        script = self.serve(BAD)
        self.assertEqual(self.status("--alive"), (0, "", ""))
        self.assertEqual(script.requests, [Status()])

    def test_notAlive(self) -> None:
        """
        With C{--alive}, a supervisor without a listener is not enough.
        """
        self.serve(replace(BAD, listener=None))
        code, output, errors = self.status("--alive")
        self.assertEqual((code, output), (2, ""))
        self.assertIn("no listener runs at", errors)

    def test_json(self) -> None:
        """
        C{--json} writes the answer in one line, after one request.
        """
        script = self.serve(BAD)
        code, output, errors = self.status("--json")
        self.assertEqual((code, errors), (1, ""))
        self.assertEqual(output, encodeAnswer(BAD).decode())
        self.assertEqual(json.loads(output)["problems"], list(BAD.problems))
        self.assertEqual(len(script.requests), 1)

    def test_older(self) -> None:
        """
        If the listener is older, one line says so.
        """
        for refusal in (
            'unknown command "status": there are workers, drain, undrain',
            "status means nothing to this listener",
        ):
            script = self.serve(refusal)
            code, output, errors = self.status()
            script.remove()
            self.assertEqual((code, output), (2, ""))
            self.assertEqual(
                errors,
                f"portlisten status: the listener at {self.path} is older, and cannot"
                " describe itself: restart it; 'portlisten drain PATH' lists its"
                " workers\n",
            )

    def test_notAnswered(self) -> None:
        """
        If the listener says nothing of use, one line says so.
        """
        for reply, reason in [
            (None, f"the listener at {self.path} has stopped"),
            (b"[]\n", "the answer is no JSON object"),
            (b'{"version": 1}\n', "the answer is no StatusAnswer"),
            ("an internal error\x1b[2J", "an internal error?[2J"),
        ]:
            script = self.serve(reply)
            answer = self.status()
            script.remove()
            self.assertEqual(answer, (2, "", f"portlisten status: {reason}\n"))

    def test_nothing(self) -> None:
        """
        No listener may run.
        """
        code, output, errors = self.status()
        self.assertEqual((code, output), (2, ""))
        self.assertIn(f"no listener runs at {self.path}", errors)

    def test_busy(self) -> None:
        """
        While too many clients are connected, the command tries again, for a while.
        """
        self.patch(client, "PAUSE_SECONDS", 0.005)
        self.patch(client, "BUSY_SECONDS", PATIENCE)
        script = self.serve(
            "8 clients are connected: wait", "8 clients are connected: wait", WELL
        )
        self.assertEqual(self.status()[0], 0)
        self.assertEqual(script.clients, 3)
        script.remove()
        self.patch(client, "BUSY_SECONDS", 0.02)
        self.serve("8 clients are connected: wait")
        self.assertEqual(
            self.status(), (2, "", "portlisten status: 8 clients are connected: wait\n")
        )

    def test_notEncodable(self) -> None:
        """
        What standard output cannot write is replaced.
        """
        supervisor = replace(WELL.supervisor, file="/etc/fünf.toml")  # type: ignore[type-var]
        self.serve(replace(WELL, supervisor=supervisor))
        made = []

        def output() -> io.TextIOWrapper:
            made.append(io.BytesIO())
            return Plain(made[0], encoding="ascii")

        code, _, errors = self.status(output=output)
        self.assertEqual((code, errors), (0, ""))
        self.assertIn(b"supervisor  /etc/f?nf.toml,", made[0].getvalue())


class Plain(io.TextIOWrapper):
    """
    A file whose text nobody asks for.
    """

    def getvalue(self) -> str:
        self.flush()
        return ""


class TerminalTests(StatusTestCase):
    """
    Tests for the status on a terminal.
    """

    def test_colours(self) -> None:
        """
        On a terminal, the answer has colours, and fits.
        """
        self.serve(BAD)
        code, output, _ = self.status(output=Terminal)
        self.assertEqual(code, 1)
        self.assertIn("\x1b[1;31mnobody serves https", output)
        self.assertIn("\x1b[32mready", output)

    def test_noColour(self) -> None:
        """
        C{NO_COLOR} is respected.
        """
        self.setVariable("NO_COLOR", "1")
        self.serve(BAD)
        _, output, _ = self.status(output=Terminal)
        self.assertIn("nobody serves https", output)
        self.assertNotRegex(output, r"\x1b\[[0-9;]*3[0-9]m")

    def test_withoutRich(self) -> None:
        """
        Without rich, the answer is plain text that fits, and no error.
        """
        self.withoutRich()
        self.setVariable("COLUMNS", "50")
        self.serve(BAD)
        code, output, errors = self.status(output=Terminal)
        self.assertEqual((code, errors), (1, ""))
        self.assertNotIn("\x1b", output)
        self.assertLessEqual(max(map(len, output.splitlines())), 50)
        self.assertIn("  restarts in 4 s  ", output)


class WatchTests(StatusTestCase):
    """
    Tests for C{--watch}.
    """

    def interrupt(self, after: int) -> None:
        """
        Let Ctrl-C come.

        @param after: during which pause.
        """
        pauses = iter(range(1, after + 1))

        def sleep(seconds: float) -> None:
            if next(pauses) == after:
                raise KeyboardInterrupt

        self.patch(time, "sleep", sleep)

    def growing(self) -> Callable[[object], StatusAnswer]:
        """
        Make a reply whose counter grows.
        """
        accepted = iter(range(100, 10_000_000, 100_000))

        def reply(_: object) -> StatusAnswer:
            counters = {"accepted": next(accepted)}
            return replace(ALONE, listener=replace(LISTENER, counters=counters))

        return reply

    def test_plain(self) -> None:
        """
        Where it is no terminal, blocks of plain text follow each other.  The first one
        has no rates.
        """
        self.interrupt(3)
        self.serve(self.growing())
        code, output, errors = self.status("--watch")
        self.assertEqual((code, errors), (0, ""))
        first, second, third = output.split("--- ")[1:]
        self.assertRegex(first, r"\A[\d-]{10} [\d:]{8}\nall is well\n")
        self.assertRegex(first, r"\naccepted +100\n")
        self.assertRegex(second, r"\naccepted +100,100 +[\d,]{4,}\n")
        self.assertRegex(third, r"\naccepted +200,100 +[\d,]{4,}\n")

    def test_json(self) -> None:
        """
        With C{--json}, each answer is a line.
        """
        self.interrupt(3)
        self.serve(self.growing())
        code, output, _ = self.status("--watch", "--json")
        self.assertEqual(code, 0)
        numbers = [
            json.loads(line)["listener"]["counters"]["accepted"]
            for line in output.splitlines()
        ]
        self.assertEqual(numbers, [100, 100_100, 200_100])

    def test_lastAnswer(self) -> None:
        """
        The exit code is that of the last answer.
        """
        self.interrupt(2)
        self.serve(WELL, BAD)
        self.assertEqual(self.status("--watch")[0], 1)

    def test_ends(self) -> None:
        """
        If the listener ends, so does the command, where it is no terminal.
        """
        self.patch(status, "INTERVAL_SECONDS", 0.005)
        script = self.serve(WELL, WELL, lambda request: script.leave(request))  # noqa: PLW0108
        code, output, errors = self.status("--watch")
        self.assertEqual(code, 2)
        self.assertEqual(output.count("all is well"), 2)
        self.assertIn(f"no listener runs at {self.path}", errors)

    def test_again(self) -> None:
        """
        If the listener ended the connection because the command was stopped for too
        long, the command connects again.
        """
        self.interrupt(3)
        script = self.serve(WELL, "no request within 5 s", BAD)
        code, output, errors = self.status("--watch")
        self.assertEqual((code, errors), (1, ""))
        self.assertEqual(output.count("all is well"), 1)
        self.assertEqual(script.clients, 2)

    def test_terminal(self) -> None:
        """
        On a terminal, answers replace each other on a screen of their own.  The last
        one stays.
        """
        self.interrupt(2)
        self.serve(WELL, BAD)
        code, output, errors = self.status("--watch", output=Terminal)
        self.assertEqual((code, errors), (1, ""))
        screen, _, rest = output.partition("\x1b[?1049l")
        self.assertIn("\x1b[?1049h", screen)
        self.assertIn("all is well", screen)
        self.assertIn("nobody serves https", rest)
        self.assertNotIn("all is well", rest)

    def test_restarted(self) -> None:
        """
        On a terminal, the command goes on while the listener cannot be asked.
        """
        pauses = iter(range(1, 5))

        def sleep(seconds: float) -> None:
            number = next(pauses)
            if number == 3:
                script.end()
                self.serve(BAD)
            if number == 4:
                raise KeyboardInterrupt

        self.patch(time, "sleep", sleep)
        script = self.serve(WELL, lambda request: script.leave(request))  # noqa: PLW0108
        code, output, errors = self.status("--watch", output=Terminal)
        self.assertEqual((code, errors), (1, ""))
        self.assertIn("no listener runs at", output)
        self.assertIn("nobody serves https", output.partition("\x1b[?1049l")[2])

    def test_withoutRich(self) -> None:
        """
        Without rich, one line says what is missing, and blocks follow each other.
        """
        self.withoutRich()
        self.interrupt(2)
        self.serve(WELL)
        code, output, errors = self.status("--watch", output=Terminal)
        self.assertEqual(code, 0)
        self.assertEqual(
            errors,
            "portlisten status: for a screen that stays in place, install"
            " portlisten[terminal]\n",
        )
        self.assertEqual(output.count("all is well"), 2)
