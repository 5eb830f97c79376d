"""
System calls that fail or wait, by strace(1).
"""

from __future__ import annotations

import re
import select
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.processes import PATIENCE, Process


@contextmanager
def failing(
    process: Process, call: str, fault: str, when: str, also: str = ""
) -> Iterator[Counter[str]]:
    """
    Make some of a running process's system calls fail or wait.

    @param fault: what strace(1) injects, such as C{error=ENOMEM}.
    @param when: which of the calls it is for, as strace counts them from now on.
    @param also: other calls to trace, with commas between them.
    @return: how many calls were seen, by name, and how many of them were
        C{injected}; filled in at the end.
    """
    program = shutil.which("strace")
    assert program is not None, "strace is not installed"
    trace = process.log.with_name("strace.txt")
    traced = f"{call},{also}" if also else call
    tracer = subprocess.Popen(
        [
            *(program, "-f", "-p", str(process.pid), "-o", str(trace)),
            *(f"--trace={traced}", f"--inject={call}:{fault}:when={when}"),
        ],
        stderr=subprocess.PIPE,
    )
    assert tracer.stderr is not None
    seen: Counter[str] = Counter()
    try:
        ready, _, _ = select.select([tracer.stderr], [], [], PATIENCE)
        assert ready, "strace does not attach"
        line = tracer.stderr.readline()
        assert b"attached" in line, line.decode()
        yield seen
    finally:
        # It lets go of the process then, which goes on.
        tracer.terminate()
        tracer.communicate()
        text = trace.read_text("utf-8", "replace") if trace.exists() else ""
        for name in re.findall(r"^\d+\s+(\w+)\(", text, re.MULTILINE):
            seen[name] += 1
        seen["injected"] += len(re.findall(r"\((?:INJECTED|DELAYED)\)", text))


def canTrace() -> bool:
    """
    Whether strace is here, and may attach to another process of this one's user.
    """
    program = shutil.which("strace")
    if program is None:
        return False
    with subprocess.Popen(["sleep", "60"]) as process:
        command = [program, "-p", str(process.pid), "-o", "/dev/null"]
        with subprocess.Popen(command, stderr=subprocess.PIPE) as tracer:
            assert tracer.stderr is not None
            attached = b"attached" in tracer.stderr.readline()
            tracer.terminate()
            tracer.stderr.read()
        process.kill()
    return attached
