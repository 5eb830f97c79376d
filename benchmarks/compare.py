"""
Compares the figures of two runs: those that are kept, and new ones.

What is compared is ours: each ratio to what it is measured beside, in the same round.
So a machine that is faster or busier today changes little.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

from benchmarks.hop import BASES
from benchmarks.ratios import (
    BASE,
    Figures,
    cost,
    isOurs,
    mostToFewest,
    ratios,
    spread,
)

#: No difference below this share of the kept value is called one.
LEAST = 0.05

#: By how many times the spread of both runs the medians may differ.
SPREADS = 1.5

#: From so few values, the spread is not computed.
ENOUGH = 3

#: What of the machine, and of the run, changes the figures.
CONDITIONS = (
    *("processors", "model", "kernel", "python", "twisted", "portlisten", "scale"),
)


class NoFigures(Exception):
    """
    There are no kept figures to compare with.
    """


@dataclass(frozen=True)
class Series:
    """
    A ratio, or another figure, in all rounds of a run.

    @ivar more: whether more is better.
    """

    what: str
    values: Sequence[float]
    more: bool


@dataclass(frozen=True)
class Verdict:
    """
    A comparison of two runs.

    @ivar tolerance: the greatest difference of the medians that means nothing.
    """

    kept: Series
    now: Series
    tolerance: float

    @property
    def gain(self) -> float:
        """
        By how much the new median is better; negative if it is worse.
        """
        difference = median(self.now.values) - median(self.kept.values)
        return difference if self.now.more else -difference

    @property
    def word(self) -> str:
        """
        C{worse}, C{better} or C{same}.
        """
        if abs(self.gain) <= self.tolerance:
            return "same"
        return "better" if self.gain > 0 else "worse"

    def __str__(self) -> str:
        return (
            f"{self.word}: {self.now.what}: {spread(self.now.values)},"
            f" was {spread(self.kept.values)}; tolerance {self.tolerance:.2f}"
        )


def halfSpread(values: Sequence[float]) -> float | None:
    """
    Return half of the range that the middle half of the values has; L{None} if they are
    too few to tell.
    """
    if len(values) < ENOUGH:
        return None
    low, _, high = quantiles(values, n=4, method="inclusive")
    return (high - low) / 2


def judge(kept: Series, now: Series) -> Verdict:
    """
    Compare two runs.  A run that is too short to have a spread gets the other's.
    """
    found = [halfSpread(kept.values), halfSpread(now.values)]
    known = [each for each in found if each is not None]
    spreads = sum(known) * (2 / len(known)) if known else 0.0
    floor = LEAST * abs(median(kept.values))
    return Verdict(kept, now, max(floor, SPREADS * spreads))


def compared(
    found: dict[str, list[Figures]],
    key: str,
    more: bool,
    what: str,
    base: Callable[[str], str] = lambda name: BASE,
) -> Iterator[Series]:
    """
    Make the ratios of all that is ours.

    @param what: what the key means, in words.
    @param base: returns the contestant that another one is compared with.
    """
    for name in found:
        other = base(name)
        values = ratios(found, name, key, other) if other in found else []
        if isOurs(name) and values:
            yield Series(f"{name} to {other}, {what}", values, more)


def costs(found: dict[str, list[Figures]]) -> dict[str, list[Figures]]:
    """
    Return the processor time of all contestants.
    """
    return {name: cost(rounds) for name, rounds in found.items()}


def rateAndCost(
    found: dict[str, list[Figures]], how: str, base: str = BASE
) -> Iterator[Series]:
    """
    Connections per second, and the processor time of each.
    """
    yield from compared(
        found, "rate", True, f"connections per second, {how}", lambda name: base
    )
    yield from compared(
        costs(found), "cost", False, f"processor time, {how}", lambda name: base
    )


def hop(figures: Figures) -> Iterator[Series]:
    """
    What the hand-off costs.
    """
    for part, cases in figures.items():
        for atOnce, found in cases.items():
            yield from rateAndCost(found, f"{part}, {atOnce} at a time", BASES[part])


def rate(figures: Figures) -> Iterator[Series]:
    """
    Connections per second, and their cost.
    """
    for atOnce, found in figures.items():
        yield from rateAndCost(found, f"{atOnce} at a time")


def inherited(name: str) -> str:
    """
    As many processes that inherit a socket.
    """
    return f"inherited {name.split()[-1]}"


def share(figures: Figures) -> Iterator[Series]:
    """
    Sharing, beside an inherited socket.
    """
    for atOnce, found in figures.items():
        how = f"{atOnce} at a time"
        what = f"connections per second, {how}"
        yield from compared(found, "rate", True, what, inherited)
        what = f"99th percentile, {how}"
        yield from compared(found, "p99", False, what, inherited)


def tail(figures: Figures) -> Iterator[Series]:
    """
    Busy servers, and clients that ask again.
    """
    found = figures["found"]

    def base(name: str) -> str:
        return "inherited x4"

    yield from compared(found, "rate", True, "answers per second", base)
    yield from compared(found, "p99", False, "99th percentile", base)


def stay(figures: Figures) -> Iterator[Series]:
    """
    How evenly connections that stay are spread.
    """
    whens = {"first": "when they have arrived", "later": "after one was replaced"}
    for name, rounds in figures.items():
        for when, words in whens.items():
            if isOurs(name):
                values = [mostToFewest(each[when]) for each in rounds]
                yield Series(f"{name}, most to fewest, {words}", values, False)


def throughput(figures: Figures) -> Iterator[Series]:
    """
    Bytes per second.
    """
    for case, found in figures.items():
        yield from compared(found, "rate", True, f"bytes per second, {case}")


def size(figures: Figures) -> Iterator[Series]:
    """
    What the listener needs for the most connections that are alive.
    """
    for name, rows in figures.items():
        for key in ("descriptors", "resident"):
            if isOurs(name):
                values = [rows[-1][key] / rows[0][key]]
                yield Series(f"{name}, {key} to those with none", values, False)


def burst(figures: Figures) -> Iterator[Series]:
    """
    How long the last of many waits, and how many are lost in a restart.
    """
    yield from compared(figures["burst"], "longest", False, "the last answer")
    for name, rounds in figures["restart"].items():
        if isOurs(name):
            lost = [float(each["lost"]) for each in rounds]
            yield Series(f"{name}, lost in a restart", lost, False)


COMPARED: dict[str, Callable[[Figures], Iterable[Series]]] = {
    "hop": hop,
    "stay": stay,
    "share": share,
    "rate": rate,
    "busy": tail,
    "kept": tail,
    "throughput": throughput,
    "size": size,
    "burst": burst,
}


def read(folder: Path, name: str) -> Figures:
    """
    Read the kept figures of a question, with the machine that they are from.

    @raise NoFigures: if there are none, or if they are not readable.
    """
    file = folder / f"{name}.json"
    try:
        content = json.loads(file.read_text())
        list(COMPARED[name](content["figures"]))
    except FileNotFoundError:
        raise NoFigures(
            f"no figures of {name!r} are kept in {folder}: 'python -m benchmarks"
            f" --only {name}' measures them"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise NoFigures(f"{file} has no figures of {name!r}: {error!r}") from None
    return content


def compare(name: str, kept: Figures, now: Figures) -> tuple[list[Verdict], list[str]]:
    """
    Compare the figures of a question.

    @return: the comparisons, and what only one of the runs has.
    """
    old, new = (
        {each.what: each for each in COMPARED[name](figures)} for figures in (kept, now)
    )
    verdicts = [judge(old[what], new[what]) for what in new if what in old]
    return verdicts, sorted(old.keys() ^ new.keys())


def changes(kept: Figures, now: Figures) -> list[str]:
    """
    Say in what two runs and their machines differ.
    """
    return [
        f"{each} {now[each]}, was {kept[each]}"
        for each in CONDITIONS
        if each in kept and kept[each] != now[each]
    ]
