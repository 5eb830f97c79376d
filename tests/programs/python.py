"""
Python programs: each in a virtual environment of its own, with portlisten beside it.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path

from tests.programs.program import USER, Missing, Program, Stage
from tests.support.processes import SOURCE

#: How long an installation may take, in seconds.
INSTALL_SECONDS = 240


def _interpreter() -> str:
    """
    Find a Python that the program's user can run: not one in root's home.

    @raise Missing: if there is none.
    """
    own = str(getattr(sys, "_base_executable", sys.executable))
    for each in (own, "/usr/bin/python3", "/usr/local/bin/python3"):
        path = Path(each).resolve()
        if path.exists() and all(p.stat().st_mode & 1 for p in [path, *path.parents]):
            return each
    raise Missing(f"the user {USER} can run no Python: apt install python3-venv")


def run(*command: str | Path) -> str:
    """
    Run a command of an installation.

    @return: its output.
    @raise Missing: if it fails, or takes too long.
    """
    try:
        ended = subprocess.run(
            [str(word) for word in command],
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=INSTALL_SECONDS,
            text=True,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Missing(f"it cannot be installed: {error}") from None
    if ended.returncode:
        why = (ended.stdout.strip().splitlines() or ["no reason given"])[-1]
        raise Missing(f"it cannot be installed: {why}")
    return ended.stdout


def _wheel(cache: Path) -> Path:
    """
    Build portlisten, once for each cache and state of the source.
    """
    files = [*SOURCE.glob("portlisten/**/*.py"), *SOURCE.glob("twisted/plugins/*.py")]
    stamp = max(int(each.stat().st_mtime_ns) for each in files)
    folder = cache / f"portlisten-{stamp}"
    if not list(folder.glob("*.whl")):
        pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
        # A build leaves files beside the source, which a release must not find there.
        with tempfile.TemporaryDirectory() as copy:
            unwanted = shutil.ignore_patterns(".*", "build", "*.egg-info", "_trial_*")
            source = shutil.copytree(SOURCE, f"{copy}/source", ignore=unwanted)
            run(*pip, "--wheel-dir", folder, source)
    return next(folder.glob("*.whl"))


class PythonProgram(Program):
    """
    A program from the Python Package Index that C{portlisten as-port} runs.

    @cvar packages: the requirements; the first is the one whose version is shown.
    """

    packages: Sequence[str] = ("twisted",)

    def install(self, cache: Path) -> None:
        """
        See L{Program.install}.
        """
        self._venv = cache / f"venv-{self.packages[0]}"
        self.bin = self._venv / "bin"
        python = self.bin / "python"
        pip: list[str | Path] = [
            python,
            "-m",
            "pip",
            "--disable-pip-version-check",
            "install",
            "-q",
        ]
        marker = self._venv / "complete"
        if not marker.exists():
            run(_interpreter(), "-m", "venv", "--clear", self._venv)
            run(*pip, *self.packages)
            marker.touch()
        wheel = _wheel(cache)
        installed = self._venv / wheel.parent.name
        if not installed.exists():
            run(*pip, "--no-deps", "--force-reinstall", wheel)
            installed.touch()

    def version(self) -> str:
        """
        See L{Program.version}.
        """
        code = "import sys, importlib.metadata as m; print(m.version(sys.argv[1]))"
        package = self.packages[0]
        return run(self.bin / "python", "-c", code, package).strip()

    def command(self, stage: Stage) -> Sequence[str]:
        """
        See L{Program.command}.
        """
        return [
            *(str(self.bin / "portlisten"), "as-port", *self.mappings(stage), "--"),
            *self.words(stage),
        ]

    def mappings(self, stage: Stage) -> Sequence[str]:
        """
        The mappings of C{as-port}.  By default: L{Stage.free}, to all ports.
        """
        return [f"{stage.free}={stage.path}:grace=2"]

    @abstractmethod
    def words(self, stage: Stage) -> Sequence[str]:
        """
        The command line of the program itself.
        """
