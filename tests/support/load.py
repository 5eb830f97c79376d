"""
Load by C{wrk}, and its counters.
"""

from __future__ import annotations

import re
import shutil
import signal
import time
from collections.abc import Awaitable
from dataclasses import dataclass

import pytest

from tests.support.spawned import Start
from tests.support.waiting import sleep


@dataclass
class Load:
    """
    What wrk says at its end.

    @ivar connect: how many connections could not be begun.
    @ivar read: how many broke while wrk waited for a response.
    @ivar write: how many were refused, or broke before wrk had sent its request.
    @ivar timeout: how many responses took longer than it waits.
    @ivar refused: how many responses had a status other than 2xx and 3xx.
    """

    requests: int
    perSecond: float
    connect: int
    read: int
    write: int
    timeout: int
    refused: int

    @property
    def broken(self) -> int:
        """
        How many connections broke.
        """
        return self.read + self.write

    @property
    def errors(self) -> int:
        """
        How many of anything went wrong.
        """
        return self.connect + self.broken + self.timeout + self.refused


def parse(output: str) -> Load:
    """
    Parse wrk's output.  It has no line for a counter that is zero.
    """

    def find(pattern: str, default: str = "") -> tuple[str, ...]:
        match = re.search(pattern, output)
        assert match is not None or default, output
        return match.groups() if match is not None else tuple(default.split())

    sockets = find(
        r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)",
        "0 0 0 0",
    )
    connect, read, write, timeout = map(int, sockets)
    return Load(
        requests=int(*find(r"(\d+) requests in ")),
        perSecond=float(*find(r"Requests/sec: +([\d.]+)")),
        connect=connect,
        read=read,
        write=write,
        timeout=timeout,
        refused=int(*find(r"Non-2xx or 3xx responses: (\d+)", "0")),
    )


async def wrk(
    start: Start,
    url: str,
    work: Awaitable[None],
    *options: str,
    atLeast: float = 0,
    connections: int = 64,
) -> Load:
    """
    Have wrk load a server while some work is done, and for so many seconds at
    the least.  What else happens goes before it, lest new processes take long.
    """
    program = shutil.which("wrk")
    if program is None:
        pytest.skip("wrk is not installed")
    own = ["-t2", f"-c{connections}", "-d90s", "--timeout=10s"]
    process = start("nice", "-n19", program, *own, *options, url)
    until = time.monotonic() + atLeast
    await sleep(0.5)
    await work
    await sleep(max(0.0, until - time.monotonic()))
    assert process.running, process.output
    process.signal(signal.SIGINT)  # which has it print its figures
    assert await process.ended() == 0
    return parse(process.output)
