"""
Processes that die at a chosen system call, by strace(1).
"""

from __future__ import annotations

import re
import shutil
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from tests.support.spawned import Process, Start
from tests.support.tracing import canTrace

#: The calls of a takeover.
CALLS = (
    "sendto,sendmsg,recvmsg,connect,accept4,listen,setsockopt,epoll_ctl,epoll_wait,poll,"
    "rename,symlink,shutdown"
)

#: Those whose count depends on the time that passes.
BY_TIME = ("epoll_wait", "poll")

#: A call: its name, and the how-manieth of this name it is, as strace counts.
Point = tuple[str, int]


def strace() -> str:
    """
    The path of strace.  Skips the test if it is not there, or may not trace.
    """
    if not canTrace():
        pytest.skip("strace may not trace processes here, or is not installed")
    program = shutil.which("strace")
    assert program is not None
    return program


def recording(file: Path) -> list[str]:
    """
    The beginning of a command line whose process has its calls recorded.
    """
    return [strace(), "-D", "-s200", "-o", str(file), "-e", f"trace={CALLS}"]


def dying(point: Point) -> list[str]:
    """
    The beginning of a command line whose process is killed at the beginning of a call.
    """
    name, number = point
    inject = f"inject={name}:signal=SIGKILL:when={number}"
    return [strace(), "-D", "-o", "/dev/null", "-e", f"trace={name}", "-e", inject]


@asynccontextmanager
async def attached(
    start: Start, process: Process, *words: str
) -> AsyncIterator[Process]:
    """
    Attach strace to a process that runs.

    @param words: as from L{recording} or L{dying}.
    """
    own = [each for each in words if each != "-D"]
    tracer = start(*own, "-p", str(process.pid))
    await tracer.says("attached")
    yield tracer
    with suppress(ProcessLookupError):  # the process has ended
        # It lets go of the process then.
        tracer.signal(signal.SIGTERM)
    await tracer.ended()


def points(
    file: Path,
    first: Callable[[str], bool],
    last: Callable[[str], bool],
    without: Sequence[str] = (),
) -> list[Point]:
    """
    Read a recording.

    @param first: says of a line whether it is the first that counts.
    @param last: says of a line after that whether it is the last.
    @param without: the names of calls that do not count.
    @return: the calls in between.
    """
    seen: Counter[str] = Counter()
    found: list[Point] = []
    begun = False
    for line in file.read_text("utf-8", "replace").splitlines():
        match = re.match(r"(\w+)\(", line)
        if match is None:
            continue
        seen[match[1]] += 1
        begun = begun or first(line)
        if begun:
            if match[1] not in without:
                found.append((match[1], seen[match[1]]))
            if last(line):
                return found
    raise AssertionError(f"the recording lacks a call: {found}")


def some(every: Sequence[Point], count: int) -> list[Point]:
    """
    Choose points that are spread over all of them, with the first and the last.

    @param count: how many, two at the least.
    """
    step = (len(every) - 1) / (count - 1)
    chosen = {round(number * step) for number in range(count)}
    return [every[place] for place in sorted(chosen)]
