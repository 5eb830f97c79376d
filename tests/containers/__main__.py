"""
The images, and what is in C{contrib} for containers, by a real podman:
C{python -m tests.containers --help}.

It builds a Debian by C{debootstrap}, and the images on it.  podman has a storage of its
own.  All containers, and all clients, are in a network namespace that this makes.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from functools import partial
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
from tests.support.trials import addWords, chosen, exitWhenStopped, takeAll

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
    addWords(parser)
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
    steps = chosen(STEPS, arguments.words)
    # The containers end at the end of this function, also if this is stopped.
    exitWhenStopped()
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
        failed = takeAll(steps, partial(take, podman))
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


def take(podman: Podman, step: Step) -> str:
    """
    Take a step.

    @return: what was seen.
    @raise AssertionError: also if it leaves something behind.
    """
    trial = Trial(podman)
    try:
        seen = step.do(trial)
    finally:
        trial.end()
    left = podman.left()
    assert not left, f"{seen}; left behind: {', '.join(left)}"
    return seen


if __name__ == "__main__":
    sys.exit(main())
