"""
The units of C{contrib/systemd} under a real systemd: C{python -m tests.systemd --help}.

It builds a root folder by C{debootstrap}, installs this checkout in it as
C{contrib/systemd/README.md} says, and boots it by C{systemd-nspawn} with a network of
its own.  So systemd is the first process, and starts, reloads, kills and stops the
units, while clients come.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.support.debian import MIRROR, Failed
from tests.systemd import monitor_steps, part_steps, run_steps, socket_steps
from tests.systemd.machine import Machine
from tests.systemd.root import check, made
from tests.systemd.run_service import prepare
from tests.systemd.step import Step

STEPS = [
    *run_steps.STEPS,
    *monitor_steps.STEPS,
    *socket_steps.STEPS,
    *part_steps.STEPS,
]


def parse() -> argparse.Namespace:
    """
    Parse the command line.
    """
    parser = argparse.ArgumentParser(
        prog="python -m tests.systemd",
        description="Try the units under a real systemd, and print what was seen. Run"
        " it as root. It needs debootstrap, systemd-container and curl.",
    )
    parser.add_argument(
        "words",
        nargs="*",
        metavar="WORD",
        help="take only the steps whose unit or name contains one of these",
    )
    parser.add_argument(
        "--cache",
        type=Path,
        help="a folder to keep the root folder in, for the next time (300 MB)",
    )
    parser.add_argument(
        "--mirror", default=MIRROR, help=f"Debian's mirror (default: {MIRROR})"
    )
    parser.add_argument(
        "--journal", action="store_true", help="print the journal's end at a failure"
    )
    return parser.parse_args()


def main() -> int:
    """
    Take the steps, and print the table.

    @return: the exit code: 1 if a step failed, 2 if no machine can be had.
    """
    arguments = parse()
    steps = [
        each
        for each in STEPS
        if not arguments.words
        or any(word in f"{each.unit} {each.name}" for word in arguments.words)
    ]
    # The end of the machine is at the end of this function, also if this is stopped.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="portlisten.systemd.") as folder:
        root = Path(folder, "root")
        machine = Machine(root)
        try:
            check()
            cache = (arguments.cache or Path(folder, "cache")).absolute()
            cache.mkdir(parents=True, exist_ok=True)
            made(cache, arguments.mirror, root)
            built = time.monotonic() - began
            booted = machine.boot()
            print(f"built in {built:.0f} s, booted in {booted:.1f} s", file=sys.stderr)
            failed = takeAll(machine, steps, arguments.journal)
        except Failed as error:
            print(error, file=sys.stderr)
            return 2
        finally:
            machine.end()
    print(f"{time.monotonic() - began:.0f} s", file=sys.stderr)
    return int(failed)


def takeAll(machine: Machine, steps: Sequence[Step], journal: bool) -> bool:
    """
    Take steps, one after the other, and print a row for each.

    @return: whether one failed.
    """
    prepare(machine)
    failed = False
    print("| unit | step | what was seen | ok |\n| --- | --- | --- | --- |", flush=True)
    for step in steps:
        began = time.monotonic()
        try:
            seen, ok = step.do(machine), "yes"
        except (AssertionError, subprocess.TimeoutExpired, ValueError) as error:
            failed = True
            text = " ".join(str(error).split()).replace("|", "/")
            short = text if len(text) < 700 else f"{text[:300]} … {text[-900:]}"
            seen, ok = short, "NO"
            if journal:
                print(machine.journal(), file=sys.stderr)
        print(f"| {step.unit} | {step.name} | {seen} | {ok} |", flush=True)
        took = time.monotonic() - began
        print(f"  {took:.1f} s", file=sys.stderr, flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
