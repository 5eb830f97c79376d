"""
A listener, and workers that block.
"""

from __future__ import annotations

import re
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tests.support.processes import PATIENCE, Process, Processes
from tests.support.programs import command
from tests.support.releases import unpack
from tests.support.requests import Requests
from tests.support.tls import certify


@pytest.fixture
def processes() -> Iterator[Processes]:
    """
    Starts processes, and ends them after the test.
    """
    with Processes() as made:
        yield made


class Pair:
    """
    A listener, and workers.

    @param options: the listener's.
    @param share: whether the listener shares its port.
    @param before: whether the listener is of the release before this version.

    @ivar port: the listener's.
    """

    def __init__(
        self,
        processes: Processes,
        *options: str,
        share: bool = False,
        before: bool = False,
    ) -> None:
        self.processes = processes
        self.path = str(processes.folder / "socket")
        self._options = options
        self._share = share
        self._before = unpack(processes.folder) if before else ""
        self.port = 0
        self.files: list[str] = []
        self.context: ssl.SSLContext | None = None
        self.listen()

    def listen(self) -> None:
        """
        Start the listener, on the port that it had before.
        """
        where = f"tcp:{self.port}:interface=127.0.0.1"
        named = f"--share={where}" if self._share else where
        program = [command("twistd"), "-n", "--pidfile=", "portlisten"]
        if self._before:
            program = ["/usr/bin/env", self._before, *program]
        self.listener = self.processes.start(*program, *self._options, named, self.path)
        match = self.listener.says(r"listening on .*?127\.0\.0\.1:(\d+)")
        self.port = int(match[1])

    def secure(self) -> None:
        """
        Let workers speak TLS from now on.
        """
        key, certificate = certify(str(self.processes.folder / "it"))
        self.files = [certificate, key]
        self.context = ssl.create_default_context(cafile=certificate)

    def worker(
        self, kind: str = "one", options: str = "", environment: str = ""
    ) -> Process:
        """
        Start a worker, and wait until it serves.
        """
        own = ["tests.support.http_worker", f"portlisten:{self.path}{options}", kind]
        if kind == "waitress":
            own = ["tests.support.waitress_worker", f"portlisten:{self.path}{options}"]
        worker = self.processes.start(
            "/usr/bin/env",
            *([environment] if environment else []),
            sys.executable,
            "-m",
            *own,
            *self.files,
        )
        worker.says("joined the listener")
        worker.says("serves")
        return worker

    def ask(self, path: str = "/") -> subprocess.Popen[str]:
        """
        Start a client.
        """
        return subprocess.Popen(
            ["curl", "-sS", "--max-time", "60", f"http://127.0.0.1:{self.port}{path}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def reports(self, pattern: str) -> None:
        """
        Ask the listener for reports until one matches.

        @raise AssertionError: if none does in time.
        """
        before = len(self.listener.output)
        end = time.monotonic() + PATIENCE
        while not re.search(pattern, self.listener.output[before:]):
            assert time.monotonic() < end, f"no {pattern!r}:\n{self.listener.output}"
            self.listener.signal(signal.SIGUSR1)
            time.sleep(0.05)

    def requests(self, path: str = "/{number}", **options: object) -> Requests:
        """
        Start clients.
        """
        return Requests(
            self.port,
            self.context,
            path=path,
            **options,  # type: ignore[arg-type]
        )

    def drain(self, *arguments: str, word: str = "drain") -> int:
        """
        Run C{portlisten drain}.
        """
        done = subprocess.run(
            [command("portlisten"), word, *arguments[:-1], self.path, arguments[-1]],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
            check=False,
        )
        return done.returncode


def answer(client: subprocess.Popen[str]) -> str:
    """
    Wait for what a client hears.
    """
    return str(client.communicate(timeout=60)[0])
