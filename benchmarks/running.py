"""
The processes of a contestant, and what they use.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

#: Seconds that a process may take to be ready.
PATIENCE = 20.0

TICK = os.sysconf("SC_CLK_TCK")


@dataclass
class Running:
    """
    A running contestant.

    @ivar port: the port that clients connect to.
    @ivar protocol: the protocol of the server.
    @ivar front: the processes before the server.
    @ivar back: the processes of the server.
    @ivar served: how many connections each process of the server had served when it
        ended.
    @ivar parentAccepts: whether the parent of the server's processes accepts for them.
        It then counts as the front.
    """

    folder: Path
    port: int
    protocol: str
    front: list[subprocess.Popen[bytes]] = field(default_factory=list)
    back: list[subprocess.Popen[bytes]] = field(default_factory=list)
    served: list[int] = field(default_factory=list)
    parentAccepts: bool = False

    def serve(self, description: str, count: int = 1) -> None:
        """
        Start a server of ours, and wait until it is ready.
        """
        program = (sys.executable, "-m", "benchmarks.serve")
        self.run(*program, self.protocol, description, str(count), count=count)

    def run(self, *command: str, count: int = 1) -> None:
        """
        Start a server, and wait until it is ready.

        @param count: how many of its processes say so.
        """
        name = self.folder / f"server{len(self.back)}.log"
        with name.open("wb") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, "PYTHONWARNINGS": "ignore"},
            )
        self.back.append(process)
        assert process.stdout is not None
        for _ in range(count):
            if process.stdout.readline() != b"ready\n":
                process.terminate()
                process.wait()
                text = name.read_text()
                raise RuntimeError(f"did not start: {' '.join(command)}\n{text}")

    def before(self, *command: str) -> None:
        """
        Start a process that stands before the server.
        """
        name = self.folder / f"front{len(self.front)}.log"
        with name.open("wb") as log:
            self.front.append(
                subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=log
                )
            )

    def reachable(self) -> None:
        """
        Wait until the port accepts connections.
        """
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 5).close()
            except OSError:
                if time.monotonic() > deadline:
                    raise RuntimeError(f"nobody listens on {self.port}") from None
                time.sleep(0.05)
            else:
                break
        time.sleep(0.3)

    def restart(self) -> None:
        """
        Replace the only server.
        """
        process = self.back.pop()
        command = process.args
        assert isinstance(command, tuple)
        process.send_signal(signal.SIGTERM)
        process.wait()
        self.run(*command)

    def stop(self) -> None:
        """
        End all processes.
        """
        for process in self.back:
            process.send_signal(signal.SIGTERM)
        for process in self.back:
            output, _ = process.communicate()
            self.served += [
                int(line.split()[1])
                for line in output.splitlines()
                if line.startswith(b"served")
            ]
        for process in self.front:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def used(self) -> tuple[float, float]:
        """
        Return the processor time of the front and of the server, in seconds.
        """
        front, back = ([each.pid for each in some] for some in (self.front, self.back))
        if self.parentAccepts:
            (parent,) = back
            workers = cpu(descendants(back)[1:])
            return cpu([parent]) - workers, workers
        return cpu(front), cpu(back)


def descendants(pids: list[int]) -> list[int]:
    """
    List processes and all their descendants.
    """
    found = []
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        found += [pid, *descendants([int(each) for each in text.split()])]
    return found


def cpu(pids: list[int]) -> float:
    """
    Return the processor time of processes, in seconds.  It is the time of their
    threads, which C{schedstat} in proc(5) gives in nanoseconds, and of their ended
    children, C{cutime} and C{cstime} in C{stat}.
    """
    used = 0.0
    for pid in descendants(pids):
        place = Path(f"/proc/{pid}")
        try:
            text = (place / "stat").read_text()
            threads = [
                (each / "schedstat").read_text() for each in (place / "task").iterdir()
            ]
        except (FileNotFoundError, ProcessLookupError):
            continue
        used += sum(map(int, text.rpartition(")")[2].split()[13:15])) / TICK
        used += sum(int(each.split()[0]) for each in threads) / 1e9
    return used
