"""
The units of C{contrib/systemd} under a real systemd: C{python -m tests.systemd --help}.

It builds a root folder by C{debootstrap}, installs this checkout in it as
C{contrib/systemd/README.md} says, and boots it by C{systemd-nspawn} with a network of
its own.  So systemd is the first process, and starts, reloads, kills and stops the
units, while clients come.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from tests.support.debian import MIRROR, Failed
from tests.support.trials import addWords, chosen, exitWhenStopped, takeAll
from tests.systemd import monitor_steps, part_steps, run_steps, socket_steps
from tests.systemd.machine import Machine
from tests.systemd.root import check, made
from tests.systemd.run_service import prepare

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
    addWords(parser)
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
    steps = chosen(STEPS, arguments.words)
    # The end of the machine is at the end of this function, also if this is stopped.
    exitWhenStopped()
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
            prepare(machine)
            show = partial(journal, arguments.journal, machine)
            failed = takeAll(steps, lambda step: step.do(machine), show)
        except Failed as error:
            print(error, file=sys.stderr)
            return 2
        finally:
            machine.end()
    print(f"{time.monotonic() - began:.0f} s", file=sys.stderr)
    return int(failed)


def journal(wanted: bool, machine: Machine) -> None:
    """
    Print the end of the journal, if that is wanted.
    """
    if wanted:
        print(machine.journal(), file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
