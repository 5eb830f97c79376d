"""
The root folder of a machine with systemd, built by C{debootstrap}, with portlisten in
C{/opt/portlisten} as C{contrib/systemd/README.md} says.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.support.debian import ENVIRONMENT, Failed, bootstrap, call, suite

SOURCE = Path(__file__).parents[2]

UNITS = SOURCE / "contrib" / "systemd"

#: What the machine has.
PACKAGES = ("systemd", "systemd-sysv", "dbus", "adduser", "python3", "python3-venv")

#: What the README installs beside portlisten, for C{twistd web}, and what C{--metrics}
#: needs.
ALSO = ("twisted[tls]", "prometheus_client")

#: What the checkout has that is not part of the package, or is made anew.
_LEFT_OUT = (".git", ".venv", ".nox", ".mypy_cache", ".ruff_cache", "build", "*.log")


def inRoot(root: Path, *words: str) -> None:
    """
    Run a program in a root folder, as README.md says to run it on the machine.

    @raise Failed: if it does not succeed.
    """
    call(["chroot", root, *words], env=ENVIRONMENT)


def cached(cache: Path, mirror: str) -> Path:
    """
    Build a root folder with portlisten's dependencies, unless the cache has it.

    @return: the folder, which is not to be written to.
    @raise Failed: if it cannot be built.
    """
    parts = [suite(), *PACKAGES, *ALSO, (SOURCE / "pyproject.toml").read_text()]
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]
    root = cache / f"root-{key}"
    if root.exists():
        return root
    partial = Path(tempfile.mkdtemp(prefix="partial.", dir=cache))
    try:
        partial.chmod(0o755)
        bootstrap(partial, mirror, PACKAGES)
        inRoot(partial, "/usr/bin/python3", "-m", "venv", "/opt/portlisten")
        _install(partial, ALSO)
        shutil.rmtree(partial / "var/cache/apt")
        partial.rename(root)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return root


def made(cache: Path, mirror: str, root: Path) -> None:
    """
    Make the root folder of a machine, with this checkout and its units.

    @param root: a path where nothing is.
    @raise Failed: if it cannot be made.
    """
    call(["cp", "-a", cached(cache, mirror), root])
    _install(root, (), "--no-deps", "--force-reinstall")
    inRoot(root, "/opt/portlisten/bin/twistd", "--help")
    for each in UNITS.iterdir():
        if each.suffix in (".service", ".socket"):
            shutil.copy(each, root / "etc/systemd/system")
    inRoot(root, "adduser", "--quiet", "--system", "--group", "portlisten")
    inRoot(root, "adduser", "--quiet", "--system", "--group", "web")
    inRoot(root, "addgroup", "--quiet", "--system", "portlisten-workers")


def _install(root: Path, also: Sequence[str], *options: str) -> None:
    """
    Install this checkout into the venv.  This host's Python builds the wheels, since it
    has the network.
    """
    with tempfile.TemporaryDirectory(prefix="wheels.", dir=root / "tmp") as folder:
        # In a copy, since a build leaves files behind.
        source = Path(folder) / "source"
        ignored = shutil.ignore_patterns(*_LEFT_OUT, "*.egg-info", "_trial_temp*")
        shutil.copytree(SOURCE, source, ignore=ignored)
        venv = Path(folder) / "venv"
        call(["/usr/bin/python3", "-m", "venv", venv])
        wheels = Path(folder) / "wheels"
        without = ["--no-deps"] if "--no-deps" in options else []
        pip: list[str | Path] = [venv / "bin/pip", "wheel", "--quiet"]
        call([*pip, *without, "--wheel-dir", wheels, source, *also])
        inside = f"/{wheels.relative_to(root)}"
        offline = ["--quiet", "--no-index", f"--find-links={inside}"]
        words = ["/opt/portlisten/bin/pip", "install", *offline, *options]
        inRoot(root, *words, "portlisten", *also)


def check() -> None:
    """
    Check that this host has what is needed.

    @raise Failed: if it has not.
    """
    if os.geteuid() != 0:
        raise Failed("only root can build and boot a machine")
    wanted = {"debootstrap": "debootstrap", "systemd-nspawn": "systemd-container"}
    for program, package in wanted.items():
        if shutil.which(program) is None:
            raise Failed(f"{program} is missing: apt-get install {package}")
    if not sys.platform.startswith("linux"):
        raise Failed("systemd runs on Linux alone")
