"""
Numbers, durations and sizes in words, for operators.
"""

from __future__ import annotations

import math


def plural(count: int, noun: str = "connection") -> str:
    """
    Write a number of things.
    """
    return f"{count} {noun}{'' if count == 1 else 's'}"


def duration(seconds: float, exact: bool = False) -> str:
    """
    Write a duration, in one or two units.

    @param exact: whether tenths of seconds matter, up to a minute.
    """
    if not math.isfinite(seconds) or seconds < 0:
        return "?"
    if exact and seconds < 59.95:
        return f"{seconds:.1f} s"
    rest = round(seconds)
    parts = []
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, rest = divmod(rest, size)
        parts.append((count, unit))
    while len(parts) > 1 and not parts[0][0]:
        del parts[0]
    first, *others = parts[:2]
    shown = [first, *(each for each in others if each[0])]
    return " ".join(f"{count} {unit}" for count, unit in shown)


def howLong(seconds: float | None) -> str:
    """
    Write for how long a network is denied.

    @param seconds: L{None} if it is for as long as nobody allows it.
    """
    return "until it is allowed" if seconds is None else f"for {duration(seconds)}"


def size(count: int) -> str:
    """
    Write a number of bytes.
    """
    if count < 1024:
        return f"{count} B"
    units = ["TiB", "GiB", "MiB", "KiB"]
    number = count / 1024
    while number >= 999.5 and len(units) > 1:
        number /= 1024
        units.pop()
    unit = units[-1]
    return f"{number:.1f} {unit}" if number < 99.95 else f"{number:.0f} {unit}"


def brief(text: str, length: int = 40) -> str:
    """
    Shorten a text.
    """
    return text if len(text) <= length else text[: length - 3] + "..."
