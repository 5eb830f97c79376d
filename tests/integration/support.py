"""
Real processes, and clients for them.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, DeferredSemaphore, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.error import ProcessDone
from twisted.internet.protocol import Factory, ProcessProtocol, Protocol
from twisted.internet.task import deferLater

reactor: Any = _reactor

#: How long anything here may take before the test fails, in seconds.
PATIENCE = 30.0


class Process(ProcessProtocol):
    """
    A process that a test started, and ends.

    @param inherited: descriptors that it gets, as 3 and so on.

    @ivar output: all that it wrote, to standard output and standard error.
    @ivar errors: what it wrote to standard error.
    """

    def __init__(
        self, arguments: Sequence[str], folder: Path, inherited: Sequence[int] = ()
    ) -> None:
        self.output = ""
        self.errors = ""
        self._waiting: list[tuple[re.Pattern[str], Deferred[re.Match[str]]]] = []
        self._ends: list[Deferred[int]] = []
        self._code: int | None = None
        self._transport = reactor.spawnProcess(
            self,
            arguments[0],
            arguments,
            env={**os.environ, "PYTHONUNBUFFERED": "1", "LC_ALL": "C.UTF-8"},
            path=str(folder),
            childFDs={0: "w", 1: "r", 2: "r", **dict(enumerate(inherited, 3))},
        )
        self.pid: int = self._transport.pid

    def outReceived(self, data: bytes) -> None:
        self.output += data.decode("utf-8", "replace")
        for pattern, deferred in list(self._waiting):
            match = pattern.search(self.output)
            if match is not None:
                self._waiting.remove((pattern, deferred))
                deferred.callback(match)

    def errReceived(self, data: bytes) -> None:
        self.errors += data.decode("utf-8", "replace")
        self.outReceived(data)

    def processEnded(self, reason: Any) -> None:
        done = reason.check(ProcessDone) is not None
        value = reason.value
        self._code = 0 if done else value.exitCode or -(value.signal or 0)
        for _, deferred in self._waiting:
            deferred.errback(AssertionError(f"it ended first:\n{self.output}"))
        ends, self._ends = self._ends, []
        for each in ends:
            each.callback(self._code)

    def says(self, pattern: str, patience: float = PATIENCE) -> Deferred[re.Match[str]]:
        """
        Wait until it has written something that matches.
        """
        compiled = re.compile(pattern)
        deferred: Deferred[re.Match[str]] = Deferred()
        self._waiting.append((compiled, deferred))
        self.outReceived(b"")
        deferred.addTimeout(patience, reactor, self._complain(f"no {pattern!r}"))
        return deferred

    def _complain(self, what: str) -> Any:
        def fail(value: Any, seconds: float) -> None:
            raise AssertionError(f"{what} within {seconds} s:\n{self.output}")

        return fail

    def ended(self) -> Deferred[int]:
        """
        Wait for its end.

        @return: the exit code, or the number of the signal that ended it, less
            than 0.
        """
        deferred: Deferred[int] = Deferred()
        if self._code is not None:
            deferred.callback(self._code)
        else:
            self._ends.append(deferred)
            deferred.addTimeout(PATIENCE, reactor, self._complain("no end"))
        return deferred

    @property
    def running(self) -> bool:
        """
        Whether it has not ended.
        """
        return self._code is None

    def tell(self, line: str) -> None:
        """
        Write a line to its standard input.
        """
        self._transport.write(line.encode() + b"\n")

    def signal(self, number: int) -> None:
        """
        Send it a signal.
        """
        os.kill(self.pid, number)

    def stop(self) -> Deferred[int]:
        """
        Send it SIGTERM, and wait for its end.
        """
        self.signal(signal.SIGTERM)
        return self.ended()

    def kill(self) -> Deferred[int]:
        """
        Send it SIGKILL, and wait for its end.
        """
        if self.running:
            with suppress(ProcessLookupError):  # it ends just now
                self.signal(signal.SIGKILL)
        return self.ended()

    def descriptors(self) -> int:
        """
        How many descriptors it has open.
        """
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def status(self) -> dict[str, str]:
        """
        The fields of proc(5)'s C{status}.
        """
        text = Path(f"/proc/{self.pid}/status").read_text()
        return dict(re.findall(r"^(\w+):\s+(.*)$", text, re.MULTILINE))

    def resident(self) -> int:
        """
        Its resident memory, in KiB.
        """
        return int(self.status()["VmRSS"].split()[0])


def sleep(seconds: float) -> Deferred[None]:
    """
    Wait.
    """
    return deferLater(reactor, seconds)


class _Client(Protocol):
    def __init__(self, send: bytes, end: bool) -> None:
        self._send = send
        self._end = end
        self._received: list[bytes] = []
        self.answer: Deferred[bytes] = Deferred()

    def connectionMade(self) -> None:
        transport: Any = self.transport
        if self._send:
            transport.write(self._send)
        if self._end:
            transport.loseWriteConnection()

    def dataReceived(self, data: bytes) -> None:
        self._received.append(data)

    def connectionLost(self, reason: Any = None) -> None:
        if reason is not None and reason.check(ConnectionResetError):
            self.answer.errback(reason)
        else:
            self.answer.callback(b"".join(self._received))


async def ask(
    port: int, send: bytes = b"", host: str = "127.0.0.1", end: bool = False
) -> bytes:
    """
    Be a client: connect, perhaps send something, and read to the end.

    @param end: whether to end the writing side after that.
    """
    endpoint = TCP6ClientEndpoint if ":" in host else TCP4ClientEndpoint
    client = _Client(send, end)
    factory = Factory.forProtocol(lambda: client)
    factory.noisy = False
    await endpoint(reactor, host, port, timeout=PATIENCE).connect(factory)
    return await client.answer.addTimeout(PATIENCE * 2, reactor)


async def askMany(
    port: int, count: int, atOnce: int, send: bytes = b""
) -> tuple[list[bytes | BaseException], list[float]]:
    """
    Be many clients.

    @return: the answers, or what came instead, and how long each waited for it,
        in seconds.
    """
    answers: list[bytes | BaseException] = []
    times: list[float] = []

    async def one() -> None:
        start = time.monotonic()
        try:
            answers.append(await ask(port, send))
        except Exception as error:
            answers.append(error)
        times.append(time.monotonic() - start)

    semaphore = DeferredSemaphore(atOnce)
    await gatherResults(
        [semaphore.run(lambda: Deferred.fromCoroutine(one())) for _ in range(count)],
        consumeErrors=True,
    )
    return answers, sorted(times)


def command(name: str) -> str:
    """
    The path of a program that is installed beside this Python.
    """
    return str(Path(sys.executable).with_name(name))


def needs(module: str, name: str) -> None:
    """
    Skip a test of what is not installed.
    """
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{name} is not installed: pip install {name}")


#: What reserves ports for this process, by the port.
_reserved: dict[int, socket.socket] = {}


def _reserve(port: int) -> bool:
    """
    See that no other process that runs tests is given a port, until this one ends.
    """
    if port in _reserved:
        return True
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        # A name that is no file, and that one socket can have.
        sock.bind(f"\0portlisten.tests.{port}")
    except OSError:
        sock.close()
        return False
    _reserved[port] = sock
    return True


def freePort(first: int, last: int) -> int:
    """
    Find a port that nobody listens on, for this process alone.
    """
    for port in range(first, last):
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind(("0.0.0.0", port))
            except OSError:
                continue
        if _reserve(port):
            return port
    raise AssertionError(f"no free port from {first} to {last}")


def backlogOverflows(port: int) -> int:
    """
    How often a connection found the backlog of a port full: its client tries again
    after a second.
    """
    program = shutil.which("ss")
    if program is None:
        pytest.skip("ss is not installed: apt install iproute2")
    command = [program, "-Hlntm", "sport", "=", f":{port}"]
    lines = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    dropped = re.findall(r"skmem:\(.*,d(\d+)\)", lines.stdout)
    assert dropped, f"nobody listens on port {port}"
    return sum(map(int, dropped))


async def listening(process: Process) -> int:
    """
    Wait for a listener, and say on which port it listens.
    """
    match = await process.says(r"listening on \S+:(\d+)\b.*workers (?:connect|bind)")
    return int(match[1])


async def settled(process: Process, expected: int) -> int:
    """
    How many descriptors a process has, once that is what is expected, or it has
    had time enough.
    """
    for _ in range(100):
        if process.descriptors() == expected:
            break
        await sleep(0.1)
    return process.descriptors()
