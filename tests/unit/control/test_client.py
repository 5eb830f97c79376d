"""
Tests for L{portlisten._control.client}.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from portlisten._control import client as client_module
from portlisten._control.client import ControlClient, UnknownCommand
from portlisten._control.convert import ControlError
from portlisten._control.messages import (
    MAXIMUM_REASON,
    Drain,
    Workers,
    WorkersAnswer,
    encodeAnswer,
    encodeError,
    encodeRequest,
    parseRequest,
)
from portlisten._control.server import MAXIMUM_CLIENTS
from portlisten._control.status import State, WorkerState
from tests.support.channels import PATIENCE
from tests.support.control_script import ControlScript
from tests.support.descriptors import watchDescriptors

ANSWER = WorkersAnswer((WorkerState("worker 1", "a", 1, 2, 3, 4, State.SERVING),))

#: What a listener says while too many clients are connected: see L{ControlServer}.
BUSY = f"{MAXIMUM_CLIENTS} clients are connected: wait"


class ClientTestCase(SynchronousTestCase):
    """
    A path, and a control socket in a thread.
    """

    def setUp(self) -> None:
        watchDescriptors(self)
        self.channel = os.path.join(os.path.dirname(self.mktemp()), "path")
        self.path = f"{self.channel}.ctl"
        self.patch(client_module, "ANSWER_SECONDS", PATIENCE)

    def serve(self, speak: Callable[[socket.socket], object]) -> None:
        """
        Accept one client in a thread.

        @param speak: talks to the client.
        """
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(self.path)
        listening.listen()

        def run() -> None:
            with listening:
                sock, _ = listening.accept()
                with sock:
                    sock.settimeout(10)
                    speak(sock)

        thread = threading.Thread(target=run)
        thread.start()
        self.addCleanup(thread.join)

    def refusal(self, control: str | None = None) -> str:
        """
        Say why a listener cannot be asked.
        """
        error = self.assertRaises(ControlError, ControlClient, self.channel, control)
        self.assertEqual(len(str(error).splitlines()), 1)
        return str(error)


class ConnectTests(ClientTestCase):
    """
    Tests for what keeps a client from connecting.
    """

    def test_noListener(self) -> None:
        """
        There may be no listener.
        """
        expected = f"no listener runs at {self.channel}: start it, or check the path"
        self.assertEqual(self.refusal(), expected)
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(self.path)
        self.assertEqual(self.refusal(), expected)

    def test_older(self) -> None:
        """
        The listener may be older than control sockets.
        """
        with socket.socket(socket.AF_UNIX) as older:
            older.bind(self.channel)
            self.assertIn(
                f"the listener at {self.channel} has no control socket at"
                f" {self.path}: it is older,",
                self.refusal(),
            )

    def test_otherPath(self) -> None:
        """
        The user may give something else than the channel's path.
        """
        os.mkdir(self.channel)
        self.assertEqual(
            self.refusal(),
            f"{self.channel} is no socket: give the path of a listener's channel",
        )
        os.rmdir(self.channel)
        self.channel = self.path
        with socket.socket(socket.AF_UNIX) as control:
            control.bind(self.channel)
            self.assertEqual(
                self.refusal(),
                f"{self.channel} is a control socket: give the path without .ctl",
            )

    def test_permission(self) -> None:
        """
        The user may lack the permission.
        """
        if os.geteuid() == 0:
            raise SkipTest("root may connect anywhere: see the integration tests")
        with socket.socket(socket.AF_UNIX) as theirs:
            theirs.bind(self.path)
            os.chmod(self.path, 0)
            self.assertIn("only root and the user that started", self.refusal())

    def test_tooLong(self) -> None:
        """
        The channel's path may be too long for a control socket.
        """
        self.channel = "x" * 105
        self.assertIn("too long for a socket: --control names", self.refusal())

    def test_otherKind(self) -> None:
        """
        The path may belong to another program.
        """
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
            other.bind(self.path)
            self.assertIn("is no control socket", self.refusal())

    def test_full(self) -> None:
        """
        The listener may be stopped, so that clients wait in its backlog.
        """
        self.patch(client_module, "ANSWER_SECONDS", 0.1)
        with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as c:
            busy.bind(self.path)
            busy.listen(0)
            c.connect(self.path)
            self.assertIn("does not answer: see whether it is stopped", self.refusal())

    def test_given(self) -> None:
        """
        The operator may name the control socket.
        """
        with socket.socket(socket.AF_UNIX) as here:
            here.bind(self.path)
            here.listen()
            self.channel = "elsewhere"
            ControlClient("elsewhere", self.path).close()


def send(data: bytes, sock: socket.socket) -> None:
    """
    Send some bytes.
    """
    sock.sendall(data)


class AskTests(ClientTestCase):
    """
    Tests for requests and answers.
    """

    def failure(self) -> str:
        """
        Say why a request is not answered.
        """
        with ControlClient(self.channel) as client:
            error = self.assertRaises(ControlError, client.ask, Workers())
        return str(error)

    def test_answer(self) -> None:
        """
        Each request is sent, and its answer is read, in any pieces.
        """
        requests = []

        def speak(sock: socket.socket) -> None:
            lines = sock.makefile("rb")
            for _ in range(2):
                requests.append(lines.readline())
                answer = encodeAnswer(ANSWER)
                sock.sendall(answer[:5])
                sock.sendall(answer[5:])
            lines.close()

        self.serve(speak)
        with ControlClient(self.channel) as client:
            self.assertEqual(client.ask(Workers()), ANSWER)
            self.assertEqual(client.ask(Drain(("a",))), ANSWER)
        self.assertEqual(
            requests, [encodeRequest(Workers()), encodeRequest(Drain(("a",)))]
        )

    def test_refused(self) -> None:
        """
        The listener may refuse the request, and close, before it has read it.
        """
        self.serve(lambda sock: sock.sendall(encodeError("wait")))
        self.assertEqual(self.failure(), "wait")

    def test_ends(self) -> None:
        """
        The listener may end before its answer, or in it.
        """
        for part in (b"", encodeAnswer(ANSWER)[:-1]):
            self.serve(partial(send, part))
            self.assertIn(f"the listener at {self.channel} has stopped", self.failure())
            os.unlink(self.path)

    def test_silent(self) -> None:
        """
        The listener may not answer.
        """
        self.patch(client_module, "ANSWER_SECONDS", 0.1)
        self.serve(lambda sock: sock.recv(1000) and sock.recv(1000))
        self.assertIn("does not answer within 0.1 s", self.failure())

    def test_trickle(self) -> None:
        """
        The time is for the whole answer, even if a few bytes come again and again.
        """
        self.patch(client_module, "ANSWER_SECONDS", 0.3)

        def speak(sock: socket.socket) -> None:
            try:
                for _ in range(100):
                    sock.sendall(b" ")
                    time.sleep(0.05)
            except OSError:
                pass

        self.serve(speak)
        self.assertIn("does not answer within 0.3 s", self.failure())

    def test_longRefusal(self) -> None:
        """
        Of a long refusal, only the beginning counts.
        """
        self.serve(partial(send, encodeError("x" * 100_000)))
        self.assertEqual(self.failure(), "x" * MAXIMUM_REASON)

    def test_channel(self) -> None:
        """
        The other end may be no control socket.
        """
        self.serve(lambda sock: sock.sendall(b"\x01\x00\n"))
        self.assertEqual(self.failure(), "the answer is no JSON")

    def test_endless(self) -> None:
        """
        An answer without an end is given up.
        """
        self.patch(client_module, "MAXIMUM_ANSWER_BYTES", 100_000)

        def speak(sock: socket.socket) -> None:
            try:
                sock.sendall(b" " * 1_000_000)
            except OSError:
                pass

        self.serve(speak)
        self.assertEqual(self.failure(), "the answer is too long")


class ScriptTestCase(SynchronousTestCase):
    """
    A control socket that follows a script.
    """

    def setUp(self) -> None:
        watchDescriptors(self)
        self.channel = os.path.join(os.path.dirname(self.mktemp()), "path")
        self.patch(client_module, "BUSY_SECONDS", PATIENCE)
        self.patch(client_module, "PAUSE_SECONDS", 0.005)

    def serve(self, *replies: Any) -> ControlScript:
        """
        Serve the control socket.
        """
        script = ControlScript(f"{self.channel}.ctl", *replies)
        self.addCleanup(script.end)
        return script

    def connect(self) -> ControlClient:
        """
        Connect.
        """
        client = ControlClient(self.channel)
        self.addCleanup(client.close)
        return client


class AgainTests(ScriptTestCase):
    """
    Tests for a client that tries again.
    """

    def test_busy(self) -> None:
        """
        While too many clients are connected, the client tries again.
        """
        script = self.serve(BUSY, BUSY, ANSWER)
        self.assertEqual(self.connect().ask(Workers()), ANSWER)
        self.assertEqual(script.clients, 3)

    def test_busyForLong(self) -> None:
        """
        It gives up after a while.
        """
        clock = Clock()
        time = SimpleNamespace(monotonic=clock.seconds, sleep=clock.advance)
        self.patch(client_module, "time", time)
        self.patch(client_module, "PAUSE_SECONDS", 0.5)
        self.patch(client_module, "BUSY_SECONDS", 1.5)
        script = self.serve(BUSY)
        error = self.assertRaises(ControlError, self.connect().ask, Workers())
        self.assertEqual(str(error), BUSY)
        self.assertEqual(script.clients, 4)

    def test_otherErrors(self) -> None:
        """
        It does not try again after another refusal, nor on a connection that had an
        answer: the request may have been carried out.
        """
        script = self.serve("no", ANSWER, BUSY, ANSWER)
        self.assertRaises(ControlError, self.connect().ask, Workers())
        self.assertEqual(script.clients, 1)
        client = self.connect()
        client.ask(Workers())
        self.assertRaises(ControlError, client.ask, Workers())
        self.assertEqual(script.clients, 2)

    def test_ended(self) -> None:
        """
        C{askAgain} connects again if a connection has ended that had an answer.
        """
        script = self.serve(ANSWER, None, ANSWER, "no request within 5 s", ANSWER)
        client = self.connect()
        for _ in range(3):
            self.assertEqual(client.askAgain(Workers(), WorkersAnswer), ANSWER)
        self.assertEqual((script.clients, len(script.requests)), (3, 5))

    def test_neverAnswered(self) -> None:
        """
        It does not if none has had an answer.
        """
        script = self.serve(None, ANSWER)
        client = self.connect()
        self.assertRaises(ControlError, client.askAgain, Workers(), WorkersAnswer)
        self.assertEqual(script.clients, 1)

    def test_restarted(self) -> None:
        """
        It connects again whenever it is asked, so a listener may be away for a while.
        """
        script: ControlScript = self.serve(
            ANSWER,
            lambda request: script.leave(request),  # noqa: PLW0108
        )
        client = self.connect()
        client.ask(Workers())
        for _ in range(2):
            error = self.assertRaises(
                ControlError, client.askAgain, Workers(), WorkersAnswer
            )
            self.assertIn("no listener runs", str(error))
        self.serve(ANSWER)
        self.assertEqual(client.askAgain(Workers(), WorkersAnswer), ANSWER)


class UnknownTests(ScriptTestCase):
    """
    Tests for commands that the other side does not know.
    """

    def test_unknown(self) -> None:
        """
        Both kinds of refusal are told from others.
        """
        older = self.assertRaises(
            ControlError, parseRequest, b'{"version": 1, "command": "dance"}'
        )
        for refusal in (str(older), "stop means nothing to this listener"):
            script = self.serve(refusal)
            self.assertRaises(UnknownCommand, self.connect().ask, Workers())
            script.remove()
        self.serve("no worker is web-1")
        error = self.assertRaises(ControlError, self.connect().ask, Workers())
        self.assertNotIsInstance(error, UnknownCommand)


class ProcessTests(ScriptTestCase):
    """
    Tests for the process at the other end.
    """

    def test_pid(self) -> None:
        """
        The kernel tells which process listens.
        """
        self.serve(ANSWER)
        client = self.connect()
        self.assertEqual(client.pid, os.getpid())
        pidfd = client.process()
        assert pidfd is not None
        with open(f"/proc/self/fdinfo/{pidfd}") as file:
            self.assertIn(f"\nPid:\t{os.getpid()}\n", file.read())
        os.close(pidfd)

    def test_ended(self) -> None:
        """
        The process may have ended, while another one holds its socket.
        """
        program = (
            "import os, socket, sys\n"
            "sock = socket.socket(socket.AF_UNIX)\n"
            "sock.bind(sys.argv[1])\n"
            "sock.listen()\n"
            "if os.fork():\n"
            "    os._exit(0)\n"
            "print(flush=True)\n"
            "sys.stdin.read()\n"
        )
        with subprocess.Popen(
            [sys.executable, "-c", program, f"{self.channel}.ctl"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            process.wait()
            self.assertIsNone(self.connect().process())


class ReactorTests(SynchronousTestCase):
    """
    The client needs no reactor.
    """

    def test_notImported(self) -> None:
        """
        C{portlisten status} does not import one.
        """
        program = (
            "import sys\n"
            "from portlisten._commands.portlisten import main\n"
            "try:\n"
            "    main(['status', './nothing'])\n"
            "except SystemExit as exit:\n"
            "    print(exit.code, 'twisted.internet.reactor' in sys.modules)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=Path(__file__).parents[3],
            capture_output=True,
            text=True,
            check=True,
        )
        self.assertEqual(done.stdout, "2 False\n")
        self.assertIn("no listener runs at ./nothing", done.stderr)
