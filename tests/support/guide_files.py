"""
The files in the guide of programs in other languages, and what these programs need.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "programs.md"

#: A block of code that begins with the name of its file, in a comment.
FILE = re.compile(r"^```\w+\n((?:#|//) ([\w.]+)\n.*?)^```$", re.MULTILINE | re.DOTALL)


def sections(page: str) -> dict[str, str]:
    """
    The sections of a page, by their headings.
    """
    parts = re.split(r"^## (.+)\n", page, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def filesIn(section: str) -> dict[str, str]:
    """
    The files that a section shows, by their names.
    """
    return {match[2]: match[1] for match in FILE.finditer(section)}


def filesOf(name: str) -> dict[str, str]:
    """
    The files that the guide has for a program.
    """
    files = filesIn(sections(GUIDE.read_text())[name])
    assert files
    return files


def needsPrograms(packages: dict[str, str]) -> None:
    """
    Skip a test if a program is not installed.

    @param packages: Debian's packages, by the program.
    """
    for program, package in packages.items():
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed: apt install {package}")


def needsCaddy() -> None:
    """
    Skip a test if caddy is not installed, or does not know addresses like C{fd/3}.
    """
    needsPrograms({"caddy": "caddy"})
    said = subprocess.run(["caddy", "version"], stdout=subprocess.PIPE, check=True)
    version = said.stdout.decode().lstrip("v").split(".")
    if [int(each) for each in version[:2]] < [2, 9]:
        pytest.skip("this caddy has no addresses like fd/3: install a newer one")


def inPrivateRun(systemd: bool) -> list[str]:
    """
    Make the beginning of a command that sees a C{/run} of its own: there, systemd
    runs or not, as sd_booted(3) finds out.
    """
    make = "mkdir -p /run/systemd/system" if systemd else "true"
    script = f'mount -t tmpfs none /run && {make} && exec "$@"'
    return ["unshare", "--mount", "sh", "-c", script, "sh"]


def systemdRuns() -> bool:
    """
    Say whether systemd runs here, as sd_booted(3) does.
    """
    return os.path.isdir("/run/systemd/system")
