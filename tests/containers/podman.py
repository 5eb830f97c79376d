"""
podman, with a storage and networks of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tests.support import trials
from tests.support.debian import Failed

_T = TypeVar("_T")

#: How long anything may take, in seconds.
PATIENCE = 60.0

#: What a host may need: its own runtime may not work here, nor the usual limits.
_SETTINGS = (
    ("", ""),
    ("", 'runtime = "runc"'),
    ('default_ulimits = ["nofile=1024:1024", "nproc=1000:1000"]', 'runtime = "runc"'),
)


def until(condition: Callable[[], _T], what: str, patience: float = PATIENCE) -> _T:
    """
    See L{trials.until}.
    """
    return trials.until(condition, what, patience)


class Podman:
    """
    Runs podman.

    @param folder: where it keeps everything.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._settings = folder / "containers.conf"
        storage = folder / "storage.conf"
        storage.write_text(
            f'[storage]\ndriver = "overlay"\ngraphroot = "{folder}/storage"\n'
            f'runroot = "{folder}/run"\n'
        )
        self.environment = {
            **os.environ,
            "CONTAINERS_CONF": str(self._settings),
            "CONTAINERS_STORAGE_CONF": str(storage),
            # Health checks are run by timers of systemd, which may not be here.
            "DISABLE_HC_SYSTEMD": "true",
        }
        self._write(*_SETTINGS[0])

    def _write(self, containers: str, engine: str) -> None:
        self._settings.write_text(
            f"[containers]\n{containers}\n[engine]\n{engine}\n"
            # By default, all that root runs share one, which `system reset` removes.
            f'tmp_dir = "{self.folder}/engine"\n'
            f'[network]\nnetwork_backend = "netavark"\n'
            f'network_config_dir = "{self.folder}/networks"\n'
        )

    def probe(self, image: str) -> None:
        """
        Find settings with which this host runs containers.

        @raise Failed: if there are none.
        """
        for each in _SETTINGS:
            self._write(*each)
            done = self.run("run", "--rm", "--network=none", image, "true", check=False)
            if done.returncode == 0:
                return
        raise Failed(f"podman cannot run a container here: {done.stderr.strip()}")

    def run(
        self, *words: str | Path, check: bool = True, seconds: float = 300
    ) -> subprocess.CompletedProcess[str]:
        """
        Run a command of podman to its end.

        @raise AssertionError: if it fails, and C{check} is true.
        """
        return self.other("podman", *words, check=check, seconds=seconds)

    def other(
        self, *words: str | Path, check: bool = True, seconds: float = 300, **also: Any
    ) -> subprocess.CompletedProcess[str]:
        """
        Run another program that uses this podman to its end.

        @raise AssertionError: if it fails, and C{check} is true.
        """
        done = subprocess.run(
            [*map(str, words)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
            **{"env": self.environment, **also},
        )
        if check and done.returncode:
            shown = " ".join(map(str, words))
            raise AssertionError(f"{shown}: {done.stdout[-1500:]}{done.stderr[-1500:]}")
        return done

    def __call__(self, *words: str | Path) -> str:
        """
        Run a command of podman to its end.

        @return: its output.
        @raise AssertionError: if it fails.
        """
        return self.run(*words).stdout.strip()

    def inspect(self, name: str) -> dict[str, Any]:
        """
        Look at a container or an image.
        """
        (found,) = json.loads(self("inspect", name))
        return dict(found)

    def removeAll(self) -> None:
        """
        Remove all pods, containers, volumes and networks.
        """
        for words in (
            ("pod", "rm", "--all", "--force", "--time=0"),
            ("rm", "--all", "--force", "--time=0", "--volumes"),
            ("volume", "rm", "--all", "--force"),
            ("network", "prune", "--force"),
        ):
            self.run(*words, check=False)

    def left(self) -> list[str]:
        """
        List the containers, pods and volumes that there are.
        """
        commands: Sequence[Sequence[str]] = (
            ("ps", "--all", "--format={{.Names}}"),
            ("pod", "ps", "--format={{.Name}}"),
            ("volume", "ls", "--format={{.Name}}"),
        )
        return [line for each in commands for line in self(*each).splitlines()]

    def end(self) -> None:
        """
        Remove everything, also the images, if the folder is not to be kept.
        """
        self.removeAll()
        self.run("system", "reset", "--force", check=False)
        shutil.rmtree(self.folder, ignore_errors=True)
