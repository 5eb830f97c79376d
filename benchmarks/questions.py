"""
The questions.  Each question starts its contestants together, measures them one after
the other, in rounds, and returns the raw figures.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.contestants import (
    LIMIT,
    PROXIED,
    Contestant,
    Running,
    descendants,
)
from benchmarks.serve import AMOUNT, STRING

#: The port of the first contestant.  A proxy's server is on the next port.
FIRST_PORT = 21000

#: How many connections are made, by how many clients connect at a time.
TOTALS = {1: 2000, 8: 6000, 64: 8000, 512: 8000, 2000: 8000}

#: The most connections that one process of staying clients holds.
HELD = 8000

#: Contestants with a process for each connection.  They get fewer clients.
FORKING = frozenset(["socat", "tcpserver"])

Figures = dict[str, Any]

#: Measures a contestant once.
Measure = Callable[[Contestant, Running], Figures]


@dataclass
class Bench:
    """
    The tools and the parameters of all questions.

    @ivar folder: the folder for files, with the clients' program in it.
    @ivar rounds: how often each contestant is measured.
    @ivar scale: the factor for the number of clients.
    """

    folder: Path
    contestants: list[Contestant]
    rounds: int
    scale: float

    def chosen(self, names: Iterable[str]) -> list[Contestant]:
        """
        Return the available contestants of these names.
        """
        wanted = set(names)
        return [each for each in self.contestants if each.name in wanted]

    def load(
        self, port: int, total: int, atOnce: int, expected: bytes, most: int = 0
    ) -> Figures:
        """
        Run many clients.

        @param most: the most requests of each client, which then closes; with 0, the
            server closes.
        @raise RuntimeError: if a client got a wrong answer, or none.
        """
        process = subprocess.run(
            [
                str(self.folder / "load"),
                *(str(port), str(total), str(atOnce), expected.decode()),
                *([str(most)] if most else []),
            ],
            stdout=subprocess.PIPE,
            check=False,
        )
        if process.returncode:
            raise RuntimeError(f"not all were answered: {process.stdout.decode()}")
        found: Figures = json.loads(process.stdout)
        return found

    def total(self, contestant: Contestant, total: int) -> int:
        """
        Return how many clients to run.
        """
        share = 8 if contestant.name in FORKING else 1
        return max(20, int(total * self.scale / share))

    def interleave(
        self,
        protocol: str,
        contestants: list[Contestant],
        cases: dict[str, Measure],
    ) -> tuple[dict[str, dict[str, list[Figures]]], dict[str, list[int]]]:
        """
        Run all contestants, and measure one after the other, in rounds.

        @param cases: the measurements, by their names.
        @return: the figures of each contestant in each case; and for each contestant,
            how many connections each process of its server had.
        """
        found: dict[str, dict[str, list[Figures]]] = {
            case: {each.name: [] for each in contestants} for case in cases
        }
        running: dict[str, Running] = {}
        with ExitStack() as stack:
            for number, each in enumerate(contestants):
                port = FIRST_PORT + 2 * number
                running[each.name] = stack.enter_context(
                    each.running(self.folder, port, protocol)
                )
            for turn in range(self.rounds):
                print(f"round {turn + 1}", file=sys.stderr, flush=True)
                for case, measure in cases.items():
                    for each in contestants:
                        figures = measure(each, running[each.name])
                        found[case][each.name].append(figures)
        for one in running.values():
            for file in one.folder.glob("*.log"):
                if b"Traceback" in file.read_bytes():
                    raise RuntimeError(f"{file}:\n{file.read_text()}")
            shutil.rmtree(one.folder)
        return found, {name: one.served for name, one in running.items()}


def rate(bench: Bench) -> Figures:
    """
    Connections per second, how long a client waits, and what a connection costs.
    """

    def case(atOnce: int, total: int) -> Measure:
        def measure(each: Contestant, running: Running) -> Figures:
            count = bench.total(each, total)
            front, back = running.used()
            found = bench.load(running.port, count, atOnce, STRING)
            frontNow, backNow = running.used()
            return {
                "rate": count / found["seconds"],
                "p50": found["p50"],
                "p99": found["p99"],
                "longest": found["longest"],
                "front": (frontNow - front) / count * 1e6,
                "back": (backNow - back) / count * 1e6,
            }

        return measure

    cases = {str(atOnce): case(atOnce, total) for atOnce, total in TOTALS.items()}
    return bench.interleave("hello", bench.contestants, cases)[0]


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
        port = FIRST_PORT + 2 * number
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
        time.sleep(0.5)
        running.restart()
        time.sleep(0.5)
        over = True
        for thread in threads:
            thread.join()
        return {"asked": asked, "lost": lost, "longest": longest}

    return bench.interleave(
        "hello", bench.chosen(names), {"burst": all_, "restart": replaced}
    )[0]


ALL: dict[str, Callable[[Bench], Figures]] = {
    "rate": rate,
    "busy": busy,
    "kept": kept,
    "throughput": throughput,
    "size": size,
    "burst": burst,
}
