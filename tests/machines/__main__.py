"""
Three machines, two balancers and clients: C{python -m tests.machines --help}.

Each is a network namespace of this host, with programs of its own: C{portlisten run}
and its workers, HAProxy, keepalived, wrk.  They use the files of C{contrib/haproxy} and
C{contrib/keepalived}.  All share one kernel.  The network has no delay, and loses
nothing but what a step makes it lose.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

import pytest

from tests.machines import killing, moving, origins, taking_out, without_haproxy
from tests.machines.lan import Lacking, Lan
from tests.machines.step import Step

#: The part that needs keepalived on the machines is last.
STEPS = [
    *taking_out.STEPS,
    *killing.STEPS,
    *origins.STEPS,
    *moving.STEPS,
    *without_haproxy.STEPS,
]


def parse() -> argparse.Namespace:
    """
    Parse the command line.
    """
    parser = argparse.ArgumentParser(
        prog="python -m tests.machines",
        description="Try several machines behind load balancers, and print what was"
        " seen. Run it as root. It needs HAProxy, keepalived, wrk, curl, openssl and"
        " iproute2.",
        epilog="The exit code is 1 if a step failed, and 2 if no network can be made.",
    )
    parser.add_argument(
        "words",
        nargs="*",
        metavar="WORD",
        help="take only the steps whose part or name contains one of these",
    )
    return parser.parse_args()


def main() -> int:
    """
    Take the steps, and print the table.

    @return: the exit code.
    """
    arguments = parse()
    steps = [
        each
        for each in STEPS
        if not arguments.words
        or any(word in f"{each.part} {each.name}" for word in arguments.words)
    ]
    # What was made is removed at the end of this function, also if this is stopped.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    began = time.monotonic()
    try:
        with Lan() as lan:
            lan.start()
            print(f"started in {time.monotonic() - began:.0f} s", file=sys.stderr)
            failed = takeAll(lan, steps)
    except (Lacking, pytest.skip.Exception) as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{time.monotonic() - began:.0f} s", file=sys.stderr)
    return int(failed)


def takeAll(lan: Lan, steps: Sequence[Step]) -> bool:
    """
    Take steps, one after the other, and print a row for each.

    @return: whether one failed.
    """
    failed = False
    print("| part | step | what was seen | ok |\n| --- | --- | --- | --- |", flush=True)
    for step in steps:
        began = time.monotonic()
        try:
            seen, ok = step.do(lan), "yes"
        except (AssertionError, subprocess.SubprocessError, ValueError) as error:
            failed = True
            text = " ".join(str(error).split()).replace("|", "/")
            short = text if len(text) < 900 else f"{text[:400]} … {text[-400:]}"
            seen, ok = short, "NO"
        print(f"| {step.part} | {step.name} | {seen} | {ok} |", flush=True)
        took = time.monotonic() - began
        print(f"  {took:.1f} s", file=sys.stderr, flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
