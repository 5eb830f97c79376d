"""
Foreign programs on a listener's ports: C{python -m tests.programs --help}.

Each program is installed as it is published, and runs as the user C{daemon} without a
capability.  A listener has its ports, which are below 1024.  A real client makes the
program do its job, again and again, while the program is restarted.  Another client
only connects.  No connection may be refused.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from tests.programs.program import Missing, Program, programs
from tests.programs.trying import Result, attempt

HEAD = (
    "| program | version | what the client did | times | restarts | refused | cut |"
    " seconds |"
)


def row(program: Program, version: str, result: Result, seconds: float) -> str:
    """
    Write a row of the table.
    """
    cells = [
        *(program.name, version, result.did, f"{result.jobs} + {result.knocks}"),
        *(str(result.restarts), str(result.refused), str(result.cut)),
        f"{seconds:.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def parse() -> argparse.Namespace:
    """
    Parse the command line.
    """
    known = [each.name for each in programs()]
    parser = argparse.ArgumentParser(
        prog="python -m tests.programs",
        description="Foreign programs on a listener's ports, with real clients."
        " Run it as root, so that ports are below 1024 and programs have no privilege.",
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"programs: {', '.join(known)}"
    )
    parser.add_argument(
        "--quick", action="store_true", help="leave out those that take long"
    )
    parser.add_argument(
        "--restarts", type=int, default=2, help="of each program (default: 2)"
    )
    parser.add_argument(
        "--cache",
        type=Path,
        help="a folder to keep what is installed; every user must be able to enter it",
    )
    arguments = parser.parse_args()
    for name in arguments.names:
        if name not in known:
            parser.error(f"no program {name!r}, only {', '.join(known)}")
    return arguments


def main() -> int:
    """
    Try the programs, and print the table.

    @return: the exit code: 1 if a program failed.
    """
    arguments = parse()
    chosen = [
        each
        for each in programs()
        if (not arguments.names or each.name in arguments.names)
        and not (arguments.quick and each.slow)
    ]
    if os.geteuid() != 0:
        print("without root: all ports are above 1024, and all users are the same")
    with tempfile.TemporaryDirectory(prefix="portlisten.programs.") as folder:
        cache = (arguments.cache or Path(folder)).absolute()
        cache.mkdir(parents=True, exist_ok=True)
        cache.chmod(0o755)
        return tryAll(chosen, cache, arguments.restarts)


def tryAll(chosen: list[Program], cache: Path, restarts: int) -> int:
    """
    Try programs, one after the other.

    @return: the exit code.
    """
    rows, failed = [], []
    for program in chosen:
        began = time.monotonic()
        print(f"{program.name} ", end="", file=sys.stderr, flush=True)
        try:
            program.install(cache)
            version = program.version()
            result = attempt(program, restarts)
        except Missing as missing:
            print(f"left out: {missing}", file=sys.stderr)
            rows.append(f"| {program.name} | left out: {missing} | | | | | | |")
            continue
        except AssertionError as error:
            print(f"failed: {error}", file=sys.stderr)
            failed.append(program.name)
            continue
        seconds = time.monotonic() - began
        print(f" {seconds:.0f} s", file=sys.stderr)
        rows.append(row(program, version, result, seconds))
        if result.refused:
            failed.append(program.name)
    print("\n".join([HEAD, "| --- " * (HEAD.count("|") - 1) + "|", *rows]))
    if failed:
        print(f"failed: {', '.join(failed)}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
