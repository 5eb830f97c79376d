"""
Floods, with limits per source and without: C{python -m tests.limits --help}.

Ten sources ask a slow site, first alone, and then while another source opens 5,000
connections as fast as it can.  When one of these ends, that source opens the next a
second or two later.  After the flood, the source waits, and asks the site as the others
do.

This is done once without limits, and once for each thing that can happen to a client
beyond its limit.  With limits, the 99th percentile of the ten must stay within 1.5
times of what it was, plus 5 ms.  So must that of the source after the flood.  Without
limits, the ten must be harmed, or else the command would show nothing.
"""

from __future__ import annotations

import argparse
import math
import sys

from tests.support.limits import Seen, Times, isNear, quantile, underFlood
from tests.support.processes import Processes


def shown(times: Times) -> str:
    """
    The median and the 99th percentile.
    """
    values = [quantile(times, share) for share in (0.5, 0.99)]
    return " ".join(
        f"{'none':>8}" if each == math.inf else f"{each * 1000:8.1f}" for each in values
    )


def report(name: str, seen: Seen) -> bool:
    """
    Print what clients saw.

    @return: whether it was right.
    """
    print(f"{name}: answers after so many ms: half of them, 99 % of them")
    print(f"  ten sources, alone       {shown(seen.others)}")
    print(f"  ten sources, flooded     {shown(seen.flooded)}")
    print(f"  the flood's source       {shown(seen.source)}")
    print(f"  the same after the flood {shown(seen.after)}")
    fate = ", ".join(f"{count} {what}" for what, count in seen.fate.items())
    print(f"  connections of the flood: {fate}", flush=True)
    if name == "without limits":
        return not isNear(seen.others, seen.flooded)
    return isNear(seen.others, seen.flooded) and isNear(seen.source, seen.after)


def main() -> None:
    """
    Do what the command line says.
    """
    parser = argparse.ArgumentParser(
        prog="python -m tests.limits",
        description="Flood a slow site, with limits per source and without.",
    )
    parser.add_argument(
        "--seconds", type=float, default=20, help="of each measurement [20]"
    )
    parser.add_argument(
        "--pause", type=float, default=60, help="seconds after each flood [60]"
    )
    arguments = parser.parse_args()
    fine = True
    for beyond in ("", "reset", "close", "wait"):
        name = f"beyond={beyond}" if beyond else "without limits"
        with Processes() as processes:
            seen = underFlood(processes, beyond, arguments.seconds, arguments.pause)
        fine = report(name, seen) and fine
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    main()
