"""
C{python -m benchmarks}: measures, and writes the results into C{docs}.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import questions, report
from benchmarks.bench import FIRST_PORT, Bench
from benchmarks.contestants import ALL, present
from benchmarks.hop import BASES as PARTS

ROOT = Path(__file__).parents[1]

#: The folder of the kept figures.
KEPT = ROOT / "docs" / "benchmarks"


def machine() -> dict[str, Any]:
    """
    Describe the machine.
    """
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    import twisted

    return {
        "processors": os.cpu_count(),
        "model": model,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "twisted": str(twisted.__version__),
        "date": time.strftime("%Y-%m-%d"),
    }


def parse() -> argparse.Namespace:
    """
    Read the command line.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=(
            "Measure portlisten and its alternatives in one run, one after the other"
            " in rounds. Write tables, charts and the raw figures."
        ),
    )
    parser.add_argument(
        "--only",
        action="append",
        choices=list(questions.ALL),
        help="ask this question; may be given several times [default: all]",
    )
    parser.add_argument(
        "--rounds", type=int, default=5, help="how often each is measured [5]"
    )
    parser.add_argument(
        "--scale",
        type=float,
        default=1.0,
        help="how much is done each time: 0.1 is quick, and too noisy to trust [1]",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=KEPT,
        help="the folder for tables, charts and figures [docs/benchmarks]",
    )
    parser.add_argument(
        "--port",
        type=int,
        default=FIRST_PORT,
        help=f"the port of the first contestant; the next 50 are taken [{FIRST_PORT}]",
    )
    parser.add_argument(
        "--part",
        action="append",
        choices=list(PARTS),
        help="ask this part of the question 'hop' alone; may be given several times",
    )
    arguments = parser.parse_args()
    arguments.output = arguments.output.absolute()
    if arguments.rounds < 1 or not 0 < arguments.scale <= 10:
        parser.error("--rounds is at least 1, and --scale from 0 to 10")
    if arguments.part and arguments.output == KEPT:
        parser.error(
            "--part leaves figures out: name another folder than docs/benchmarks by"
            " --output"
        )
    if shutil.which("cc") is None:
        parser.error(
            "the clients are in C, and cc is missing: apt install gcc libc6-dev"
        )
    arguments.only = arguments.only or list(questions.ALL)
    return arguments


def main() -> None:
    """
    Ask the questions that the command line names.
    """
    arguments = parse()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    folder = Path(tempfile.mkdtemp(prefix="benchmarks."))
    os.chdir(ROOT)
    try:
        source = ROOT / "benchmarks" / "load.c"
        subprocess.run(["cc", "-O2", "-o", folder / "load", source], check=True)
        bench = Bench(
            folder,
            present(ALL),
            arguments.rounds,
            arguments.scale,
            arguments.part or (),
            arguments.port,
        )
        here = machine() | {"rounds": arguments.rounds, "scale": arguments.scale}
        for name in arguments.only:
            print(f"== {name}", file=sys.stderr, flush=True)
            figures = questions.ALL[name](bench)
            report.write(arguments.output, name, figures, here)
        report.summarize(arguments.output)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
