"""
A control socket that follows a script, and commands that ask it.
"""

from __future__ import annotations

import contextlib
import io
import os
import socket
import sys
import threading
from collections.abc import Callable
from typing import Any, TypeAlias

from twisted.trial.unittest import SynchronousTestCase

from portlisten import _commands
from portlisten._commands import portlisten
from portlisten._control.messages import (
    Answer,
    Request,
    encodeAnswer,
    encodeError,
    parseRequest,
)
from tests.support.descriptors import watchDescriptors

#: What a control socket does when a request comes: it sends an answer, an error, or a
#: line of bytes; or it closes the connection.
Reply: TypeAlias = "Answer | str | bytes | None"

#: The module that needs rich.
TERMINAL = "portlisten._commands.terminal"


class Terminal(io.StringIO):
    """
    A terminal.
    """

    def isatty(self) -> bool:
        return True


class ControlScript:
    """
    Serves a control socket in a thread, one client after the other.

    @param path: where to bind.
    @param replies: the replies to the requests.  The last one is repeated.  A function
        gets the request, and returns the reply.

    @ivar requests: the requests so far.
    @ivar clients: how many clients have come.
    """

    def __init__(self, path: str, *replies: Reply | Callable[[Request], Reply]) -> None:
        self.requests: list[Request] = []
        self.clients = 0
        self._replies = list(replies)
        self._ends = False
        self._client: socket.socket | None = None
        self._path = path
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(path)
        self._listening.listen()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def end(self) -> None:
        """
        Stop, and close all sockets.  May be called again.
        """
        self._ends = True
        client = self._client
        if client is not None:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
        with socket.socket(socket.AF_UNIX) as waker, contextlib.suppress(OSError):
            waker.connect(self._path)
        self._thread.join()

    def remove(self) -> None:
        """
        Stop, close all sockets, and remove the path.
        """
        self.end()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)

    def _run(self) -> None:
        with self._listening:
            while True:
                sock, _ = self._listening.accept()
                with sock:
                    self._client = sock
                    if self._ends:
                        return
                    self.clients += 1
                    with contextlib.suppress(OSError), sock.makefile("rb") as lines:
                        self._serve(sock, lines)
                if self._ends:
                    return

    def _serve(self, sock: socket.socket, lines: io.BufferedReader) -> None:
        for line in lines:
            request = parseRequest(line)
            self.requests.append(request)
            reply = self._replies[0]
            if len(self._replies) > 1:
                del self._replies[0]
            if callable(reply):
                reply = reply(request)
            if isinstance(reply, Answer):
                reply = encodeAnswer(reply)
            if isinstance(reply, bytes):
                sock.sendall(reply)
                continue
            if reply is not None:
                sock.sendall(encodeError(reply))
            return

    def leave(self, _: Request) -> None:
        """
        Be a reply: remove the path, stop, and answer nothing.
        """
        os.unlink(self._path)
        self._ends = True


class CommandTestCase(SynchronousTestCase):
    """
    Runs commands.

    @ivar path: the path of a channel.
    """

    def setUp(self) -> None:
        watchDescriptors(self)
        self.path = os.path.join(os.path.dirname(self.mktemp()), "path")
        for name, value in (("COLUMNS", "100"), ("LINES", "40"), ("TERM", "xterm")):
            self.setVariable(name, value)
        self.setVariable("NO_COLOR", None)

    def setVariable(self, name: str, value: str | None) -> None:
        """
        Set a variable of the environment for this test, or remove it.
        """
        before = os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value

        def restore() -> None:
            os.environ.pop(name, None)
            if before is not None:
                os.environ[name] = before

        self.addCleanup(restore)

    def serve(self, *replies: Reply | Callable[[Request], Reply]) -> ControlScript:
        """
        Serve the control socket of L{path}.
        """
        script = ControlScript(f"{self.path}.ctl", *replies)
        self.addCleanup(script.end)
        return script

    def call(
        self, *arguments: str, output: Any = io.StringIO
    ) -> tuple[object, str, str]:
        """
        Run C{portlisten}.

        @param output: makes standard output.
        @return: the exit code, the output, and the errors.
        """
        out, errors = output(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
            exit = self.assertRaises(SystemExit, portlisten.main, arguments)
        return exit.code, out.getvalue(), errors.getvalue()

    def withoutRich(self) -> None:
        """
        Let this test run as if rich were not installed.
        """
        before = {name: sys.modules.get(name) for name in ("rich", TERMINAL)}
        loaded = getattr(_commands, "terminal", None)

        def restore() -> None:
            for name, module in before.items():
                sys.modules.pop(name, None)
                if module is not None:
                    sys.modules[name] = module
            if loaded is not None:
                _commands.terminal = loaded

        self.addCleanup(restore)
        sys.modules["rich"] = None  # type: ignore[assignment]
        sys.modules.pop(TERMINAL, None)
        if loaded is not None:
            delattr(_commands, "terminal")
