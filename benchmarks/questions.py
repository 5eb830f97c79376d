"""
The questions.  Each question starts its contestants together, measures them one after
the other, in rounds, and returns the raw figures.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.bench import Bench, Figures, Measure
from benchmarks.contestants import LIMIT, PROXIED, Contestant
from benchmarks.hop import connect, hop, share
from benchmarks.running import Running, descendants
from benchmarks.serve import AMOUNT, STRING
from benchmarks.staying import stay

#: How many connections are made, by how many clients connect at a time.
TOTALS = {1: 2000, 8: 6000, 64: 8000, 512: 8000, 2000: 8000}

#: The most connections that one process of staying clients holds.
HELD = 8000


def rate(bench: Bench) -> Figures:
    """
    Connections per second, how long a client waits, and what a connection costs.
    """
    return connect(bench, "hello", bench.contestants, TOTALS)


def tail(
    bench: Bench,
    protocol: str,
    names: list[str],
    count: int,
    atOnce: int,
    most: int = 0,
) -> Figures:
    """
    How evenly connections spread over workers, and how long the slowest clients wait.
    """

    def measure(each: Contestant, running: Running) -> Figures:
        total = bench.total(each, count)
        found = bench.load(running.port, total, atOnce, STRING, most)
        return {
            "rate": found["answers"] / found["seconds"],
            "p50": found["p50"],
            "p99": found["p99"],
            "clients": found["cpu"] / found["answers"] * 1e6,
            "taken": found["taken"],
        }

    found, served = bench.interleave(protocol, bench.chosen(names), {"": measure})
    return {"found": found[""], "served": served}


def busy(bench: Bench) -> Figures:
    """
    Evenness and tail where a connection costs its server 1 ms, and one in twenty
    20 ms.
    """
    names = ["direct", "inherited x4", "reuseport x4", "listen x4", "share x4"]
    return tail(bench, "busy", [*names, "listen x2", "groups x4"], 2000, 64)


def kept(bench: Bench) -> Figures:
    """
    The same where a client asks 1 to 50 times before it closes, and each answer costs
    1 ms.
    """
    names = ["inherited x4", "reuseport x4", "listen x4", "share x4", "groups x4"]
    return tail(bench, "kept", names, 250, 64, 50)


def throughput(bench: Bench) -> Figures:
    """
    How fast bytes go once the connection is there: with one and with eight
    connections, to the client and from it.
    """
    names = ["direct", "listen x1", "share x1", "HAProxy", "nginx", "socket-proxyd"]
    amount = int(AMOUNT * min(1.0, bench.scale))

    def case(connections: int, way: str) -> Measure:
        def measure(each: Contestant, running: Running) -> Figures:
            began = time.monotonic()
            threads = [
                threading.Thread(
                    target=move, args=(running.port, way, amount // connections)
                )
                for _ in range(connections)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            return {"rate": amount / (time.monotonic() - began) / 1e6}

        return measure

    cases = {
        f"{connections} {way}": case(connections, way)
        for connections in (1, 8)
        for way in ("down", "up")
    }
    return bench.interleave("bulk", bench.chosen(names), cases)[0]


def move(port: int, way: str, amount: int) -> None:
    """
    Take so many bytes from a server, or give it so many.
    """
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall((b"D" if way == "down" else b"U") + b"%08x" % amount)
        if way == "down":
            place = bytearray(1 << 18)
            while amount and (count := client.recv_into(place)):
                amount -= count
            if amount:
                raise RuntimeError(f"{amount} bytes are missing")
            return
        block = bytes(1 << 17)
        while amount:
            amount -= client.send(block[:amount])
        if client.recv(10) != b"!":
            raise RuntimeError("not all arrived")


def size(bench: Bench) -> Figures:
    """
    How much the process before the workers pays for connections that workers hold.
    """
    names = ["listen x2", "share x2", "HAProxy", "nginx", "socket-proxyd"]
    figures: Figures = {}
    for number, each in enumerate(bench.chosen(names)):
        port = bench.port + 2 * number
        rows: list[Figures] = []
        figures[each.name] = rows
        with each.running(bench.folder, port, "held") as running, ExitStack() as stack:
            alive = 0
            for most in (0, 1000, 10_000, 20_000):
                # Two servers share the connections; a proxy has one server.
                limit = PROXIED if each.proxy else 2 * (LIMIT - 200)
                count = min(int(most * min(1.0, bench.scale)), limit)
                if alive == count > 0 or not stack.enter_context(
                    holding(port, alive, count - alive)
                ):
                    print(
                        f"{each.name}: no {most}, 'ulimit -Hn' is {LIMIT}",
                        file=sys.stderr,
                    )
                    break
                alive = count
                time.sleep(2.5)
                before, _ = running.used()
                time.sleep(2)
                after, _ = running.used()
                pids = descendants([process.pid for process in running.front])
                rows.append(
                    {
                        "alive": count,
                        "descriptors": sum(
                            len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids
                        ),
                        "resident": sum(map(resident, pids)),
                        "cpu": (after - before) / 2,
                    }
                )
    return figures


@contextmanager
def holding(port: int, first: int, count: int) -> Iterator[bool]:
    """
    Keep clients connected within a C{with} statement.

    @param first: how many clients are connected already.
    @return: whether each client was answered.
    """
    processes = []
    for begin in range(first, first + count, HELD):
        part = min(HELD, first + count - begin)
        processes.append(
            subprocess.Popen(
                [
                    *(sys.executable, "-m", "benchmarks.clients"),
                    *(str(port), str(begin), str(part)),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
        )
    try:
        answers = [each.stdout.readline() for each in processes if each.stdout]
        yield all(answer == b"held\n" for answer in answers)
    finally:
        for each in processes:
            each.communicate()


def resident(pid: int) -> int:
    """
    The resident memory of a process, in KiB: C{VmRSS} in proc(5).
    """
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    return 0


def burst(bench: Bench) -> Figures:
    """
    How long the last of 2,000 clients waits that come at once; and the last of
    those that come while the only server is replaced.
    """
    names = ["direct", "listen x1", "share x1", "datagram", "HAProxy", "nginx"]
    names += ["socket-proxyd"]
    count = max(50, int(2000 * min(1.0, bench.scale)))

    def all_(each: Contestant, running: Running) -> Figures:
        return bench.load(running.port, count, count, STRING)

    def replaced(each: Contestant, running: Running) -> Figures:
        lost = longest = asked = 0
        over = False

        def ask() -> None:
            nonlocal lost, longest, asked
            while not over:
                began = time.monotonic()
                try:
                    with socket.create_connection(("127.0.0.1", running.port), 30) as c:
                        heard = b""
                        while data := c.recv(100):
                            heard += data
                except OSError:
                    heard = b""
                asked += 1
                lost += heard != STRING
                longest = max(longest, int((time.monotonic() - began) * 1e6))
                time.sleep(0.002)

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        try:
            time.sleep(0.5)
            running.restart()
            time.sleep(0.5)
        finally:
            over = True
            for thread in threads:
                thread.join()
        return {"asked": asked, "lost": lost, "longest": longest}

    return bench.interleave(
        "hello", bench.chosen(names), {"burst": all_, "restart": replaced}
    )[0]


ALL: dict[str, Callable[[Bench], Figures]] = {
    "hop": hop,
    "stay": stay,
    "share": share,
    "rate": rate,
    "busy": busy,
    "kept": kept,
    "throughput": throughput,
    "size": size,
    "burst": burst,
}
