"""
Real processes in the reactor.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone
from twisted.internet.protocol import ProcessProtocol

from tests.support.waiting import PATIENCE, sleep

reactor: Any = _reactor


class Process(ProcessProtocol):
    """
    A process that a test started, and ends.

    @param inherited: descriptors that it gets, as 3 and so on.

    @ivar output: its standard output and standard error so far.
    @ivar errors: its standard error so far.
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
        Wait until its output matches a pattern.
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

    def closeInput(self) -> None:
        """
        End its standard input.
        """
        self._transport.closeStdin()

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


#: What the fixtures C{start} and C{twistd} are.
Start = Callable[..., Process]


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


async def steady(process: Process) -> int:
    """
    How many descriptors a process has, once that has not changed for half a second.

    @raise AssertionError: if it goes on changing.
    """
    end = time.monotonic() + PATIENCE
    count, since = process.descriptors(), time.monotonic()
    while time.monotonic() - since < 0.5:
        assert time.monotonic() < end, f"its descriptors change for {PATIENCE} s"
        await sleep(0.05)
        if process.descriptors() != count:
            count, since = process.descriptors(), time.monotonic()
    return count


async def reports(listener: Process, pattern: str) -> None:
    """
    Ask a listener for reports until one matches.

    @raise AssertionError: if none does in time.
    """
    before = len(listener.output)
    end = time.monotonic() + PATIENCE
    while not re.search(pattern, listener.output[before:]):
        assert time.monotonic() < end, f"no {pattern!r}:\n{listener.output}"
        listener.signal(signal.SIGUSR1)
        await sleep(0.1)
