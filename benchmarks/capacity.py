"""
C{python -m benchmarks.capacity}: what a connection that stays costs one machine.

Each set-up gets clients that connect and stay: the listener alone, where they wait;
workers of a listener; workers of a shared port; servers that listen themselves; and
HAProxy in front of a server.  What is measured is how much memory and how many
descriptors each process has more for each connection, and how much memory the kernel
has more.  Then it is measured how many descriptors are in flight between a listener and
its workers: while many clients connect, and while the workers are stopped.

The memory of a process is what is resident.  The kernel's memory is C{Slab} of
C{/proc/meminfo}, and what C{/proc/net/sockstat} says that TCP has for buffers.  Both
are of the whole machine, so nothing else should use it meanwhile.  The clients' sockets
are on this machine, too, so there are two sockets for each connection, and four with a
proxy: the kernel's memory is also given for each socket.

All of it is on the loopback device of a network namespace of its own, for which
C{unshare} and C{ip} are needed.  The figures are of memory, so other programs that use
the processors do not change them.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.bench import FIRST_PORT
from benchmarks.contestants import (
    LIMIT,
    PROXIED,
    Contestant,
    behind,
    haproxy,
    portlisten,
    present,
    processes,
    twistd,
)
from benchmarks.report import table
from benchmarks.running import PATIENCE, Running, cpu, descendants
from tests.support.tls import certify

ROOT = Path(__file__).parents[1]

#: How many processes serve, where several can.
WORKERS = 2

#: How many connections one process of clients holds.
HELD = 8000

#: How long processes are left alone before they are measured, in seconds.  A listener
#: holds its copy of a connection for up to one second.
SETTLE_SECONDS = 2.0

#: The most connections of TLS: a handshake takes a millisecond or so.
ENCRYPTED = 4000

#: The most connections that wait in a listener: it needs some descriptors for itself.
WAITING = LIMIT - 1000

#: How many workers are stopped, to see what is in flight then.
STOPPED = 4

#: The window of each of these, which is the default of C{--window}, and how many
#: clients come that find no place in a window.
WINDOW, QUEUED = 32, 500

#: How many connections are claimed and not touched, at a time.
UNTOUCHED = 300

#: How long a sample of what is in flight waits for the next one, in seconds.
SAMPLE_SECONDS = 0.001


@dataclass(frozen=True)
class Usage:
    """
    What processes use.

    @ivar memory: the resident memory, in KiB.
    @ivar descriptors: how many are open.
    @ivar seconds: the processor time.
    """

    memory: int
    descriptors: int
    seconds: float

    @classmethod
    def of(cls, pids: Sequence[int]) -> Usage:
        """
        Ask the kernel.
        """
        return cls(
            sum(map(resident, pids)),
            sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids),
            cpu(list(pids)),
        )


def resident(pid: int) -> int:
    """
    The resident memory of a process, in KiB: C{VmRSS} in proc(5).
    """
    text = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"^VmRSS:\s+(\d+) kB", text, re.MULTILINE)
    return int(found[1]) if found else 0


def kernelMemory() -> tuple[int, int]:
    """
    What the kernel uses.

    @return: its objects, and the buffers of TCP, in KiB.
    """
    text = Path("/proc/meminfo").read_text()
    slab = re.search(r"^Slab:\s+(\d+) kB", text, re.MULTILINE)
    sockets = Path("/proc/net/sockstat").read_text()
    pages = re.search(r"^TCP:.* mem (\d+)", sockets, re.MULTILINE)
    assert slab is not None
    assert pages is not None
    return int(slab[1]), int(pages[1]) * resource.getpagesize() // 1024


def inFlight(pids: Sequence[int]) -> int:
    """
    How many descriptors processes have been sent and have not received, in all their
    Unix sockets: C{scm_fds}, C{unix_show_fdinfo} in net/unix/af_unix.c.
    """
    counts: dict[str, int] = {}
    for pid in pids:
        place = Path(f"/proc/{pid}")
        for each in (place / "fdinfo").iterdir():
            try:
                text = each.read_text()
                socket = os.readlink(place / "fd" / each.name)
            except FileNotFoundError:
                continue
            if found := re.search(r"^scm_fds:\s+(\d+)", text, re.MULTILINE):
                counts[socket] = int(found[1])
    return sum(counts.values())


@dataclass(frozen=True)
class Case:
    """
    A set-up that is measured.

    @ivar most: the most connections that it can have.
    @ivar kind: what the clients do: see L{benchmarks.clients}.
    @ivar sockets: how many TCP sockets there are for each connection.
    """

    contestant: Contestant
    most: int
    kind: str = "answered"
    sockets: int = 2


@dataclass
class Found:
    """
    What was measured of a set-up.

    @ivar count: how many connections it had.
    @ivar roles: what the processes of each role used without connections and with all.
    @ivar flight: how many descriptors were in flight at the most, while all connected.
    """

    case: Case
    count: int
    kernel: tuple[int, int]
    roles: dict[str, tuple[Usage, Usage]] = field(default_factory=dict)
    flight: int = 0

    def each(self, memory: float) -> str:
        """
        Write an amount of memory in KiB, as it is for one connection.
        """
        return f"{memory / self.count:.2f}"

    def rows(self) -> Iterator[list[str]]:
        """
        The rows of the table.
        """
        name = self.case.contestant.name
        for role, (before, after) in self.roles.items():
            descriptors = (after.descriptors - before.descriptors) / self.count
            seconds = (after.seconds - before.seconds) / self.count
            yield [
                name,
                role,
                f"{self.count:,}",
                f"{before.memory / 1024:.1f}",
                self.each(after.memory - before.memory),
                f"{descriptors:.2f}",
                f"{seconds * 1e6:.0f}",
            ]

    def kernelRow(self) -> list[str]:
        """
        The row of the kernel.
        """
        objects, buffers = self.kernel
        return [
            self.case.contestant.name,
            f"{self.count:,}",
            str(self.case.sockets),
            self.each(objects),
            self.each(buffers),
            f"{(objects + buffers) / self.count / self.case.sockets:.2f}",
        ]


def waits(running: Running) -> None:
    """
    A listener that no worker joins.
    """
    twistd(
        running,
        f"--queue={WAITING}",
        "--patience=600",
        f"tcp:{running.port}:interface=127.0.0.1",
    )


def encrypted(folder: Path) -> Callable[[Running], None]:
    """
    A worker that speaks TLS.

    @param folder: has the key and the certificate.
    """

    def start(running: Running) -> None:
        twistd(running, f"tcp:{running.port}:interface=127.0.0.1")
        running.serve(f"portlisten:{running.folder}/socket{keys(folder)}")

    return start


def encryptedDirect(folder: Path) -> Callable[[Running], None]:
    """
    A server that listens itself, and speaks TLS.
    """

    def start(running: Running) -> None:
        where = f"ssl:{running.port}:interface=127.0.0.1:backlog=16384"
        running.serve(f"{where}{keys(folder)}")

    return start


def keys(folder: Path) -> str:
    """
    The options of an endpoint description that name the key and the certificate.
    """
    return f":privateKey={folder}/it.key:certKey={folder}/it.pem"


def cases(folder: Path) -> list[Case]:
    """
    The set-ups.
    """
    served = WORKERS * (LIMIT - 200)
    proxy = Contestant("HAProxy", behind(haproxy), ("haproxy", "haproxy"), proxy=True)
    return [
        Case(Contestant("waiting", waits), WAITING, "silent"),
        Case(Contestant("listen x2", portlisten(WORKERS)), served),
        Case(Contestant("share x2", portlisten(WORKERS, "--share")), served),
        Case(Contestant("reuseport x2", processes("reuseport", WORKERS)), served),
        Case(proxy, PROXIED, sockets=4),
        Case(Contestant("listen x1, TLS", encrypted(folder)), ENCRYPTED, "tls"),
        Case(Contestant("direct, TLS", encryptedDirect(folder)), ENCRYPTED, "tls"),
    ]


def servers(running: Running) -> list[int]:
    """
    The processes that serve, without the parent that started several.
    """
    pids = [process.pid for process in running.back]
    return [each for pid in pids for each in descendants([pid])[1:] or [pid]]


@contextmanager
def clients(port: int, count: int, kind: str) -> Iterator[Callable[[], bool]]:
    """
    Keep clients connected within a C{with} statement.

    @return: says whether all are connected.  It raises L{RuntimeError} if one failed.
    """
    processes = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "benchmarks.clients"),
                *(str(port), str(first), str(min(HELD, count - first)), kind),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for first in range(0, count, HELD)
    ]
    waiting = list(processes)
    for each in processes:
        assert each.stdout is not None
        os.set_blocking(each.stdout.fileno(), False)

    def connected() -> bool:
        for each in list(waiting):
            assert each.stdout is not None
            line = each.stdout.readline()
            if line == b"held\n":
                waiting.remove(each)
            elif each.poll() is not None:
                raise RuntimeError("a client was not answered")
        return not waiting

    try:
        yield connected
    finally:
        for each in processes:
            each.communicate()


def measure(folder: Path, port: int, case: Case, most: int) -> Found:
    """
    Measure a set-up.

    @param most: the most connections that are wanted.
    """
    count = min(most, case.most)
    with case.contestant.running(folder, port, "held") as running:
        front = [process.pid for process in running.front]
        pids = {"in front": front, "server": servers(running)}
        pids = {role: each for role, each in pids.items() if each}
        time.sleep(SETTLE_SECONDS)
        before = {role: Usage.of(each) for role, each in pids.items()}
        kernel = kernelMemory()
        flight = 0
        with clients(port, count, case.kind) as connected:
            while not connected():
                flight = max(flight, inFlight(servers(running)))
                time.sleep(SAMPLE_SECONDS)
            time.sleep(SETTLE_SECONDS)
            now = kernelMemory()
            roles = {
                role: (before[role], Usage.of(each)) for role, each in pids.items()
            }
        grown = now[0] - kernel[0], now[1] - kernel[1]
        return Found(case, count, grown, roles, flight)


class Descriptors:
    """
    Counts the descriptors that connections take in each state.

    @ivar rows: the rows of the table so far.
    """

    def __init__(self) -> None:
        self.rows: list[list[str]] = []

    def begin(self, running: Running) -> None:
        """
        Note what there is without connections.
        """
        time.sleep(SETTLE_SECONDS)
        self._front = [process.pid for process in running.front]
        self._workers = servers(running)
        self._before = self._held()

    def _held(self) -> tuple[int, int]:
        front, workers = map(Usage.of, (self._front, self._workers))
        return front.descriptors, workers.descriptors

    def awaitClaims(self, count: int) -> None:
        """
        Wait until the workers have so many connections.
        """
        until = time.monotonic() + PATIENCE
        while self._held()[1] - self._before[1] < count:
            if time.monotonic() > until:
                raise RuntimeError(f"no {count} connections were claimed")

    def note(self, state: str, count: int) -> None:
        """
        Add a row.

        @param state: the state of the connections.
        @param count: how many there are.
        """
        front, workers = (
            now - then for then, now in zip(self._before, self._held(), strict=True)
        )
        flight = inFlight(self._workers)
        self.rows.append([state, f"{count:,}", str(front), str(workers), str(flight)])


def settled(connected: Callable[[], bool]) -> None:
    """
    Wait until all clients are connected.
    """
    while not connected():
        time.sleep(SAMPLE_SECONDS)


def states(folder: Path, port: int) -> list[list[str]]:
    """
    Count the descriptors of each side while connections are in a certain state.

    @return: the rows of the table.
    """
    found = Descriptors()
    options = ("--claim-timeout=60", "--patience=600")
    stopped = Contestant("stopped", portlisten(STOPPED, *options))
    with stopped.running(folder, port, "held") as running:
        found.begin(running)
        workers = servers(running)
        for pid in workers:
            os.kill(pid, signal.SIGSTOP)
        try:
            window = STOPPED * WINDOW
            with clients(port, window, "silent") as connected:
                settled(connected)
                time.sleep(SETTLE_SECONDS)
                found.note(f"offered, {STOPPED} workers stopped", window)
                with clients(port, QUEUED, "silent") as connectedToo:
                    settled(connectedToo)
                    time.sleep(SETTLE_SECONDS)
                    found.note(f"{QUEUED:,} more that wait", window + QUEUED)
        finally:
            for pid in workers:
                os.kill(pid, signal.SIGCONT)
    untouched = Contestant("untouched", portlisten(WORKERS))
    with untouched.running(folder, port + 2, "bulk") as running:
        found.begin(running)
        with clients(port + 2, UNTOUCHED, "silent") as connected:
            settled(connected)
            found.awaitClaims(UNTOUCHED)
            found.note("claimed, and not touched yet", UNTOUCHED)
            time.sleep(SETTLE_SECONDS)
            found.note(f"the same, {SETTLE_SECONDS:g} s later", UNTOUCHED)
    return found.rows


def report(results: Sequence[Found], descriptors: Sequence[Sequence[str]]) -> None:
    """
    Print the tables.
    """
    header = ["set-up", "role", "connections", "MiB without", "KiB each"]
    header += ["descriptors each", "µs each"]
    print(table(header, [row for each in results for row in each.rows()]))
    header = ["set-up", "connections", "TCP sockets each", "objects, KiB each"]
    header += ["buffers, KiB each", "KiB for each socket"]
    print(table(header, [each.kernelRow() for each in results]))
    header = ["state", "connections", "descriptors in front", "in the workers"]
    print(table([*header, "in flight"], descriptors))
    for each in results:
        if each.flight:
            print(
                f"{each.case.contestant.name}: {each.flight} descriptors were in flight"
                " at the most while all connected"
            )


def run(most: int) -> None:
    """
    Measure all.  This process must be in a network namespace of its own.

    @param most: the most connections of a set-up.
    """
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    resource.setrlimit(resource.RLIMIT_NOFILE, (LIMIT, LIMIT))
    with tempfile.TemporaryDirectory(prefix="benchmarks.") as name:
        folder = Path(name)
        certify(f"{folder}/it")
        several = {each.contestant.name: each for each in cases(folder)}
        there = present([each.contestant for each in several.values()])
        results = []
        for number, each in enumerate(there):
            print(f"measuring {each.name}", file=sys.stderr, flush=True)
            port = FIRST_PORT + 2 * number
            results.append(measure(folder, port, several[each.name], most))
        print("measuring descriptors", file=sys.stderr, flush=True)
        report(results, states(folder, FIRST_PORT + 2 * len(there)))


def main() -> None:
    """
    Measure what the command line says.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.capacity",
        description="Measure what a connection that stays costs one machine.",
    )
    parser.add_argument(
        "--connections",
        type=int,
        default=20_000,
        help="the most connections at a time, 1000 to 100000 [20000]",
    )
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not 1000 <= arguments.connections <= 100_000:
        parser.error("--connections is from 1000 to 100000")
    os.chdir(ROOT)
    if arguments.inside:
        run(arguments.connections)
        return
    own = [sys.executable, *sys.orig_argv[1:], "--inside"]
    sys.exit(subprocess.run(["unshare", "-rn", *own], check=False).returncode)


if __name__ == "__main__":
    main()
