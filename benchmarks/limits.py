"""
C{python -m benchmarks.limits}: what limits per source cost, if nobody reaches them.

Three listeners run side by side, each with two workers.  The first has no limits.  The
other two have all of them.  Each gets the same connections, from 64,000 addresses, in
turns.  The second listener takes addresses of the same C{/24} for one source, so it
knows them all.  The third has more sources than it keeps, so it forgets one for each
that comes.  What is compared is the listener's processor time for each connection.

With C{--table}, a million sources come to the pure policy instead, each with one
connection.  What is measured is its memory, and its time for each connection.

With C{--live}, so many sources come to a listener, each with one connection.  Each is a
C{/64} of IPv6 of its own.  They are addresses of the loopback device in a network
namespace, for which C{unshare} and C{ip} are needed.  What is measured is the
listener's memory.
"""

from __future__ import annotations

import argparse
import errno
import os
import select
import socket
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections import deque
from itertools import islice
from pathlib import Path
from statistics import median

from benchmarks.bench import FIRST_PORT, Bench, buildClients, needsCompiler
from benchmarks.contestants import Contestant, portlisten, twistd
from benchmarks.running import PATIENCE, Running, cpu
from benchmarks.serve import STRING
from benchmarks.supervisor import spread
from portlisten._policy.source_limits import (
    MAXIMUM_SOURCES,
    Limits,
    Rate,
    Source,
    SourceLimits,
)

ROOT = Path(__file__).parents[1]

#: How many clients connect at a time.
AT_ONCE = 64

#: How many workers each listener has.
WORKERS = 2

#: Limits of each source and of all, which nobody reaches.
LIMITS = (
    ":max-per-source=1000:rate-per-source=1000000/s burst 1000000"
    ":max=100000:rate=1000000/s burst 1000000"
)

#: The limits of each contestant.
CONTESTANTS = {
    "off": "",
    "few sources": f"{LIMITS}:source-prefix=24",
    "many sources": LIMITS,
}

#: The most processor time that limits may cost, as a ratio.
GOAL = 1.1

#: What gives the loopback device of a network namespace the addresses of L{SERVER}'s
#: network.
SERVER = "2001:db8::1"
SET_UP = (
    "ip link set lo up",
    "ip -6 route add local 2001:db8::/32 dev lo",
    "sysctl -qw net.ipv6.ip_nonlocal_bind=1",
)

#: From Linux's C{include/uapi/linux/in.h}.
IP_BIND_ADDRESS_NO_PORT = 24

#: How many sources come with C{--table}.
SOURCES = 1_000_000


def compare(bench: Bench, total: int) -> None:
    """
    Print the processor times, and their ratios.

    @param total: how many connections are made at a time.
    """

    def measure(_: Contestant, running: Running) -> dict[str, float]:
        pids = [running.front[0].pid]
        before = cpu(pids)
        bench.load(running.port, total, AT_ONCE, STRING)
        return {"cost": (cpu(pids) - before) / total * 1e6}

    contestants = [
        Contestant(name, portlisten(WORKERS, "--listen", suffix=limits))
        for name, limits in CONTESTANTS.items()
    ]
    found = bench.interleave("hello", contestants, {"": measure}, measure)[0][""]
    costs = {name: [each["cost"] for each in found[name]] for name in found}
    for name, each in costs.items():
        print(f"  {name}: {spread(each)} µs for each connection")
    for name, each in costs.items():
        if name == "off":
            continue
        pairs = zip(costs["off"], each, strict=True)
        ratios = [on / off for off, on in pairs]
        print(
            f"  {name} to off: {median(ratios):.3f}"
            f" ({min(ratios):.3f} to {max(ratios):.3f}), goal: at most {GOAL}"
        )


def resident(pid: int | str = "self") -> float:
    """
    The resident memory of a process, in MiB.
    """
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def visit(table: SourceLimits, first: int, last: int, alive: int) -> float:
    """
    Let a connection of each of some sources arrive, and end later.

    @param first: the number of the first source, which is the /64 of an IPv6 address.
    @param last: the number after the last.
    @param alive: how many connections live at a time.
    @return: the seconds that each connection took.
    """
    living: deque[Source] = deque()
    began = time.perf_counter()
    for number in range(first, last):
        key = number.to_bytes(8, "big")
        source, reason = table.arrive(key, number / SOURCES)
        assert not reason, reason
        living.append(source)
        if len(living) > alive:
            living.popleft().depart()
    took = time.perf_counter() - began
    for each in living:
        each.depart()
    return took / (last - first)


def measureTable() -> None:
    """
    Print what a million sources cost.
    """
    limits = Limits(maxPerSource=20, ratePerSource=Rate(20, 40), most=2 * SOURCES)
    print(
        f"{SOURCES:,} sources come within a second, with a connection each."
        f"  {MAXIMUM_SOURCES:,} are known at a time."
    )
    for alive in (64, 100_000):
        before = resident()
        table = SourceLimits(limits)
        early = visit(table, 0, MAXIMUM_SOURCES, alive)
        full = resident()
        late = visit(table, MAXIMUM_SOURCES, SOURCES, alive)
        print(
            f"  {alive:,} connections at a time: {early * 1e6:.2f} µs for each"
            f" connection until the table is full, {late * 1e6:.2f} µs after that;"
            f" resident memory grew by {full - before:.1f} MiB, and then by"
            f" {resident() - full:.1f}; {len(table.sources):,} sources are known"
        )
        del table
    tracemalloc.start()
    table = SourceLimits(limits)
    sizes = []
    for first, last in ((0, MAXIMUM_SOURCES), (MAXIMUM_SOURCES, SOURCES)):
        visit(table, first, last, 64)
        sizes.append(tracemalloc.get_traced_memory()[0] / 2**20)
    each = sizes[1] * 2**20 / len(table.sources)
    print(
        f"  the table has {sizes[0]:.1f} MiB when it is full, and {sizes[1]:.1f} MiB"
        f" at the end: {each:.0f} bytes for each source"
    )


def come(port: int, first: int, last: int) -> None:
    """
    Let sources come one after the other, many at a time.  Each reads the answer.

    @param first: the number of the first source.
    @param last: the number after the last.
    @raise RuntimeError: if one is not answered.
    """
    poll = select.epoll()
    sockets: dict[int, socket.socket] = {}
    numbers = iter(range(first, last))

    def connect() -> None:
        for number in islice(numbers, AT_ONCE - len(sockets)):
            sock = socket.socket(socket.AF_INET6)
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
            sock.bind((f"2001:db8:{number >> 16:x}:{number & 0xFFFF:x}::1", 0))
            if sock.connect_ex((SERVER, port)) not in (0, errno.EINPROGRESS):
                raise RuntimeError("a client could not connect")
            sockets[sock.fileno()] = sock
            poll.register(sock, select.EPOLLIN)

    connect()
    while sockets:
        found = poll.poll(PATIENCE)
        if not found:
            raise RuntimeError("nobody is answered any more")
        for descriptor, _ in found:
            sock = sockets.pop(descriptor)
            if sock.recv(100) != STRING:
                raise RuntimeError("a client was not answered")
            sock.close()
        connect()


def measureLive(folder: Path, count: int) -> None:
    """
    Print what so many sources cost a listener.  This process must be in a network
    namespace of its own.
    """
    port = FIRST_PORT
    for words in SET_UP:
        subprocess.run(words.split(), check=True)
    running = Running(folder, port, "hello")
    try:
        twistd(running, f"--listen=tcp6:{port}{LIMITS}")
        running.serve(f"portlisten:{folder}/socket", WORKERS)
        listener = running.front[0].pid
        time.sleep(1)
        before, used, done = resident(listener), cpu([listener]), 0
        print(f"  {before:8.1f} MiB before")
        for last in (1000, MAXIMUM_SOURCES, count // 2, count):
            if last <= done:
                continue
            began = time.perf_counter()
            come(port, done, last)
            now, usedNow = time.perf_counter(), cpu([listener])
            print(
                f"  {resident(listener):8.1f} MiB after {last:,} sources,"
                f" {(usedNow - used) / (last - done) * 1e6:.1f} µs and"
                f" {(last - done) / (now - began):,.0f} a second",
                flush=True,
            )
            used, done = usedNow, last
    finally:
        running.stop()


def main() -> None:
    """
    Measure what the command line says.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.limits",
        description="Measure what limits per source cost, if nobody reaches them.",
    )
    parser.add_argument("--pairs", type=int, default=9, help="of measurements [9]")
    parser.add_argument(
        "--total", type=int, default=60_000, help="connections in each [60000]"
    )
    parser.add_argument(
        "--table", action="store_true", help="measure the pure policy alone"
    )
    parser.add_argument(
        "--live",
        type=int,
        default=0,
        metavar="SOURCES",
        help="let so many sources come to a listener, and measure its memory",
    )
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    os.chdir(ROOT)
    if arguments.table:
        measureTable()
        return
    if arguments.live and not arguments.inside:
        print(f"{arguments.live:,} sources come to a listener:", flush=True)
        own = [sys.executable, *sys.orig_argv[1:], "--inside"]
        sys.exit(subprocess.run(["unshare", "-rn", *own], check=False).returncode)
    with tempfile.TemporaryDirectory(prefix="benchmarks.") as name:
        folder = Path(name)
        if arguments.live:
            measureLive(folder, arguments.live)
            return
        needsCompiler(parser)
        buildClients(folder)
        print(
            f"{arguments.pairs} rounds of {arguments.total} connections,"
            f" {AT_ONCE} at a time, {WORKERS} workers:"
        )
        sys.stdout.flush()
        compare(Bench(folder, [], arguments.pairs, 1.0), arguments.total)


if __name__ == "__main__":
    main()
