"""
Three machines, two balancers and clients: C{python -m tests.machines --help}.

Each is a network namespace of this host, with programs of its own: C{portlisten run}
and its workers, HAProxy, keepalived, wrk.  They use the files of C{contrib/haproxy} and
C{contrib/keepalived}.  All share one kernel.  The network has no delay, and loses
nothing but what a step makes it lose.
"""

from __future__ import annotations

import argparse
import sys
import time

import pytest

from tests.machines import killing, moving, origins, taking_out, without_haproxy
from tests.machines.lan import Lacking, Lan
from tests.support.trials import addWords, chosen, exitWhenStopped, takeAll

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
    addWords(parser)
    return parser.parse_args()


def main() -> int:
    """
    Take the steps, and print the table.

    @return: the exit code.
    """
    arguments = parse()
    steps = chosen(STEPS, arguments.words)
    # What was made is removed at the end of this function, also if this is stopped.
    exitWhenStopped()
    began = time.monotonic()
    try:
        with Lan() as lan:
            lan.start()
            print(f"started in {time.monotonic() - began:.0f} s", file=sys.stderr)
            failed = takeAll(steps, lambda step: step.do(lan))
    except (Lacking, pytest.skip.Exception) as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{time.monotonic() - began:.0f} s", file=sys.stderr)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
