"""
The base of the tests of commands that ask a control socket.
"""

from __future__ import annotations

import contextlib
import io
import os
import socket
import threading

from twisted.trial.unittest import SynchronousTestCase

from portlisten._commands import portlisten
from portlisten._control.messages import (
    Answer,
    Request,
    encodeAnswer,
    encodeError,
    parseRequest,
)
from tests.support.descriptors import watchDescriptors


class ControlCommandTestCase(SynchronousTestCase):
    """
    A command, and a listener made by hand.

    @ivar path: the path of the listener.
    @ivar requests: what it was asked.
    """

    def setUp(self) -> None:
        watchDescriptors(self)
        self.folder = os.path.dirname(self.mktemp())
        self.path = os.path.join(self.folder, "path")
        self.requests: list[Request] = []

    def serve(self, answer: Answer | str | None, path: str = "") -> None:
        """
        Answer one request, in a thread.

        @param answer: the answer.  A string is an error, and L{None} ends the listener.
        @param path: the control socket; by default, the usual one of the path.
        """
        path = path or f"{self.path}.ctl"
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(path)
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
            os.unlink(path)

        self.thread = threading.Thread(target=run)
        self.thread.start()
        self.addCleanup(self.thread.join)

    def run_(self, *arguments: str) -> tuple[object, str, str]:
        """
        Run a command.

        @return: the exit code, the output, and the errors.
        """
        out, errors = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
            exit = self.assertRaises(SystemExit, portlisten.main, arguments)
        return exit.code, out.getvalue(), errors.getvalue()
