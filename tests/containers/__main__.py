"""
The images, and what is in C{contrib} for containers, by a real podman:
C{python -m tests.containers --help}.

It builds a Debian by C{debootstrap}, and the images on it.  podman has a storage of its
own.  All containers, and all clients, are in a network namespace that this makes.
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

from tests.containers import (
    compose_steps,
    image_steps,
    kube_steps,
    pod_steps,
    supervisor_steps,
    worker_steps,
)
from tests.containers.image import build, check
from tests.containers.podman import Podman
from tests.containers.step import Step
from tests.containers.trial import Trial, enterOwnNetwork
from tests.support.debian import MIRROR, Failed

STEPS = [
    *image_steps.STEPS,
    *worker_steps.STEPS,
    *pod_steps.STEPS,
    *supervisor_steps.STEPS,
    *compose_steps.STEPS,
    *kube_steps.STEPS,
]


def parse() -> argparse.Namespace:
    """
    Parse the command line.
    """
    parser = argparse.ArgumentParser(
        prog="python -m tests.containers",
        description="Build the images, run them by podman, and print what was seen."
        " Run it as root. It says what is missing.",
    )
    parser.add_argument(
        "words",
        nargs="*",
        metavar="WORD",
        help="take only the steps whose subject or name contains one of these",
    )
    parser.add_argument(
        "--cache",
        type=Path,
        help="a folder to keep the images in, for the next time (2 GB)",
    )
    parser.add_argument(
        "--mirror", default=MIRROR, help=f"Debian's mirror (default: {MIRROR})"
    )
    return parser.parse_args()


def main() -> int:
    """
    Take the steps, and print the table.

    @return: the exit code: 1 if a step failed, 2 if no container can be run.
    """
    arguments = parse()
    steps = [
        each
        for each in STEPS
        if not arguments.words
        or any(word in f"{each.about} {each.name}" for word in arguments.words)
    ]
    # The containers end at the end of this function, also if this is stopped.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    began = time.monotonic()
    folder = arguments.cache or Path(tempfile.mkdtemp(prefix="portlisten.podman."))
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    podman = Podman(folder)
    try:
        check()
        build(podman, arguments.mirror)
        print(f"built in {time.monotonic() - began:.0f} s", file=sys.stderr)
        enterOwnNetwork()
        failed = takeAll(podman, steps)
    except Failed as error:
        print(error, file=sys.stderr)
        return 2
    finally:
        if arguments.cache:
            podman.removeAll()
        else:
            podman.end()
    print(f"{time.monotonic() - began:.0f} s", file=sys.stderr)
    return int(failed)


def takeAll(podman: Podman, steps: Sequence[Step]) -> bool:
    """
    Take steps, one after the other, and print a row for each.

    @return: whether one failed.
    """
    failed = False
    print(
        "| about | step | what was seen | ok |\n| --- | --- | --- | --- |", flush=True
    )
    for step in steps:
        began = time.monotonic()
        trial = Trial(podman)
        try:
            seen, ok = step.do(trial), "yes"
        except (AssertionError, subprocess.TimeoutExpired, OSError) as error:
            failed = True
            text = " ".join(str(error).split()).replace("|", "/")
            short = text if len(text) < 700 else f"{text[:300]} … {text[-900:]}"
            seen, ok = short, "NO"
        finally:
            trial.end()
        left = podman.left()
        if left:
            failed, ok, seen = True, "NO", f"{seen}; left behind: {', '.join(left)}"
        print(f"| {step.about} | {step.name} | {seen} | {ok} |", flush=True)
        took = time.monotonic() - began
        print(f"  {took:.1f} s", file=sys.stderr, flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
