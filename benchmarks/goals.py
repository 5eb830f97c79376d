"""
The goals, and whether figures meet them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.contestants import ALL
from benchmarks.ratios import BASE, Figures, cost, mostToFewest, ratios, spread

#: The listener that does what the one of 2002 did.
ORIGINAL = "C of 2002"


@dataclass
class Goal:
    """
    A goal, and the measured values.

    @ivar what: the comparison, in words.
    @ivar values: the measured values: one for each round, or one for all.
    @ivar aim: the goal, in words.
    @ivar least: the least value that meets the goal.
    @ivar most: the greatest value that meets the goal.
    """

    what: str
    values: Sequence[float]
    aim: str
    least: float = 0.0
    most: float = float("inf")

    @property
    def row(self) -> tuple[str, ...]:
        """
        A row of a table.
        """
        found = median(self.values)
        reached = "yes" if self.least <= found <= self.most else "no"
        return self.what, spread(self.values), self.aim, reached


def between(what: str, values: Sequence[float], least: float, most: float) -> Goal:
    """
    Make a goal with a least and a greatest value.
    """
    return Goal(what, values, f"{least:g} to {most:g}", least, most)


def rateGoals(figures: Figures) -> Iterable[Goal]:
    """
    The goals for the cost of a listener.
    """
    found = figures["64"]

    def goal(name: str, base: str, least: float) -> Goal:
        return Goal(
            f"{name} to {base}, connections per second, 64 at a time",
            ratios(found, name, "rate", base),
            f"at least {least:g}",
            least,
        )

    yield goal("listen x1", BASE, 0.95)
    proxies = [each.name for each in ALL if each.proxy and each.name in found]
    if proxies:
        best = max(proxies, key=lambda name: median(ratios(found, name, "rate")))
        yield goal("listen x1", best, 1.25)
    for count in (2, 4):
        yield goal(f"share x{count}", f"inherited x{count}", 0.98)
    if ORIGINAL in found:
        yield Goal(
            f"listen x1 to {ORIGINAL}, processor time in front, 64 at a time",
            ratios(found, "listen x1", "front", ORIGINAL),
            "at most 1.3",
            most=1.3,
        )


def throughputGoals(figures: Figures) -> Iterable[Goal]:
    """
    The goals for throughput: nothing is between server and client.
    """
    for case, found in figures.items():
        what = f"listen x1 to {BASE}, bytes per second, {case}"
        yield between(what, ratios(found, "listen x1", "rate"), 0.98, 1.02)


def evenGoals(what: str, figures: Figures) -> Iterable[Goal]:
    """
    The goals for evenness: workers have equal shares, and no client waits long.
    """
    found = figures["found"]
    if "listen x2" in found:
        yield Goal(
            f"listen x2 to {BASE}, answers per second, {what}",
            ratios(found, "listen x2", "rate"),
            "at least 1.6",
            1.6,
        )
    served = figures["served"]["listen x4"]
    yield Goal(
        f"listen x4, most to fewest connections of a worker, {what}",
        [max(served) / min(served)],
        "at most 1.05",
        most=1.05,
    )
    for name in ("listen x4", "share x4"):
        for base in ("inherited x4", "reuseport x4"):
            yield Goal(
                f"{name} to {base}, 99th percentile, {what}",
                ratios(found, name, "p99", base),
                "below 1",
                most=0.9999,
            )


def sizeGoals(figures: Figures) -> Iterable[Goal]:
    """
    The goals for connections in service: they cost the listener nothing.
    """
    rows = figures["listen x2"]
    for key in ("descriptors", "resident"):
        what = f"listener, {key} with {rows[-1]['alive']:,} alive to {key} with none"
        yield between(what, [rows[-1][key] / rows[0][key]], 0.95, 1.05)


def hopGoals(figures: Figures) -> Iterable[Goal]:
    """
    The goals for the hand-off.
    """
    if "minimal" not in figures:
        return
    found = figures["minimal"]["64"]
    yield Goal(
        f"listen x1 to {BASE}, connections per second, minimal, 64 at a time",
        ratios(found, "listen x1", "rate"),
        "at least 0.7",
        0.7,
    )
    costs = {name: cost(rounds) for name, rounds in found.items()}
    yield Goal(
        f"listen x1 to {BASE}, processor time, minimal, 64 at a time",
        ratios(costs, "listen x1", "cost"),
        "at most 1.55",
        most=1.55,
    )
    yield Goal(
        "listen x2 to inherited x2, connections per second, minimal, 64 at a time",
        ratios(found, "listen x2", "rate", "inherited x2"),
        "at least 1.1",
        1.1,
    )
    yield Goal(
        f"listen x1 to {BASE}, connections per second, minimal, 1 at a time",
        ratios(figures["minimal"]["1"], "listen x1", "rate"),
        "at least 0.58",
        0.58,
    )
    nodes = figures.get("Node", {}).get("64", {})
    for count in (1, 2, 4) if nodes else ():
        ours = ratios(found, f"listen x{count}", "rate")
        theirs = ratios(nodes, f"Node round robin x{count}", "rate", "Node direct")
        yield Goal(
            f"listen x{count} to Node round robin x{count}, each to its own direct"
            " server, 64 at a time",
            [mine / other for mine, other in zip(ours, theirs, strict=True)],
            "above 1",
            1.0001,
        )


def stayGoals(figures: Figures) -> Iterable[Goal]:
    """
    The goals for connections that stay: all workers have as many.
    """
    for name, when, what, most in (
        ("listen x4", "first", "when they have arrived", 1.01),
        ("share x4", "first", "when they have arrived", 1.05),
        ("share x4", "later", "after one was replaced", 1.10),
    ):
        yield Goal(
            f"{name}, most to fewest connections of a worker that stay, {what}",
            [mostToFewest(each[when]) for each in figures[name]],
            f"at most {most:g}",
            most=most,
        )


def shareGoals(figures: Figures) -> Iterable[Goal]:
    """
    The goals for sharing: it costs no more than an inherited socket.
    """
    for atOnce, found in figures.items():
        how = f"minimal, {atOnce} at a time"
        yield Goal(
            f"share x1 to {BASE}, connections per second, {how}",
            ratios(found, "share x1", "rate"),
            "at least 0.97",
            0.97,
        )
        for count in (2, 4):
            name, base = f"share x{count}", f"inherited x{count}"
            yield Goal(
                f"{name} to {base}, connections per second, {how}",
                ratios(found, name, "rate", base),
                "at least 1",
                1.0,
            )
            yield Goal(
                f"{name} to {base}, 99th percentile, {how}",
                ratios(found, name, "p99", base),
                "at most 1.05",
                most=1.05,
            )


GOALS: dict[str, Callable[[Figures], Iterable[Goal]]] = {
    "hop": hopGoals,
    "stay": stayGoals,
    "share": shareGoals,
    "rate": rateGoals,
    "busy": lambda figures: evenGoals("busy servers", figures),
    "kept": lambda figures: evenGoals("keep-alive", figures),
    "throughput": throughputGoals,
    "size": sizeGoals,
}
