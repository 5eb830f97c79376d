"""
C{python -m benchmarks.scraping}: what it costs to be watched.

Two listeners run side by side, each with two workers.  One has no monitor.  The other
one's monitor is asked for its metrics every second.  Each gets the same connections, in
turns.  What is compared is the processor time for each connection: of the listener
alone, and of the listener with its monitor.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from benchmarks.bench import Bench, buildClients, needsCompiler
from benchmarks.contestants import Contestant, portlisten
from benchmarks.running import Running, cpu, descendants
from benchmarks.serve import STRING
from benchmarks.supervisor import spread

ROOT = Path(__file__).parents[1]

#: How many clients connect at a time.
AT_ONCE = 64

#: How many workers each listener has.
WORKERS = 2

#: The port of the monitor.
MONITOR = 20990

#: How often the metrics are asked for, in seconds.
INTERVAL = 1.0


@contextmanager
def scraped() -> Iterator[list[int]]:
    """
    Ask for the metrics again and again.

    @return: the sizes of the answers so far, in bytes.
    """
    ended = threading.Event()
    sizes: list[int] = []

    def scrape() -> None:
        while True:
            with urllib.request.urlopen(f"http://127.0.0.1:{MONITOR}/metrics") as found:
                sizes.append(len(found.read()))
            if ended.wait(INTERVAL):
                return

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        yield sizes
    finally:
        ended.set()
        thread.join()


def compare(bench: Bench, total: int) -> None:
    """
    Print the processor times, and their ratios.

    @param total: how many connections are made at a time.
    """
    sizes: list[int] = []
    rates: list[float] = []

    def measure(each: Contestant, running: Running) -> dict[str, float]:
        listener = running.front[0].pid
        before = used(listener)
        if each.name == "watched":
            with scraped() as found:
                figures = bench.load(running.port, total, AT_ONCE, STRING)
            sizes.extend(found)
            rates.append(len(found) / figures["seconds"])
        else:
            bench.load(running.port, total, AT_ONCE, STRING)
        now = used(listener)
        return {name: (now[name] - before[name]) / total * 1e6 for name in now}

    options = {"alone": (), "watched": (f"--metrics={MONITOR}",)}
    contestants = [
        Contestant(name, portlisten(WORKERS, *given)) for name, given in options.items()
    ]
    found = bench.interleave("hello", contestants, {"": measure})[0][""]
    print(f"  {median(sizes):.0f} bytes at a time, {median(rates):.2f} times a second")
    report("the listener", found, "listener")
    report("with its monitor", found, "all")


def used(listener: int) -> dict[str, float]:
    """
    The processor time of a listener, without its monitor and with it, in seconds.
    """
    every = cpu([listener])
    return {"listener": every - cpu(descendants([listener])[1:]), "all": every}


def report(what: str, found: dict[str, list[dict[str, float]]], key: str) -> None:
    """
    Print one comparison.
    """
    costs = {name: [each[key] for each in found[name]] for name in found}
    for name, each in costs.items():
        print(f"  {what}, {name}: {spread(each)} µs for each connection")
    pairs = zip(costs["alone"], costs["watched"], strict=True)
    ratios: Sequence[float] = [two / one for one, two in pairs]
    print(
        f"  {what}, watched to alone:"
        f" {median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
    )


def main() -> None:
    """
    Measure what the command line says.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scraping",
        description="Measure what it costs to ask for the metrics every second.",
    )
    parser.add_argument("--pairs", type=int, default=7, help="of measurements [7]")
    parser.add_argument(
        "--total", type=int, default=60_000, help="connections in each [60000]"
    )
    arguments = parser.parse_args()
    needsCompiler(parser)
    os.chdir(ROOT)
    folder = Path(tempfile.mkdtemp(prefix="benchmarks."))
    try:
        buildClients(folder)
        print(
            f"{arguments.pairs} pairs of {arguments.total} connections,"
            f" {AT_ONCE} at a time, {WORKERS} workers:"
        )
        sys.stdout.flush()
        compare(Bench(folder, [], arguments.pairs, 1.0), arguments.total)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
