"""
Workers that block, with a real listener: servers of the standard library.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.support.processes import Process, Processes


@pytest.fixture
def processes() -> Iterator[Processes]:
    """
    Starts processes, and ends them after the test.
    """
    with Processes() as made:
        yield made


class Pair:
    """
    A listener, and workers of C{http.server}.
    """

    def __init__(self, processes: Processes, *options: str) -> None:
        self._processes = processes
        self.path = str(processes.folder / "socket")
        self.listener = processes.twistd(
            "portlisten", *options, "tcp:0:interface=127.0.0.1", self.path
        )
        self.port = int(self.listener.says(r"listening on .*?127\.0\.0\.1:(\d+)")[1])

    def worker(self, kind: str = "one", options: str = "") -> Process:
        """
        Start a worker, and wait until it serves.
        """
        worker = self._processes.python(
            "-m",
            "tests.support.http_worker",
            f"portlisten:{self.path}{options}",
            kind,
        )
        worker.says("joined the listener")
        worker.says("serves")
        return worker

    def ask(self, path: str = "/") -> subprocess.Popen[str]:
        """
        Start a client.
        """
        return subprocess.Popen(
            ["curl", "-sS", "--max-time", "20", f"http://127.0.0.1:{self.port}{path}"],
            stdout=subprocess.PIPE,
            text=True,
        )


@pytest.mark.parametrize("kind", ["one", "threads", "forks"])
def test_serves(processes: Processes, kind: str) -> None:
    """
    Each kind of server answers, and stops in good order.
    """
    pair = Pair(processes)
    worker = pair.worker(kind)
    for number in range(20):
        client = pair.ask(f"/{number}")
        assert client.communicate(timeout=20)[0] == f"hello {number}\n"
    assert worker.stop() == 0


def test_oneAtATime(processes: Processes) -> None:
    """
    Of two workers with one thread each, one is busy for long and one for short.  The
    third client is answered as soon as the second worker is free, and no worker counts
    as hung.
    """
    pair = Pair(processes)
    for _ in range(2):
        pair.worker()
    long, short = pair.ask("/sleep/6"), pair.ask("/sleep/0.5")
    time.sleep(0.2)
    start = time.monotonic()
    third = pair.ask("/third")
    assert third.communicate(timeout=20)[0] == "hello third\n"
    waited = time.monotonic() - start
    assert short.communicate(timeout=20)[0] == "hello 0.5\n"
    assert long.communicate(timeout=20)[0] == "hello 6\n"
    assert waited < 1.5
    assert "revoked" not in pair.listener.output
