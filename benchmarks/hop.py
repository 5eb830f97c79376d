"""
What the hand-off costs, and what sharing costs: both beside servers that listen
themselves.
"""

from __future__ import annotations

from collections.abc import Iterable

from benchmarks.bench import Bench, Figures, Measure
from benchmarks.contestants import Contestant, present
from benchmarks.foreign import FLOOR, NODES, UVICORNS
from benchmarks.running import Running

#: How many connections are made for the hand-off, by how many clients at a time.
TOTALS = {1: 4000, 64: 16_000}

#: The same for sharing.
SHARE_TOTALS = {8: 12_000, 64: 16_000, 512: 16_000}

#: How many connections are made before the first round.
WARM_UP = 6000

#: The ways of sharing that are compared.  The first is the base.
KINDS = ("inherited", "share", "unbalanced")

#: The question's parts: each has the server whose protocol it is, which listens itself,
#: as the base of its ratios.
BASES = {
    "minimal": "direct",
    "hello": "direct",
    "C": "C direct",
    "Node": "Node direct",
    "uvicorn": "uvicorn direct",
}


def connect(
    bench: Bench,
    protocol: str,
    contestants: list[Contestant],
    totals: dict[int, int],
) -> Figures:
    """
    Measure connections, with each number of clients.

    @param totals: how many connections are made, by how many clients at a time.
    """

    def case(atOnce: int, total: int) -> Measure:
        def measure(each: Contestant, running: Running) -> Figures:
            return bench.connections(each, running, total, atOnce)

        return measure

    cases = {str(atOnce): case(atOnce, total) for atOnce, total in totals.items()}
    return bench.interleave(protocol, contestants, cases, case(64, WARM_UP))[0]


def hop(bench: Bench) -> Figures:
    """
    Connections per second, and what a connection costs whom: with the least that a
    server can do, with the sample worker's protocol, and for others who hand off.

    Each part is a run of its own, so a server and the base of its ratio are measured
    one right after the other.
    """
    ours = ["direct", "inherited x2", "listen x1", "listen x2", "listen x4"]
    parts: dict[str, tuple[str, Iterable[Contestant]]] = {
        "minimal": ("short", bench.chosen([*ours, "inherited x4"])),
        "hello": ("hello", bench.chosen(ours)),
        "C": ("short", FLOOR),
        "Node": ("short", NODES),
        "uvicorn": ("short", UVICORNS),
    }
    figures: Figures = {}
    for name, (protocol, contestants) in parts.items():
        if bench.parts and name not in bench.parts:
            continue
        if there := present(contestants):
            figures[name] = connect(bench, protocol, there, TOTALS)
    return figures


def share(bench: Bench) -> Figures:
    """
    Connections per second and the slowest clients if workers accept for themselves,
    beside the same processes on a socket that they inherit.
    """
    names = ["direct", *(f"{kind} x{n}" for n in (1, 2, 4) for kind in KINDS)]
    return connect(bench, "short", bench.chosen(names), SHARE_TOTALS)
