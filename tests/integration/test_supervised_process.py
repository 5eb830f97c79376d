"""
Tests for the processes of a supervisor that is killed, and for many starts.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator

import pytest

from portlisten._children import launch as _launch
from portlisten.errors import CannotRun
from tests.support.descriptors import descriptors
from tests.support.each import runs, until
from tests.support.launches import shell
from tests.support.processes import Process, Processes

NOBODY = 65534

#: Starts one process, whose output it inherits, and waits.
SUPERVISOR = """
import signal, sys, time
from tests.support.launches import shell
from portlisten._children import launch
text, uid = sys.argv[1], int(sys.argv[2])
print("process", launch.start(shell(text, uid=uid or None), 1), flush=True)
while True:
    signal.pause()
"""

#: Says when it gets SIGTERM, and then waits for ever.
WAITS = "trap 'echo got TERM' TERM; echo up; while :; do sleep 0.05; done"


@pytest.fixture
def supervise(processes: Processes) -> Iterator[Callable[..., tuple[Process, int]]]:
    """
    A function that starts a supervisor with one process.
    """
    groups = []

    def start(text: str, uid: int = 0) -> tuple[Process, int]:
        supervisor = processes.python("-c", SUPERVISOR, text, str(uid))
        pid = int(supervisor.says(r"process (\d+)")[1])
        groups.append(pid)
        supervisor.says("up")
        return supervisor, pid

    yield start
    for each in groups:
        try:
            os.killpg(each, signal.SIGKILL)
        except ProcessLookupError:
            pass


@pytest.mark.parametrize("uid", [0, NOBODY, 54321])
def test_supervisorKilled(
    supervise: Callable[..., tuple[Process, int]], uid: int
) -> None:
    """
    When the supervisor is killed, its process gets SIGTERM, also as another user.
    """
    if uid and os.geteuid():
        pytest.skip("needs root, to change users")
    supervisor, pid = supervise(WAITS, uid)
    assert os.stat(f"/proc/{pid}").st_uid == (uid or os.geteuid())
    assert "got TERM" not in supervisor.output
    supervisor.kill()
    until(lambda: "got TERM" in supervisor.output)
    assert runs(pid)


def test_processEnds(supervise: Callable[..., tuple[Process, int]]) -> None:
    """
    A process that does not handle SIGTERM ends with its supervisor.
    """
    supervisor, pid = supervise("echo up; exec sleep 99")
    supervisor.kill()
    until(lambda: not runs(pid))


def test_thousand() -> None:
    """
    A thousand starts, of which half fail, leave no descriptor and no process.
    """
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        before = descriptors()
        for number in range(1000):
            if number % 2:
                with pytest.raises(CannotRun):
                    _launch.start(shell("", folder="/no/such"), null)
            else:
                os.waitpid(_launch.start(shell("exit 0"), null), 0)
        assert descriptors() == before
        with pytest.raises(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)
    finally:
        os.close(null)


def test_output(processes: Processes) -> None:
    """
    A thousand processes that are watched by a reactor leave nothing behind either, and
    each end is told once.
    """
    program = """
import os
from twisted.internet import reactor
from portlisten._children.process import Process
from tests.support.launches import shell
ends = {}
lines = []
left = iter(range(1000))
def count():
    return len(os.listdir("/proc/self/fd"))
def ended(process):
    ends[process] = ends.get(process, 0) + 1
    next_()
def next_():
    if next(left, None) is None:
        if len(ends) == 1000:
            reactor.callLater(0, finish)
        return
    Process(reactor, shell("sleep 9 & echo up"), lines.append, ended).start()
def begin():
    global before
    before = count()
    for _ in range(4):
        next_()
def finish():
    try:
        os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        print("no child", flush=True)
    print("ends", set(ends.values()), len(lines), count() - before, flush=True)
    reactor.stop()
reactor.callLater(0.5, begin)
reactor.run()
"""
    supervisor = processes.python("-c", program)
    supervisor.says("no child", patience=120)
    assert supervisor.says(r"ends (.*)")[1] == "{1} 1000 0"
    assert supervisor.wait() == 0
