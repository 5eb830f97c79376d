"""
Tests for L{portlisten._commands.drain}: the command lines, and what is asked and shown,
with a listener made by hand.
"""

from __future__ import annotations

import contextlib
import io
import os
import socket
import threading
import time
from dataclasses import replace

from twisted.trial.unittest import SynchronousTestCase

from portlisten._commands import asking, drain, portlisten
from portlisten._control import client
from portlisten._control.messages import (
    Drain,
    Request,
    Undrain,
    Workers,
    WorkersAnswer,
    encodeAnswer,
    encodeError,
    parseRequest,
)
from portlisten._control.status import State, WorkerState
from tests.support.descriptors import watchDescriptors

WEB1 = WorkerState(
    "worker 1 (web-1, pid 12, uid 7)", "web-1", 12, 7, 1, None, State.SERVING
)
WEB2 = WorkerState("worker 2 (pid 13, uid 7)", "", 13, 7, 0, 2, State.SERVING)


class Terminal(io.StringIO):
    """
    A terminal.
    """

    def isatty(self) -> bool:
        return True


class DrainTestCase(SynchronousTestCase):
    """
    A listener in a thread, whose answers a test writes.
    """

    def setUp(self) -> None:
        watchDescriptors(self)
        self.path = os.path.join(os.path.dirname(self.mktemp()), "path")
        self.requests: list[Request] = []
        self.patch(drain, "INTERVAL_SECONDS", 0.005)

    def serve(self, *answers: WorkersAnswer | str | None) -> None:
        """
        Answer one client.

        @param answers: an answer to each request.  The last one is repeated.  A string
            is an error, and L{None} ends the listener.
        """
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(f"{self.path}.ctl")
        listening.listen()

        def run() -> None:
            rest = list(answers)
            with listening:
                sock, _ = listening.accept()
            with sock, sock.makefile("rb") as lines:
                for line in lines:
                    self.requests.append(parseRequest(line))
                    answer = rest[0] if len(rest) == 1 else rest.pop(0)
                    if answer is None:
                        break
                    if isinstance(answer, str):
                        sock.sendall(encodeError(answer))
                        break
                    sock.sendall(encodeAnswer(answer))

        thread = threading.Thread(target=run)
        thread.start()
        self.addCleanup(thread.join)

    def run_(
        self, *arguments: str, output: type[io.StringIO] = io.StringIO
    ) -> tuple[object, str, str]:
        """
        Run the command.

        @return: the exit code, the output, and the errors.
        """
        out, errors = output(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
            exit = self.assertRaises(SystemExit, portlisten.main, arguments)
        return exit.code, out.getvalue(), errors.getvalue()

    def drain(self, *arguments: str) -> tuple[object, str, str]:
        """
        Run C{portlisten drain} with PATH.
        """
        *options, worker = arguments
        return self.run_("drain", *options, self.path, worker)


def answer(*workers: WorkerState) -> WorkersAnswer:
    """
    Make an answer.
    """
    return WorkersAnswer(workers)


def draining(worker: WorkerState, left: int, state: State) -> WorkerState:
    """
    Make the state of a worker that drains.
    """
    return replace(worker, connections=left, serving=0, state=state)


class ArgumentTests(DrainTestCase):
    """
    Tests for command lines that are wrong.
    """

    def test_usage(self) -> None:
        """
        A mistake is one line, and another exit code than that of a drain that takes too
        long.
        """
        for arguments, reason in [
            (["drain"], "expected FILE or PATH, and WORKER, got no arguments"),
            (["drain", "--timeout=-1", "s", "w"], "--timeout: '-1' is not a number"),
            (["drain", "--timeout"], "option --timeout requires argument"),
            (["drain", "s", "w", "--quiet"], "options come before the arguments"),
            (["drain", "--", "-s", "w"], "PATH would be '-s': options come"),
            (["drain", "--fast", "s"], "option --fast not recognized"),
        ]:
            code, output, errors = self.run_(*arguments)
            self.assertEqual((code, output), (2, ""))
            self.assertTrue(errors.startswith(f"portlisten drain: {reason}"), errors)
            self.assertTrue(errors.endswith(" (see 'portlisten drain --help')\n"))
            self.assertEqual(errors.count("\n"), 1)

    def test_noListener(self) -> None:
        """
        If no listener runs, the command says so.
        """
        for command in ("drain", "undrain"):
            code, _, errors = self.run_(command, self.path, "web-1")
            self.assertEqual(code, 2)
            self.assertEqual(
                errors,
                f"portlisten {command}: no listener runs at {self.path}: start it, or"
                " check the path\n",
            )

    def test_command(self) -> None:
        """
        Without a command, C{portlisten} names all.
        """
        exit = self.assertRaises(SystemExit, portlisten.main, [])
        self.assertIn("which is run, check, status, restart,", str(exit.code))


class WorkersTests(DrainTestCase):
    """
    Tests for the workers that are named.
    """

    def test_none(self) -> None:
        """
        Without a worker, the command lists all, and drains none.
        """
        self.serve(answer(WEB1, WEB2))
        code, output, errors = self.run_("drain", self.path)
        self.assertEqual((code, output), (2, ""))
        self.assertEqual(
            errors,
            "portlisten drain: expected WORKER; these workers are connected:\n"
            "  web-1  pid 12  uid 7  serving, 1 connection\n"
            "  (no label)  pid 13  uid 7  serving, 2 connections\n",
        )
        self.assertEqual(self.requests, [Workers()])

    def test_unknown(self) -> None:
        """
        If a word names no worker, none is drained, not even those that others name.
        """
        self.serve(answer(WEB1))
        code, _, errors = self.run_("drain", self.path, "web-1", "web-9", "14")
        self.assertEqual(code, 2)
        self.assertIn("no worker is web-9, 14; these workers are connected:\n", errors)
        self.assertEqual(self.requests, [Workers()])

    def test_noWorkers(self) -> None:
        """
        There may be no worker at all.
        """
        self.serve(answer())
        code, _, errors = self.drain("web-1")
        self.assertEqual(code, 2)
        self.assertIn(f"no worker is connected to the listener at {self.path}", errors)


class CourseTests(DrainTestCase):
    """
    Tests for the course of a drain.
    """

    def test_drained(self) -> None:
        """
        The command asks until all are drained, and says when each is.
        """
        self.serve(
            answer(WEB1, WEB2),
            answer(draining(WEB1, 2, State.DRAINING), draining(WEB2, 1, State.DRAINED)),
            answer(draining(WEB1, 1, State.DRAINING)),
            answer(draining(WEB1, 0, State.DRAINING)),
            answer(draining(WEB1, 0, State.DRAINED)),
        )
        code, output, errors = self.run_("drain", self.path, "web-1", "13")
        self.assertEqual((code, errors), (0, ""))
        *lines, last = output.splitlines()
        self.assertEqual(
            lines,
            [
                f"{WEB1.name}: 2 connections left",
                f"{WEB2.name}: 1 connection left",
                f"{WEB2.name} is drained",
                f"{WEB1.name} is drained",
            ],
        )
        self.assertRegex(last, r"^done, after \d+\.\d s$")
        self.assertEqual(self.requests, [Workers(), *[Drain(("web-1", "13"))] * 4])

    def test_idle(self) -> None:
        """
        A worker without connections is drained as soon as it confirms.
        """
        self.serve(
            answer(WEB1),
            answer(draining(WEB1, 0, State.DRAINING)),
            answer(draining(WEB1, 0, State.DRAINED)),
        )
        code, output, _ = self.drain("web-1")
        self.assertEqual(code, 0)
        first, last = output.splitlines()
        self.assertEqual(first, f"{WEB1.name} is drained")
        self.assertTrue(last.startswith("done, after "))

    def test_left(self) -> None:
        """
        A worker that leaves is not waited for, once it had time to join again.
        """
        self.patch(drain, "REJOIN_SECONDS", 0.05)
        self.patch(drain, "runs", lambda pid: False)
        self.serve(answer(WEB1), answer(draining(WEB1, 2, State.DRAINING)), answer())
        code, output, _ = self.drain("web-1")
        self.assertEqual(code, 0)
        self.assertIn(
            f"{WEB1.name} has left; when last seen, it had 2 connections left\n", output
        )

    def test_leftAndRuns(self) -> None:
        """
        As long as its process runs, it may go on serving what it had, and is waited
        for: it was revoked, perhaps, because it had stood still.
        """
        self.patch(drain, "REJOIN_SECONDS", 0.05)
        living = replace(WEB1, pid=os.getpid())
        self.serve(
            answer(living), answer(draining(living, 2, State.DRAINING)), answer()
        )
        code, output, errors = self.drain("--timeout=1.5", "web-1")
        self.assertEqual(code, 1)
        self.assertNotIn("has left", output)
        self.assertIn(
            "2 connections left; it has left the listener, and process"
            f" {os.getpid()} still runs\n",
            errors,
        )

    def test_leftWithNone(self) -> None:
        """
        If it had none when it left, its process does not matter.
        """
        self.patch(drain, "REJOIN_SECONDS", 0.05)
        living = replace(WEB1, pid=os.getpid())
        self.serve(
            answer(living), answer(draining(living, 0, State.DRAINING)), answer()
        )
        code, output, _ = self.drain("web-1")
        self.assertEqual(code, 0)
        self.assertIn(f"{WEB1.name} has left\n", output)

    def test_joinsAgain(self) -> None:
        """
        If it joins again, the command waits for it: its connections are still there.
        """
        self.patch(drain, "REJOIN_SECONDS", 10.0)
        again = replace(WEB1, name="worker 7 (web-1, pid 12, uid 7)")
        self.serve(
            answer(WEB1),
            answer(draining(WEB1, 2, State.DRAINING)),
            answer(),
            *[answer(draining(again, 2, State.DRAINING))] * 2,
            None,
        )
        code, output, _ = self.drain("web-1")
        self.assertEqual(code, 2)
        self.assertIn(f"{again.name}: 2 connections left", output)
        self.assertNotIn("has left", output)
        self.assertEqual(len(self.requests), 6)

    def test_timeout(self) -> None:
        """
        If the time is over, the command says what is left of each worker.
        """
        self.serve(
            answer(WEB1, WEB2),
            answer(draining(WEB1, 3, State.DRAINING), draining(WEB2, 1, State.UNKNOWN)),
        )
        code, _, errors = self.run_(
            "drain", "--timeout=0.1", "--quiet", self.path, "web-1", "13"
        )
        self.assertEqual(code, 1)
        undo = f"portlisten undrain {self.path} web-1 13"
        stays = f"it stays drained: '{undo}' undoes that"
        self.assertEqual(
            errors.splitlines(),
            [
                f"portlisten drain: {WEB1.name}, after 0.1 s: 3 connections left;"
                f" {stays}",
                f"portlisten drain: {WEB2.name}, after 0.1 s: it cannot say what is"
                " left (1 connection known): it is older, or runs under 'portlisten"
                f" exec'; {stays}",
            ],
        )

    def test_unconfirmed(self) -> None:
        """
        A worker that does not confirm may be stopped.
        """
        self.serve(answer(WEB1), answer(draining(WEB1, 0, State.DRAINING)))
        code, _, errors = self.drain("--timeout=0", "web-1")
        self.assertEqual(code, 1)
        self.assertIn("it has not confirmed that it drains", errors)

    def test_listenerEnds(self) -> None:
        """
        If the listener ends, it cannot say when the workers are drained.
        """
        self.serve(answer(WEB1), answer(draining(WEB1, 2, State.DRAINING)), None)
        code, _, errors = self.drain("web-1")
        self.assertEqual(code, 2)
        self.assertEqual(
            errors, f"portlisten drain: the listener at {self.path} has stopped\n"
        )

    def test_refused(self) -> None:
        """
        The listener's own words are shown.
        """
        self.serve("8 clients are connected: wait")
        self.patch(client, "BUSY_SECONDS", 0)
        code, _, errors = self.drain("web-1")
        self.assertEqual(code, 2)
        self.assertEqual(errors, "portlisten drain: 8 clients are connected: wait\n")

    def test_interrupted(self) -> None:
        """
        After SIGINT, the command says that the workers stay drained.
        """
        self.serve(answer(WEB1), answer(draining(WEB1, 2, State.DRAINING)))

        def interrupt(seconds: float) -> None:
            raise KeyboardInterrupt

        self.patch(time, "sleep", interrupt)
        code, _, errors = self.drain("web-1")
        self.assertEqual(code, 130)
        self.assertIn("interrupted; what is drained stays drained: 'portlisten", errors)

    def test_interruptedBefore(self) -> None:
        """
        Before anything is drained, SIGINT just ends the command.
        """

        def interrupt(*_: object) -> None:
            raise KeyboardInterrupt

        self.patch(asking, "ControlClient", interrupt)
        self.assertEqual(self.drain("web-1"), (130, "", ""))

    def test_quiet(self) -> None:
        """
        With C{--quiet}, nothing is shown.
        """
        self.serve(answer(WEB1), answer(draining(WEB1, 0, State.DRAINED)))
        self.assertEqual(self.drain("--quiet", "web-1"), (0, "", ""))

    def test_terminal(self) -> None:
        """
        On a terminal, one line changes, and stays within the terminal's width.
        """
        self.patch(os, "get_terminal_size", lambda *_: os.terminal_size((50, 20)))
        self.patch(os, "environ", {**os.environ, "COLUMNS": "50"})
        self.serve(
            answer(WEB1),
            answer(draining(WEB1, 2, State.DRAINING)),
            answer(draining(WEB1, 1, State.DRAINING)),
            answer(draining(WEB1, 0, State.DRAINED)),
        )
        code, output, _ = self.run_("drain", self.path, "web-1", output=Terminal)
        self.assertEqual(code, 0)
        shown = output.split("\r\x1b[K")
        changing = [each for each in shown if "\n" not in each]
        self.assertIn(f"{WEB1.name}: 1 connection lef", changing)
        self.assertTrue(all(len(each) < 50 for each in changing))
        self.assertTrue(output.endswith(" s\n"))

    def test_nobodyReads(self) -> None:
        """
        If nobody reads the output, the drain goes on.
        """

        class Broken(io.StringIO):
            def write(self, text: str) -> int:
                raise BrokenPipeError(32, "Broken pipe")

        self.serve(answer(WEB1), answer(draining(WEB1, 0, State.DRAINED)))
        code, _, errors = self.run_("drain", self.path, "web-1", output=Broken)
        self.assertEqual((code, errors), (0, ""))


class UndrainTests(DrainTestCase):
    """
    Tests for C{portlisten undrain}.
    """

    def test_course(self) -> None:
        """
        The command asks until the workers have joined again.
        """
        drained = draining(WEB1, 0, State.DRAINED)
        again = replace(WEB1, name="worker 3 (web-1, pid 12, uid 7)")
        self.serve(
            *(answer(drained), answer(), answer(), answer(), answer(WEB2)),
            *(answer(again), answer(WEB2, again)),
        )
        code, output, errors = self.run_("undrain", self.path, "web-1")
        self.assertEqual((code, errors), (0, ""))
        self.assertEqual(output, f"{again.name} serves\n")
        self.assertEqual(
            self.requests, [Workers(), *[Undrain(("web-1",)), Workers()] * 3]
        )

    def test_timeout(self) -> None:
        """
        A worker that does not join again may be stopping.
        """
        self.serve(answer(draining(WEB1, 0, State.DRAINED)))
        code, output, errors = self.run_("undrain", "--timeout=0", self.path, "web-1")
        self.assertEqual((code, output), (1, ""))
        self.assertIn("web-1: not joined again within 0 s: see whether", errors)
