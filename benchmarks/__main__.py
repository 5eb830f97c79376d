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
from benchmarks.contestants import ALL

ROOT = Path(__file__).parents[1]


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


def main() -> None:
    """
    Ask the questions that the command line names.
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
        default=ROOT / "docs" / "benchmarks",
        help="the folder for tables, charts and figures [docs/benchmarks]",
    )
    arguments = parser.parse_args()
    if arguments.rounds < 1 or not 0 < arguments.scale <= 10:
        parser.error("--rounds is at least 1, and --scale from 0 to 10")
    compiler = shutil.which("cc")
    if compiler is None:
        parser.error(
            "the clients are in C, and cc is missing: apt install gcc libc6-dev"
        )
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    contestants = []
    for each in ALL:
        if each.missing:
            print(each.missing, file=sys.stderr)
        else:
            contestants.append(each)
    folder = Path(tempfile.mkdtemp(prefix="benchmarks."))
    os.chdir(ROOT)
    try:
        subprocess.run(
            [
                *(compiler, "-O2", "-o", folder / "load"),
                ROOT / "benchmarks" / "load.c",
            ],
            check=True,
        )
        bench = questions.Bench(folder, contestants, arguments.rounds, arguments.scale)
        figures: dict[str, Any] = {"machine": machine()}
        for name in arguments.only or questions.ALL:
            print(f"== {name}", file=sys.stderr, flush=True)
            figures[name] = questions.ALL[name](bench)
            report.write(arguments.output, name, figures[name], figures["machine"])
        report.summarize(arguments.output)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
