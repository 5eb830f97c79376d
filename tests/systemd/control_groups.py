"""
The control groups that C{systemd-nspawn} uses.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


def controlGroups() -> list[Path]:
    """
    The control groups of this process that systemd-nspawn uses: that of version 2, and
    that of systemd in version 1.
    """
    own = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        own[controllers] = path.lstrip("/")
    found = []
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, point, kind, options, *_ = line.split()
        if kind == "cgroup2" and "" in own:
            found.append(Path(point, own[""]))
        elif kind == "cgroup" and "name=systemd" in options.split(","):
            found.append(Path(point, own.get("name=systemd", "")))
    return found


def remove(group: Path) -> None:
    """
    Remove a control group, and those below it.  Those with processes stay.
    """
    for folder in (*sorted(group.rglob("*/"), reverse=True), group):
        with suppress(OSError):
            folder.rmdir()
