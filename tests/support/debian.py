"""
A Debian in a folder, for machines and images that tests make.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

MIRROR = "http://deb.debian.org/debian"

#: The environment inside, which nothing of this process's goes into.
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    "HOME": "/root",
}

#: Runs a program that leaves no mount and no process behind, even if it is killed.
_CLEANLY = (
    *("setpriv", "--pdeathsig=KILL"),
    *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
)


class Failed(Exception):
    """
    The machine cannot be built or started.
    """


def call(words: Sequence[str | Path], **also: object) -> None:
    """
    Run a program that must succeed.

    @raise Failed: if it does not, with the end of its output.
    """
    done = subprocess.run(
        [*map(str, words)],
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **also,  # type: ignore[call-overload]
    )
    if done.returncode:
        raise Failed(f"{' '.join(map(str, words))}:\n{done.stdout[-3000:]}")


def suite() -> str:
    """
    The Debian of the machine: that of this host, since wheels that are built by this
    host's Python go into it.
    """
    text = Path("/etc/os-release").read_text()
    values = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    return values.get("VERSION_CODENAME", "bookworm").strip('"')


def bootstrap(root: Path, mirror: str = MIRROR, packages: Sequence[str] = ()) -> None:
    """
    Install a small Debian, by C{debootstrap}.

    @param root: an empty folder.
    @param packages: what it has beside what is essential.
    @raise Failed: if that fails.
    """
    included = [f"--include={','.join(packages)}"] if packages else []
    with tempfile.TemporaryDirectory(prefix="portlisten.bootstrap.") as folder:
        words = [*_CLEANLY, "debootstrap", "--variant=minbase", *included, suite()]
        call([*words, root, mirror], env={**ENVIRONMENT, "TMPDIR": folder})
