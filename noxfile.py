"""
Runs the unit tests with each Python, each end of the range of Twisted's versions, and
each reactor.

C{nox} runs everything that this machine has a Python for, C{nox --list} lists it,
C{nox --tags ci} runs the two ends of the range, as C{.ci/run} does, and C{nox
--session reactors} the reactors alone.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import nox

nox.needs_version = ">=2024.4.15"
nox.options.reuse_existing_virtualenvs = True
# A Python that this machine lacks is skipped, on any machine.
nox.options.error_on_missing_interpreters = False

PYTHONS = ["3.10", "3.11", "3.12", "3.13", "3.14"]

#: The oldest is that of C{dependencies} in C{pyproject.toml}, with a pyOpenSSL of its
#: time: later ones forbid what that Twisted does with a context.
TWISTEDS = {"oldest": ["twisted==24.7.0", "pyopenssl<25"], "newest": ["twisted"]}

REACTORS = ["select", "poll", "epoll", "asyncio"]


def findPyenv() -> None:
    """
    Put the Pythons that pyenv has installed before its shims, which run only the
    version that is selected.
    """
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    found = sorted(root.glob("versions/3.*/bin"))
    os.environ["PATH"] = os.pathsep.join([*map(str, found), os.environ["PATH"]])


def ends() -> set[tuple[str, str]]:
    """
    The two ends of the range: the oldest Python here with the oldest Twisted, and
    the newest Python here with the newest Twisted.
    """
    here = [each for each in PYTHONS if shutil.which(f"python{each}")]
    return {(here[0], "oldest"), (here[-1], "newest")} if here else set()


def matrix() -> list[nox.param]:
    """
    Each Python with each Twisted.
    """
    chosen = ends()
    return [
        nox.param(
            python,
            twisted,
            id=f"{python}-{twisted}",
            tags=["ci"] if (python, twisted) in chosen else [],
        )
        for python in PYTHONS
        for twisted in TWISTEDS
    ]


def runUnits(session: nox.Session, twisted: str, *options: str) -> None:
    """
    Install portlisten with a Twisted, and run the unit tests under trial.

    @param options: trial's.
    """
    session.install("--editable", ".[unit]", *TWISTEDS[twisted])
    session.run("python", "-c", "import twisted; print('Twisted', twisted.__version__)")
    # A short path, since those of Unix sockets are below it.
    with tempfile.TemporaryDirectory(prefix="units.") as folder:
        session.run(
            "tests/trial",
            f"--temp-directory={folder}/trial",
            *options,
            *(session.posargs or ["tests.unit"]),
            external=True,
            env={
                # One end of the range does without the library in C.
                "PORTLISTEN_PURE": "1" if twisted == "oldest" else "",
                # These runs are for the versions.  tests/run tries more.
                "PORTLISTEN_EXAMPLES": os.environ.get("PORTLISTEN_EXAMPLES", "10"),
                "PORTLISTEN_FUZZ": os.environ.get("PORTLISTEN_FUZZ", "5000"),
            },
        )


findPyenv()


@nox.session
@nox.parametrize(["python", "twisted"], matrix())
def units(session: nox.Session, twisted: str) -> None:
    """
    Run the unit tests with a Python and a Twisted.
    """
    runUnits(session, twisted, "--jobs", "2")


@nox.session
@nox.parametrize("reactor", REACTORS, ids=REACTORS)
def reactors(session: nox.Session, reactor: str) -> None:
    """
    Run the unit tests on a reactor, with the newest Twisted.
    """
    # With --jobs, trial would use its default reactor.
    runUnits(session, "newest", f"--reactor={reactor}")
