"""
C{python -m benchmarks}: measures, and writes the results into C{docs}, or compares them
with those that are kept there.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import compare, questions, report
from benchmarks.bench import FIRST_PORT, Bench, buildClients, needsCompiler
from benchmarks.contestants import ALL, present
from benchmarks.hop import BASES as PARTS
from portlisten import _compiled

ROOT = Path(__file__).parents[1]

#: The folder of the kept figures.
KEPT = ROOT / "docs" / "benchmarks"


def machine() -> dict[str, Any]:
    """
    Describe the machine, and which parts of portlisten are compiled.
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
        "portlisten": f"({_compiled.describe()})",
        "date": time.strftime("%Y-%m-%d"),
    }


def parse() -> argparse.Namespace:
    """
    Read the command line.  C{kept} has the figures to compare with.
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
    parser.add_argument(
        "--check",
        action="store_true",
        help=(
            "compare with the figures in the folder, and write nothing: say what got"
            " worse, and exit with 1 if anything did"
        ),
    )
    arguments = parser.parse_args()
    arguments.output = arguments.output.absolute()
    if arguments.rounds < 1 or not 0 < arguments.scale <= 10:
        parser.error("--rounds is at least 1, and --scale from 0 to 10")
    if arguments.part and not arguments.check and arguments.output == KEPT:
        parser.error(
            "--part leaves figures out: name another folder than docs/benchmarks by"
            " --output"
        )
    needsCompiler(parser)
    arguments.only = arguments.only or list(questions.ALL)
    arguments.kept = {}
    if arguments.check:
        try:
            for name in arguments.only:
                arguments.kept[name] = compare.read(arguments.output, name)
        except compare.NoFigures as error:
            parser.error(str(error))
        if arguments.part and "hop" in arguments.kept:
            figures = arguments.kept["hop"]["figures"]
            for name in figures.keys() - set(arguments.part):
                del figures[name]
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
    verdicts: list[compare.Verdict] = []
    try:
        buildClients(folder)
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
            if arguments.check:
                verdicts += check(name, arguments.kept[name], figures, here)
            else:
                report.write(arguments.output, name, figures, here)
        if not arguments.check:
            report.summarize(arguments.output)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if arguments.check:
        worse = [each for each in verdicts if each.word == "worse"]
        print(f"{len(worse)} of {len(verdicts)} got worse", *worse, sep="\n")
        sys.exit(1 if worse else 0)


def check(name: str, kept: Any, figures: Any, here: Any) -> list[compare.Verdict]:
    """
    Print how the figures of a question compare with those that are kept.
    """
    verdicts, alone = compare.compare(name, kept["figures"], figures)
    print(f"== {name}")
    for change in compare.changes(kept["machine"], here):
        print(f"measured otherwise: {change}")
    for each in verdicts:
        print(each)
    for what in alone:
        print(f"in one of the runs only: {what}")
    sys.stdout.flush()
    return verdicts


if __name__ == "__main__":
    main()
