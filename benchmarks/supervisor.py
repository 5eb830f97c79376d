"""
C{python -m benchmarks.supervisor}: what a supervisor costs, beside C{twistd portlisten}
alone.

It prints the memory of the supervisor and of the listener, the processor time that they
take while nothing happens, and the rate of the hand-off with a supervisor and without
one.  All of it is measured in one run, and the rates in rounds, one after the other.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

from benchmarks.bench import FIRST_PORT, Bench, buildClients, needsCompiler
from benchmarks.contestants import Contestant
from benchmarks.running import PATIENCE, Running, descendants
from benchmarks.serve import STRING
from tests.support.run_service import (
    LISTENER_USER,
    NoPython,
    Workers,
    isRoot,
    portlisten,
    pythonFor,
    write,
)

ROOT = Path(__file__).parents[1]

#: How many workers there are while nothing happens.
WORKERS = 4

#: How long the processes are left alone before that, in seconds.
SETTLE_SECONDS = 15.0

#: How many connections are made at a time, and in all.
AT_ONCE, TOTAL = 64, 20_000

TWISTD = ("-c", "from twisted.scripts.twistd import run; run()", "-n", "--pidfile=")


def alone(running: Running) -> None:
    """
    A listener that C{twistd} starts, by the same Python as the supervisor, and in a
    session of its own.  The kernel's scheduler may divide the time among sessions.
    """
    port = f"tcp:{running.port}:interface=127.0.0.1"
    user = [f"--uid={LISTENER_USER}"] if isRoot() else []
    running.before(
        *("setsid", *pythonFor(), *TWISTD, *user),
        *("portlisten", port, f"{running.folder}/socket"),
    )


def supervised(running: Running, workers: Sequence[Workers] = ()) -> None:
    """
    A listener that a supervisor starts.
    """
    running.folder.chmod(0o755)
    listen = f'listen = "tcp:{running.port}:interface=127.0.0.1"'
    file = write(running.folder, f"[ports.http]\n{listen}", workers)
    running.before(*portlisten("run", str(file)))


def withServer(running: Running, front: str) -> None:
    """
    Either of them, and a worker that the benchmark starts itself.
    """
    {"alone": alone, "supervised": supervised}[front](running)
    running.serve(f"portlisten:{running.folder}/socket")


@dataclass(frozen=True)
class Usage:
    """
    What a process has used.

    @ivar seconds: its processor time.
    @ivar wakes: how often it has waited.
    """

    seconds: float
    wakes: int

    @classmethod
    def of(cls, pid: int) -> Usage:
        """
        Ask the kernel.
        """
        place = Path(f"/proc/{pid}/task/{pid}")
        ran = int((place / "schedstat").read_text().split()[0])
        status = (place / "status").read_text()
        match = re.search(r"^voluntary_ctxt_switches:\s+(\d+)", status, re.MULTILINE)
        assert match is not None
        return cls(ran / 1e9, int(match[1]))


def memory(pid: int) -> tuple[float, float]:
    """
    Return the resident memory of a process, and its proportional share of what
    processes have in common, in MiB.
    """
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = dict(re.findall(r"^(\w+):\s+(\d+) kB", text, re.MULTILINE))
    return int(found["Rss"]) / 1024, int(found["Pss"]) / 1024


def settle(running: Running, pattern: str) -> None:
    """
    Wait until the first process before the server has said something.
    """
    log = running.folder / "front0.log"
    end = time.monotonic() + PATIENCE
    while not re.search(pattern, log.read_text()):
        if time.monotonic() > end:
            raise RuntimeError(f"no {pattern!r} within {PATIENCE:g} s in {log}")
        time.sleep(0.1)


def idle(folder: Path, seconds: float, periods: int) -> None:
    """
    Print the memory, and the processor time while nothing happens.

    @param seconds: how long a period lasts.
    """
    hello = [*TWISTD, "hellofdpass", "{path}", "hello"]
    workers = [Workers("hello", ["python", *hello], WORKERS)]
    contestants = [
        Contestant("alone", alone),
        Contestant("supervised", partial(supervised, workers=workers)),
    ]
    with ExitStack() as stack:
        one, other = (
            stack.enter_context(each.running(folder, FIRST_PORT + number, "hello"))
            for number, each in enumerate(contestants)
        )
        words = [word.replace("{path}", f"{one.folder}/socket") for word in hello]
        for _ in range(WORKERS):
            one.before(*pythonFor(), *words)
        settle(one, "(?s)" + "joined.*" * WORKERS)
        settle(other, f"{WORKERS} of {WORKERS} workers of hello are ready")
        supervisor = other.front[0].pid
        # Its first child is the listener.
        listener = descendants([supervisor])[1]
        pids = {
            "supervisor": supervisor,
            "supervised listener": listener,
            "listener alone": one.front[0].pid,
        }
        # Cancelled timers wake Twisted's reactor until they are due.
        time.sleep(SETTLE_SECONDS)
        used: dict[str, list[tuple[float, float]]] = {each: [] for each in pids}
        for _ in range(periods):
            before = {name: Usage.of(pid) for name, pid in pids.items()}
            time.sleep(seconds)
            for name, pid in pids.items():
                now = Usage.of(pid)
                used[name].append(
                    (
                        (now.seconds - before[name].seconds) / seconds,
                        (now.wakes - before[name].wakes) / seconds,
                    )
                )
        print(f"with {WORKERS} workers, in {periods} periods of {seconds:g} s without")
        print("connections:")
        for name, pid in pids.items():
            resident, proportional = memory(pid)
            shares = [share * 1000 for share, _ in used[name]]
            wakes = [each for _, each in used[name]]
            print(
                f"  {name}: {resident:.1f} MiB resident, {proportional:.1f} MiB"
                f" proportional; {spread(shares)} ms of processor time a second;"
                f" {spread(wakes)} waits a second"
            )


def spread(values: Sequence[float]) -> str:
    """
    The median, and the range.
    """
    return f"{median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def rate(bench: Bench) -> None:
    """
    Print the rates, and their ratio.
    """

    def measure(each: Contestant, running: Running) -> dict[str, float]:
        total = bench.total(each, TOTAL)
        front, _ = running.used()
        found = bench.load(running.port, total, AT_ONCE, STRING)
        now, _ = running.used()
        return {
            "rate": total / found["seconds"],
            "front": (now - front) / total * 1e6,
        }

    names = ("alone", "supervised")
    contestants = [Contestant(each, partial(withServer, front=each)) for each in names]
    found = bench.interleave("hello", contestants, {"": measure})[0][""]
    for name in names:
        rates = [each["rate"] for each in found[name]]
        cost = [each["front"] for each in found[name]]
        print(
            f"  {name}: {median(rates):.0f} ({min(rates):.0f} to {max(rates):.0f})"
            f" connections a second, {spread(cost)} µs of processor time in front"
        )
    ratios = [
        two["rate"] / one["rate"]
        for one, two in zip(found["alone"], found["supervised"], strict=True)
    ]
    print(f"  supervised to alone: {spread(ratios)}")


def main() -> None:
    """
    Measure what the command line says.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.supervisor",
        description="Measure what a supervisor costs, beside a listener alone.",
    )
    parser.add_argument("--seconds", type=float, default=60, help="of a period [60]")
    parser.add_argument("--periods", type=int, default=3, help="without connections")
    parser.add_argument("--rounds", type=int, default=9, help="of the hand-off [9]")
    arguments = parser.parse_args()
    needsCompiler(parser)
    try:
        pythonFor()
    except NoPython as error:
        parser.error(str(error))
    os.chdir(ROOT)
    folder = Path(tempfile.mkdtemp(prefix="benchmarks."))
    folder.chmod(0o755)
    try:
        buildClients(folder)
        if arguments.periods:
            place = folder / "idle"
            place.mkdir()
            idle(place, arguments.seconds, arguments.periods)
        if arguments.rounds:
            print(
                f"the hand-off, {AT_ONCE} clients at a time, {arguments.rounds} rounds:"
            )
            sys.stdout.flush()
            rate(Bench(folder, [], arguments.rounds, 1.0))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
